package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
)

// HandshakeFailure is why a handshake failed.
type HandshakeFailure uint8

const (
	FailedTimeout      HandshakeFailure = iota // Listener.HandshakeTimeout, or the deadline of a context
	FailedClosed                               // this side gave up: Close, or a context was cancelled
	FailedDisconnected                         // the connection below ended or failed
	FailedNotTLS                               // the client does not speak TLS
	FailedPeerAlert                            // the peer sent a fatal alert
	FailedCertificate                          // the certificate of the peer did not verify
	FailedHandler                              // a handler of the user refused: SetVerifyConnection's, a Signer
	FailedProtocol                             // any other error of OpenSSL, such as versions or ciphers that do not meet
	handshakeFailures  = iota
)

var handshakeFailureNames = map[HandshakeFailure]string{
	FailedTimeout: "timeout", FailedClosed: "closed", FailedDisconnected: "disconnected", FailedNotTLS: "not TLS",
	FailedPeerAlert: "peer alert", FailedCertificate: "certificate", FailedHandler: "handler", FailedProtocol: "protocol",
}

func (f HandshakeFailure) String() string { return handshakeFailureNames[f] }

// HandshakeFailures are all reasons.
func HandshakeFailures() (all []HandshakeFailure) {
	for f := range HandshakeFailure(handshakeFailures) {
		all = append(all, f)
	}
	return all
}

// HandshakeFailureCounts are counts by HandshakeFailure. As JSON they are an object with the reasons' names.
type HandshakeFailureCounts [handshakeFailures]int

// MarshalJSON implements json.Marshaler.
func (c HandshakeFailureCounts) MarshalJSON() ([]byte, error) {
	named := make(map[string]int, len(c))
	for why, name := range handshakeFailureNames {
		named[name] = c[why]
	}
	return json.Marshal(named)
}

// UnmarshalJSON implements json.Unmarshaler. It ignores unknown names, of another version.
func (c *HandshakeFailureCounts) UnmarshalJSON(b []byte) error {
	var named map[string]int
	if err := json.Unmarshal(b, &named); err != nil {
		return err
	}
	for why, name := range handshakeFailureNames {
		c[why] = named[name]
	}
	return nil
}

// handshakeCounts counts the handshakes of all Conns that a Context has made.
type handshakeCounts struct {
	underWay  atomic.Int64
	byThreads atomic.Int64
	failed    [handshakeFailures]atomic.Int64
}

// read adds the counts to s.
func (h *handshakeCounts) read(s *Stats) {
	s.HandshakesUnderWay = int(h.underWay.Load())
	s.ByThreads = int(h.byThreads.Load())
	for why := range h.failed {
		s.HandshakesFailed[why] = int(h.failed[why].Load())
	}
}

// handshakeReturns ends the count of a call that takes the handshake on. The handshake is locked.
func (c *Conn) handshakeReturns() {
	if err := c.hs.err; err != nil {
		c.ctx.handshakes.failed[failureOf(err)].Add(1)
	}
	c.ctx.handshakes.underWay.Add(-1) // last, so that a handshake is never missing from both counts
}

// handlerError is the error of a handshake that a handler of the user has ended.
type handlerError struct{ error }

func (e *handlerError) Unwrap() error { return e.error }

func failureOf(err error) HandshakeFailure {
	var (
		plain   *plainError
		verify  *VerifyError
		handler *handlerError
		caused  *causedError
		failed  *Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return FailedTimeout
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		return FailedClosed
	case errors.As(err, &plain):
		return FailedNotTLS
	case errors.As(err, &handler), errors.As(err, &caused), err == errAbandoned:
		return FailedHandler
	case errors.As(err, &verify):
		return FailedCertificate
	case errors.As(err, &failed):
		return failed.failure()
	}
	return FailedDisconnected
}

// failure tells the errors of OpenSSL apart.
func (e *Error) failure() HandshakeFailure {
	for _, q := range e.Queue {
		switch C.scb_err_kind(C.ulong(q.Code)) {
		case C.SCB_ERR_ALERT:
			return FailedPeerAlert
		case C.SCB_ERR_CALLBACK:
			return FailedHandler
		}
	}
	return FailedProtocol
}
