// Package lookup finds the sessions that a handshake asks for in a guarded store, opens them, and gives back what it took
// and the handshake did not use.
package lookup

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/guarded"
	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// Source is where the handshakes of one session cache look sessions up.
type Source struct {
	Store       *guarded.Store
	Seal        *ticket.Ring  // opens the entries; nil: they are in plaintext
	Tags        *ticket.Ring  // tags the ids; nil: ids carry no tag
	MaxLifetime time.Duration // of a session, from its first full handshake
	Revocable   bool          // sessions with a tombstone are refused; Tags is not nil
	SingleUse   atomic.Bool   // TLS 1.3 entries are taken out of the store, so that each resumes once

	Stats Counters
}

// Counters count a Source's lookups.
type Counters struct {
	Hits       atomic.Uint64 // sessions that OpenSSL accepted
	Untagged   atomic.Uint64 // ids that this fleet cannot have issued
	Suspended  atomic.Uint64 // handshakes parked
	Parked     atomic.Int64  // handshakes parked now
	Rejections [Reasons]atomic.Uint64
}

// Reason is why an entry was not used.
type Reason uint8

// The reasons from Undecodable to Peer have the numbers that scb_session_check answers.
const (
	Forged         Reason = iota // not authentic, damaged, or stored under another id
	Undecodable                  // readable by another host or version only
	NoCipher                     // a cipher that is not available here
	OtherID                      // not the id that was asked for
	OtherVersion                 // of the protocol
	OtherIDContext               // of another host or policy
	Expired
	OtherName      // of the server, which no certificate has in common with the one now
	OtherHello     // asks for another cipher, fragment length or master secret
	Peer           // its client certificate is not valid now, or is missing where one is required
	BeyondLifetime // older than Source.MaxLifetime
	Revoked        // its origin has a tombstone
	Reasons        // how many there are
)

// NameID turns random bytes into an id of this fleet, for a session of the origin. The second half of the id is a tag of the
// first. A TLS 1.2 server is offered a random id by every TLS 1.3 client; without a valid tag it is not looked up. The first half
// has the name of the origin, so that a tombstone can be looked up beside the entry.
func (s *Source) NameID(random []byte, origin [16]byte) {
	if s.Tags != nil && len(random) == store.MaxIDLen {
		s.Tags.NameID(random, entry.Name(origin))
	}
}

// Issued reports whether id can have been issued by this fleet.
func (s *Source) Issued(id store.ID) bool {
	if s.Tags == nil {
		return true
	}
	b := id.Bytes()
	return len(b) == store.MaxIDLen && s.Tags.CheckTag(b[:ticket.TagSize], b[ticket.TagSize:])
}

// Known drops the candidates that this fleet cannot have issued, and counts them. On a TLS 1.2 server these are the ids of
// all new clients, whose handshakes are then not parked.
func (s *Source) Known(all []hello.Candidate) []hello.Candidate {
	known := all[:0]
	for _, c := range all {
		if s.Issued(c.ID) {
			known = append(known, c)
		} else {
			s.Stats.Untagged.Add(1)
		}
	}
	return known
}

func (s *Source) reject(why Reason) { s.Stats.Rejections[why].Add(1) }

// find gets one entry and remembers it, or its absence, in a. The tombstone is looked up at the same time.
func (s *Source) find(ctx context.Context, a *Answer, idContext []byte) {
	if !s.Revocable {
		s.open(ctx, a, idContext)
		return
	}
	name, ok := s.Tags.NameIn(a.ID.Bytes())
	if !ok { // the ring has changed since Known
		s.Stats.Untagged.Add(1)
		return
	}
	t := tombstone{id: entry.TombstoneID(name)}
	if s.Store.Local() {
		s.open(ctx, a, idContext)
		t.rec, t.err = s.Store.Check(ctx, t.id)
	} else {
		var checked sync.WaitGroup
		checked.Go(func() { t.rec, t.err = s.Store.Check(ctx, t.id) })
		s.open(ctx, a, idContext)
		checked.Wait()
	}
	if a.DER == nil {
		return
	}
	if entry.Name(a.Header.Origin) != name {
		s.reject(Forged)
	} else if s.lives(ctx, a, &t) {
		return
	}
	clear(a.DER)
	a.DER = nil
}

// tombstone is the store's answer about one.
type tombstone struct {
	id  store.ID
	rec store.Record
	err error
}

// lives reports whether there is no tombstone. One that cannot be read counts as one.
func (s *Source) lives(ctx context.Context, a *Answer, t *tombstone) bool {
	switch {
	case t.err == guarded.ErrForged || errors.Is(t.err, store.ErrDamaged):
		s.reject(Forged)
		return false
	case errors.Is(t.err, store.ErrNotFound):
		return true
	case t.err != nil:
		s.Store.CountFailure(ctx, t.err)
		return false
	}
	switch err := entry.OpenTombstone(s.Seal, t.id, t.rec.Data); {
	case err == nil:
		a.taken = nil // not to be put back
		s.reject(Revoked)
	case errors.Is(err, entry.ErrUnreadable):
		s.reject(Undecodable)
	default:
		s.reject(Forged)
	}
	return false
}

// Revoke puts a tombstone, which lives as long as a session of the origin can.
func (s *Source) Revoke(ctx context.Context, origin [16]byte) error {
	id := entry.TombstoneID(entry.Name(origin))
	rec := store.Record{ID: id, Data: entry.SealTombstone(s.Seal, id), Expires: time.Now().Add(s.MaxLifetime)}
	return s.Store.PutNow(ctx, &rec)
}

// open gets one entry and opens it.
func (s *Source) open(ctx context.Context, a *Answer, idContext []byte) {
	var rec store.Record
	var err error
	take := a.PSK && s.SingleUse.Load()
	if take {
		rec, err = s.Store.Take(ctx, a.ID)
	} else {
		rec, err = s.Store.Get(ctx, a.ID)
	}
	if err != nil {
		if err == guarded.ErrForged {
			s.reject(Forged)
		}
		return
	}
	if take {
		taken := rec
		a.taken = &taken
	} else {
		defer clear(rec.Data) // a secret where it is not sealed
	}
	header, der, err := entry.Open(s.Seal, a.ID, rec.Data, a.scratch)
	switch {
	case errors.Is(err, entry.ErrUnreadable):
		s.reject(Undecodable)
	case err != nil:
		s.reject(Forged)
	case time.Now().After(header.Made.Add(s.MaxLifetime)):
		clear(der)
		s.reject(BeyondLifetime)
	default:
		a.DER, a.IDContext, a.Header = der, idContext, header
	}
}
