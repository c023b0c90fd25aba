package entry

import (
	"crypto/sha256"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// A tombstone, the Data of a record that ends the sessions of one origin, has the form of an entry without a body. It is sealed
// for every id context of the fleet.
var formatTombstone = format{sealed: 6, plaintext: 7}

// tombstoneIDLen differs from the length of the ids that a server issues.
const tombstoneIDLen = 24

// Name is the part of an origin that the ids of its sessions carry.
func Name(origin [16]byte) [ticket.NameSize]byte { return [ticket.NameSize]byte(origin[:]) }

// TombstoneID is where the tombstone of an origin with this name is. The id does not depend on the ring, which may be rotated
// meanwhile. Names are random, so the id says nothing about the origin, nor about the ids of its sessions.
func TombstoneID(name [ticket.NameSize]byte) store.ID {
	sum := sha256.Sum256(append([]byte("libssl tombstone 1"), name[:]...))
	id, err := store.IDFromBytes(sum[:tombstoneIDLen])
	if err != nil {
		panic(err)
	}
	return id
}

// SealTombstone makes the tombstone with this id, in plaintext if keys is nil.
func SealTombstone(keys *ticket.Ring, id store.ID) []byte {
	return formatTombstone.seal(keys, id, nil)
}

// OpenTombstone checks that data was made by SealTombstone for this id.
func OpenTombstone(keys *ticket.Ring, id store.ID, data []byte) error {
	_, err := formatTombstone.open(keys, id, data, nil)
	return err
}
