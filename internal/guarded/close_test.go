package guarded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// history is what a store was asked, in order, and when.
type history struct {
	mu    sync.Mutex
	begin time.Time
	all   []string
}

func (h *history) note(r request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, fmt.Sprintf("%v %v %d", time.Since(h.begin), r.op, r.id.Bytes()[0]))
}

// seen returns what was asked so far.
func (h *history) seen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// recorded is a store that notes each request and then runs f.
func recorded(h *history, f func(ctx context.Context, r request) error) scripted {
	return scripted{func(ctx context.Context, r request) (store.Record, error) {
		h.note(r)
		return store.Record{ID: r.id}, f(ctx, r)
	}}
}

func slowly(context.Context, request) error { time.Sleep(time.Second); return nil }

func TestPutAll_WaitsForAllAtOnce(t *testing.T) {
	var recs []store.Record
	for i := range byte(4) {
		recs = append(recs, store.Record{ID: testID(t, i+1, 32)})
	}
	var h history
	hang := false
	st := recorded(&h, func(ctx context.Context, r request) error {
		if hang {
			<-ctx.Done()
		}
		return slowly(ctx, r)
	})
	bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
		h.begin = time.Now()
		require.Equal(t, time.Second, took(func() { s.PutAll(t.Context(), recs) }))
		require.ElementsMatch(t, []string{"0s put 1", "0s put 2", "0s put 3", "0s put 4"}, h.seen())
		require.EqualValues(t, 4, s.Stats.Stored.Load())
		hang = true
		require.Equal(t, putLimit, took(func() { s.PutAll(t.Context(), recs) }), "one limit for all")
		require.Len(t, heard.heard(), 4)
		require.EqualValues(t, 4, s.Stats.Stored.Load())
		require.Equal(t, putLimit, took(func() { s.PutAll(t.Context(), recs[:1]) }))
		require.Len(t, heard.heard(), 1)
	})
}

func TestPutAll_IsOneCallOfABatcher(t *testing.T) {
	recs := []store.Record{{ID: testID(t, 1, 32)}, {ID: testID(t, 2, 32)}}
	var h history
	calls, stored, answer := 0, 0, error(nil)
	st := batchStore{recorded(&h, slowly), func(ctx context.Context, got []store.Record) (int, error) {
		calls++
		require.Equal(t, recs, got)
		time.Sleep(time.Second)
		if answer == context.DeadlineExceeded {
			<-ctx.Done()
		}
		return stored, answer
	}}
	bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
		for i, c := range []struct {
			stored int
			err    error
			counts uint64
		}{{2, nil, 2}, {1, errDown, 3}, {0, errDown, 3}, {1 << 40, nil, 5}, {-1, nil, 5}} {
			stored, answer = c.stored, c.err
			require.Equal(t, time.Second, took(func() { s.PutAll(t.Context(), recs) }))
			require.Equal(t, i+1, calls)
			require.Equal(t, c.counts, s.Stats.Stored.Load())
		}
		require.Len(t, heard.heard(), 2)
		stored, answer = 2, context.DeadlineExceeded
		require.Equal(t, putLimit, took(func() { s.PutAll(t.Context(), recs) }))
		require.EqualValues(t, 1, s.Stats.Timeouts.Load())
		require.EqualValues(t, 5, s.Stats.Stored.Load())
		require.Empty(t, h.seen())
		s.PutAll(t.Context(), recs[:1])
		require.Len(t, h.seen(), 1, "one record is no batch")
	})
	bubble(t, st, Options{WriteBehind: true}, func(t *testing.T, s *Store, _ *failures) {
		calls = 0
		require.Zero(t, took(func() { s.PutAll(t.Context(), recs) }))
		require.NoError(t, s.Close(t.Context()))
		require.EqualValues(t, 2, s.Stats.Stored.Load())
		require.Zero(t, calls)
	})
}

func TestPut_IsQueuedWithWriteBehind(t *testing.T) {
	recs := []store.Record{{ID: testID(t, 1, 32)}, {ID: testID(t, 1, 32)}}
	for _, behind := range []bool{true, false} {
		var h history
		bubble(t, recorded(&h, slowly), Options{WriteBehind: behind}, func(t *testing.T, s *Store, _ *failures) {
			h.begin = time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			elapsed := took(func() {
				s.Put(ctx, &recs[0])
				s.PutBack(ctx, &recs[1])
			})
			cancel() // which a queued Put does not see
			if !behind {
				require.Equal(t, 2*time.Second, elapsed)
				s.QueuePutBacks()
				require.Zero(t, took(func() { s.PutBack(t.Context(), &recs[0]) }))
				require.Equal(t, time.Second, took(func() { s.Put(t.Context(), &recs[1]) }), "only what is put back is queued")
				require.NoError(t, s.Close(t.Context()))
				require.EqualValues(t, 4, s.Stats.Stored.Load())
				require.EqualValues(t, 2, s.Stats.PutBack.Load())
				return
			}
			require.Zero(t, elapsed)
			require.EqualValues(t, 2, s.Stats.Queue.Load())
			require.NoError(t, s.Close(t.Context()))
			require.Equal(t, []string{"0s put 1", "1s put 1"}, h.seen())
			require.EqualValues(t, 2, s.Stats.Stored.Load())
			require.Zero(t, s.Stats.Queue.Load())

			require.Equal(t, time.Second, took(func() { s.PutBack(t.Context(), &recs[0]) }), "the queue is closed")
			require.EqualValues(t, 3, s.Stats.Stored.Load())
			s.Put(t.Context(), &recs[0])
			require.EqualValues(t, 1, s.Stats.Lost.Load())
			require.Len(t, h.seen(), 3)
		})
	}
}

