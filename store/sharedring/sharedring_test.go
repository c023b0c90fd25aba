package sharedring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/ticket"
)

// Most tests run hosts for hours on a synctest clock, against a memstore, with these options.
const (
	poll     = time.Minute
	rotate   = time.Hour
	lifetime = 2 * time.Hour
)

func options(t *testing.T) Options {
	t.Helper()
	secret, err := ticket.NewRing()
	require.NoError(t, err)
	return Options{Secret: secret, Poll: poll, Rotate: rotate, Lifetime: lifetime}
}

func memory() *memstore.Store { return memstore.New(memstore.Options{}) }

// link is one host's connection to the store. Its hooks are set before it is used.
type link struct {
	*memstore.Store
	down    atomic.Bool // all calls fail
	full    atomic.Bool // writes fail
	onGet   func() (store.Record, error)
	onSwap  func(old, next store.Record) (bool, error)
	swapped atomic.Int32
}

var errDown = errors.New("the store is away")

func (l *link) Get(ctx context.Context, id store.ID) (store.Record, error) {
	switch {
	case l.down.Load():
		return store.Record{}, errDown
	case l.onGet != nil:
		return l.onGet()
	}
	return l.Store.Get(ctx, id)
}

func (l *link) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	switch {
	case l.down.Load() || l.full.Load():
		return false, errDown
	case l.onSwap != nil:
		return l.onSwap(old, next)
	}
	done, err := l.Store.Swap(ctx, old, next)
	if done {
		l.swapped.Add(1)
	}
	return done, err
}

// host is one member of a fleet.
type host struct {
	*link
	ring   *ticket.Ring
	skew   time.Duration
	mu     sync.Mutex
	errors []error
}

// failures returns the errors since its last call.
func (h *host) failures() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.errors
	h.errors = nil
	return all
}

// start starts a host, and stops it at the test's end.
func start(t *testing.T, st *memstore.Store, opts Options, skew time.Duration) *host {
	t.Helper()
	h := &host{link: &link{Store: st}, skew: skew}
	opts.OnError = func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.errors = append(h.errors, err)
	}
	ring, stop, err := open(t.Context(), h.link, opts, func() time.Time { return time.Now().Add(skew) })
	require.NoError(t, err)
	t.Cleanup(stop)
	h.ring = ring
	return h
}

// session is an entry that a host has sealed.
type session struct {
	by       *host
	at       time.Time
	envelope []byte
}

// fleet checks that hosts can open each other's sessions.
type fleet struct {
	t        *testing.T
	hosts    []*host
	sessions []session
}

func (f *fleet) seal(h *host) {
	f.sessions = append(f.sessions, session{h, time.Now(), h.ring.Seal(nil, []byte("session"), nil)})
}

// check has each host open all sessions that have not expired.
func (f *fleet) check(when string) {
	f.t.Helper()
	live := f.sessions[:0]
	for _, s := range f.sessions {
		if time.Since(s.at) < lifetime {
			live = append(live, s)
		}
	}
	f.sessions = live
	for i, h := range f.hosts {
		for _, s := range live {
			_, err := h.ring.Open(nil, s.envelope, nil)
			require.NoError(f.t, err, "%s: host %d, %v after it was sealed", when, i, time.Since(s.at))
		}
	}
}

// run lets hosts seal and open for the given time.
func (f *fleet) run(d time.Duration) {
	f.t.Helper()
	began := time.Now()
	for i := 0; time.Since(began) < d; i++ {
		time.Sleep(7 * time.Second)
		for _, h := range f.hosts {
			if i%10 == 0 {
				f.seal(h)
				continue
			}
			fresh := session{h, time.Now(), h.ring.Seal(nil, nil, nil)}
			for _, other := range f.hosts {
				_, err := other.ring.Open(nil, fresh.envelope, nil)
				require.NoError(f.t, err, "after %v", time.Since(began))
			}
		}
		if i%50 == 0 {
			f.check(fmt.Sprintf("after %v", time.Since(began)))
		}
	}
}

