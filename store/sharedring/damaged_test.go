package sharedring

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// sealer returns records like one that was sealed, with another text.
func sealer(opts Options, like store.Record) func(text string) store.Record {
	return func(text string) store.Record {
		r := store.Record{ID: recordID, Expires: like.Expires}
		r.Data = opts.Secret.Seal([]byte{formatSealed}, []byte(text), additional(r.Expires))
		return r
	}
}

// A record that is no ring keeps no host from starting. The first host replaces it and says so, and the hosts agree again.
func TestRing_DamagedRecordIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, opts := memory(), options(t)
		f := newFleet(t, st, opts, 0, 0)
		f.run(2 * poll)
		sealed, err := st.Get(t.Context(), recordID)
		require.NoError(t, err)
		seal := sealer(opts, sealed)
		for name, c := range map[string]struct {
			record store.Record
			says   string
		}{
			"empty":        {store.Record{ID: recordID, Expires: sealed.Expires}, "not a sealed envelope"},
			"other format": {store.Record{ID: recordID, Data: []byte("garbage"), Expires: sealed.Expires}, "not a sealed envelope"},
			"prolonged":    {store.Record{ID: recordID, Data: sealed.Data, Expires: sealed.Expires.Add(time.Hour)}, "not authentic"},
			"a bit": {store.Record{ID: recordID, Data: append(bytes.Clone(sealed.Data[:len(sealed.Data)-1]), sealed.Data[len(sealed.Data)-1]^1),
				Expires: sealed.Expires}, "not authentic"},
			"no ring": {seal("garbage"), "line 1 is not a key of 64 hexadecimal digits"},
			"no key":  {seal(""), "no key in the ring"},
		} {
			time.Sleep(poll / 2) // not while another host polls
			synctest.Wait()
			require.NoError(t, st.Put(t.Context(), c.record))
			fresh := start(t, st, opts, 0)
			failures := fresh.failures()
			require.Len(t, failures, 1, name)
			require.ErrorContains(t, failures[0], "the ring in the store is damaged: ", name)
			require.ErrorContains(t, failures[0], c.says+": it was replaced", name)
			time.Sleep(2 * poll) // until the others have polled they cannot open what it seals
			f.hosts = append(f.hosts, fresh)
			f.noFailures()
			f.agreed()

			require.NoError(t, st.Put(t.Context(), c.record))
			time.Sleep(2 * poll)
			told := 0
			for _, h := range f.hosts {
				told += len(h.failures())
			}
			require.Equal(t, 1, told, name)
			f.agreed()
		}
	})
}

func TestRing_DamageThatTheStoreFindsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := options(t)
		l := &link{Store: memory()}
		l.onGet = func() (store.Record, error) { l.onGet = nil; return store.Record{}, store.ErrDamaged }
		require.NoError(t, l.Put(t.Context(), store.Record{ID: recordID, Expires: time.Now().Add(time.Hour)}))
		var told []error
		opts.OnError = func(err error) { told = append(told, err) }
		ring, stop, err := Open(t.Context(), l, opts)
		require.NoError(t, err)
		defer stop()
		require.Equal(t, 1, ring.Len())
		require.Len(t, told, 1)
		require.ErrorContains(t, told[0], "it was replaced")
	})
}
