package sqlitestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// queued waits until n calls wait for a writer.
func queued(s *Store, n int) {
	for {
		s.waiting.mu.Lock()
		waiting := len(s.waiting.calls)
		s.waiting.mu.Unlock()
		if waiting == n {
			return
		}
		runtime.Gosched()
	}
}

// held makes calls wait until release.
func held(s *Store) (release func()) {
	s.writer <- struct{}{}
	return func() { <-s.writer }
}

// refuse makes SQLite refuse the record.
func refuse(t *testing.T, path string, r store.Record) {
	execute(t, raw(t, path), fmt.Sprintf(
		"CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.id = x'%v' BEGIN SELECT RAISE(ABORT, 'refused'); END", r.ID))
}

func TestPut_OnesThatWaitShareATransaction(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	var commits, returned atomic.Int32
	onCommit(t, s, func() {
		commits.Add(1)
		assert.Zero(t, returned.Load(), "a Put returned before its transaction was committed")
	})
	require.NoError(t, s.Put(ctx, record(0)))
	require.EqualValues(t, 1, commits.Swap(0), "one that is alone does not wait")

	release := held(s)
	var all sync.WaitGroup
	for i := range maxTogether {
		all.Go(func() {
			r := record(i)
			assert.NoError(t, s.Put(ctx, r))
			returned.Add(1)
			clear(r.Data)
		})
	}
	queued(s, maxTogether)
	release()
	all.Wait()
	assert.EqualValues(t, 1, commits.Load())
	other := mustOpen(t, path)
	for i := range maxTogether {
		got, err := other.Get(ctx, newID(i))
		require.NoError(t, err)
		require.Equal(t, record(i).Data, got.Data)
	}
}

func TestPut_ATransactionIsBounded(t *testing.T) {
	s := mustOpen(t, newPath(t))
	var commits atomic.Int32
	onCommit(t, s, func() { commits.Add(1) })
	release := held(s)
	var all sync.WaitGroup
	for i := range maxTogether + 1 {
		all.Go(func() { assert.NoError(t, s.Put(ctx, record(i))) })
	}
	queued(s, maxTogether+1)
	release()
	all.Wait()
	require.EqualValues(t, 2, commits.Swap(0))

	var records []store.Record
	for i := range 2*maxTogether + 1 {
		records = append(records, record(i))
	}
	n, err := s.PutAll(ctx, records)
	require.NoError(t, err)
	require.Len(t, records, n)
	require.EqualValues(t, 3, commits.Swap(0))
}

func TestPutAll_IsOneTransaction(t *testing.T) {
	s := mustOpen(t, newPath(t))
	var commits atomic.Int32
	onCommit(t, s, func() { commits.Add(1) })
	tickets := []store.Record{record(1), record(2)}
	n, err := s.PutAll(ctx, tickets)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.EqualValues(t, 1, commits.Swap(0))

	release := held(s)
	var all sync.WaitGroup
	for i := range maxTogether / 2 {
		all.Go(func() {
			n, err := s.PutAll(ctx, []store.Record{record(2 * i), record(2*i + 1)})
			assert.NoError(t, err)
			assert.Equal(t, 2, n)
		})
	}
	queued(s, maxTogether/2)
	release()
	all.Wait()
	require.EqualValues(t, 1, commits.Load())
}

// A record that SQLite refuses fails alone.
func TestPut_AFailureIsNotShared(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	bad := record(1)
	refuse(t, path, bad)
	release := held(s)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			if err := s.Put(ctx, record(i)); i == 1 {
				assert.EqualError(t, err, "sqlitestore: put: refused")
			} else {
				assert.NoError(t, err)
			}
		})
	}
	all.Go(func() {
		n, err := s.PutAll(ctx, []store.Record{record(6), bad, record(7)})
		assert.Equal(t, 2, n)
		assert.EqualError(t, err, "sqlitestore: put: refused")
	})
	queued(s, 7)
	release()
	all.Wait()
	for i := range 8 {
		got, err := s.Get(ctx, newID(i))
		if i == 1 {
			require.ErrorIs(t, err, store.ErrNotFound)
			continue
		}
		require.NoError(t, err, "record %d", i)
		require.Equal(t, record(i).Data, got.Data)
	}
	var entries int
	require.NoError(t, raw(t, path).QueryRow("SELECT entries FROM totals").Scan(&entries))
	require.Equal(t, 7, entries)
}

