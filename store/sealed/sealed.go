// Package sealed puts a seal on what a store holds, with the keys of a ring: who reads the store learns nothing but ids, sizes and
// ends, and who writes to it can only remove entries, or bring back what was sealed for the same id and end.
//
// It is for those who use a store with session handlers of their own. UseStore of package libssl seals by itself, and binds its
// entries to more than a store can know.
package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// An entry is the format and an envelope of package ticket. Format, id and end are authenticated, so that an entry is good
// only under its own name and for its own time. Entries of the formats 1 and 2 are package libssl's.
const (
	format   = 3
	overhead = 1 + ticket.Overhead
)

// MaxData is the greatest length of a record's data. It is less than package store's for what the seal adds.
const MaxData = store.MaxData - overhead

// Store is a store.Store that seals what another holds. The newest key of its ring whose time has come seals, all of them open.
//
// An entry that cannot be opened, because it is under a key that is not in the ring, was tampered with, or was not sealed here, is
// not found, with an error that says why as well. It stays where it is, for whoever can open it: nothing but Put and Delete
// touches it.
type Store struct {
	inner store.Store
	keys  *ticket.Ring
}

// New returns a store that seals what inner holds, with keys, which may change meanwhile. It is a store.Limited, a
// store.ConditionalDeleter if inner is, and a store.Taker if inner is both Taker and ConditionalDeleter. It has none of the other
// optional interfaces: ask inner.
func New(inner store.Store, keys *ticket.Ring) (store.Store, error) {
	if keys == nil || keys.Len() == 0 {
		return nil, errors.New("sealed: a ring without keys")
	}
	s := &Store{inner, keys}
	deleter, ok := inner.(store.ConditionalDeleter)
	if !ok {
		return s, nil
	}
	d := deletingStore{s, deleter}
	if _, ok := inner.(store.Taker); ok {
		return takingStore{d}, nil
	}
	return d, nil
}

// MaxData implements store.Limited.
func (*Store) MaxData() int { return MaxData }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	_, r, err := s.get(ctx, id)
	return r, err
}

// get returns a record as it is kept, and opened.
func (s *Store) get(ctx context.Context, id store.ID) (kept, opened store.Record, err error) {
	if err := ended(ctx); err != nil {
		return kept, opened, err
	}
	if kept, err = s.inner.Get(ctx, id); err != nil {
		return kept, opened, err
	}
	if len(kept.Data) == 0 || kept.Data[0] != format {
		return kept, opened, cannotOpen(ticket.ErrMalformed)
	}
	data, err := s.keys.Open(nil, kept.Data[1:], additional(id, kept.Expires))
	if err != nil {
		return kept, opened, cannotOpen(err)
	}
	return kept, store.Record{ID: id, Data: data, Expires: kept.Expires}, nil
}

func cannotOpen(err error) error { return fmt.Errorf("sealed: %w: %w", store.ErrNotFound, err) }

// ended is for stores in memory, which do not look at their context.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sealed: %w", err)
	}
	return nil
}

// additional is what a seal authenticates beside the data: all of it of known length but the id, whose length leads. No store
// keeps less than the milliseconds of an end.
func additional(id store.ID, expires time.Time) []byte {
	b := make([]byte, 0, 2+store.MaxIDLen+8)
	b = append(b, format, byte(id.Len()))
	b = append(b, id.Bytes()...)
	return binary.BigEndian.AppendUint64(b, uint64(expires.UnixMilli()))
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, r store.Record) error {
	if err := ended(ctx); err != nil {
		return err
	}
	sealed := make([]byte, 1, overhead+len(r.Data))
	sealed[0] = format
	r.Data = s.keys.Seal(sealed, r.Data, additional(r.ID, r.Expires))
	return s.inner.Put(ctx, r) // which refuses what must be refused: the seal adds what MaxData is less
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error {
	if err := ended(ctx); err != nil {
		return err
	}
	return s.inner.Delete(ctx, id)
}

// deletingStore is a Store of one that is a store.ConditionalDeleter.
type deletingStore struct {
	*Store
	deleter store.ConditionalDeleter
}

// DeleteIf implements store.ConditionalDeleter. Equal records have different seals, so it looks before it deletes what it saw.
func (s deletingStore) DeleteIf(ctx context.Context, r store.Record) (bool, error) {
	for {
		kept, opened, err := s.get(ctx, r.ID)
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil || !store.Same(opened, r) {
			return false, err
		}
		if done, err := s.deleter.DeleteIf(ctx, kept); done || err != nil {
			return done, err
		} // else it was taken, or put again meanwhile
	}
}

// takingStore is a deletingStore of one that is a store.Taker.
type takingStore struct{ deletingStore }

// Take implements store.Taker, in two round trips: what inner's Take returned would be out of the store before it is known whether it
// can be opened here, and lost to the others if this process ended then.
func (s takingStore) Take(ctx context.Context, id store.ID) (store.Record, error) {
	for {
		kept, opened, err := s.get(ctx, id)
		if err != nil {
			return store.Record{}, err
		}
		done, err := s.deleter.DeleteIf(ctx, kept)
		if err != nil {
			return store.Record{}, err
		}
		if done {
			return opened, nil
		} // else it was taken, or replaced meanwhile
	}
}
