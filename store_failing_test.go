package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("the store is down")

// fault is one way in which an operation of a store fails.
type fault struct {
	run  func(ctx context.Context) error
	late bool // it uses up its budget
}

// faults returns every fault. One that waits for release does so even if its
// context is done.
func faults(release <-chan struct{}) map[string]fault {
	return map[string]fault{
		"fails":  {run: func(context.Context) error { return errDown }},
		"panics": {run: func(context.Context) error { panic(errDown) }},
		"hangs": {late: true, run: func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("down: %w", ctx.Err())
		}},
		"hangs and says nothing of its context": {late: true, run: func(ctx context.Context) error {
			<-ctx.Done()
			return errDown
		}},
		"ignores its context": {late: true, run: func(context.Context) error {
			<-release
			return nil
		}},
	}
}

// budget is how long the operation may take: short for one that uses it up, and
// otherwise long enough for a busy machine.
func (ft fault) budget() time.Duration {
	if ft.late {
		return short
	}
	return time.Minute
}

// count returns how many operations failed, all of them in the way of ft.
func (ft fault) count(t *testing.T, s libssl.CacheStats) uint64 {
	t.Helper()
	if ft.late {
		require.Zero(t, s.Errors)
		return s.Timeouts
	}
	require.Zero(t, s.Timeouts)
	return s.Errors
}

// eachFault runs test with every fault.
func eachFault(t *testing.T, test func(t *testing.T, f *fleet, ft fault), only ...uint16) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		release := make(chan struct{})
		defer close(release) // after the handshakes have ended
		for name, ft := range faults(release) {
			t.Run(name, func(t *testing.T) { test(t, f, ft) })
		}
	}, only...)
}

// short is the budget of operations that use it up, and of no other.
const short = 20 * time.Millisecond

// found is Stats without the lookups that never reached the store. A TLS 1.2 server
// counts one for every new client that also speaks 1.3, for its random id.
func found(cache *libssl.SessionCache) libssl.CacheStats {
	s := cache.Stats()
	s.Misses -= s.Untagged
	return s
}

func TestStore_FailingGetIsAMiss(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, ft fault) {
		st := newSpy()
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) { return store.Record{}, ft.run(ctx) }
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, LookupTimeout: ft.budget()})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 1, ft.count(t, cache.Stats()))
		require.Error(t, errs.all())
		require.Zero(t, cache.Stats().Hits)
		require.Zero(t, found(cache).Misses)
	})
}

// promptSpy is a spy whose Prompt answers true while prompt is set.
type promptSpy struct {
	*spy
	prompt atomic.Bool
}

func (s *promptSpy) Prompt() bool { return s.prompt.Load() }

// A store that is prompt at the time of a call is called by the handshake itself, within the same budget.
func TestStore_PromptIsCalledByTheHandshake(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := &promptSpy{spy: newSpy()}
		var ours, hang atomic.Bool
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			ours.Store(bytes.Contains(debug.Stack(), []byte("libssl.(*Conn).")))
			if hang.Load() {
				<-ctx.Done()
				return store.Record{}, errDown
			}
			return st.mem.Get(ctx, id)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		sess := f.visit(t, server, nil).next
		for _, prompt := range []bool{false, true, false} {
			st.prompt.Store(prompt)
			v := f.visit(t, server, sess)
			require.True(t, v.resumed)
			require.Equal(t, prompt, ours.Load())
			sess = v.next
		}
		st.prompt.Store(true)
		hang.Store(true)
		cache.SetTimeouts(short, time.Minute)
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 1, cache.Stats().Timeouts)
		require.Zero(t, cache.Stats().Errors)
	})
}

func TestStore_FailingPutCostsTheSessionOnly(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, ft fault) {
		for _, behind := range []bool{false, true} {
			st := newSpy()
			st.OnPut = func(ctx context.Context, r store.Record) error { return ft.run(ctx) }
			var errs heard
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, PutTimeout: ft.budget(), WriteBehind: behind})
			sess := f.visit(t, server, nil).next
			wait(t, "the Puts", func() bool { return int(ft.count(t, cache.Stats())) == f.tickets })
			wait(t, "the reports", func() bool { return errs.count() == f.tickets })
			require.Zero(t, cache.Stats().Stored)
			require.False(t, f.visit(t, server, sess).resumed)
			require.EqualValues(t, 1, found(cache).Misses)
		}
	})
}

