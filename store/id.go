package store

import (
	"encoding/hex"
	"fmt"
)

// MaxIDLen is the greatest length of an ID in bytes: TLS allows a session id no more.
const MaxIDLen = 32

// ID names a session: 1 to 32 arbitrary bytes. IDs are comparable, so they serve as map keys, and two IDs
// are equal exactly if their bytes and lengths are: trailing zero bytes count.
// The zero ID has no bytes and names no session.
type ID struct {
	b [MaxIDLen]byte // bytes from n on are zero, so that == compares IDs
	// A whole word, for speed: 33 bytes would be copied in overlapping pieces, and a
	// copy of a fresh copy would stall on store forwarding.
	n uint64
}

// IDFromBytes returns the ID with the bytes of b. It fails unless b has 1 to 32 bytes, and keeps no reference to b.
func IDFromBytes(b []byte) (ID, error) {
	if len(b) < 1 || len(b) > MaxIDLen {
		return ID{}, fmt.Errorf("store: a session id has 1 to %d bytes, not %d", MaxIDLen, len(b))
	}
	var id ID
	id.n = uint64(copy(id.b[:], b))
	return id, nil
}

// ParseID returns the ID that s, 2 to 64 hexadecimal digits in either case, spells: the inverse of ID.String.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return ID{}, fmt.Errorf("store: session id is not hexadecimal: %w", err)
	}
	return IDFromBytes(b)
}

// String returns the ID in lower-case hexadecimal, "" for the zero ID.
func (id ID) String() string { return hex.EncodeToString(id.b[:id.n]) }

// Bytes returns a copy of the bytes.
func (id ID) Bytes() []byte {
	b := make([]byte, id.n)
	copy(b, id.b[:])
	return b
}

// Len returns the number of bytes in the ID: 0 for the zero ID, else 1 to 32.
func (id ID) Len() int { return int(id.n) }

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id.n == 0 }
