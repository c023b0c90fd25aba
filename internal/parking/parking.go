// Package parking is how cabi has the store layer park the handshakes of SSLs that C made and drives: there is no Go name for
// it, since C has to step them again.
package parking

import "unsafe"

// Place is where one handshake waits. No two of its methods run at once.
type Place interface {
	// Ready says that the handshake can go on. It is called on any goroutine, once at most, and never after Leave.
	Ready()

	// Leave is called once: the handshake goes on, or its SSL is being freed.
	Leave()
}

// Park has a cache, which is a *libssl.SessionCache, park handshakes in the places that find gives it. find is called on C's
// thread, inside the ClientHello callback; without a place, nil, the session is not looked up. Package libssl sets Park.
var Park func(cache any, find func(ssl unsafe.Pointer) Place)