func TestQueue_KeepsTheOrderOfAnID(t *testing.T) {
	var h history
	bubble(t, recorded(&h, slowly), Options{}, func(t *testing.T, s *Store, _ *failures) {
		h.begin = time.Now()
		slow, quick := testID(t, 1, 32), testID(t, 2, 32) // of two shards
		for range 2 {
			s.PutLater(&store.Record{ID: slow})
			s.DeleteLater(slow)
		}
		synctest.Wait()
		s.DeleteLater(slow) // while the shard is at work
		s.DeleteLater(quick)
		require.EqualValues(t, 6, s.Stats.Queue.Load())
		synctest.Wait()
		require.Equal(t, []string{"0s put 1", "0s delete 2"}, h.seen(), "a slow operation holds up its own shard only")
		require.Equal(t, 5*time.Second, took(func() { require.NoError(t, s.Close(t.Context())) }))
		require.Equal(t, []string{"0s put 1", "0s delete 2", "1s delete 1", "2s put 1", "3s delete 1", "4s delete 1"}, h.seen())
		require.EqualValues(t, 2, s.Stats.Stored.Load())
		require.EqualValues(t, 4, s.Stats.Removed.Load())
		require.Zero(t, s.Stats.Queue.Load()+int64(s.Stats.Lost.Load()))
	})
}

func TestClose_EndsWithItsContext(t *testing.T) {
	why := errors.New("the host goes down")
	var h history
	st := recorded(&h, func(context.Context, request) error { time.Sleep(time.Hour); return nil }) // and ignores its context
	bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
		h.begin = time.Now()
		for range 3 {
			s.DeleteLater(testID(t, 1, 32))
		}
		s.PutLater(&store.Record{ID: testID(t, 2, 32)})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		var err error
		require.Equal(t, time.Second, took(func() { err = s.Close(ctx) }))
		require.EqualError(t, err, "libssl: close session cache: 4 queued operations were lost: the host goes down")
		require.ErrorIs(t, err, why)
		synctest.Wait()
		require.ElementsMatch(t, []string{"0s delete 1", "0s put 2"}, h.seen(), "what is queued behind is not begun")
		require.EqualValues(t, 4, s.Stats.Lost.Load())
		require.Zero(t, s.Stats.Queue.Load()+int64(s.Stats.Stored.Load()+s.Stats.Removed.Load()))
		require.Empty(t, heard.heard(), "it was not the store's failure")
		require.NoError(t, s.Close(t.Context()), "again")
	})
}

func TestClose_TellsWhyOperationsWereLost(t *testing.T) {
	id := testID(t, 1, 32)
	st := scripted{func(context.Context, request) (store.Record, error) {
		time.Sleep(time.Second) // so that Close begins before
		return store.Record{}, errDown
	}}
	bubble(t, st, Options{}, func(t *testing.T, s *Store, _ *failures) {
		s.DeleteLater(id)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, s.Stats.Lost.Load())
		s.DeleteLater(id)
		s.PutLater(&store.Record{ID: id})
		err := s.Close(t.Context())
		require.EqualError(t, err, "libssl: close session cache: 2 queued operations were lost: the store is down")
		require.ErrorIs(t, err, errDown)
		s.DeleteLater(id)
		require.EqualValues(t, 4, s.Stats.Lost.Load())
		require.Equal(t, net.ErrClosed, *s.queue.loss.Load())
	})
}

func TestClose_WithAnEndedContextLosesNothingIfNothingIsQueued(t *testing.T) {
	bubble(t, scripted{}, Options{}, func(t *testing.T, s *Store, _ *failures) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, s.Close(ctx))
	})
}

func TestClose_LeavesDirectCallsAlone(t *testing.T) {
	var h history
	bubble(t, recorded(&h, slowly), Options{}, func(t *testing.T, s *Store, _ *failures) {
		require.NoError(t, s.Close(t.Context()))
		_, err := s.Get(t.Context(), testID(t, 1, 32))
		require.NoError(t, err)
		s.Put(t.Context(), &store.Record{ID: testID(t, 1, 32)})
		require.EqualValues(t, 1, s.Stats.Stored.Load())
	})
}

func TestGo_IsWaitedForUntilClose(t *testing.T) {
	bubble(t, scripted{}, Options{}, func(t *testing.T, s *Store, _ *failures) {
		var ran atomic.Int32
		f := func() { time.Sleep(time.Second); ran.Add(1) }
		require.True(t, s.Go(f))
		require.Zero(t, ran.Load())
		require.Equal(t, time.Second, took(func() { require.NoError(t, s.Close(t.Context())) }))
		require.EqualValues(t, 1, ran.Load())
		require.False(t, s.Go(f))
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, ran.Load())
	})
}
