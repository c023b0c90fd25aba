package libssl

// #include "bridge.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// alpnWire encodes protocols as ALPN has them.
func alpnWire(protos []string) (wire []byte, err error) {
	for _, proto := range protos {
		if len(proto) == 0 || len(proto) > 255 {
			return nil, fmt.Errorf("libssl: ALPN protocol %q: must have 1 to 255 bytes", proto)
		}
		wire = append(append(wire, byte(len(proto))), proto...)
	}
	if len(wire) > 65535 {
		return nil, errors.New("libssl: ALPN protocols: too many")
	}
	return wire, nil
}

// SetALPN sets the application protocols, in order of preference: a client
// offers them, a server picks its first that the client offers too and refuses
// the connection if there is none, as crypto/tls does. Without arguments it
// turns ALPN off. Corresponds to SSL_CTX_set_alpn_protos(3) and
// SSL_CTX_set_alpn_select_cb(3).
//
// A server that offers "h2" has to speak HTTP/2 on the connections that negotiate it. http.Serve does not: over a Listener
// it speaks HTTP/1.1 on all of them, and clients fail. Use package sslhttp.
func (c *Context) SetALPN(protos ...string) error {
	wire, err := alpnWire(protos)
	if err != nil {
		return err
	}
	return c.set("set ALPN", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		return C.scb_ctx_set_alpn(p, bytesPtr(wire), C.size_t(len(wire)))
	})
}

// ALPN returns the protocols that SetALPN has set, nil if none.
func (c *Context) ALPN() (protos []string, err error) {
	err = c.do("ALPN", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		var out *C.uchar
		n := C.scb_ctx_alpn(p, &out)
		for wire := C.GoBytes(unsafe.Pointer(out), C.int(n)); len(wire) > 0; wire = wire[1+wire[0]:] {
			protos = append(protos, string(wire[1:1+wire[0]]))
		}
		C.scb_wipe(unsafe.Pointer(out), n)
		return C.SCB_OK
	})
	return protos, err
}

// SetALPN sets the application protocols that a client offers on this connection, in place of those of the Context, before
// its handshake. Corresponds to SSL_set_alpn_protos(3).
func (c *Conn) SetALPN(protos ...string) error {
	if !c.client {
		return unsupported("SetALPN on a server's connection")
	}
	wire, err := alpnWire(protos)
	if err != nil {
		return err
	}
	if c.tls.inHandler() {
		return ErrReentrant
	}
	c.hs.mu.Lock()
	defer c.hs.mu.Unlock()
	if c.hs.complete() || c.hs.err != nil || c.hs.took > 0 {
		return errors.New("libssl: SetALPN after the handshake has begun")
	}
	c.tls.mu.Lock()
	defer c.tls.mu.Unlock()
	if c.tls.ssl == nil {
		return ErrClosed
	}
	if C.scb_conn_set_alpn(c.tls.ssl, bytesPtr(wire), C.uint(len(wire))) != C.SCB_OK {
		return &Error{Op: "set ALPN"}
	}
	return nil
}
