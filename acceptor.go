package libssl

// #include "bridge.h"
import "C"

import (
	"cmp"
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/internal/wire"
)

// acceptor is the part of a Listener that threads of acceptor.c serve: they accept, and take the handshakes on until
// code of Go has to wait or to be asked. A connection that arrives has its handshake complete, or goes on with it on a goroutine.
type acceptor struct {
	l        *Listener
	p        *C.scb_acceptor
	below    syscall.RawConn
	ready    *os.File   // readable when there is something to take
	finished chan *Conn // complete, for Accept
	failed   atomic.Bool
	closed   atomic.Bool // the listener below, by its owner
	closing  sync.Once
	places   sync.WaitGroup // connections that have not left: each needs p
	offers   sync.WaitGroup // that wait for room in finished
}

// noThreads has every Listener accept and shake hands on goroutines. For tests.
var noThreads atomic.Bool

// openAcceptor is nil where the Listener has to do without.
func openAcceptor(l *Listener) *acceptor {
	if noThreads.Load() || !l.ctx.made {
		return nil
	}
	var raw syscall.RawConn
	var err error
	switch inner := l.inner.(type) {
	case *net.TCPListener:
		raw, err = inner.SyscallConn()
	case *net.UnixListener:
		raw, err = inner.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	p, err := l.ctx.acquire()
	if err != nil {
		return nil
	}
	defer l.ctx.release()
	C.scb_acceptors_size(C.int(runtime.GOMAXPROCS(0)))
	a := &acceptor{l: l, below: raw, finished: make(chan *Conn, 64)}
	var ready C.int
	limit := C.int64_t(cmp.Or(l.HandshakeTimeout, DefaultHandshakeTimeout))
	err = raw.Control(func(fd uintptr) {
		a.p = C.scb_acceptor_open(p, C.int(fd), limit, C.int64_t(cap(l.slots)), &ready)
	})
	if err != nil || a.p == nil {
		return nil
	}
	a.ready = os.NewFile(uintptr(ready), "libssl accept")
	go a.run()
	return a
}

// lookBelow is how long it can take until Accept notices that the listener below was closed.
const lookBelow = time.Second

// look ends accepting if the listener below was closed.
func (a *acceptor) look() {
	err := a.below.Control(func(uintptr) {})
	if err == nil || a.l.handshakes.Err() != nil {
		return
	}
	a.closed.Store(true)
	a.l.fail(err)
	a.close()
}

// close ends accepting. Connections under way still arrive, to be closed.
func (a *acceptor) close() { a.closing.Do(func() { C.scb_acceptor_close(a.p) }) }

// resume accepts again after an error.
func (a *acceptor) resume() {
	if a.closed.Load() {
		a.l.fail(a.below.Control(func(uintptr) {}))
	} else if a.failed.Load() && a.failed.CompareAndSwap(true, false) {
		C.scb_acceptor_resume(a.p)
	}
}

// leave gives a place among MaxHandshakes back.
func (a *acceptor) leave() {
	C.scb_acceptor_leave(a.p, 1)
	a.places.Done()
}

// run takes what arrives until the last.
func (a *acceptor) run() {
	var arrivals [32]C.scb_arrival
	var count [8]byte
	threads := runtime.GOMAXPROCS(0)
	for last := false; !last; {
		n := C.scb_acceptor_take(a.p, &arrivals[0], C.int(len(arrivals)))
		if n == 0 {
			if a.l.shared {
				a.ready.SetReadDeadline(time.Now().Add(lookBelow))
			}
			if _, err := a.ready.Read(count[:]); err != nil {
				a.look()
			}
			if now := runtime.GOMAXPROCS(0); now != threads {
				threads = now
				C.scb_acceptors_size(C.int(threads))
			}
			continue
		}
		over := 0
		for i := range arrivals[:n] {
			switch arrival := &arrivals[i]; arrival.kind {
			case C.SCB_ARRIVED_ERROR:
				a.failed.Store(true)
				a.l.fail(a.acceptError(syscall.Errno(arrival.err)))
			case C.SCB_ARRIVED_LAST:
				last = true
			default:
				a.l.ctx.handshakes.underWay.Add(1)
				a.l.ctx.handshakes.byThreads.Add(1)
				a.places.Add(1)
				if a.arrived(arrival) {
					over++
				}
			}
		}
		C.scb_acceptor_took(a.p, &arrivals[0], n) // they count in Go by now
		a.l.ctx.handshakes.underWay.Add(-int64(over))
	}
	a.end()
}

// acceptError is the error that the listener below would have returned.
func (a *acceptor) acceptError(errno syscall.Errno) error {
	addr := a.l.inner.Addr()
	return &net.OpError{Op: "accept", Net: addr.Network(), Addr: addr, Err: os.NewSyscallError("accept4", errno)}
}

// end closes connections that were not accepted, and frees the acceptor.
func (a *acceptor) end() {
	a.offers.Wait()
	for len(a.finished) > 0 {
		select {
		case c := <-a.finished:
			go a.drop(c)
		default: // Accept was faster
		}
	}
	a.places.Wait()
	C.scb_acceptor_free(a.p)
	a.ready.Close()
}

func (a *acceptor) drop(c *Conn) {
	c.Close()
	a.leave()
}

// arrived deals with a connection. It reports whether the handshake is over, and does not count any more.
func (a *acceptor) arrived(arrival *C.scb_arrival) (over bool) {
	nc, err := socketConn(int(arrival.fd))
	if err != nil {
		a.l.fail(err) // such as too many open files
		a.abandon(arrival)
		return true
	}
	if syscall.Errno(arrival.err) == syscall.ENOMEM { // input or output is lost
		nc.Close()
		a.abandon(arrival)
		return true
	}
	if arrival.conn == nil {
		go func() {
			defer a.leave()
			a.l.handshake(nc)
		}()
		return true
	}
	c := a.adopt(arrival, nc)
	if arrival.kind == C.SCB_ARRIVED_COMPLETE && c.verifier() == nil {
		c.completed(time.Duration(arrival.took))
		a.offer(c)
		return true
	}
	b := c.begunBy(arrival)
	go func() {
		defer a.leave()
		a.l.complete(c, b)
	}()
	return false
}

// socketConn is the net.Conn of a descriptor, which it owns.
func socketConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}