func TestStore_FailingDeleteIsReported(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, ft fault) {
		st := newSpy()
		st.OnDelete = func(ctx context.Context, id store.ID) error { return ft.run(ctx) }
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear})
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, server, nil)
		require.NoError(t, exchange(c, s))
		cache.SetTimeouts(time.Minute, ft.budget())
		require.NoError(t, s.Abort())
		wait(t, "the Delete", func() bool { return cache.Stats().Lost == 1 })
		require.NoError(t, cache.Close(t.Context()), "it was lost before")
		require.EqualValues(t, 1, ft.count(t, cache.Stats()))
		require.Error(t, errs.all())
		require.Zero(t, cache.Stats().Removed)
	})
}

func TestStore_FailingTakeIsAMiss(t *testing.T) {
	eachFault(t, func(t *testing.T, f *fleet, ft fault) {
		st := newSpy()
		st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) { return store.Record{}, ft.run(ctx) }
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, LookupTimeout: ft.budget(), SingleUse: true})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 1, ft.count(t, cache.Stats()))
		require.Error(t, errs.all())
	}, tls.VersionTLS13) // entries of TLS 1.2 are not taken
}

func TestStore_TakeThatComesTooLateIsPutBack(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st := newSpy()
	var slow atomic.Bool
	slow.Store(true)
	release, back := make(chan struct{}), make(chan store.ID, 8)
	st.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
		r, err := st.mem.Take(ctx, id)
		if slow.Load() {
			<-release
		}
		return r, err
	}
	var taken store.ID
	st.OnPut = func(ctx context.Context, r store.Record) error {
		err := st.mem.Put(ctx, r)
		if slow.Load() {
			back <- r.ID
		}
		return err
	}
	server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), SingleUse: true})
	sess := f.visit(t, server, nil).next
	taken = storeID(t, sess)
	before := st.record(t, taken)
	cache.SetTimeouts(short, time.Minute)
	require.False(t, f.visit(t, server, sess).resumed)
	require.EqualValues(t, 1, cache.Stats().Timeouts)
	for len(back) > 0 {
		require.NotEqual(t, before, <-back)
	}
	close(release)
	require.Equal(t, taken, receive(t, "the entry", back))
	slow.Store(false)
	require.EqualValues(t, 1, cache.Stats().PutBack)
	require.EqualValues(t, 1, cache.Stats().Taken)
	require.Equal(t, before, st.record(t, taken))
	cache.SetTimeouts(time.Minute, time.Minute)
	require.True(t, f.visit(t, server, sess).resumed)
}

func TestStore_BudgetsHaveDefaults(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		release := make(chan struct{})
		defer close(release) // after the handshakes
		st.OnGet = func(context.Context, store.ID) (store.Record, error) {
			<-release
			return store.Record{}, store.ErrNotFound
		}
		st.OnPut = func(context.Context, store.Record) error {
			<-release
			return nil
		}
		server := f.server(t)
		cache, err := server.UseStore(st, &libssl.StoreOptions{Keys: newRing(t)})
		require.NoError(t, err)
		defer cache.Close(t.Context())
		sess := f.visit(t, server, nil).next
		require.EqualValues(t, f.tickets, cache.Stats().Timeouts)
		require.False(t, f.visit(t, server, sess).resumed)
		require.EqualValues(t, 2*f.tickets+1, cache.Stats().Timeouts)
	})
}

// outageOf is a spy that is down while the flag is set.
func outageOf(down *atomic.Bool) *spy {
	st := newSpy()
	state := func() error {
		if down.Load() {
			return errDown
		}
		return nil
	}
	st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
		if err := state(); err != nil {
			return store.Record{}, err
		}
		return st.mem.Get(ctx, id)
	}
	st.OnPut = func(ctx context.Context, r store.Record) error {
		if err := state(); err != nil {
			return err
		}
		return st.mem.Put(ctx, r)
	}
	return st
}

// breakerClock gives the breaker a clock that stands still until the test moves it.
func breakerClock(cache *libssl.SessionCache) *atomic.Int64 {
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	cache.SetBreakerClock(func() time.Time { return time.Unix(0, clock.Load()) })
	return &clock
}

