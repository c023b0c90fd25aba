package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libssl-go/libssl/internal/wire"
)

// handshakeState is how far the handshake is. One goroutine at a time takes it on, under mu.
type handshakeState struct {
	mu       sync.Mutex
	stage    atomic.Uint32 // one of the constants below
	early    earlyState
	byThread bool          // of acceptor.c, which makes the steps without the engine's lock
	took     time.Duration // in all calls together: early data and timeouts make several
	err      error         // what ended it

	parked parked                                  // in the ClientHello hook
	choice *choice                                 // nil without a certificate callback
	giveUp atomic.Pointer[context.CancelCauseFunc] // not nil while a certificate callback runs
}

// lock waits for a handshake under way. Its certificate callback must not.
func (hs *handshakeState) lock() error {
	if hs.mu.TryLock() {
		return nil
	}
	if hs.giveUp.Load() != nil && insideChooser() {
		return ErrReentrant
	}
	hs.mu.Lock()
	return nil
}

const (
	handshakeNew      = iota
	handshakeAnswered // output was sent
	handshakeComplete
)

func (hs *handshakeState) complete() bool { return hs.stage.Load() == handshakeComplete }

// earlyState is how far a handshake is that early data may come before.
type earlyState uint8

const (
	earlyNone    earlyState = iota // nothing was asked of OpenSSL yet
	earlyReading                   // ReadEarlyData has begun
	earlyOver                      // ReadEarlyData has seen the end
	earlyTooLate                   // Handshake has begun
)

var errAbandoned = fmt.Errorf("libssl: handshake: %w", errGoexit)

// Handshake runs the handshake if it has not run. The connection's deadlines bound it; after a timeout it can be called
// again, any other failure is final. Corresponds to SSL_do_handshake(3).
func (c *Conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// HandshakeContext is Handshake, given up when ctx is done, which closes the underlying connection. A store is asked for a
// session under ctx too.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if c.hs.complete() {
		return nil
	}
	_, err := c.advance(ctx, C.SCB_OP_HANDSHAKE, nil, nil)
	return err
}

// advance takes the handshake on: to its end, or through one call for early data, of which it returns how many bytes were
// moved. begun is what a thread of acceptor.c has done of the handshake, nil for nothing.
func (c *Conn) advance(ctx context.Context, op C.int, p []byte, begun *begun) (n int, err error) {
	if c.tls.inHandler() {
		return 0, ErrReentrant
	}
	if c.end.begun() {
		return 0, ErrClosed
	}
	hs := &c.hs
	if err := hs.lock(); err != nil {
		return 0, err
	}
	defer hs.mu.Unlock()
	if hs.err != nil {
		return 0, hs.err
	}
	if err := ctx.Err(); err != nil && begun == nil {
		return 0, err
	}
	if over, err := c.enterEarly(op); over || err != nil {
		return 0, err
	}
	if begun == nil { // else it counts already
		c.ctx.handshakes.underWay.Add(1)
	}
	defer c.handshakeReturns()
	c.offerCached()
	var stop func() bool
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { c.nc.Close() })
	}
	begin := time.Now()
	hs.err = errAbandoned // if a handler calls Goexit nothing below runs
	n, err = c.handshake(ctx, op, p, begun)
	hs.err = nil
	err = c.end.closedError(err)
	hs.took += time.Since(begin)
	if stop != nil && !stop() {
		err = ctx.Err() // final: the underlying connection is closed, or about to be
		hs.err = err
	} else if err == nil {
		if op == C.SCB_OP_HANDSHAKE {
			hs.stage.Store(handshakeComplete)
		}
	} else if ne, ok := err.(net.Error); (!ok || !ne.Timeout()) && err != io.EOF {
		hs.err = err
	}
	if hs.complete() || hs.err != nil {
		hs.choice = nil
		c.endOffer()
		c.tls.endVisit(ctx, ending{complete: hs.complete(), took: hs.took})
	}
	return n, err
}

// enterEarly checks a step of the handshake against the steps before. over reports that there is nothing to do. The
// handshake is locked.
func (c *Conn) enterEarly(op C.int) (over bool, err error) {
	hs := &c.hs
	switch {
	case hs.complete():
		if op == C.SCB_OP_READ_EARLY {
			err = io.EOF
		} else if op == C.SCB_OP_WRITE_EARLY {
			err = errEarlyLate // meanwhile
		}
		return true, err
	case op == C.SCB_OP_WRITE_EARLY && !c.client && hs.early != earlyReading && hs.early != earlyOver:
		return false, errEarlyLate
	case op == C.SCB_OP_HANDSHAKE && hs.early == earlyReading:
		return false, errEarlyUnread
	case op == C.SCB_OP_HANDSHAKE:
		hs.early = earlyTooLate
	case op == C.SCB_OP_READ_EARLY && hs.early >= earlyOver:
		return true, io.EOF
	case op == C.SCB_OP_READ_EARLY:
		hs.early = earlyReading
	case op == C.SCB_OP_WRITE_EARLY && hs.early == earlyTooLate:
		return false, errEarlyLate
	}
	return false, nil
}

