package conformance

import (
	"context"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
)

var helloFacts = []Fact{}

// ---- stores -------------------------------------------------------------------------

// spyStore is a store as a far one would be: it is not store.Local. It notes what it was asked for.
type spyStore struct {
	mem *memstore.Store
	// onGet, where set, runs first; its error is the answer.
	onGet func(context.Context, store.ID) error

	mu          sync.Mutex
	gets, takes []store.ID
}

func newSpyStore() *spyStore { return &spyStore{mem: memstore.New(memstore.Options{})} }

func (s *spyStore) SealingKey() ([]byte, error) { return s.mem.SealingKey() }

func (s *spyStore) Put(ctx context.Context, r store.Record) error { return s.mem.Put(ctx, r) }

func (s *spyStore) Delete(ctx context.Context, id store.ID) error { return s.mem.Delete(ctx, id) }

func (s *spyStore) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if err := s.note(ctx, &s.gets, id); err != nil {
		return store.Record{}, err
	}
	return s.mem.Get(ctx, id)
}

func (s *spyStore) Take(ctx context.Context, id store.ID) (store.Record, error) {
	if err := s.note(ctx, &s.takes, id); err != nil {
		return store.Record{}, err
	}
	return s.mem.Take(ctx, id)
}

func (s *spyStore) note(ctx context.Context, to *[]store.ID, id store.ID) error {
	s.mu.Lock()
	*to = append(*to, id)
	s.mu.Unlock()
	if s.onGet != nil {
		return s.onGet(ctx, id)
	}
	return nil
}

// useStore puts st, with budgets that a slow machine keeps, behind ctx.
func (l *lab) useStore(ctx *libssl.Context, st store.Store, opt libssl.StoreOptions) *libssl.SessionCache {
	opt.LookupTimeout, opt.PutTimeout = time.Minute, time.Minute
	sc, err := ctx.UseStore(st, &opt)
	l.o.must(err)
	l.o.atEnd(func() { sc.Close(context.Background()) })
	return sc
}
