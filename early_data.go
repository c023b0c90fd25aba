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
	n, err := c.writeEarly(p[:min(len(p), int(limit-min(sent, limit)))])
	if err == nil && n < len(p) {
		err = fmt.Errorf("%w: %d bytes", errEarlyLimit, limit)
	}
	return n, err
}

// writeEarly is SSL_write_early_data, of a client or a server.
func (c *Conn) writeEarly(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var wrote int
		wrote, err = c.advance(context.Background(), C.SCB_OP_WRITE_EARLY, p[n:min(len(p), n+maxWrite)], nil)
		n += wrote
	}
	return n, err
}

// writeHalfRTT sends p as half-RTT data if the server may write that now. If n is less than len(p), the rest has to wait for
// the handshake.
func (c *Conn) writeHalfRTT(p []byte) (n int, err error) {
	if c.client || c.hs.complete() || !c.mayWriteHalfRTT() {
		return 0, nil
	}
	n, err = c.writeEarly(p)
	if err == errEarlyLate { // the handshake goes on, or is complete by now
		err = nil
	}
	return n, err
}

// mayWriteHalfRTT reports whether the server's keys are known, which after a HelloRetryRequest they are not, and the client
// has been judged.
func (c *Conn) mayWriteHalfRTT() bool {
	defer c.tls.unlock(c.tls.lock())
	ssl := c.tls.ssl
	return ssl != nil && C.scb_ssl_version(ssl.ssl) == versionTLS13 && C.scb_conn_settled(ssl) != 0
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
// Once begun it has to be read to the end: until then Handshake and Read are
// errors. At the end the handshake may not be over, so call Handshake
// then; after a HelloRetryRequest the client waits for that.
//
// Write between ReadEarlyData calls, and after the last one up to Handshake or
// Read, sends half-RTT data: the client has it before its Finished has come, so
// one round trip sooner. Corresponds to SSL_write_early_data(3) on a server.
// Nothing has proved by then that the client is there now: a replay of its first
// flight would cause the same writes, were the session not taken from the store.
// OpenSSL would also write to a client that has been asked for a certificate
// and has not sent it yet. Write does not: in a full handshake on a server that asks
// for certificates it completes the handshake first, and so it does after a
// HelloRetryRequest and before TLS 1.3. A client that resumes has been judged by
// the certificate of its session, and by the function of SetVerifyConnection. Close
// says goodbye with close_notify only once the handshake is complete.
func (c *Conn) ReadEarlyData(p []byte) (int, error) {
	if c.client {
		return 0, unsupported("ReadEarlyData on a client's connection")
	}
	if len(p) == 0 {
		return 0, nil
	}
	return c.advance(context.Background(), C.SCB_OP_READ_EARLY, p, nil)
}

// EarlyDataAccepted reports whether the server has accepted the early data of
// this connection. On a client it is settled after the handshake. Corresponds to
// SSL_get_early_data_status(3).
func (c *Conn) EarlyDataAccepted() bool {
	defer c.tls.unlock(c.tls.lock())
	return c.tls.ssl != nil && C.scb_conn_early_accepted(c.tls.ssl) != 0
}