// handshake makes steps and moves their ciphertext. The handshake is locked.
func (c *Conn) handshake(ctx context.Context, op C.int, p []byte, begun *begun) (n int, err error) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	// Output of an earlier call that timed out comes first: the peer answers nothing else.
	if !begun.hasStep() {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	plain, unread := c.awaitHello(begun)
	for {
		var s stepped
		if begun.hasStep() {
			s, begun = begun.step, nil
		} else {
			s = c.tls.handshake(op, p, c.read.in.Pending())
		}
		c.read.in.Taken(s.taken)
		c.closeIfPostponed()
		if s.err == ErrClosed {
			return 0, s.err
		}
		if err := c.judge(s); err != nil {
			clear(p[:s.n]) // early data
			c.hs.stage.Store(handshakeAnswered)
			c.flush()
			return 0, err
		}
		sent := c.sendFlight(ctx, s)
		switch {
		case s.err != nil && plain != nil:
			plain.Msg = s.err.Error()
			return 0, &plainError{s.err, *plain}
		case s.err != nil:
			return 0, s.err
		case sent != nil:
			return s.n, sent
		case s.noMoreEarly:
			c.hs.early = earlyOver
			return 0, io.EOF
		case s.code == C.SSL_ERROR_NONE:
			return s.n, nil
		}
		if unread != nil {
			return 0, unread
		}
		if err := c.handshakeNeeds(ctx, s.code); err != nil {
			return 0, err
		}
	}
}

// sendFlight sends the output of a step. New sessions are stored before the flight that carries their id or ticket leaves: the
// client cannot come back earlier.
func (c *Conn) sendFlight(ctx context.Context, s stepped) error {
	if v := c.tls.visit; v != nil {
		v.beforeFlight(ctx)
	}
	switch {
	case s.tickets:
		c.sendTickets()
		return nil
	case !s.output:
		return nil
	case s.err == nil:
		c.hs.stage.Store(handshakeAnswered)
	}
	return c.flush()
}

// awaitHello waits for the first bytes from a client, because OpenSSL allocates the buffers of the handshake in the first
// step: a client that sends nothing costs no more than an idle connection. The handshake makes its first step also if that
// fails, so that OpenSSL counts it. plain is the error of a client that does not speak TLS.
func (c *Conn) awaitHello(begun *begun) (plain *tls.RecordHeaderError, err error) {
	const alert, handshake, sslv2, size = 21, 22, 0x80, 5 // of the header
	switch {
	case begun != nil && begun.unread != nil:
		return nil, begun.unread
	case begun != nil && begun.stepped, c.client, c.hs.stage.Load() != handshakeNew:
		return nil, nil
	case c.read.in.Pending() == nil:
		if err := c.fillHandshake(); err != nil {
			return nil, err
		}
	case begun == nil:
		return nil, nil
	}
	in := c.read.in.Pending()
	if c.hs.took > 0 || len(in) < size || in[0] == alert || in[0] == handshake || in[0] >= sslv2 {
		return nil, nil
	}
	return &tls.RecordHeaderError{RecordHeader: [size]byte(in[:size]), Conn: c.nc}, nil
}

// plainError is a failed handshake with a client that does not speak TLS. As with crypto/tls, it is a tls.RecordHeaderError.
type plainError struct {
	error
	plain tls.RecordHeaderError
}

func (e *plainError) Unwrap() []error { return []error{e.error, e.plain} }

// handshakeNeeds brings what OpenSSL waits for in the handshake.
func (c *Conn) handshakeNeeds(ctx context.Context, code C.int) error {
	switch code {
	case C.SSL_ERROR_WANT_CLIENT_HELLO_CB:
		return c.unpark(ctx)
	case C.SSL_ERROR_WANT_X509_LOOKUP:
		if ch := c.hs.choice; ch != nil {
			return c.ask(ctx, ch)
		}
	case C.SSL_ERROR_WANT_READ:
		return c.fillHandshake()
	case C.SSL_ERROR_ZERO_RETURN:
		return fmt.Errorf("libssl: handshake: closed by the peer: %w", io.ErrUnexpectedEOF)
	}
	return &Error{Op: "handshake", Code: int(code)}
}

// unpark does what the ClientHello hook has parked the handshake for.
func (c *Conn) unpark(ctx context.Context) error {
	ch := c.hs.choice
	if ch != nil && !ch.answered {
		if err := c.ask(ctx, ch); err != nil {
			return err
		}
	}
	if c.hs.parked.lookUp && (ch == nil || ch.err == nil) {
		c.tls.visit.lookUp(ctx, ch)
	}
	c.hs.parked.ended = true
	return ctx.Err() // given up meanwhile: no session may be made for it
}

// fillHandshake reads what the peer sends, some bytes at least.
func (c *Conn) fillHandshake() error {
	err := c.read.in.Fill(c.nc)
	if err == io.EOF {
		return errPeerLeft
	}
	return err
}

var errPeerLeft = fmt.Errorf("libssl: handshake: %w", io.ErrUnexpectedEOF)

// watchAfter is how long a callback takes before its handshake reads ahead: a goroutine costs more than most callbacks.
const watchAfter = 5 * time.Millisecond

// watch notices, by reading ahead, that the peer leaves or that the deadline has passed, until it is stopped. The read side is
// locked.
func (c *Conn) watch(giveUp context.CancelCauseFunc) (stop func()) {
	ahead := wire.NewAhead()
	t := time.AfterFunc(watchAfter, func() {
		if err := ahead.Read(c.nc); err == io.EOF {
			giveUp(errPeerLeft)
		} else if err != nil {
			giveUp(fmt.Errorf("libssl: handshake: %w", err)) // so a timeout is final too
		}
	})
	return func() {
		if !t.Stop() {
			c.read.in.Follow(ahead)
		}
	}
}

// sendTickets sends the tickets with which a TLS 1.3 server's handshake ends. On a connection without a buffer, such as
// net.Pipe, that takes until the client reads, and a client that only writes never reads: there a goroutine sends them.
// If that fails the next Write says so; received data can still be read.
func (c *Conn) sendTickets() {
	if _, ok := c.nc.(syscall.Conn); ok {
		c.flush()
	} else {
		go c.flush()
	}
}
