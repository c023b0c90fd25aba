package guarded

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// perform makes one operation and waits for its end.
func perform(t *testing.T, s *Store, op operation) error {
	ctx, id := t.Context(), testID(t, 1, 32)
	var err error
	switch op {
	case opGet:
		_, err = s.Get(ctx, id)
	case opTake:
		_, err = s.Take(ctx, id)
	case opPut:
		s.Put(ctx, &store.Record{ID: id})
	case opDelete:
		s.DeleteLater(id)
		err = s.Close(ctx)
	}
	return err
}

func TestStore_CallsEndWithinTheirLimit(t *testing.T) {
	const early, late = time.Second, time.Hour
	for name, tt := range map[string]struct {
		run     func(ctx context.Context) error
		elapsed time.Duration // 0: the limit
		err     string        // "": none
	}{
		"answers":             {func(context.Context) error { time.Sleep(early); return nil }, early, ""},
		"fails":               {func(context.Context) error { time.Sleep(early); return errDown }, early, errDown.Error()},
		"panics":              {func(context.Context) error { time.Sleep(early); panic("oh") }, early, "libssl: the store panicked: oh"},
		"hangs":               {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 0, errTimeout.Error()},
		"fails at the limit":  {func(ctx context.Context) error { <-ctx.Done(); return errDown }, 0, errTimeout.Error()},
		"ignores its context": {func(context.Context) error { time.Sleep(late); return nil }, 0, errTimeout.Error()},
		"panics late":         {func(context.Context) error { time.Sleep(late); panic("oh") }, 0, errTimeout.Error()},
		"exits":               {func(context.Context) error { time.Sleep(early); runtime.Goexit(); return nil }, early, errExited.Error()},
		"exits late":          {func(context.Context) error { time.Sleep(late); runtime.Goexit(); return nil }, 0, errTimeout.Error()},
	} {
		for _, op := range []operation{opGet, opTake, opPut, opDelete} {
			t.Run(name+"/"+op.String(), func(t *testing.T) {
				st := scripted{func(ctx context.Context, r request) (store.Record, error) {
					return store.Record{ID: r.id}, tt.run(ctx)
				}}
				bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
					lookup := op == opGet || op == opTake
					elapsed := tt.elapsed
					if elapsed == 0 && lookup {
						elapsed = lookupLimit
					} else if elapsed == 0 {
						elapsed = putLimit
					}
					var err error
					require.Equal(t, elapsed, took(func() { err = perform(t, s, op) }))
					failed := heard.heard()
					one := func(is bool) uint64 {
						if is {
							return 1
						}
						return 0
					}
					if tt.err == "" {
						require.NoError(t, err)
						require.Empty(t, failed)
					} else {
						require.Len(t, failed, 1)
						require.EqualError(t, failed[0], tt.err)
						if op != opPut {
							require.ErrorIs(t, err, failed[0])
						}
					}
					timedOut := tt.err == errTimeout.Error()
					other := tt.err != "" && !timedOut
					c := &s.Stats
					require.Equal(t, one(timedOut), c.Timeouts.Load())
					require.Equal(t, one(other), c.Errors.Load())
					require.Equal(t, one(timedOut && lookup), c.LookupTimeouts.Load())
					require.Equal(t, one(other && lookup), c.LookupErrors.Load())
					require.Equal(t, one(tt.err == "" && op == opPut), c.Stored.Load())
					require.Equal(t, one(tt.err == "" && op == opDelete), c.Removed.Load())
					require.Equal(t, one(tt.err == "" && op == opTake), c.Taken.Load())
					require.Equal(t, one(tt.err != "" && op == opDelete), c.Lost.Load())
					var get, put time.Duration
					if lookup {
						get = elapsed
					} else if op == opPut {
						put = elapsed
					}
					require.EqualValues(t, get, c.Get.Sum.Load())
					require.EqualValues(t, put, c.Put.Sum.Load())
				})
			})
		}
	}
}

