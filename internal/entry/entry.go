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
//	sealed     1 | ticket.Ring.Seal(origin | DER)
//	plaintext  2 | 8 bytes of checksum | origin | DER
//
// origin is the Unix time of the first full handshake, in eight bytes. Format, record id and id context are
// authenticated, so an entry is accepted only under its own id and by hosts with the same id context.
const (
	formatSealed    = 1
	formatPlaintext = 2

	// OriginSize is how many bytes Seal wants in front of the DER.
	OriginSize = 8

	checksumSize = 8
)

var (
	// ErrUnreadable is the answer to an entry of a later format, or under a key that is not in the ring. Another host may
	// be able to read it.
	ErrUnreadable = errors.New("libssl: the entry cannot be read here")

	// ErrForged is the answer to an entry that was damaged, or made for another id or id context.
	ErrForged = errors.New("libssl: the entry was tampered with, or belongs to another id")
)

// authenticated is the additional data of an entry.
func authenticated(format byte, id store.ID, idContext []byte) []byte {
	b := make([]byte, 0, 3+2*store.MaxIDLen)
	b = append(b, format, byte(id.Len()))
	b = append(b, id.Bytes()...)
	return append(b, idContext...)
}

func checksum(context, body []byte) []byte {
	h := sha256.New()
	h.Write(context)
	h.Write(body)
	return h.Sum(nil)[:checksumSize]
}

// Seal makes the entry of a session, in plaintext if keys is nil. body is the session's DER behind OriginSize bytes, which
// Seal fills in, so that the secret is not copied once more.
func Seal(keys *ticket.Ring, id store.ID, idContext []byte, origin time.Time, body []byte) []byte {
	binary.BigEndian.PutUint64(body, uint64(origin.Unix()))
	if keys == nil {
		data := append([]byte{formatPlaintext}, checksum(authenticated(formatPlaintext, id, idContext), body)...)
		return append(data, body...)
	}
	data := make([]byte, 1, 1+ticket.Overhead+len(body))
	data[0] = formatSealed
	return keys.Seal(data, body, authenticated(formatSealed, id, idContext))
}

// Open is the reverse of Seal. It uses the spare capacity of scratch if that is enough. The caller wipes the DER.
func Open(keys *ticket.Ring, id store.ID, idContext, data, scratch []byte) (der []byte, origin time.Time, err error) {
	if len(data) == 0 {
		return nil, origin, ErrForged
	}
	var body []byte
	switch format, rest := data[0], data[1:]; {
	case format == formatSealed && keys != nil:
		body, err = keys.Open(scratch, rest, authenticated(format, id, idContext))
		if errors.Is(err, ticket.ErrUnknownKey) {
			return nil, origin, ErrUnreadable
		}
		if err != nil {
			return nil, origin, ErrForged
		}
	case format == formatPlaintext && keys == nil:
		if len(rest) < checksumSize {
			return nil, origin, ErrForged
		}
		body = append(scratch, rest[checksumSize:]...)
		if subtle.ConstantTimeCompare(rest[:checksumSize], checksum(authenticated(format, id, idContext), body)) != 1 {
			return nil, origin, ErrForged
		}
	default:
		return nil, origin, ErrUnreadable
	}
	if len(body) < OriginSize {
		return nil, origin, ErrForged
	}
	return body[OriginSize:], time.Unix(int64(binary.BigEndian.Uint64(body)), 0), nil
}
