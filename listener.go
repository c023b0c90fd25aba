package libssl

// #include "bridge.h"
import "C"

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Listener makes server connections of the connections that it accepts. It runs their handshakes side by side, so a slow or
// silent client holds up no other. Set the fields before the first Accept.
//
// Locks and threads: a *net.TCPListener or *net.UnixListener is served by threads outside Go, as many as GOMAXPROCS,
// which all Listeners of the process share. A thread accepts a connection and takes its handshake on. From where the handshake
// has to wait for a store, or for a handler of the user, it runs on a goroutine, as all handshakes of other listeners do. So
// does the end of one that fails. Handlers always run on goroutines. A Context of AttachContext is not served by threads.
//
// Handshakes start with the first Accept and run until Close, also between calls of Accept.
type Listener struct {
	// HandshakeTimeout is the time from accept to the end of the handshake; 0 means
	// DefaultHandshakeTimeout. When it has passed, the connection
	// is closed for good.
	HandshakeTimeout time.Duration

	// MaxHandshakes bounds the connections whose handshake is under way, or complete and not accepted yet; 0 means 10,000.
	// More wait in the backlog of the kernel.
	MaxHandshakes int

	// OnHandshakeError, if not nil, is told of each handshake that failed, except those that Close has ended. Calls may run
	// at the same time. Each holds one of MaxHandshakes until it returns. If the client does not speak TLS, errors.As finds
	// a tls.RecordHeaderError, whose Conn is open until OnHandshakeError returns. Context.Stats counts handshakes in any case: Accept and
	// AcceptGood.
	OnHandshakeError func(remote net.Addr, err error)

	inner  net.Listener
	shared bool // inner is also the caller's
	ctx    *Context

	ready  chan *Conn // not buffered: the goroutine of the handshake waits for an Accept
	failed chan error // of inner.Accept; a second one waits for the next Accept

	handshakes context.Context // done once closed
	close      context.CancelFunc
	slots      chan struct{}

	mu        sync.Mutex
	begun     bool
	acceptor  *acceptor // nil without threads
	accepting bool      // a goroutine calls inner.Accept
}

// DefaultHandshakeTimeout is the HandshakeTimeout of a Listener where none is set.
const DefaultHandshakeTimeout = 10 * time.Second

const defaultMaxHandshakes = 10_000

// Listen listens on a network address, as net.Listen does.
func Listen(network, addr string, ctx *Context) (*Listener, error) {
	if ctx == nil {
		return nil, errors.New("libssl: listen: nil Context")
	}
	inner, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	l := NewListener(inner, ctx)
	l.shared = false
	return l, nil
}

// NewListener makes a Listener over inner, which it closes with Close. Where threads serve inner, a deadline of inner has no
// effect, and Accept notices within a second that inner was closed.
func NewListener(inner net.Listener, ctx *Context) *Listener {
	l := &Listener{inner: inner, shared: true, ctx: ctx, ready: make(chan *Conn), failed: make(chan error, 1)}
	l.handshakes, l.close = context.WithCancel(context.Background())
	return l
}

// Context is the Context of the connections.
func (l *Listener) Context() *Context { return l.ctx }

// Addr is the address of the listener below.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close closes the listener below and ends the handshakes under way. Connections whose handshake is complete and that were
// not accepted yet are closed too. Close does not wait for that: a process that exits at once cuts them off without a
// close_notify. Accept answers ErrClosed then.
func (l *Listener) Close() error {
	l.close()
	l.mu.Lock()
	a := l.acceptor
	l.mu.Unlock()
	if a != nil {
		a.close()
	}
	return l.inner.Close()
}

// Accept returns the next connection, a *Conn, whose handshake is complete. It passes on the errors of the listener below.
// Those are not final: the next Accept tries again.
func (l *Listener) Accept() (net.Conn, error) {
	a, err := l.begin()
	if err != nil {
		return nil, err
	}
	var finished <-chan *Conn
	if a != nil {
		finished = a.finished
	}
	select {
	case c := <-finished:
		a.leave()
		return c, nil
	case c := <-l.ready:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.handshakes.Done():
		return nil, ErrClosed
	}
}

// begin has connections accepted, by threads if a is not nil.
func (l *Listener) begin() (a *acceptor, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.handshakes.Err() != nil {
		return nil, ErrClosed
	}
	if !l.begun {
		l.begun = true
		l.slots = make(chan struct{}, max(1, cmp.Or(l.MaxHandshakes, defaultMaxHandshakes)))
		l.acceptor = openAcceptor(l)
	}
	switch {
	case l.acceptor != nil:
		l.acceptor.resume()
	case !l.accepting:
		l.accepting = true
		go l.acceptAll()
	}
	return l.acceptor, nil
}

// acceptAll starts a handshake for each connection until inner fails. The next Accept starts it again.
func (l *Listener) acceptAll() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.handshakes.Done():
			return
		}
		nc, err := l.inner.Accept()
		if err != nil {
			<-l.slots
			l.mu.Lock()
			l.accepting = false
			l.mu.Unlock()
			l.fail(err)
			return
		}
		go func() {
			defer func() { <-l.slots }()
			l.handshake(nc)
		}()
	}
}

// fail makes an Accept return err, unless an error waits for one already.
func (l *Listener) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// handshake ends with a connection that was accepted or is closed. A handler that calls runtime.Goexit ends the goroutine.
func (l *Listener) handshake(nc net.Conn) {
	c, err := Server(nc, l.ctx)
	if err != nil {
		if l.report(nc, err); errors.Is(err, ErrClosed) {
			l.fail(err)
		}
		nc.Close()
		return
	}
	l.complete(c, nil)
}

// complete takes the handshake to its end. begun is what a thread has done of it, nil for nothing.
func (l *Listener) complete(c *Conn, begun *begun) {
	accepted := false
	defer func() {
		if !accepted {
			c.Close()
		}
	}()
	timeout := cmp.Or(l.HandshakeTimeout, DefaultHandshakeTimeout)
	ctx, cancel := context.WithTimeout(l.handshakes, timeout-begun.soFar())
	defer cancel()
	err := errAbandoned // if a handler calls Goexit
	defer func() {
		if err != nil {
			l.report(c.nc, err)
		}
	}()
	_, err = c.advance(ctx, C.SCB_OP_HANDSHAKE, nil, begun)
	cancel()
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("libssl: handshake not complete after %v: %w", timeout, err)
		}
		return
	}
	select {
	case l.ready <- c:
		accepted = true
	case <-l.handshakes.Done():
	}
}

func (l *Listener) report(nc net.Conn, err error) {
	if l.OnHandshakeError != nil && l.handshakes.Err() == nil {
		l.OnHandshakeError(nc.RemoteAddr(), err)
	}
}