// agreed checks that all hosts have one ring, and returns it.
func (f *fleet) agreed() string {
	f.t.Helper()
	for _, h := range f.hosts {
		require.Equal(f.t, f.hosts[0].ring.String(), h.ring.String())
	}
	return f.hosts[0].ring.String()
}

// newFleet starts hosts a few seconds apart.
func newFleet(t *testing.T, st *memstore.Store, opts Options, skews ...time.Duration) *fleet {
	t.Helper()
	f := &fleet{t: t}
	for _, skew := range skews {
		f.hosts = append(f.hosts, start(t, st, opts, skew))
		time.Sleep(13 * time.Second)
	}
	return f
}

func (f *fleet) noFailures() {
	f.t.Helper()
	for _, h := range f.hosts {
		require.Empty(f.t, h.failures())
	}
}

// Of any number of hosts that start at once, one makes the ring.
func TestOpen_AtOnce(t *testing.T) {
	opts, st := options(t), memory()
	var mu sync.Mutex
	seen := map[string]bool{}
	made := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			l := &link{Store: st}
			ring, stop, err := Open(t.Context(), l, opts)
			if !assert.NoError(t, err) {
				return
			}
			stop()
			stop()
			mu.Lock()
			defer mu.Unlock()
			seen[ring.String()] = true
			made += int(l.swapped.Load())
		})
	}
	wg.Wait()
	// The first key needs a successor, which the next host to poll makes.
	assert.LessOrEqual(t, made, 2)
	assert.LessOrEqual(t, len(seen), 2)
}

// Over many rotations every host can at each moment open the sessions that any other has sealed within a lifetime. Clocks differ by
// a polling interval.
func TestRing_Rotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, memory(), options(t), 0, poll/2, -poll/2, 0)
		f.run(2 * poll)
		first := f.agreed()
		f.run(5 * rotate)
		f.noFailures()
		assert.NotEqual(t, first, f.agreed())
		keys := f.hosts[0].ring.Keys()
		assert.Less(t, len(keys), 8, "old keys go")
		for _, k := range keys {
			assert.Less(t, time.Since(k.NotBefore()), lifetime+3*rotate)
		}
		rotations := int32(0)
		for _, h := range f.hosts {
			rotations += h.swapped.Load()
		}
		assert.Less(t, rotations, int32(16), "each is made once, and the record left alone between")
	})
}

// While the store is away, hosts go on with the keys they have and report errors. Afterwards they rotate as before.
func TestRing_OutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, memory(), options(t), 0, 0, 0)
		f.run(rotate / 2)
		f.noFailures()
		before := f.agreed()
		for _, h := range f.hosts {
			h.down.Store(true)
		}
		f.run(3 * rotate)
		require.Equal(t, before, f.agreed())
		for _, h := range f.hosts {
			failures := h.failures()
			require.InDelta(t, int(3*rotate/poll), len(failures), 2)
			require.ErrorIs(t, failures[0], errDown)
			h.down.Store(false)
		}
		f.run(3 * rotate)
		f.noFailures()
		assert.NotEqual(t, before, f.agreed())
	})
}

// A store that can be read but not written, like a full one, still gives hosts its keys.
func TestRing_ReadsWhatItCannotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, memory(), options(t), 0, 0)
		f.hosts[1].full.Store(true)
		f.run(4 * rotate)
		f.agreed()
		assert.Empty(t, f.hosts[0].failures())
		f.hosts[0].full.Store(true)
		f.run(2 * rotate)
		require.NotEmpty(t, f.hosts[0].failures())
	})
}

// Hosts put back a record that the store has lost.
func TestRing_IsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory()
		f := newFleet(t, st, options(t), 0, 0, 0)
		f.run(rotate / 2)
		before := f.agreed()
		require.NoError(t, st.Delete(t.Context(), recordID))
		f.run(2 * poll)
		require.Equal(t, before, f.agreed())
		_, err := st.Get(t.Context(), recordID)
		require.NoError(t, err)
		f.run(2 * rotate)
		f.noFailures()
	})
}

