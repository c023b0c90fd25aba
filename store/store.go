// Package store is the contract between an external TLS session cache and the places that can hold its entries. Such a
// place is the memory of a process, a file shared by the processes of a host, or a server shared by a fleet.
//
// It does not look into the entries. The session cache of package libssl seals serialised sessions into them; a back end
// sees opaque bytes under a name, with an expiry. A back end is therefore small: three methods, and a fourth if it can
// take an entry atomically. Package storetest tests that they keep the contract.
//
// The package is pure Go and uses the standard library only, and so do storetest and memstore.
package store

import (
	"context"
	"errors"
	"time"
)

// MaxData is the greatest length of Record.Data. Every store accepts data of this length and refuses longer data.
// A session has 100 to 1000 bytes, but OpenSSL sets no limit: without one, clients with huge certificates could fill a
// shared store.
const MaxData = 64 << 10

// Errors that every store answers alike; match them with errors.Is.
var (
	// ErrNotFound is the answer of Get and Take where the record is absent, expired or damaged.
	ErrNotFound = errors.New("store: not found")

	// ErrTooLarge is the answer of Put and Swap where Data is longer than MaxData, or than the store's server accepts.
	ErrTooLarge = errors.New("store: record data exceeds 64 KiB")

	// ErrZeroID is the answer of Put and Swap where the record's ID is the zero ID.
	ErrZeroID = errors.New("store: record has no id")
)

// Record is one entry of a store.
type Record struct {
	// ID names the record. At most one record of a store has a given ID.
	ID ID

	// Data is the record's content, at most MaxData bytes. It may be empty; nil and empty are the same.
	Data []byte

	// Expires is when the record expires: from that instant on the store answers as if it were absent.
	// A store may round it down to the millisecond and may forget its location.
	// There is no value for "never": the zero time is long past.
	Expires time.Time
}

// Validate returns ErrZeroID or ErrTooLarge if no store may accept r, otherwise nil.
// Put and Swap of every back end begin with it.
func (r Record) Validate() error {
	switch {
	case r.ID.IsZero():
		return ErrZeroID
	case len(r.Data) > MaxData:
		return ErrTooLarge
	}
	return nil
}

// Store holds records.
//
// A store is best effort: it may drop a record before it expires, to stay within its bounds or because its server
// restarted. It must never answer with bytes other than those put last, or with a record that was deleted, taken or
// replaced before the call began. A cache in front of a shared store may do so within a bound that its documentation states.
//
// Clocks of hosts differ. A store decides by the local clock whether a record has expired, but Get must not delete it: on
// another host it may still be valid. The life of a record must not depend on the clock of the server that holds it.
//
// All methods are safe for concurrent use. Calls on different IDs are independent. Concurrent calls on one ID take effect
// one after the other, so a Get returns the record of one Put as a whole.
//
// Callers set a deadline. A call that can wait must return soon after its context ends, with an error for which errors.Is
// reports ctx.Err(). A store whose calls never wait may ignore the context (see Local). A Put, Delete or Take that was cut
// short may have taken effect, or may take effect later.
//
// An error other than ErrNotFound means that the store could not answer, never that the record is absent.
type Store interface {
	// Get returns the record called id, or ErrNotFound if there is none or it has expired.
	//
	// The caller owns the record's Data and may change it; the store must not touch it again.
	Get(ctx context.Context, id ID) (Record, error)

	// Put stores r, replacing the record of the same ID as a whole, expiry included.
	//
	// The caller owns Data: the store must not modify it, nor keep a reference to it after Put returns, because
	// callers wipe and reuse the slice. After Put has returned nil, a Get finds the record, in every process that shares
	// the store, unless the store's documentation says otherwise.
	//
	// A record that has already expired need not be stored, but replaces the old one, and Get answers ErrNotFound.
	// Put answers ErrTooLarge or ErrZeroID to records that fail Validate, and then changes nothing.
	Put(ctx context.Context, r Record) error

	// Delete removes the record called id. An absent record is not an error.
	Delete(ctx context.Context, id ID) error
}

// Taker is implemented by stores that can read and delete in one atomic step. A Taker makes a session single-use
// across processes: early data is only safe over a store that is one.
type Taker interface {
	// Take returns the same as Get and deletes the record. Of concurrent Takes of one record, in any number of processes,
	// one returns it and all others ErrNotFound. A store that cannot promise this, for example because a retry or a
	// replica might answer twice, must not implement Taker.
	Take(ctx context.Context, id ID) (Record, error)
}

// Swapper is implemented by stores with compare-and-set: a caller replaces or deletes only the record that it has seen.
type Swapper interface {
	// Swap stores next if the record called next.ID is old, in ID, data and expiry, or if old is the zero Record and the store
	// has no record called next.ID. It reports whether it did. A next that has already expired deletes old.
	//
	// Comparing and storing are one atomic step with regard to every other method. Like Put, Swap answers ErrTooLarge and
	// ErrZeroID. For the zero old, a record that has expired or is damaged may count as present until the store removes it:
	// by another host's clock it may still be valid.
	Swap(ctx context.Context, old, next Record) (bool, error)
}

// Batcher is implemented by stores that put several records for less than they take one by one.
type Batcher interface {
	// PutAll puts records, in their order, and returns how many of them it stored. err joins the errors of the others, which do
	// not keep the rest from being stored. Each record is put as Put would: within ctx, and without a reference to Data.
	PutAll(ctx context.Context, records []Record) (stored int, err error)
}

// Embedded is implemented by stores that no other host shares. They make and keep the key that seals their records, so
// their user need not configure one.
type Embedded interface {
	// SealingKey returns the store's key, 32 random bytes: the same in every process that has the store open, for as
	// long as the records live. The caller owns the slice.
	SealingKey() ([]byte, error)
}

// Local marks a store in the memory of this process. Its calls never wait and ignore their context, so callers may save
// the deadline, with its timer and goroutine.
type Local interface {
	// Local does nothing.
	Local()
}

// Lister is implemented by stores that can list their records.
type Lister interface {
	// List calls f for each record that has not expired, in no particular order, with the length of its Data. It returns
	// the first error of f or of the store. Records put or deleted meanwhile may be listed or not. f may call the
	// store's other methods.
	List(ctx context.Context, f func(id ID, size int, expires time.Time) error) error
}

// Purger is implemented by stores that can be emptied.
type Purger interface {
	// Purge removes all records, or only those that have expired, and returns how many it removed.
	Purge(ctx context.Context, expiredOnly bool) (int, error)
}
