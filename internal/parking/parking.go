// Package parking is what cabi needs beyond the API, for SSLs that C code made and drives: it parks their handshakes, which only
// C code can continue, and asks for their origin.
package parking

import "unsafe"

// Place is where one parked handshake waits. Its methods never run concurrently.
type Place interface {
	// Ready is called when the handshake can go on: on any goroutine, at most once, and never after Leave.
	Ready()

	// Leave is called once, when the handshake goes on or its SSL is freed.
	Leave()
}

// Park makes cache, a *libssl.SessionCache, park handshakes in the places that find returns. find is called on the thread of
// the handshake, inside the ClientHello callback. If it returns nil, the session is not looked up. Package libssl sets Park.
var Park func(cache any, find func(ssl unsafe.Pointer) Place)

// Origin is Conn.SessionOrigin for an SSL that C drives, on the thread that uses it. Package libssl sets Origin.
var Origin func(ssl unsafe.Pointer) [16]byte
