package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"time"

	"github.com/libssl-go/libssl/internal/hello"
)

// layer is the lower layer's whole knowledge of the store layer: UseStore puts one over a Context, and it then takes the
// place of the session callbacks' handlers. conn is nil for an SSL that C made. Methods are called on the thread that is
// inside OpenSSL.
type layer interface {
	// hello sees each ClientHello before OpenSSL acts on it. chosen is the Context that the server name selects, nil to
	// stay. answer is for C. SCB_HELLO_PARK suspends the handshake: lookUp runs, and then hello sees the same ClientHello
	// again.
	hello(ctx *Context, conn *Conn, ssl *C.SSL, h hello.Hello) (chosen *Context, answer C.int)

	// created takes over the new callback, wanted the get callback, removed the remove callback, nameID the session-id
	// generator. The reference that wanted returns is OpenSSL's.
	created(conn *Conn, ssl *C.SSL, s *C.SSL_SESSION)
	wanted(conn *Conn, ssl *C.SSL, id *C.uchar, n C.int) *C.SSL_SESSION
	removed(id SessionID)
	nameID(random []byte, origin SessionOrigin)

	// allowEarlyData and allowTicketKeys prepare for what the Context is about to offer, or refuse. uninstall takes the
	// layer off its Context. The Context's setters are locked.
	allowEarlyData() error
	allowTicketKeys() error
	uninstall()
}

// visit is the layer's part of one handshake of a Conn. Its methods run on the handshake's goroutine, outside OpenSSL.
type visit interface {
	// lookUp finds the sessions for which the handshake was parked. ch may be nil. waits reports whether that can take time.
	lookUp(ctx context.Context, ch *choice)
	waits() bool

	// beforeFlight is called after a step and before its output is sent.
	beforeFlight(ctx context.Context)

	// resumedFrom is the id that was looked up and that OpenSSL accepted, zero if none.
	resumedFrom() SessionID

	end(ctx context.Context, e ending)
}

// ending is how a handshake ended.
type ending struct {
	complete bool
	resumed  bool // the client has proved that it knows the session's secret; the handshake may have failed afterwards
	took     time.Duration
}

// layer returns the Context's store layer, nil if it has none.
func (c *Context) layer() layer {
	if l := c.over.Load(); l != nil {
		return *l
	}
	return nil
}

// removeLayer reports whether l was the Context's layer.
func (c *Context) removeLayer(l layer) bool {
	p := c.over.Load()
	return p != nil && *p == l && c.over.CompareAndSwap(p, nil)
}
