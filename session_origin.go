package libssl

// #include "bridge.h"
import "C"

import (
	"encoding/hex"
	"unsafe"
)

// SessionOrigin is the random name of a full handshake. All sessions and tickets of that handshake carry it, and so do
// their renewals. It is no secret: a session cannot be resumed with it.
type SessionOrigin [C.SCB_ORIGIN_SIZE]byte

// String returns the name in hexadecimal.
func (o SessionOrigin) String() string { return hex.EncodeToString(o[:]) }

// SessionOrigin names the full handshake behind this connection: its own, or the one that made the session which it
// resumed, over any number of resumptions and renewals. Two connections of one client have the same name if one resumed a
// session of the other, whichever ticket was used, and SessionCache.Revoke ends the sessions of a name. It is zero on a
// client, without UseStore, and before the handshake is complete.
func (c *Conn) SessionOrigin() SessionOrigin {
	defer c.tls.unlock(c.tls.lock())
	return c.tls.origin
}

// originOf is zero if memory is short.
func originOf(ssl *C.SSL) (o SessionOrigin) {
	if p := C.scb_origin_of(ssl); p != nil {
		copy(o[:], unsafe.Slice((*byte)(p), len(o)))
	}
	return o
}
