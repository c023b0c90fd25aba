package tiered

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
)

// These fail to compile if an interface gets lost.
var (
	_ store.Store   = (*Store)(nil)
	_ store.Taker   = takingStore{}
	_ store.Swapper = swappingStore{}
	_ store.Taker   = takingSwappingStore{}
	_ store.Swapper = takingSwappingStore{}
)

// backing is a store in memory that counts its Gets, and delays them with hold, unless that is nil.
type backing struct {
	*memstore.Store
	gets atomic.Int32
	hold func(ctx context.Context) error
}

func newFar() *backing { return &backing{Store: memstore.New(memstore.Options{})} }

func (f *backing) Get(ctx context.Context, id store.ID) (store.Record, error) {
	f.gets.Add(1)
	r, err := f.Store.Get(ctx, id)
	if f.hold != nil {
		if err := f.hold(ctx); err != nil {
			return store.Record{}, err
		}
	}
	return r, err
}

func record(t *testing.T, n int, data string) store.Record {
	t.Helper()
	id, err := store.IDFromBytes(fmt.Appendf(nil, "id %d", n))
	require.NoError(t, err)
	return store.Record{ID: id, Data: []byte(data), Expires: time.Now().Add(time.Hour)}
}

func wantData(t *testing.T, s store.Store, id store.ID, want string) {
	t.Helper()
	r, err := s.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, want, string(r.Data))
}

func wantAbsent(t *testing.T, s store.Store, id store.ID) {
	t.Helper()
	_, err := s.Get(t.Context(), id)
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(newFar(), Options{}) })
}

// The store has the optional interfaces of its backing store.
func TestNew_KeepsOptionalInterfaces(t *testing.T) {
	type plain struct{ store.Store }
	type taker struct {
		plain
		store.Taker
	}
	type swapper struct {
		plain
		store.Swapper
	}
	f := newFar()
	for name, c := range map[string]struct {
		backing      store.Store
		takes, swaps bool
	}{
		"none":    {plain{f}, false, false},
		"taker":   {taker{plain{f}, f}, true, false},
		"swapper": {swapper{plain{f}, f}, false, true},
		"both":    {f, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(c.backing, Options{})
			_, takes := s.(store.Taker)
			_, swaps := s.(store.Swapper)
			require.Equal(t, c.takes, takes)
			require.Equal(t, c.swaps, swaps)
			storetest.Run(t, func(t *testing.T) store.Store { return New(c.backing, Options{}) })
		})
	}
}

func TestGet_NearIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		s := New(f, Options{Fresh: 5 * time.Second})
		r := record(t, 1, "first")
		require.NoError(t, f.Put(t.Context(), r))
		wantData(t, s, r.ID, "first")
		time.Sleep(4 * time.Second)
		require.NoError(t, f.Put(t.Context(), record(t, 1, "second"))) // by another host
		wantData(t, s, r.ID, "first")
		require.EqualValues(t, 1, f.gets.Load())
		time.Sleep(time.Second) // five seconds since the backing store was asked: reading does not renew the answer
		wantData(t, s, r.ID, "second")
		time.Sleep(4 * time.Second)
		require.NoError(t, f.Delete(t.Context(), r.ID))
		wantData(t, s, r.ID, "second")
		time.Sleep(time.Second)
		wantAbsent(t, s, r.ID)
	})
}

// The answer of a slow backing store is as old as the call.
func TestGet_FreshFromTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		f.hold = func(context.Context) error { time.Sleep(3 * time.Second); return nil }
		s := New(f, Options{Fresh: 5 * time.Second})
		r := record(t, 1, "x")
		require.NoError(t, f.Put(t.Context(), r))
		wantData(t, s, r.ID, "x")
		time.Sleep(2 * time.Second)
		wantData(t, s, r.ID, "x")
		require.EqualValues(t, 2, f.gets.Load())
	})
}

func TestGet_AbsenceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		s := New(f, Options{Absent: time.Second, MaxAbsent: 100})
		r := record(t, 1, "x")
		for range 5 {
			wantAbsent(t, s, r.ID)
		}
		require.EqualValues(t, 1, f.gets.Load())
		require.NoError(t, f.Put(t.Context(), r)) // by another host
		wantAbsent(t, s, r.ID)
		time.Sleep(time.Second)
		wantData(t, s, r.ID, "x")

		for i := range 1000 {
			wantAbsent(t, s, record(t, 10+i, "").ID)
		}
		assert.LessOrEqual(t, s.(takingSwappingStore).none.Len(), 100)
		wantData(t, s, r.ID, "x")
		assert.EqualValues(t, 1002, f.gets.Load(), "absent ids displace no record")
	})
}

