// Package entry turns a session into the data of a store record and back: sealed under a key ring, or in plaintext with a
// checksum.
package entry

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// An entry, the Data of a record:
//
//	sealed     3 | ticket.Ring.Seal(header | DER)
//	plaintext  4 | 8 bytes of checksum | header | DER
//
// Format and record id are authenticated, so an entry is accepted only under its own id. The DER has the id context, which
// OpenSSL compares with the one of the SSL.
var formatEntry = format{sealed: 3, plaintext: 4}

// format is the first byte of the two forms of a record.
type format struct{ sealed, plaintext byte }

const checksumSize = 8

var (
	// ErrUnreadable is the answer to an entry of another format, or under a key that is not in the ring. Another host may
	// be able to read it.
	ErrUnreadable = errors.New("libssl: the entry cannot be read here")

	// ErrForged is the answer to an entry that was damaged, or made for another id or id context.
	ErrForged = errors.New("libssl: the entry was tampered with, or belongs to another id")
)

// HeaderSize is how many bytes Seal wants in front of the DER.
const HeaderSize = 8 + 16

// Header is what an entry holds beside the session: 8 bytes of Unix time, and Origin.
type Header struct {
	Made   time.Time // when the first full handshake was, in whole seconds
	Origin [16]byte  // its random name
}

func (h *Header) fill(b []byte) {
	binary.BigEndian.PutUint64(b, uint64(h.Made.Unix()))
	copy(b[8:HeaderSize], h.Origin[:])
}

// split cuts a body into its header and the DER.
func split(body []byte) (h Header, der []byte, ok bool) {
	if len(body) < HeaderSize {
		return h, nil, false
	}
	h.Made = time.Unix(int64(binary.BigEndian.Uint64(body)), 0)
	copy(h.Origin[:], body[8:])
	return h, body[HeaderSize:], true
}

// authenticated is the additional data of an entry.
func authenticated(form byte, id store.ID) []byte {
	b := make([]byte, 0, 1+store.MaxIDLen)
	b = append(b, form)
	return append(b, id.Bytes()...)
}

func checksum(context, body []byte) []byte {
	h := sha256.New()
	h.Write(context)
	h.Write(body)
	return h.Sum(nil)[:checksumSize]
}

// seal makes the data of a record, in plaintext if keys is nil.
func (f format) seal(keys *ticket.Ring, id store.ID, body []byte) []byte {
	if keys == nil {
		data := append([]byte{f.plaintext}, checksum(authenticated(f.plaintext, id), body)...)
		return append(data, body...)
	}
	data := make([]byte, 1, 1+ticket.Overhead+len(body))
	data[0] = f.sealed
	return keys.Seal(data, body, authenticated(f.sealed, id))
}

// open is the reverse of seal. It uses the spare capacity of scratch if that is enough.
func (f format) open(keys *ticket.Ring, id store.ID, data, scratch []byte) (body []byte, err error) {
	if len(data) == 0 {
		return nil, ErrForged
	}
	switch form, rest := data[0], data[1:]; {
	case form == f.sealed && keys != nil:
		body, err = keys.Open(scratch, rest, authenticated(form, id))
		if errors.Is(err, ticket.ErrUnknownKey) {
			return nil, ErrUnreadable
		}
		if err != nil {
			return nil, ErrForged
		}
	case form == f.plaintext && keys == nil:
		if len(rest) < checksumSize {
			return nil, ErrForged
		}
		body = append(scratch, rest[checksumSize:]...)
		if subtle.ConstantTimeCompare(rest[:checksumSize], checksum(authenticated(form, id), body)) != 1 {
			return nil, ErrForged
		}
	default:
		return nil, ErrUnreadable
	}
	return body, nil
}

// Seal makes the entry of a session, in plaintext if keys is nil. body is the session's DER behind HeaderSize bytes, which
// Seal fills in, so that the secret is not copied once more.
func Seal(keys *ticket.Ring, id store.ID, h *Header, body []byte) []byte {
	h.fill(body)
	return formatEntry.seal(keys, id, body)
}

// Open is the reverse of Seal. It uses the spare capacity of scratch if that is enough. The caller wipes the DER.
func Open(keys *ticket.Ring, id store.ID, data, scratch []byte) (h Header, der []byte, err error) {
	body, err := formatEntry.open(keys, id, data, scratch)
	if err != nil {
		return h, nil, err
	}
	h, der, ok := split(body)
	if !ok {
		return Header{}, nil, ErrForged
	}
	return h, der, nil
}
