package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
)

var (
	errEarlyUnread = errors.New("libssl: early data is not read to its end: call ReadEarlyData until it returns io.EOF")
	errEarlyLate   = errors.New("libssl: early data after the handshake began")
	errEarlyLimit  = errors.New("libssl: more early data than the session allows")
)

// WriteEarlyData sends p with the first flight of the handshake, before the
// server has said anything: a client's, after SetSession and before Handshake, as
// often as the session's MaxEarlyData allows. Where the session allows none the
// error is ErrUnsupported. Corresponds to SSL_write_early_data(3).
//
// The server may refuse it, and then has not seen a byte of it: after the
// handshake EarlyDataAccepted tells, and what was refused is to be sent again.
func (c *Conn) WriteEarlyData(p []byte) (int, error) {
	if !c.client {
		return 0, unsupported("WriteEarlyData on a server's connection")
	}
	if c.tls.inHandler() {
		return 0, ErrReentrant
	}
	c.hs.mu.Lock()
	if !c.hs.complete() && c.hs.err == nil {
		c.offerCached()
	}
	c.hs.mu.Unlock()
	limit, sent, err := c.earlyLimit()
	switch {
	case err != nil:
		return 0, err
	case c.hs.complete():
		return 0, errEarlyLate
	case limit == 0:
		return 0, unsupported("early data without a session that allows it")
	}
	allowed := p[:min(len(p), int(limit-min(sent, limit)))]
	n := 0
	for n < len(allowed) {
		wrote, err := c.advance(context.Background(), C.SCB_OP_WRITE_EARLY, allowed[n:min(len(allowed), n+maxWrite)])
		n += wrote
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, fmt.Errorf("%w: %d bytes", errEarlyLimit, limit)
	}
	return n, nil
}

func (c *Conn) earlyLimit() (limit, sent uint32, err error) {
	defer c.tls.unlock(c.tls.lock())
	if c.tls.ssl == nil {
		return 0, 0, ErrClosed
	}
	return uint32(C.scb_conn_early_limit(c.tls.ssl)), uint32(c.tls.ssl.early_sent), nil
}

// ReadEarlyData reads what a client sent before the handshake: a server's, before
// Handshake, until it returns io.EOF, which it does at once where there is none.
// A server that does not call it refuses early data. Corresponds to
// SSL_read_early_data(3).
//
// Once begun it has to be read to the end: until then Handshake, and what runs
// it, is an error. At the end the handshake may not be over, so call Handshake
// then; after a HelloRetryRequest the client waits for that.
func (c *Conn) ReadEarlyData(p []byte) (int, error) {
	if c.client {
		return 0, unsupported("ReadEarlyData on a client's connection")
	}
	if len(p) == 0 {
		return 0, nil
	}
	return c.advance(context.Background(), C.SCB_OP_READ_EARLY, p)
}

// EarlyDataAccepted reports whether the server has accepted the early data of
// this connection. On a client it is settled after the handshake. Corresponds to
// SSL_get_early_data_status(3).
func (c *Conn) EarlyDataAccepted() bool {
	defer c.tls.unlock(c.tls.lock())
	return c.tls.ssl != nil && C.scb_conn_early_accepted(c.tls.ssl) != 0
}
