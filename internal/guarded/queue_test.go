package guarded

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

func TestQueue_IsBoundedAndEnds(t *testing.T) {
	st := &blockingStore{entered: make(chan struct{}), release: make(chan struct{})}
	records := make(chan string, queueLimit)
	logger := slog.New(slog.NewTextHandler(lines(records), nil))
	s := New(st, Options{PutTimeout: time.Minute, Logger: logger})
	id := testID(t, 1, 32)
	const capacity = queueLimit / queueShards
	for round := range uint64(2) {
		st.blocks.Store(true)
		s.DeleteLater(id)
		<-st.entered
		for range capacity + 3 {
			s.DeleteLater(id)
		}
		require.Equal(t, 3*(round+1), s.Stats.Lost.Load())
		require.EqualValues(t, capacity+1, s.Stats.Queue.Load())
		st.release <- struct{}{}
		require.Eventually(t, func() bool { return s.Stats.Queue.Load() == 0 && len(records) > 0 }, time.Minute, time.Millisecond)
		require.Contains(t, <-records, `level=WARN msg="queue full"`)
	}
	require.NoError(t, s.Close(t.Context()), "lost before it closed")
	require.Empty(t, records, "one a round, however many found no room")
	require.EqualValues(t, 2*(capacity+1), s.Stats.Removed.Load())
	s.DeleteLater(id)
	require.EqualValues(t, 7, s.Stats.Lost.Load())
	require.Zero(t, s.Stats.Queue.Load())
}

// lines is a Writer of a line at a time.
type lines chan<- string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// storeOfOne answers every question at once.
type storeOfOne struct {
	store.Store
	rec store.Record
}

func (s *storeOfOne) Local() {}

func (s *storeOfOne) Get(context.Context, store.ID) (store.Record, error) { return s.rec, nil }

func TestStore_LoggingCostsNothingWithoutFailures(t *testing.T) {
	for _, logger := range []*slog.Logger{nil, slog.New(slog.NewTextHandler(io.Discard, nil))} {
		id := testID(t, 1, 32)
		s := New(&storeOfOne{rec: store.Record{ID: id}}, Options{Logger: logger})
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_, err := s.Get(context.Background(), id)
			require.NoError(t, err)
		}))
	}
}

// blockingStore holds back a Delete, the next one after it was told so.
type blockingStore struct {
	store.Store
	blocks           atomic.Bool
	entered, release chan struct{}
}

func (b *blockingStore) Delete(context.Context, store.ID) error {
	if b.blocks.Swap(false) {
		b.entered <- struct{}{}
		<-b.release
	}
	return nil
}

func testID(t testing.TB, fill byte, n int) store.ID {
	t.Helper()
	id, err := store.IDFromBytes(bytes.Repeat([]byte{fill}, n))
	require.NoError(t, err)
	return id
}