func TestStore_BreakerSparesAFailingStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		var down atomic.Bool
		st := outageOf(&down)
		var errs heard
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear, LookupTimeout: time.Minute, PutTimeout: time.Minute})
		clock := breakerClock(cache)

		sess := f.visit(t, server, nil).next
		calls := func() int { return len(st.asked(&st.gets)) + len(st.asked(&st.puts)) }
		down.Store(true)
		for s := cache.Stats(); s.LookupsSkipped == 0 || s.Skipped == s.LookupsSkipped; s = cache.Stats() {
			require.False(t, f.visit(t, server, sess).resumed)
			require.LessOrEqual(t, s.Errors, uint64(11), "five lookups and five Puts, and the other ticket's beside the fifth")
		}
		require.GreaterOrEqual(t, cache.Stats().Errors, uint64(10))
		asked := calls()
		require.EqualValues(t, cache.Stats().Errors, asked-f.tickets)

		skipped := cache.Stats().Skipped
		down.Store(false)
		require.False(t, f.visit(t, server, sess).resumed)
		require.Equal(t, asked, calls(), "the store is left alone")
		require.Greater(t, cache.Stats().Skipped, skipped)

		down.Store(true)
		clock.Add(int64(time.Second))
		f.visit(t, server, sess)
		f.visit(t, server, sess)
		require.Equal(t, asked+2, calls(), "one try a second, of a lookup and of a Put")
		require.True(t, cache.Stats().Open)

		down.Store(false)
		clock.Add(int64(time.Second))
		require.True(t, f.visit(t, server, sess).resumed, "the try itself serves")
		f.visit(t, server, nil) // stores
		require.False(t, cache.Stats().Open)
	})
}

func TestStore_FullStoreGoesOnResuming(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), LookupTimeout: time.Minute, PutTimeout: time.Minute})
		breakerClock(cache)
		sess := f.visit(t, server, nil).next
		st.OnPut = func(context.Context, store.Record) error { return errDown } // as Redis does at maxmemory
		for range 20 {
			f.visit(t, server, nil)
			require.True(t, f.visit(t, server, sess).resumed)
		}
		require.True(t, cache.Stats().Open)
		require.Positive(t, cache.Stats().Skipped)
		require.Zero(t, cache.Stats().LookupsSkipped)
	})
}

func TestStore_MonstrousCertificateIsNoFailureOfTheStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		var hosts []string
		for i := range 300 {
			hosts = append(hosts, fmt.Sprintf("%0250d", i))
		}
		cert, key := f.ca.Leaf(t, hosts...)
		require.NoError(t, f.client.UseCertificatePEM(cert, key))
		server := f.server(t)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		st := newSpy()
		var errs heard
		cache := useStore(t, server, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear})
		for range 6 {
			f.visit(t, server, nil)
		}
		require.ErrorIs(t, errs.all(), store.ErrTooLarge)
		require.Empty(t, st.asked(&st.puts))
		require.False(t, cache.Stats().Open)
		require.Zero(t, cache.Stats().Errors)
	})
}

func TestStore_OnErrorMayPanic(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		st.OnGet = func(context.Context, store.ID) (store.Record, error) { return store.Record{}, errDown }
		heard := make(chan error, 1)
		server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: func(err error) {
			heard <- err
			panic("and the reporter too")
		}})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.ErrorIs(t, <-heard, errDown)
	})
}

// A client certificate that no record has room for costs resumption, and is counted. The store has not failed.
func TestStore_TooLargeIsCounted(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		st := newSpy()
		cache := useStore(t, server, st, &libssl.StoreOptions{Keys: newRing(t)})
		require.NoError(t, f.client.UseCertificatePEM(f.ca.LeafWith(t, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: make([]byte, store.MaxData)}}
		}, "client")))
		v := f.visit(t, server, nil)
		require.False(t, f.visit(t, server, v.next).resumed)
		require.EqualValues(t, 2*f.tickets, cache.Stats().TooLarge)
		require.Zero(t, cache.Stats().Errors+cache.Stats().Lost+cache.Stats().Stored)
		require.Empty(t, st.asked(&st.puts))
	})
}