// A store that never returns costs one goroutine a call, and a bounded number of them.
func TestStore_BoundsTheCallsLeftBehind(t *testing.T) {
	release := make(chan struct{})
	st := scripted{func(context.Context, request) (store.Record, error) {
		<-release
		return store.Record{}, store.ErrNotFound
	}}
	var log journal
	bubble(t, st, Options{Logger: log.logger(slog.LevelError)}, func(t *testing.T, s *Store, _ *failures) {
		release = make(chan struct{}) // of the bubble
		id, before := testID(t, 1, 32), runtime.NumGoroutine()
		for range 3 * maxLeft {
			_, _ = s.Get(t.Context(), id)
			s.Put(t.Context(), &store.Record{ID: id})
			time.Sleep(breakerPeriod)
		}
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine()-before, maxLeft+1)
		var stuck []attrs
		for _, r := range log.records(t) {
			if r["msg"] == "store does not return" {
				stuck = append(stuck, r)
			}
		}
		require.Len(t, stuck, 1)
		_, err := s.Get(t.Context(), id)
		require.Equal(t, errStuck, err)
		close(release)
		time.Sleep(breakerPeriod)
		require.Zero(t, s.left.Load())
		_, err = s.Get(t.Context(), id)
		require.Equal(t, store.ErrNotFound, err, "it is asked again")
	})
}

func TestStore_LateTakeIsPutBack(t *testing.T) {
	id, other := testID(t, 1, 32), testID(t, 2, 32)
	rec := store.Record{ID: id, Data: []byte("secret")}
	for name, tt := range map[string]struct {
		op   operation
		rec  store.Record
		err  error
		back bool
	}{
		"taken":        {opTake, rec, nil, true},
		"not found":    {opTake, rec, store.ErrNotFound, false},
		"another id's": {opTake, store.Record{ID: other}, nil, false},
		"too much":     {opTake, store.Record{ID: id, Data: make([]byte, store.MaxData+1)}, nil, false},
		"only got":     {opGet, rec, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, end := range []string{"timeout", "cancelled", "closed"} {
				puts := make(chan store.Record, 2)
				st := scripted{func(_ context.Context, r request) (store.Record, error) {
					if r.op == opPut {
						puts <- *r.rec
						return store.Record{}, nil
					}
					time.Sleep(time.Minute)
					return tt.rec, tt.err
				}}
				bubble(t, st, Options{}, func(t *testing.T, s *Store, _ *failures) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					want := errTimeout
					switch end {
					case "cancelled":
						want = context.Canceled
						time.AfterFunc(time.Second, cancel)
					case "closed":
						s.QueuePutBacks() // into a queue that accepts no more
						require.NoError(t, s.Close(t.Context()))
					}
					_, err := s.lookUp(ctx, request{op: tt.op, id: id})
					require.Equal(t, want, err)
					synctest.Wait()
					require.Empty(t, puts, "the store has not answered yet")
					time.Sleep(time.Minute)
					synctest.Wait()
					if !tt.back {
						require.Empty(t, puts)
						require.Zero(t, s.Stats.Taken.Load())
						require.Zero(t, s.Stats.PutBack.Load())
						return
					}
					require.Len(t, puts, 1)
					require.Equal(t, rec, <-puts)
					require.EqualValues(t, 1, s.Stats.Taken.Load())
					require.EqualValues(t, 1, s.Stats.PutBack.Load())
				})
			}
		})
	}
}

// onItsOwnGoroutine reports whether the calling store function runs on another goroutine than the test.
func onItsOwnGoroutine() bool { return !strings.Contains(string(debug.Stack()), "created by testing") }

func TestStore_LocalIsCalledDirectly(t *testing.T) {
	type key struct{}
	var apart, bounded int
	var order []byte
	script := scripted{func(ctx context.Context, r request) (store.Record, error) {
		if onItsOwnGoroutine() {
			apart++
		}
		if _, ok := ctx.Deadline(); ok || ctx.Value(key{}) == nil {
			bounded++
		}
		order = append(order, r.id.Bytes()[0])
		return store.Record{ID: r.id}, nil
	}}
	recs := []store.Record{{ID: testID(t, 3, 32)}, {ID: testID(t, 1, 32)}, {ID: testID(t, 2, 32)}}
	for _, local := range []bool{true, false} {
		apart, bounded, order = 0, 0, nil
		st := store.Store(script)
		if local {
			st = localStore{script}
		}
		bubble(t, st, Options{}, func(t *testing.T, s *Store, _ *failures) {
			require.Equal(t, local, s.Local())
			require.True(t, s.CanTake())
			ctx := context.WithValue(t.Context(), key{}, true)
			_, err := s.Get(ctx, recs[0].ID)
			require.NoError(t, err)
			_, err = s.Take(ctx, recs[0].ID)
			require.NoError(t, err)
			if local {
				s.PutAll(ctx, recs)
				require.Zero(t, apart)
				require.Zero(t, bounded)
				require.Equal(t, []byte{3, 3, 3, 1, 2}, order)
			} else {
				require.Equal(t, 2, apart)
				require.Equal(t, 2, bounded)
			}
		})
	}
}

