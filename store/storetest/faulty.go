package storetest

import (
	"context"

	"github.com/libssl-go/libssl/store"
)

// Faulty is a store that misbehaves on demand. A method whose hook is set runs the hook instead;
// a hook may wait, fail, panic, return wrong data, or call Store. Set the hooks before the store is used. They run
// concurrently, as the methods do.
//
// A Faulty is a Taker, so Store must be one unless OnTake is set. It has no other optional interface:
// in particular it is never store.Local, so its callers set a deadline.
type Faulty struct {
	store.Store

	OnGet    func(ctx context.Context, id store.ID) (store.Record, error)
	OnPut    func(ctx context.Context, r store.Record) error
	OnDelete func(ctx context.Context, id store.ID) error
	OnTake   func(ctx context.Context, id store.ID) (store.Record, error)
}

// Get runs OnGet or Store.Get.
func (f *Faulty) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if f.OnGet != nil {
		return f.OnGet(ctx, id)
	}
	return f.Store.Get(ctx, id)
}

// Put runs OnPut or Store.Put.
func (f *Faulty) Put(ctx context.Context, r store.Record) error {
	if f.OnPut != nil {
		return f.OnPut(ctx, r)
	}
	return f.Store.Put(ctx, r)
}

// Delete runs OnDelete or Store.Delete.
func (f *Faulty) Delete(ctx context.Context, id store.ID) error {
	if f.OnDelete != nil {
		return f.OnDelete(ctx, id)
	}
	return f.Store.Delete(ctx, id)
}

// Take runs OnTake or Store's Take.
func (f *Faulty) Take(ctx context.Context, id store.ID) (store.Record, error) {
	if f.OnTake != nil {
		return f.OnTake(ctx, id)
	}
	return f.Store.(store.Taker).Take(ctx, id)
}
