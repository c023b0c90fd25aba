package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// An encoded record is a version byte, the expiry in milliseconds, a checksum, and the data.
const (
	encodingVersion = 1
	encodingHeader  = 1 + 8 + 4
)

// ErrDamaged is the answer of Get and Take to a record whose bytes are not those that were put, from stores that can tell. errors.Is
// reports ErrNotFound for it.
var ErrDamaged = fmt.Errorf("%w: the record is damaged", ErrNotFound)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns r as one string of bytes, for back ends whose server keeps one value under a key: the expiry, to the
// millisecond, and the data, with a checksum over both and the id. Equal records have equal encodings, so a server can
// compare them. The encoding does not hide the data: callers seal it before.
func Encode(r Record) []byte {
	b := make([]byte, encodingHeader, encodingHeader+len(r.Data))
	b[0] = encodingVersion
	binary.BigEndian.PutUint64(b[1:], uint64(r.Expires.UnixMilli()))
	b = append(b, r.Data...)
	binary.BigEndian.PutUint32(b[9:], checksum(r.ID, b))
	return b
}

// Decode returns the record called id from its encoding, whose bytes become the record's Data. It does not compare the expiry
// with the clock.
//
// It fails for bytes that Encode did not make for this id, or that were cut short. errors.Is reports ErrNotFound for the error,
// because one damaged entry is not a failure of the server.
func Decode(id ID, encoded []byte) (Record, error) {
	if len(encoded) < encodingHeader || len(encoded) > encodingHeader+MaxData || encoded[0] != encodingVersion ||
		binary.BigEndian.Uint32(encoded[9:]) != checksum(id, encoded) {
		return Record{}, ErrDamaged
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(encoded[1:])))
	return Record{ID: id, Data: encoded[encodingHeader:], Expires: expires}, nil
}

// Same reports whether a and b are one record: id, data, and expiry to the millisecond.
func Same(a, b Record) bool {
	return a.ID == b.ID && bytes.Equal(a.Data, b.Data) && a.Expires.UnixMilli() == b.Expires.UnixMilli()
}

// checksum covers the id and the encoding without the checksum's own bytes.
func checksum(id ID, encoded []byte) uint32 {
	sum := crc32.Update(uint32(id.n), castagnoli, id.b[:])
	sum = crc32.Update(sum, castagnoli, encoded[:9])
	return crc32.Update(sum, castagnoli, encoded[encodingHeader:])
}