// A host that starts when the record is lost makes its own ring. The others resume as before, and after the next poll all hosts have
// all keys.
func TestRing_ViewsConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, opts := memory(), options(t)
		f := newFleet(t, st, opts, 0, 0, 0)
		f.run(rotate + rotate/2)
		f.agreed()
		for range 3 {
			require.NoError(t, st.Delete(t.Context(), recordID))
			late := start(t, st, opts, 0)
			require.NotEqual(t, f.hosts[0].ring.String(), late.ring.String())
			f.seal(late)
			sealed := f.sessions[len(f.sessions)-1]
			f.sessions = f.sessions[:len(f.sessions)-1]
			f.run(2 * poll) // the others among themselves
			f.hosts = append(f.hosts, late)
			f.sessions = append(f.sessions, sealed)
			f.check("once all have looked")
			f.agreed()
		}
		f.run(3 * rotate)
		f.agreed()
		f.noFailures()
	})
}

// When the store falls back to an older state, as after a failover to a replica, no key is lost.
func TestRing_OlderRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory()
		f := newFleet(t, st, options(t), 0, 0)
		f.run(rotate / 2)
		old, err := st.Get(t.Context(), recordID)
		require.NoError(t, err)
		f.run(rotate)
		before := f.agreed()
		require.NoError(t, st.Put(t.Context(), old))
		f.run(2 * poll)
		require.Equal(t, before, f.agreed())
		f.run(rotate)
		f.noFailures()
	})
}

// The others can open the sessions of a host that was cut off for less than a rotation period, up to the last of them.
func TestRing_HostCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, memory(), options(t), 0, 0, 0)
		f.run(rotate / 2)
		all, cut := f.hosts, f.hosts[2]
		cut.down.Store(true)
		f.hosts = all[:2]
		for range 9 {
			f.run(rotate / 10) // a rotation is among them
			f.seal(cut)
			_, err := f.hosts[0].ring.Open(nil, f.sessions[len(f.sessions)-1].envelope, nil)
			require.NoError(t, err)
		}
		require.NotEqual(t, f.agreed(), cut.ring.String())
		cut.down.Store(false)
		f.run(poll + poll/2)
		f.hosts = all
		f.agreed()
		f.run(lifetime + rotate)
	})
}

// Without hosts the record outlives all sessions. With one it never expires.
func TestRing_RecordIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, opts := memory(), options(t)
		opts.Rotate, opts.Lifetime = 100*time.Hour, time.Hour // so that nothing else renews it
		h := start(t, st, opts, 0)
		for range 1000 {
			time.Sleep(poll)
			synctest.Wait()
			kept, err := st.Get(t.Context(), recordID)
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Until(kept.Expires), opts.Lifetime-poll)
		}
		assert.InDelta(t, 1000/60, h.swapped.Load(), 4)
		assert.Empty(t, h.failures())
	})
}

// A host whose clock is far ahead makes a key that starts sealing in the far future. The others report it and go on.
func TestRing_ClockFarAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, opts := memory(), options(t)
		f := newFleet(t, st, opts, 0, 0)
		f.run(rotate / 2)
		ahead := start(t, st, opts, 3*rotate)
		time.Sleep(2 * poll)
		for _, h := range f.hosts {
			failures := h.failures()
			require.NotEmpty(t, failures)
			assert.ErrorContains(t, failures[0], "is a clock wrong?")
		}
		before := f.agreed()
		f.run(2*rotate + rotate/2)
		assert.NotEqual(t, before, f.agreed(), "rotated all the same")
		newest := time.Duration(0)
		for _, k := range f.hosts[0].ring.Keys() {
			if age := time.Since(k.NotBefore()); age >= 0 && (newest == 0 || age < newest) {
				newest = age
			}
		}
		assert.Less(t, newest, rotate+8*poll)
		_ = ahead
	})
}

// A host by whose clock the record has expired must not make another.
func TestOpen_RecordEndedByThisClockOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{Store: memory()}
		l.onGet = func() (store.Record, error) { return store.Record{}, store.ErrNotFound }
		l.onSwap = func(old, _ store.Record) (bool, error) { return false, nil }
		_, _, err := Open(t.Context(), l, options(t))
		assert.ErrorContains(t, err, "expired by this host's clock")
	})
}

