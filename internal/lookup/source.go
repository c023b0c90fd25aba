// Package lookup finds the sessions that a handshake asks for in a guarded store, opens them, and gives back what it took
// and the handshake did not use.
package lookup

import (
	"context"
	"errors"
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
	Reasons        // how many there are
)

// Tag turns random bytes into an id of this fleet: the second half of the id is a tag of the first. A TLS 1.2 server is
// offered a random id by every TLS 1.3 client; without a valid tag it is not looked up.
func (s *Source) Tag(id []byte) {
	if s.Tags != nil && len(id) == store.MaxIDLen {
		tag := s.Tags.Tag(id[:ticket.TagSize])
		copy(id[ticket.TagSize:], tag[:])
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

// find gets one entry and remembers it, or its absence, in a.
func (s *Source) find(ctx context.Context, a *Answer, idContext []byte) {
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
	header, der, err := entry.Open(s.Seal, a.ID, idContext, rec.Data, a.scratch)
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
