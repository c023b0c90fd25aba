// Package store is the contract between an external TLS session cache and the places that can hold its entries:
// the memory of a process, a file shared by the processes of a host, or a server shared by a fleet.
//
// It has no opinion on what the entries are. The session cache of package libssl seals serialised sessions into
// them, but a back end sees opaque bytes under a name, with an end of life. A back end is therefore small: three
// methods, a fourth where it can take an entry atomically, and package storetest to show that they keep the contract.
//
// The package is pure Go and uses the standard library only, and so do storetest and memstore.
package store

import (
	"context"
	"errors"
	"time"
)

// MaxData is the greatest length of Record.Data. Every store accepts data of this length and refuses longer data.
// A session has 100 to 1000 bytes; OpenSSL sets no limit of its own, so that a client with a monstrous
// certificate could otherwise fill a store that many share.
const MaxData = 64 << 10

// Errors that every store answers alike; match them with errors.Is.
var (
	// ErrNotFound is the answer of Get and Take where the record is absent or expired, or where what is kept under
	// its id is not a whole record.
	ErrNotFound = errors.New("store: not found")

	// ErrTooLarge is the answer of Put and Swap where Data is longer than MaxData.
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

	// Expires is when the record ends: from that instant on the store answers as if it were absent.
	// A store may keep it to the millisecond only, rounded down, and may forget its location.
	// There is no value for "never": the zero time is long past.
	Expires time.Time
}

// Validate reports why no store may accept r: ErrZeroID, ErrTooLarge, or nil if it may.
// It is for back ends, whose Put and Swap begin with it.
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
// A store is best effort: it may drop a record before its time, to stay within its bounds or because the server behind
// it restarted. What it may never do is answer with other bytes than were put last, or with a record that was deleted,
// taken or replaced before the call began, but for a near store in front of a far one, which may do so within a bound that
// its documentation states.
//
// Hosts that share a store have clocks that differ. Each goes by its own for what has expired: it must not drop, on a Get, what
// another may still see, and how long a record lives must not depend on the clock of the server that holds it.
//
// All methods are safe for concurrent use. Calls on different IDs are independent; of concurrent calls on one ID each
// happens entirely before or after the other, so that a Get sees one Put's record as a whole.
//
// The context bounds the wait, and where there is none a store may ignore it (see Local): callers set a deadline, and a
// call that can wait must return soon after its context ends, with an error for which errors.Is reports ctx.Err(). A Put,
// Delete or Take cut short that way may still have had, or may later have, its effect.
//
// An error other than ErrNotFound says that the store could not answer, never that the record is absent.
type Store interface {
	// Get returns the record called id, or ErrNotFound if there is none or it has expired.
	//
	// The record's Data belongs to the caller, who may change it; the store must not touch it again.
	Get(ctx context.Context, id ID) (Record, error)

	// Put stores r, replacing the record of the same ID as a whole, expiry included.
	//
	// Data stays the caller's: the store must not modify it, nor keep a reference to it after Put returns, because
	// callers wipe and reuse the slice. Where Put returns nil a Get that begins afterwards, here or in another process
	// that shares the store, finds the record, unless the store is tiered over replicas that say otherwise.
	//
	// A record that has already expired may be stored or not, but it does replace, and Get answers ErrNotFound.
	// Put answers ErrTooLarge or ErrZeroID to records that fail Validate, and then changes nothing.
	Put(ctx context.Context, r Record) error

	// Delete removes the record called id. That there is none is not an error.
	Delete(ctx context.Context, id ID) error
}

// Taker is implemented by stores that can read and delete in one atomic step, which is what makes a session
// single-use across processes: early data is only safe over a store that is a Taker.
type Taker interface {
	// Take returns what Get would and deletes the record. Of any number of concurrent Takes of one record, from
	// however many processes, one returns it and all others ErrNotFound. A store that cannot keep that promise, for
	// example because a retry or a replica might answer twice, must not implement Taker.
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

// Embedded is implemented by stores that no other host shares, and which therefore can make and keep the key that seals
// their records: their user need not configure one.
type Embedded interface {
	// SealingKey returns the store's key, 32 random bytes: the same for everyone who has the store open, and for as
	// long as the records live. The slice belongs to the caller.
	SealingKey() ([]byte, error)
}

// Local marks a store whose calls are answered from the memory of this process: they never wait and ignore their context,
// so that callers may leave out the deadline, and the timer and goroutine it costs, around them.
type Local interface {
	// Local does nothing.
	Local()
}

// Lister is implemented by stores that can tell what they hold.
type Lister interface {
	// List calls f for each record that has not expired, in no particular order, with the length of its Data, and
	// returns the first error of f or of the store. Records put or deleted meanwhile may be listed or not. f may call
	// the store's other methods.
	List(ctx context.Context, f func(id ID, size int, expires time.Time) error) error
}

// Purger is implemented by stores that can be emptied.
type Purger interface {
	// Purge removes all records, or only those that have expired, and returns how many it removed.
	Purge(ctx context.Context, expiredOnly bool) (int, error)
}