// A process sees its own changes at once.
func TestStore_OwnWrites(t *testing.T) {
	f := newFar()
	s := New(f, Options{})
	r := record(t, 1, "first")
	wantAbsent(t, s, r.ID)
	require.NoError(t, s.Put(t.Context(), r))
	wantData(t, s, r.ID, "first")
	require.NoError(t, s.Put(t.Context(), record(t, 1, "second")))
	wantData(t, s, r.ID, "second")
	assert.EqualValues(t, 1, f.gets.Load(), "a record put is near")
	wantData(t, f, r.ID, "second")
	require.NoError(t, s.Delete(t.Context(), r.ID))
	wantAbsent(t, s, r.ID)
	wantAbsent(t, f, r.ID)

	require.NoError(t, s.Put(t.Context(), r))
	require.NoError(t, f.Delete(t.Context(), r.ID)) // by another host
	_, err := s.(store.Taker).Take(t.Context(), r.ID)
	require.ErrorIs(t, err, store.ErrNotFound, "a Take asks the backing store")
	require.NoError(t, s.Put(t.Context(), r))
	got, err := s.(store.Taker).Take(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, r.Data, got.Data)
	wantAbsent(t, s, r.ID)

	done, err := s.(store.Swapper).Swap(t.Context(), store.Record{}, r)
	require.NoError(t, err)
	require.True(t, done, "a Swap ends the near answer that the record is absent")
	wantData(t, s, r.ID, "first")
}

// A record that another host has replaced is still near. The Swap that fails because of it ends this answer.
func TestSwap_EndsAStaleAnswer(t *testing.T) {
	f := newFar()
	s := New(f, Options{})
	r := record(t, 1, "first")
	require.NoError(t, s.Put(t.Context(), r))
	require.NoError(t, f.Put(t.Context(), record(t, 1, "second"))) // by another host
	for _, want := range []bool{false, true} {
		kept, err := s.Get(t.Context(), r.ID)
		require.NoError(t, err)
		done, err := s.(store.Swapper).Swap(t.Context(), kept, record(t, 1, "third"))
		require.NoError(t, err)
		require.Equal(t, want, done)
	}
	wantData(t, s, r.ID, "third")
}

func TestGet_HerdAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		f.hold = func(context.Context) error { time.Sleep(time.Second); return nil }
		s := New(f, Options{})
		there, absent := record(t, 1, "x"), record(t, 2, "")
		require.NoError(t, f.Put(t.Context(), there))
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				got, err := s.Get(t.Context(), there.ID)
				assert.NoError(t, err)
				assert.Equal(t, "x", string(got.Data))
				clear(got.Data) // each caller owns its copy
				_, err = s.Get(t.Context(), absent.ID)
				assert.ErrorIs(t, err, store.ErrNotFound)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 2, f.gets.Load())
		wantData(t, s, there.ID, "x")
		assert.Empty(t, s.(takingSwappingStore).ids)
	})
}

// An answer that was under way when the record was written is neither kept nor given to later Gets.
func TestGet_AnswerFromBeforeAWrite(t *testing.T) {
	r := record(t, 1, "first")
	for name, write := range map[string]func(s store.Store) error{
		"put":    func(s store.Store) error { return s.Put(context.Background(), record(t, 1, "second")) },
		"delete": func(s store.Store) error { return s.Delete(context.Background(), r.ID) },
		"take":   func(s store.Store) error { _, err := s.(store.Taker).Take(context.Background(), r.ID); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFar()
				f.hold = func(context.Context) error { time.Sleep(time.Second); return nil } // after the backing store has read
				s := New(f, Options{})
				r := record(t, 1, "first")
				require.NoError(t, f.Put(t.Context(), r))
				go wantData(t, s, r.ID, "first")
				synctest.Wait()
				require.NoError(t, write(s))
				for range 2 {
					if name == "put" {
						wantData(t, s, r.ID, "second")
					} else {
						wantAbsent(t, s, r.ID)
					}
					time.Sleep(2 * time.Second) // the old answer has arrived
				}
			})
		})
	}
}

// Only the backing store knows which of two overlapping Puts came last.
func TestPut_Overlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		slow := &storetest.Faulty{Store: f}
		slow.OnPut = func(ctx context.Context, r store.Record) error {
			err := f.Put(ctx, r)
			if string(r.Data) == "first" {
				time.Sleep(time.Second) // its answer comes last
			}
			return err
		}
		s := New(slow, Options{})
		go s.Put(t.Context(), record(t, 1, "first"))
		synctest.Wait()
		require.NoError(t, s.Put(t.Context(), record(t, 1, "second")))
		time.Sleep(2 * time.Second)
		wantData(t, s, record(t, 1, "").ID, "second")
	})
}

