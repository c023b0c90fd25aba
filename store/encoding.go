package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// encodingVersion is the first byte of an encoded record. The expiry in milliseconds and a checksum follow, then the data.
const (
	encodingVersion = 1
	encodingHeader  = 1 + 8 + 4
)

var errDamaged = fmt.Errorf("%w: what is stored under this id is no whole record", ErrNotFound)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns r as one string of bytes, for back ends whose server keeps just that under a key: the expiry, to the
// millisecond, and the data, with a checksum over both and the id. Equal records have equal encodings, so that a server can
// compare them. The encoding does not hide the data: sealing that is the user's part.
func Encode(r Record) []byte {
	b := make([]byte, encodingHeader, encodingHeader+len(r.Data))
	b[0] = encodingVersion
	binary.BigEndian.PutUint64(b[1:], uint64(r.Expires.UnixMilli()))
	b = append(b, r.Data...)
	binary.BigEndian.PutUint32(b[9:], checksum(r.ID, b))
	return b
}

// Decode returns the record called id of its encoding, whose bytes become the record's Data. It does not look at the time.
//
// What Encode did not make, or made for another id, or what lost a part on the way is no record: the error is then one for
// which errors.Is reports ErrNotFound. It is a fault of one entry, which the answer of a sound server may well have, and
// not the server's failure.
func Decode(id ID, encoded []byte) (Record, error) {
	if len(encoded) < encodingHeader || len(encoded) > encodingHeader+MaxData || encoded[0] != encodingVersion ||
		binary.BigEndian.Uint32(encoded[9:]) != checksum(id, encoded) {
		return Record{}, errDamaged
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(encoded[1:])))
	return Record{ID: id, Data: encoded[encodingHeader:], Expires: expires}, nil
}

// Same reports whether a and b are one record: id, data, and expiry to the millisecond.
func Same(a, b Record) bool {
	return a.ID == b.ID && bytes.Equal(a.Data, b.Data) && a.Expires.UnixMilli() == b.Expires.UnixMilli()
}

// checksum leaves the place where it is kept out.
func checksum(id ID, encoded []byte) uint32 {
	sum := crc32.Update(uint32(id.n), castagnoli, id.b[:])
	sum = crc32.Update(sum, castagnoli, encoded[:9])
	return crc32.Update(sum, castagnoli, encoded[encodingHeader:])
}