func TestRing_SecretRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, opts := memory(), options(t)
		f := newFleet(t, st, opts, 0)
		require.NoError(t, opts.Secret.Rotate())
		f.run(2 * rotate)
		f.noFailures()
		newest, err := ticket.RingOf(opts.Secret.Keys()[:1])
		require.NoError(t, err)
		opts.Secret = newest
		f.hosts = append(f.hosts, start(t, st, opts, 0))
		f.agreed()
	})
}

// A record that cannot be read stays, and each poll reports it. The ring keeps its keys.
func TestRing_UnreadableRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, opts, plain := memory(), options(t), options(t)
		plain.Secret, plain.Plaintext = nil, true
		h := start(t, st, opts, 0)
		time.Sleep(2 * poll)
		sealed, err := st.Get(t.Context(), recordID)
		require.NoError(t, err)
		before := h.ring.String()
		elsewhere, others := memory(), memory()
		start(t, elsewhere, plain, 0)
		start(t, others, options(t), 0)
		unsealed, err := elsewhere.Get(t.Context(), recordID)
		require.NoError(t, err)
		foreign, err := others.Get(t.Context(), recordID)
		require.NoError(t, err)
		seal := sealer(opts, sealed)
		for name, c := range map[string]struct {
			record store.Record
			opts   Options
			says   string
		}{
			"another secret": {foreign, opts, "sealed under another secret"},
			"not sealed":     {unsealed, opts, "it is not sealed"},
			"sealed":         {sealed, plain, "it is sealed"},
			"of the future": {seal(fmt.Sprintf("%064x 2999-01-01T00:00:00Z", 1)), opts,
				"no key of the ring seals before 2999-01-01T00:00:00Z: is the clock right?"},
		} {
			require.NoError(t, st.Put(t.Context(), c.record))
			_, _, err := Open(t.Context(), st, c.opts)
			require.ErrorContains(t, err, c.says, name)
			require.NotContains(t, err.Error(), "\n", name)
			kept, err := st.Get(t.Context(), recordID)
			require.NoError(t, err)
			require.True(t, store.Same(c.record, kept), name)
			if c.opts.Plaintext || name == "of the future" {
				continue
			}
			h.failures()
			time.Sleep(3 * poll)
			failures := h.failures()
			require.GreaterOrEqual(t, len(failures), 2, name)
			require.ErrorContains(t, failures[1], c.says, name)
			require.Equal(t, before, h.ring.String(), name)
			kept, err = st.Get(t.Context(), recordID)
			require.NoError(t, err)
			require.True(t, store.Same(c.record, kept), name)
		}
	})
}

func TestOpen_HidesTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, plaintext := range []bool{false, true} {
			st, opts := memory(), options(t)
			if opts.Plaintext = plaintext; plaintext {
				opts.Secret = nil
			}
			f := newFleet(t, st, opts, 0, 0)
			f.run(2 * rotate)
			f.noFailures()
			kept, err := st.Get(t.Context(), recordID)
			require.NoError(t, err)
			var text bytes.Buffer
			_, err = f.hosts[0].ring.WriteTo(&text)
			require.NoError(t, err)
			for line := range bytes.Lines(text.Bytes()) {
				assert.Equal(t, plaintext, bytes.Contains(kept.Data, line[:64]))
			}
		}
	})
}

