package lookup

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/stretchr/testify/require"
)

var origin = [16]byte{1, 15: 16}

// putNamed stores a session under an id that has the name of one origin, with another in its header unless they are equal.
func putNamed(t testing.TB, s *Source, st store.Store, inID, inHeader [16]byte) store.ID {
	t.Helper()
	b := make([]byte, store.MaxIDLen)
	s.NameID(b, inID)
	id, err := store.IDFromBytes(b)
	require.NoError(t, err)
	h := entry.Header{Made: time.Now(), Origin: inHeader}
	data := entry.Seal(s.Seal, id, &h, append(make([]byte, entry.HeaderSize), "the session"...))
	require.NoError(t, st.Put(t.Context(), store.Record{ID: id, Data: data, Expires: time.Now().Add(time.Hour)}))
	return id
}

// look returns what was found, and how the lookup was counted.
func look(t testing.TB, s *Source, id store.ID) (der string, st *Counters) {
	t.Helper()
	h := New(s)
	defer h.End(t.Context(), false)
	h.Want([]hello.Candidate{{ID: id, PSK: true}})
	h.LookUp(t.Context(), idContext)
	return string(h.Answer(id).DER), &s.Stats
}

func TestSource_Revoke(t *testing.T) {
	for name, tt := range map[string]struct {
		wrap   func(st *memstore.Store) store.Store
		single bool
	}{
		"local":      {func(st *memstore.Store) store.Store { return st }, false},
		"remote":     {func(st *memstore.Store) store.Store { return &storetest.Faulty{Store: st} }, false},
		"single use": {func(st *memstore.Store) store.Store { return &storetest.Faulty{Store: st} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			mem := memstore.New(memstore.Options{})
			s := testSource(t, tt.wrap(mem))
			s.Revocable = true
			s.SingleUse.Store(tt.single)
			id, other := putNamed(t, s, mem, origin, origin), putNamed(t, s, mem, [16]byte{2}, [16]byte{2})
			require.NoError(t, s.Revoke(t.Context(), origin))
			der, counted := look(t, s, id)
			require.Empty(t, der)
			require.EqualValues(t, 1, counted.Rejections[Revoked].Load())
			require.Zero(t, s.Store.Stats.PutBack.Load(), "what was taken is gone")
			der, _ = look(t, s, other)
			require.Equal(t, "the session", der)
			require.Zero(t, s.Store.Stats.Misses.Load())
		})
	}
}

// An entry whose id names another origin than its header would escape the tombstone.
func TestSource_RefusesAnIDOfAnotherOrigin(t *testing.T) {
	mem := memstore.New(memstore.Options{})
	s := testSource(t, mem)
	s.Revocable = true
	der, counted := look(t, s, putNamed(t, s, mem, [16]byte{2}, origin))
	require.Empty(t, der)
	require.EqualValues(t, 1, counted.Rejections[Forged].Load())
}

// A lookup counts once, whichever of its two questions failed.
func TestSource_CountsALookupOnce(t *testing.T) {
	down := errors.New("down")
	mem := memstore.New(memstore.Options{})
	st := &storetest.Faulty{Store: mem}
	s := testSource(t, st)
	s.Revocable = true
	id := putNamed(t, s, mem, origin, origin)
	for _, fails := range []func(id store.ID) bool{
		func(asked store.ID) bool { return asked != id }, func(asked store.ID) bool { return asked == id },
		func(store.ID) bool { return true },
	} {
		before := s.Store.Stats.LookupErrors.Load()
		st.OnGet = func(ctx context.Context, asked store.ID) (store.Record, error) {
			if fails(asked) {
				return store.Record{}, down
			}
			return mem.Get(ctx, asked)
		}
		der, _ := look(t, s, id)
		require.Empty(t, der)
		require.EqualValues(t, 1, s.Store.Stats.LookupErrors.Load()-before)
	}
}
