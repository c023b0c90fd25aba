package guarded

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libssl-go/libssl/store"
)

var errDown = errors.New("the store is down")

const (
	lookupLimit = 2 * time.Second
	putLimit    = 3 * time.Second
)

// scripted is a store.Taker that answers each request with on.
type scripted struct {
	on func(ctx context.Context, r request) (store.Record, error)
}

func (s scripted) Get(ctx context.Context, id store.ID) (store.Record, error) {
	return s.on(ctx, request{op: opGet, id: id})
}

func (s scripted) Take(ctx context.Context, id store.ID) (store.Record, error) {
	return s.on(ctx, request{op: opTake, id: id})
}

func (s scripted) Put(ctx context.Context, rec store.Record) error {
	_, err := s.on(ctx, putOf(&rec))
	return err
}

func (s scripted) Delete(ctx context.Context, id store.ID) error {
	_, err := s.on(ctx, request{op: opDelete, id: id})
	return err
}

// promptStore is a scripted store that is prompt while is is set.
type promptStore struct {
	scripted
	is bool
}

func (s *promptStore) Prompt() bool { return s.is }

// batchStore is a scripted store that is a store.Batcher.
type batchStore struct {
	scripted
	putAll func(ctx context.Context, recs []store.Record) (int, error)
}

func (s batchStore) PutAll(ctx context.Context, recs []store.Record) (int, error) {
	return s.putAll(ctx, recs)
}

type localStore struct{ scripted }

func (localStore) Local() {}

// failures collects what OnError hears.
type failures struct {
	mu  sync.Mutex
	all []error
}

func (f *failures) hear(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

// heard returns the errors since the last call.
func (f *failures) heard() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.all
	f.all = nil
	return all
}

// bubble runs test in a synctest bubble with a guarded st.
func bubble(t *testing.T, st store.Store, opt Options, test func(t *testing.T, s *Store, heard *failures)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var f failures
		opt.LookupTimeout, opt.PutTimeout, opt.OnError = lookupLimit, putLimit, f.hear
		s := New(st, opt)
		defer time.Sleep(24 * time.Hour) // late calls end; the bubble's clock stands still afterwards
		test(t, s, &f)
	})
}

// took returns the time that f takes, in the bubble's clock.
func took(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}