// offer has Accept return c, or closes it.
func (a *acceptor) offer(c *Conn) {
	select {
	case a.finished <- c:
		return
	default:
	}
	a.offers.Go(func() {
		select {
		case a.finished <- c:
		case <-a.l.handshakes.Done():
			a.drop(c)
		}
	})
}

// abandon ends a connection whose socket is gone.
func (a *acceptor) abandon(arrival *C.scb_arrival) {
	if cc := arrival.conn; cc != nil {
		c := a.adopt(arrival, nil)
		c.tls.free(0)
		c.tls.endVisit(a.l.handshakes, ending{})
	}
	a.leave()
}

// connOf makes the Conn of an SSL that a thread of acceptor.c has made. The connection below is not known yet.
func (c *Context) connOf(cc *C.scb_conn) *Conn {
	conn := blankConn(c, nil, false, "")
	h := conns.Put(conn)
	conn.tls.conn, conn.tls.handle, conn.tls.ssl, conn.tls.identity = conn, h, cc, cc
	cc.handle = C.uint64_t(h)
	return conn
}

// adopt makes an ordinary Conn of what a thread has given up.
func (a *acceptor) adopt(arrival *C.scb_arrival, nc net.Conn) *Conn {
	cc := arrival.conn
	c := conns.Get(cgo.Handle(cc.handle))
	if c == nil {
		c = a.l.ctx.connOf(cc)
	}
	c.tls.handlers.Load() // orders what callbacks have done on the thread before what follows
	c.nc = nc
	c.hs.byThread, cc.by_thread = false, 0
	c.read.in.Begin(unsafe.Slice((*byte)(unsafe.Pointer(arrival.in)), int(arrival.in_len)))
	c.tls.out = wire.Of(unsafe.Slice((*byte)(unsafe.Pointer(arrival.out)), int(arrival.out_len)))
	conns.Set(c.tls.handle, nil)
	c.tls.cleanup = runtime.AddCleanup(c, forgetConn, cc)
	return c
}

// completed ends a handshake that a thread has taken to its end.
func (c *Conn) completed(took time.Duration) {
	c.hs.early, c.hs.took = earlyTooLate, took
	c.tls.reused = c.tls.ssl.reused != 0
	c.hs.stage.Store(handshakeComplete)
	c.tls.endVisit(context.Background(), ending{complete: true, took: took})
}

// begun is what a thread of acceptor.c has done of a handshake.
type begun struct {
	took    time.Duration
	stepped bool
	seen    bool    // if stepped: step is what has to be gone on with, else OpenSSL has to see the ClientHello again
	step    stepped // the last one
	unread  error   // what the connection below has ended with
}

func (b *begun) soFar() time.Duration {
	if b == nil {
		return 0
	}
	return b.took
}

func (b *begun) hasStep() bool { return b != nil && b.stepped && b.seen }

// begunBy notes how far the handshake is.
func (c *Conn) begunBy(arrival *C.scb_arrival) *begun {
	e := &c.tls
	b := &begun{took: time.Duration(arrival.took), stepped: arrival.stepped != 0, seen: e.ssl.unseen == 0}
	e.ssl.unseen = 0
	switch {
	case arrival.err != 0:
		b.unread = &net.OpError{
			Op: "read", Net: c.nc.LocalAddr().Network(), Source: c.nc.LocalAddr(), Addr: c.nc.RemoteAddr(),
			Err: os.NewSyscallError("read", syscall.Errno(arrival.err)),
		}
	case arrival.ended != 0:
		b.unread = errPeerLeft
	}
	if !b.stepped {
		return b
	}
	if arrival.answered != 0 {
		c.hs.stage.Store(handshakeAnswered)
	}
	c.hs.took = b.took
	e.mu.Lock()
	defer e.mu.Unlock()
	b.step = e.outcome(C.SCB_OP_HANDSHAKE)
	e.ofHandshake(C.SCB_OP_HANDSHAKE, &b.step)
	return b
}
