package libssl

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
// origin is the Unix time of the session's first full handshake, in eight
// bytes. Format, record id and id context are authenticated, so an entry is
// good only under its own name and for hosts of its own policy.
const (
	entrySealed    = 1
	entryPlaintext = 2

	originSize   = 8
	checksumSize = 8
)

var (
	// errUnreadable: made by somebody newer, or under a key that is not in the ring.
	errUnreadable = errors.New("libssl: the entry cannot be read here")
	errForged     = errors.New("libssl: the entry was tampered with or is another's")
)

func entryContext(format byte, id store.ID, idContext []byte) []byte {
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

// sealEntry makes an entry of a session; keys is nil for a plaintext one. body is
// the DER behind originSize bytes that are filled in here, so that the secret
// need not be copied.
func sealEntry(keys *ticket.Ring, id store.ID, idContext []byte, origin time.Time, body []byte) []byte {
	binary.BigEndian.PutUint64(body, uint64(origin.Unix()))
	if keys == nil {
		data := append([]byte{entryPlaintext}, checksum(entryContext(entryPlaintext, id, idContext), body)...)
		return append(data, body...)
	}
	data := make([]byte, 1, 1+ticket.Overhead+len(body))
	data[0] = entrySealed
	return keys.Seal(data, body, entryContext(entrySealed, id, idContext))
}

// openEntry is the reverse, into the spare capacity of room if that is enough.
// What it returns is the caller's to wipe.
func openEntry(keys *ticket.Ring, id store.ID, idContext, data, room []byte) (der []byte, origin time.Time, err error) {
	if len(data) == 0 {
		return nil, origin, errForged
	}
	var body []byte
	switch format, rest := data[0], data[1:]; {
	case format == entrySealed && keys != nil:
		body, err = keys.Open(room, rest, entryContext(format, id, idContext))
		if errors.Is(err, ticket.ErrUnknownKey) {
			return nil, origin, errUnreadable
		}
		if err != nil {
			return nil, origin, errForged
		}
	case format == entryPlaintext && keys == nil:
		if len(rest) < checksumSize {
			return nil, origin, errForged
		}
		body = append(room, rest[checksumSize:]...)
		if subtle.ConstantTimeCompare(rest[:checksumSize], checksum(entryContext(format, id, idContext), body)) != 1 {
			return nil, origin, errForged
		}
	default:
		return nil, origin, errUnreadable
	}
	if len(body) < originSize {
		return nil, origin, errForged
	}
	return body[originSize:], time.Unix(int64(binary.BigEndian.Uint64(body)), 0), nil
}