func TestGet_WaitersHaveTheirOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		f.hold = func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s := New(f, Options{})
		r := record(t, 1, "x")
		require.NoError(t, f.Put(t.Context(), r))

		brief, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		hasty, giveUp := context.WithCancel(t.Context())
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := s.Get(brief, r.ID) // begins the flight
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, 500*time.Millisecond, time.Since(began))
		})
		synctest.Wait()
		wg.Go(func() {
			_, err := s.Get(hasty, r.ID)
			assert.ErrorIs(t, err, context.Canceled)
			assert.Equal(t, 100*time.Millisecond, time.Since(began))
		})
		wg.Go(func() {
			wantData(t, s, r.ID, "x") // asks again after the deadline of the first Get
			assert.Equal(t, 1500*time.Millisecond, time.Since(began))
		})
		time.Sleep(100 * time.Millisecond)
		giveUp()
		wg.Wait()
		assert.EqualValues(t, 2, f.gets.Load())
	})
}

// The Get that began a flight may leave. Those that joined it go on waiting.
func TestGet_FirstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		var calledOff atomic.Int32
		f.hold = func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				calledOff.Add(1)
				return ctx.Err()
			}
		}
		s := New(f, Options{})
		r := record(t, 1, "x")
		require.NoError(t, f.Put(t.Context(), r))
		first, cancel := context.WithCancel(t.Context())
		go s.Get(first, r.ID)
		synctest.Wait()
		var wg sync.WaitGroup
		wg.Go(func() { wantData(t, s, r.ID, "x") })
		synctest.Wait()
		cancel()
		wg.Wait()
		assert.EqualValues(t, 1, f.gets.Load())
		assert.Zero(t, calledOff.Load())

		// A flight without a Get is cancelled.
		alone, cancel := context.WithCancel(t.Context())
		go s.Get(alone, record(t, 2, "").ID)
		synctest.Wait()
		cancel()
		synctest.Wait()
		assert.EqualValues(t, 1, calledOff.Load())
		assert.Empty(t, s.(takingSwappingStore).ids)
	})
}

func TestStore_FarFails(t *testing.T) {
	boom := errors.New("boom")
	fails := true
	f := newFar()
	f.hold = func(context.Context) error {
		if fails {
			return boom
		}
		return nil
	}
	s := New(f, Options{})
	r := record(t, 1, "x")
	require.NoError(t, f.Put(t.Context(), r))
	for range 2 { // the failure is not remembered
		_, err := s.Get(t.Context(), r.ID)
		require.ErrorIs(t, err, boom)
	}
	fails = false
	wantData(t, s, r.ID, "x")
	fails = true
	wantData(t, s, r.ID, "x")

	broken := &storetest.Faulty{Store: f,
		OnGet: func(context.Context, store.ID) (store.Record, error) { panic("boom") },
		OnPut: func(context.Context, store.Record) error { return boom },
	}
	s = New(broken, Options{})
	_, err := s.Get(t.Context(), r.ID)
	assert.ErrorContains(t, err, "panicked: boom")
	require.ErrorIs(t, s.Put(t.Context(), r), boom)
	_, err = s.Get(t.Context(), r.ID)
	assert.ErrorContains(t, err, "panicked", "a Put that failed is not near")
	assert.Empty(t, s.(takingStore).ids)
}

// After any concurrent calls, near and backing store agree.
func TestStore_Agrees(t *testing.T) {
	f := newFar()
	f.hold = func(context.Context) error { time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond); return nil }
	s := New(f, Options{})
	for range 100 {
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				for i := range 10 {
					r := record(t, rand.IntN(2), fmt.Sprint(g, i))
					switch rand.IntN(6) {
					case 0:
						assert.NoError(t, s.Delete(t.Context(), r.ID))
					case 1:
						s.(store.Taker).Take(t.Context(), r.ID)
					case 2:
						kept, _ := s.Get(t.Context(), r.ID)
						s.(store.Swapper).Swap(t.Context(), kept, r)
					case 3, 4:
						s.Get(t.Context(), r.ID)
					default:
						assert.NoError(t, s.Put(t.Context(), r))
					}
				}
			})
		}
		wg.Wait()
		for n := range 2 {
			id := record(t, n, "").ID
			near, nearErr := s.Get(t.Context(), id)
			backing, farErr := f.Get(t.Context(), id)
			require.Equal(t, farErr, nearErr)
			require.True(t, store.Same(backing, near))
		}
	}
	assert.Empty(t, s.(takingSwappingStore).ids)
}

func BenchmarkGet_Near(b *testing.B) {
	s := New(newFar(), Options{})
	id, _ := store.ParseID("01")
	s.Put(context.Background(), store.Record{ID: id, Data: make([]byte, 300), Expires: time.Now().Add(time.Hour)})
	for b.Loop() {
		s.Get(context.Background(), id)
	}
}
