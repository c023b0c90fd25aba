package soak

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
)

var errFault = errors.New("the store fails on purpose")

// faulty is a store that fails in a few of a hundred calls.
func (f *fleet) faulty() store.Store {
	mem := memstore.New(memstore.Options{MaxEntries: 2000})
	chance := func() int { return rand.IntN(100) }
	// fault makes a few calls fail, panic, time out or answer late.
	fault := func(ctx context.Context) error {
		what := chance()
		if what > 5 {
			return nil
		}
		f.n.storeFaults.Add(1)
		switch what {
		case 0, 1:
			return errFault
		case 2:
			panic(errFault)
		case 3:
			<-ctx.Done()
			return ctx.Err()
		default: // late, and deaf to its context
			time.Sleep(time.Duration(chance()) * time.Millisecond)
			return nil
		}
	}
	// spoil damages a few of the entries that are read.
	spoil := func(rec store.Record, err error) (store.Record, error) {
		if what := chance(); err == nil && what < 3 && len(rec.Data) > 0 {
			f.n.storeFaults.Add(1)
			switch what {
			case 0:
				rec.Data[chance()%len(rec.Data)] ^= 0xff
			case 1:
				rec.Data = rec.Data[:chance()%len(rec.Data)]
			case 2:
				rec.Data = nil
			}
		}
		return rec, err
	}
	return &storetest.Faulty{
		Store: mem,
		OnGet: func(ctx context.Context, id store.ID) (store.Record, error) {
			if err := fault(ctx); err != nil {
				return store.Record{}, err
			}
			return spoil(mem.Get(ctx, id))
		},
		OnTake: func(ctx context.Context, id store.ID) (store.Record, error) {
			if err := fault(ctx); err != nil {
				return store.Record{}, err
			}
			return spoil(mem.Take(ctx, id))
		},
		OnPut: func(ctx context.Context, rec store.Record) error {
			return errors.Join(fault(ctx), mem.Put(ctx, rec)) // some are there although they failed
		},
		OnDelete: func(ctx context.Context, id store.ID) error {
			return errors.Join(fault(ctx), mem.Delete(ctx, id))
		},
	}
}

func (f *fleet) storeLane(name string, version uint16, opt libssl.StoreOptions) *lane {
	l := &lane{name: name, version: version}
	st := f.faulty()
	opt.OnError = func(error) {}
	l.make = func() *libssl.Context {
		ctx := f.server(version)
		cache, err := ctx.UseStore(st, &opt)
		if err == nil && l.early {
			err = ctx.SetMaxEarlyData(16384)
		}
		if err != nil {
			panic(err)
		}
		f.atEnd(ctx, func() {
			cache.Close(context.Background()) // what it lost on the way to a faulty store is no failure
		})
		return ctx
	}
	return l
}