func TestOpen_Refuses(t *testing.T) {
	secret := options(t).Secret
	mem := memory()
	for name, c := range map[string]struct {
		store store.Store
		opts  Options
		says  string
	}{
		"no secret":           {mem, Options{}, "needs Options.Secret"},
		"secret, plaintext":   {mem, Options{Secret: secret, Plaintext: true}, "exclude each other"},
		"no key":              {mem, Options{Secret: new(ticket.Ring)}, "without keys"},
		"no Swapper":          {struct{ store.Store }{mem}, Options{Secret: secret}, "is no store.Swapper"},
		"negative":            {mem, Options{Secret: secret, Poll: -1}, "Options.Poll is negative"},
		"poll too long":       {mem, Options{Secret: secret, Poll: time.Hour, Rotate: 9 * time.Hour}, "a tenth of Rotate"},
		"lives longer":        {mem, Options{Secret: secret, Rotate: time.Hour}, "more than 8 times Rotate"},
		"life shorter a poll": {mem, Options{Secret: secret, Lifetime: time.Second}, "a tenth of Rotate or Lifetime"},
	} {
		_, _, err := Open(t.Context(), c.store, c.opts)
		assert.ErrorContains(t, err, c.says, name)
	}
	assert.Zero(t, mem.Len())
}

func TestOpen_StoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, opts := &link{Store: memory()}, options(t)
		l.down.Store(true)
		_, _, err := Open(t.Context(), l, opts)
		assert.ErrorIs(t, err, errDown)

		l.down.Store(false)
		l.full.Store(true)
		_, _, err = Open(t.Context(), l, opts)
		assert.ErrorIs(t, err, errDown)

		// A record that other hosts replace for ever.
		start(t, l.Store, opts, 0)
		l.full.Store(false)
		l.onSwap = func(old, next store.Record) (bool, error) { return false, nil }
		_, _, err = Open(t.Context(), l, opts)
		assert.ErrorContains(t, err, "100 times")
	})
}

// hanging is a store that does not answer.
type hanging struct{ store.Store }

func (hanging) Get(ctx context.Context, _ store.ID) (store.Record, error) {
	<-ctx.Done()
	return store.Record{}, ctx.Err()
}

func (hanging) Swap(context.Context, store.Record, store.Record) (bool, error) { panic("not reached") }

func TestOpen_TakesBoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, _, err := Open(t.Context(), hanging{}, options(t))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, syncTimeout, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = Open(ctx, hanging{}, options(t))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, syncTimeout+time.Second, time.Since(began))
	})
}

// hangingLater is a store that answers the first call only.
type hangingLater struct {
	*memstore.Store
	gets  int
	asked chan struct{}
}

func (s *hangingLater) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if s.gets++; s.gets == 1 {
		return s.Store.Get(ctx, id)
	}
	close(s.asked)
	<-ctx.Done()
	return store.Record{}, ctx.Err()
}

// stop ends a poll that is under way, without an error.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := options(t)
		opts.OnError = func(err error) { t.Error(err) }
		asked := make(chan struct{})
		ring, stop, err := Open(t.Context(), &hangingLater{Store: memory(), asked: asked}, opts)
		require.NoError(t, err)
		<-asked
		stop()
		stop()
		before := ring.String()
		time.Sleep(3 * rotate)
		assert.Equal(t, before, ring.String())
	})
}

// Hosts agree on the order of two keys that start sealing in the same second.
func TestMerged_SameDate(t *testing.T) {
	var keys []ticket.Key
	for range 5 {
		k, err := ticket.NewKey(time.Unix(1_000_000, 0))
		require.NoError(t, err)
		keys = append(keys, k)
	}
	want := merged(keys, nil)
	slices.Reverse(keys)
	assert.Equal(t, want, merged(nil, keys))
	assert.Equal(t, want, merged(keys[:3], keys[1:]))
}

// Of more keys than a ring may have, all hosts keep the newest.
func TestNeeded_AtMostARing(t *testing.T) {
	f := &follower{opts: Options{Rotate: rotate, Lifetime: lifetime}}
	var keys []ticket.Key
	now := time.Now()
	for range 2 * ticket.MaxKeys {
		k, err := ticket.NewKey(now.Add(-time.Duration(len(keys)) * time.Minute))
		require.NoError(t, err)
		keys = append(keys, k)
	}
	assert.Equal(t, keys[:ticket.MaxKeys], f.needed(merged(keys[10:], keys[:20]), now))
	assert.Equal(t, keys[:ticket.MaxKeys], f.needed(merged(keys[:20], keys[10:]), now))
}
