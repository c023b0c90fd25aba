// Package parking lets cabi park handshakes of SSLs that C code made and drives. It is internal because only C code can
// continue such a handshake.
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