// The bounds are those of single Puts.
func TestPut_SharedOnesKeepWithinTheBounds(t *testing.T) {
	path := newPath(t)
	s, err := OpenWith(path, Options{MaxEntries: 5})
	require.NoError(t, err)
	defer s.Close()
	refuse(t, path, record(9))
	for round := range 3 {
		release := held(s)
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() { s.Put(ctx, record(10*round+i)) })
		}
		queued(s, 10)
		release()
		all.Wait()
		var entries int
		require.NoError(t, s.now.Load().db.QueryRow("SELECT count(*) FROM records").Scan(&entries))
		require.Equal(t, 5, entries)
	}
}

// While another process writes, each call ends with its own context, the writer's too, and the others go on.
func TestPut_EachCallHasItsOwnContext(t *testing.T) {
	path := newPath(t)
	s, db := mustOpen(t, path), raw(t, path)
	execute(t, db, "BEGIN IMMEDIATE")
	const callers = 6
	var cancels [callers]context.CancelFunc
	var done [callers]chan error
	data := bytes.Repeat([]byte("mine"), 25)
	release := held(s)
	for i := range callers {
		c, cancel := context.WithCancel(ctx)
		cancels[i], done[i] = cancel, make(chan error, 1)
		go func() {
			r := record(i)
			r.Data = bytes.Clone(data)
			done[i] <- s.Put(c, r)
			clear(r.Data) // as the session cache may
		}()
		queued(s, i+1) // the first is the first writer
	}
	release()
	queued(s, 0) // all are in the writer's hands, which the database keeps busy
	for _, i := range []int{3, 0, 1} {
		cancels[i]()
		assert.ErrorIs(t, <-done[i], context.Canceled)
	}
	for _, i := range []int{2, 4, 5} {
		select {
		case err := <-done[i]:
			t.Errorf("Put returned %v before the commit", err)
		default:
		}
	}
	execute(t, db, "COMMIT")
	for _, i := range []int{2, 4, 5} {
		require.NoError(t, <-done[i])
		cancels[i]()
	}
	require.NoError(t, s.Put(ctx, record(100)))
	queued(s, 0)
	for i := range callers {
		got, err := s.Get(ctx, newID(i))
		if errors.Is(err, store.ErrNotFound) {
			require.Contains(t, []int{0, 1, 3}, i)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, data, got.Data, "record %d", i)
	}
}

// The writer may still be storing a record when the context of its Put ends and the caller reuses the Data.
func TestPut_CopiesTheDataOfOthers(t *testing.T) {
	s := mustOpen(t, newPath(t))
	release := held(s)
	c, cancel := context.WithCancel(ctx)
	done := make(chan error)
	r := record(1)
	go func() { done <- s.Put(c, r) }()
	queued(s, 1)
	calls := s.waiting.next(nil)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	clear(r.Data)
	require.NoError(t, s.together(ctx, calls))
	release()
	got, err := s.Get(ctx, r.ID)
	require.NoError(t, err)
	require.Equal(t, record(1).Data, got.Data)
}

// A Put that waits its turn ends with its context, and is then not stored.
func TestPut_LeavesTheQueue(t *testing.T) {
	s := mustOpen(t, newPath(t))
	release := held(s)
	c, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- s.Put(c, record(1)) }()
	queued(s, 1)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	queued(s, 0)
	release()
	require.NoError(t, s.Put(ctx, record(2)))
	_, err := s.Get(ctx, newID(1))
	require.ErrorIs(t, err, store.ErrNotFound)
}

// Close loses no record whose Put returned nil, before or meanwhile.
func TestClose_LosesNoAcknowledgedPut(t *testing.T) {
	path := newPath(t)
	s, err := Open(path)
	require.NoError(t, err)
	var stored sync.Map
	var n atomic.Int64
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for {
				i := int(n.Add(1))
				if err := s.Put(ctx, record(i)); err != nil {
					assert.True(t, strings.Contains(err.Error(), "closed"), err)
					return
				}
				stored.Store(i, true)
			}
		})
	}
	for n.Load() < 500 {
		runtime.Gosched()
	}
	require.NoError(t, s.Close())
	all.Wait()
	queued(s, 0)
	again := mustOpen(t, path)
	count := 0
	stored.Range(func(i, _ any) bool {
		count++
		_, err := again.Get(ctx, newID(i.(int)))
		return assert.NoError(t, err)
	})
	require.Greater(t, count, 400)
}
