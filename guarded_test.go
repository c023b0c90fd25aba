package libssl

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

func TestSessionCache_QueueIsBoundedAndEnds(t *testing.T) {
	st := &blockingStore{entered: make(chan struct{}), release: make(chan struct{})}
	records := make(chan string, queueLimit)
	logger := slog.New(slog.NewTextHandler(lines(records), nil))
	sc := &SessionCache{ctx: &Context{closed: true}, st: st, opt: StoreOptions{PutTimeout: time.Minute, Logger: logger}}
	sc.stop, sc.cancel = context.WithCancel(context.Background())
	id := testID(t, 1, 32)
	const capacity = queueLimit / queueShards
	for round := range uint64(2) {
		st.blocks.Store(true)
		sc.removed(id)
		<-st.entered
		for range capacity + 3 {
			sc.removed(id)
		}
		require.Equal(t, 3*(round+1), sc.Stats().Lost)
		require.Equal(t, capacity+1, sc.Stats().Queue)
		st.release <- struct{}{}
		require.Eventually(t, func() bool { return sc.Stats().Queue == 0 && len(records) > 0 }, time.Minute, time.Millisecond)
		require.Contains(t, <-records, `level=WARN msg="queue full"`)
	}
	require.NoError(t, sc.Close(t.Context()), "lost before it closed")
	require.Empty(t, records, "one a round, for any number of lost operations")
	require.EqualValues(t, 2*(capacity+1), sc.Stats().Removed)
	sc.removed(id)
	require.EqualValues(t, 7, sc.Stats().Lost)
	require.Zero(t, sc.Stats().Queue)
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

func (s *storeOfOne) Get(context.Context, store.ID) (store.Record, error) { return s.rec, nil }

func TestSessionCache_LoggingCostsNothingWhereAllIsWell(t *testing.T) {
	for _, logger := range []*slog.Logger{nil, slog.New(slog.NewTextHandler(io.Discard, nil))} {
		id := testID(t, 1, 32)
		sc := &SessionCache{st: &storeOfOne{rec: store.Record{ID: id}}, local: true, opt: StoreOptions{Logger: logger}}
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_, err := sc.get(context.Background(), id, false)
			require.NoError(t, err)
		}))
	}
}

// blockingStore holds back the next Delete after blocks was set.
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