func TestStore_PromptIsCalledDirectlyWithinTheLimit(t *testing.T) {
	hang, apart := false, false
	st := &promptStore{scripted: scripted{func(ctx context.Context, r request) (store.Record, error) {
		apart = onItsOwnGoroutine()
		if hang {
			<-ctx.Done()
			return store.Record{}, errDown
		}
		return store.Record{ID: r.id}, nil
	}}}
	bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
		for _, st.is = range []bool{false, true, false} { // asked at each call
			_, err := s.Get(t.Context(), testID(t, 1, 32))
			require.NoError(t, err)
			require.Equal(t, st.is, !apart)
		}
		st.is, hang = true, true
		require.Equal(t, lookupLimit, took(func() {
			_, err := s.Get(t.Context(), testID(t, 1, 32))
			require.Equal(t, errTimeout, err)
		}))
		require.False(t, apart)
		require.Equal(t, []error{errTimeout}, heard.heard())
	})
}

func TestStore_LookupsRefuseOtherRecords(t *testing.T) {
	id := testID(t, 1, 32)
	for name, tt := range map[string]struct {
		rec store.Record
		err error
	}{
		"right":         {store.Record{ID: id, Data: make([]byte, store.MaxData)}, nil},
		"longer id":     {store.Record{ID: testID(t, 1, 31)}, ErrForged},
		"no id":         {store.Record{}, ErrForged},
		"data too long": {store.Record{ID: id, Data: make([]byte, store.MaxData+1)}, ErrForged},
		"absent":        {store.Record{}, store.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			st := scripted{func(context.Context, request) (store.Record, error) {
				if tt.err == store.ErrNotFound {
					return store.Record{}, tt.err
				}
				return tt.rec, nil
			}}
			bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
				for i := range uint64(2 * breakerConsecutive) {
					rec, err := s.Get(t.Context(), id)
					require.Equal(t, tt.err, err)
					taken, err := s.Take(t.Context(), id)
					require.Equal(t, tt.err, err)
					require.Equal(t, rec, taken)
					if err == nil {
						require.Equal(t, tt.rec, rec)
						require.Equal(t, i+1, s.Stats.Taken.Load())
						continue
					}
					require.Zero(t, rec)
					require.Zero(t, s.Stats.Taken.Load())
				}
				require.Equal(t, tt.err == store.ErrNotFound, s.Stats.Misses.Load() == 4*breakerConsecutive)
				require.False(t, s.Open(), "the store answers")
				require.Empty(t, heard.heard())
				require.Zero(t, s.Stats.PutBack.Load())
			})
		})
	}
}

// A record that the store cannot hold says nothing about the store.
func TestStore_TooLargeIsNoFailure(t *testing.T) {
	st := scripted{func(context.Context, request) (store.Record, error) { return store.Record{}, store.ErrTooLarge }}
	bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
		rec := &store.Record{ID: testID(t, 1, 32)}
		for range 30 {
			s.Put(t.Context(), rec)
			s.PutLater(rec)
		}
		synctest.Wait()
		require.EqualValues(t, 60, s.Stats.TooLarge.Load())
		require.Zero(t, s.Stats.Errors.Load()+s.Stats.Lost.Load()+s.Stats.Stored.Load())
		require.False(t, s.Open())
		heard.mu.Lock()
		defer heard.mu.Unlock()
		require.Len(t, heard.all, 60)
		heard.all = nil
	})
}
