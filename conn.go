package libssl

// #include <stdlib.h>
// #include "bridge.h"
import "C"

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
)

// Conn is a TLS connection over any net.Conn, with crypto/tls's manners: the
// handshake runs at the first Read or Write, or when asked for.
//
// A Write that times out is not fatal: what was accepted but not sent goes out
// first with the next Write. The end of the stream without a close_notify reads
// as io.ErrUnexpectedEOF.
//
// Locks and threads: safe for concurrent use; Read and Write may run together.
// Only code that runs inside OpenSSL holds an OS thread, and how much of that
// runs at once is bounded.
type Conn struct {
	nc         net.Conn
	ctx        *Context
	net        runtime.Cleanup
	handle     cgo.Handle
	key        *C.scb_conn // never dereferenced: c's identity, also when c is gone
	client     bool
	serverName string

	// Order of locks: hmu, rmu or wmu, sendMu, mu. Nothing blocks under mu but
	// handlers.
	hmu   sync.Mutex  // one handshake at a time
	done  atomic.Bool // the handshake is
	early earlyState
	took  time.Duration // inside its calls, of which early data and timeouts make several
	hsErr error         // what ended it

	rmu     sync.Mutex // one reader
	in      *buffer    // ciphertext that OpenSSL has not taken yet
	inSize  bufferSize // for the next read from the network
	raw     syscall.RawConn
	rawRead func(fd uintptr) bool
	rawErr  error
	readErr error // what ended reading

	wmu    sync.Mutex // one writer
	sendMu sync.Mutex // one sender: ciphertext goes out in the order it was made
	// sending was taken from out and is partly on the wire.
	sending *buffer
	sendErr error // what ended sending

	mu      sync.Mutex // the SSL and the fields below
	c       *C.scb_conn
	out     *buffer // ciphertext of steps, in order
	halved  bool    // close_notify is made
	broken  bool    // OpenSSL failed: nothing more can be written
	slot    bool    // the step under way counts against the bound
	resume  *resumption
	resumed SessionID
	puts    *put

	writeDeadline atomic.Int64 // on the clock of sinceStart, 0 for none

	handlers atomic.Int32  // handlers running inside a step
	closing  atomic.Uint32 // closeNone, closeQuietly or closeAbort
	postpone atomic.Bool   // a handler closed; the step's owner does it
}

const (
	closeNone = iota
	closeQuietly
	closeAbort
)

const versionTLS13 = tls.VersionTLS13

var forgottenConns atomic.Int64

var (
	errEarlyCloseWrite = errors.New("libssl: CloseWrite before the handshake is complete")
	errHalfClosed      = errors.New("libssl: write after CloseWrite")
	errBroken          = errors.New("libssl: write after a fatal error")
)

// Server returns a server's connection over nc.
func Server(nc net.Conn, ctx *Context) (*Conn, error) {
	if ctx != nil && ctx.made && ctx.role != ServerRole {
		return nil, unsupported("a server connection on a client's Context")
	}
	return newConn(nc, ctx, false, "")
}

// Client returns a client's connection over nc. serverName, a host name or an
// IP address, is sent to the server if it is a name, and is what the server's
// certificate is verified for; it may be empty only where the Context verifies
// nothing.
func Client(nc net.Conn, ctx *Context, serverName string) (*Conn, error) {
	if ctx != nil && ctx.made && ctx.role != ClientRole {
		return nil, unsupported("a client connection on a server's Context")
	}
	return newConn(nc, ctx, true, strings.TrimSuffix(serverName, "."))
}

func newConn(nc net.Conn, ctx *Context, client bool, name string) (*Conn, error) {
	if nc == nil {
		return nil, errors.New("libssl: new connection: nil net.Conn")
	}
	if ctx == nil {
		return nil, errors.New("libssl: new connection: nil Context")
	}
	p, err := ctx.acquire()
	if err != nil {
		return nil, err
	}
	defer ctx.release()

	var cname *C.char
	kind := C.int(C.SCB_NAME_NONE)
	if client {
		if name == "" && C.scb_ctx_verify_mode(p)&C.SSL_VERIFY_PEER != 0 {
			return nil, errors.New("libssl: new client: a server name is needed to verify the peer, or VerifyNone")
		}
		if name != "" {
			if strings.ContainsRune(name, 0) {
				return nil, fmt.Errorf("libssl: new client: server name %q", name)
			}
			kind = C.SCB_NAME_DNS
			if ip, ok := addressOf(name); ok {
				kind, name = C.SCB_NAME_IP, ip.WithZone("").String()
			}
			cname = C.CString(name)
			defer C.free(unsafe.Pointer(cname))
		}
	}
	h := conns.Put(nil)
	slot := takeSlot() // it takes as long as many a step
	made := C.scb_conn_new(p, C.uint64_t(h), cbool(client), cname, kind)
	if slot {
		<-stepSlots
	}
	cc := made.conn
	if cc == nil {
		conns.Delete(h)
		err := takeError("new connection", 0, made.errs)
		if name != "" && len(err.Queue) == 0 {
			return nil, fmt.Errorf("%w: is %q a host name?", err, name)
		}
		return nil, err
	}
	c := &Conn{nc: nc, ctx: ctx, handle: h, key: cc, c: cc, client: client, serverName: name}
	c.net = runtime.AddCleanup(c, forgetConn, cc)
	return c, nil
}

// addressOf parses an IP address, in brackets or not. Most names end in a letter
// and have no colon: they are spared netip's error, which is on the heap.
func addressOf(name string) (ip netip.Addr, ok bool) {
	last := name[len(name)-1]
	if (last < '0' || last > '9') && !strings.Contains(name, ":") {
		return ip, false
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	return ip, err == nil
}

func forgetConn(cc *C.scb_conn) {
	h := cgo.Handle(cc.handle)
	C.scb_conn_free(cc, 0)
	conns.Delete(h)
	forgottenConns.Add(1)
}

// ---- buffers --------------------------------------------------------------------

type bufferSize uint8

const (
	sizeSmall  bufferSize = iota // a request, or a wait on a conn without a descriptor
	sizeRecord                   // one full record
	sizeBulk                     // four
	sizeCount
)

// maxEmptyReads is after how many reads that bring neither data nor an error a
// transport counts as broken. One is nothing special: an empty Write into a
// net.Pipe is such a Read at its other end.
const maxEmptyReads = 100

// maxWrite is how much plaintext one step encrypts: four records.
const maxWrite = 4 * 16384

var bufferBytes = [sizeCount]int{4 << 10, 18 << 10, 68 << 10}

type buffer struct {
	b          []byte
	start, end int
	size       bufferSize
}

var buffers [sizeCount]sync.Pool

func getBuffer(size bufferSize) *buffer {
	if b, ok := buffers[size].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, bufferBytes[size]), size: size}
}

func putBuffer(b *buffer) {
	b.start, b.end = 0, 0
	buffers[b.size].Put(b)
}

// ---- steps ----------------------------------------------------------------------

// stepSlots bounds how many steps run at once, and how many connections are made,
// and so the OS threads: each takes one, and the scheduler starts another for whoever waits.
var stepSlots = make(chan struct{}, 2*runtime.GOMAXPROCS(0)+8)

// takeSlot waits for a slot. A handler that drives a connection of its own goes
// on without: all slots may be waiting for a lock that its thread holds.
func takeSlot() bool {
	select {
	case stepSlots <- struct{}{}:
		return true
	default:
	}
	if C.scb_in_handler() != 0 {
		return false
	}
	stepSlots <- struct{}{}
	return true
}

func (c *Conn) giveSlot() {
	if c.slot {
		c.slot = false
		<-stepSlots
	}
}

// enterHandler and leaveHandler surround a handler inside a step. It may block,
// so it does not count against the bound.
func (c *Conn) enterHandler() {
	if c != nil {
		c.handlers.Add(1)
		c.giveSlot()
	}
}

func (c *Conn) leaveHandler() {
	if c != nil {
		c.handlers.Add(-1)
	}
}

// inHandler reports whether the caller is a handler inside a step of c: such a
// goroutine is bound to the thread of the step.
func (c *Conn) inHandler() bool {
	return c.handlers.Load() > 0 && C.scb_conn_stepping(c.key) != 0
}

// lock takes mu for reading what a connection knows; unlock undoes it. In a
// handler the step holds mu already, and waits.
func (c *Conn) lock() (taken bool) {
	if !c.mu.TryLock() {
		if c.inHandler() {
			return false
		}
		c.mu.Lock()
	}
	return true
}

func (c *Conn) unlock(taken bool) {
	if taken {
		c.mu.Unlock()
	}
}

// step makes one call into OpenSSL, under mu, with c.c there. in may be nil; of
// it, what OpenSSL took is gone afterwards. Ciphertext is appended to c.out.
func (c *Conn) step(op C.int, p []byte, in *buffer, size bufferSize) C.int {
	if c.out == nil {
		c.out = getBuffer(size)
	}
	out := c.out
	var inBytes []byte
	if in != nil {
		inBytes = in.b[in.start:in.end]
	}
	outBytes := out.b[out.end:]
	conns.Set(c.handle, c)
	c.slot = takeSlot()
	returned := false
	defer func() {
		if !returned {
			c.abandoned(op)
		}
	}()
	C.scb_step(c.c, op, bytesPtr(p), C.size_t(len(p)), bytesPtr(inBytes), C.size_t(len(inBytes)),
		bytesPtr(outBytes), C.size_t(len(outBytes)))
	returned = true
	c.giveSlot()
	conns.Set(c.handle, nil)
	if in != nil {
		in.start = in.end - int(c.c.in_len)
	}
	out.end += int(c.c.out_len)
	if out.end == out.start {
		putBuffer(out)
		c.out = nil
	}
	if e := c.c.err; e == C.SSL_ERROR_SSL || e == C.SSL_ERROR_SYSCALL {
		c.broken = true
	}
	return c.c.err
}

// abandoned ends a connection whose handler called runtime.Goexit, which took
// the step's frames away, and c's caller: mu is unlocked here. The SSL is half
// way through something and stays in memory.
func (c *Conn) abandoned(op C.int) {
	c.c, c.out = nil, nil
	if !c.done.Load() {
		c.hsErr = fmt.Errorf("libssl: handshake: %w", errGoexit)
	}
	c.closing.Store(closeAbort)
	c.net.Stop()
	c.giveSlot()
	conns.Delete(c.handle)
	c.handlers.Store(0)
	c.mu.Unlock()
	c.nc.Close()
}

// stepError is the failure of the step just made, under mu.
func (c *Conn) stepError(op string) error {
	errs := c.c.errs
	c.c.errs = nil
	return takeError(op, int(c.c.err), errs)
}

// consumed gives the input buffer back as soon as OpenSSL has all of it, under
// rmu.
func (c *Conn) consumed() {
	if c.in != nil && c.in.start == c.in.end {
		putBuffer(c.in)
		c.in = nil
	}
}

// ---- the network ------------------------------------------------------------------

// fill waits for input, under rmu. A socket is waited for without a buffer;
// other conns get a small one while they are idle.
func (c *Conn) fill() error {
	if c.rawRead == nil && !c.fillRaw() {
		b := getBuffer(c.inSize)
		n, err := c.nc.Read(b.b)
		for try := 1; n == 0 && err == nil && try < maxEmptyReads; try++ {
			n, err = c.nc.Read(b.b)
		}
		return c.filled(b, n, err)
	}
	c.rawErr = nil
	if err := c.raw.Read(c.rawRead); err != nil {
		return err
	}
	return c.rawErr
}

// fillRaw prepares reading from the descriptor of a socket. Only for the
// plain types: a type that embeds one may read something else.
func (c *Conn) fillRaw() bool {
	var err error
	switch nc := c.nc.(type) {
	case *net.TCPConn:
		c.raw, err = nc.SyscallConn()
	case *net.UnixConn:
		c.raw, err = nc.SyscallConn()
	default:
		return false
	}
	if err != nil {
		return false
	}
	c.inSize = sizeRecord
	c.rawRead = func(fd uintptr) bool {
		b := getBuffer(c.inSize)
		n, err := syscall.Read(int(fd), b.b)
		for err == syscall.EINTR {
			n, err = syscall.Read(int(fd), b.b)
		}
		if err == syscall.EAGAIN {
			putBuffer(b)
			return false
		}
		if err != nil {
			n, err = 0, &net.OpError{
				Op: "read", Net: c.nc.LocalAddr().Network(), Source: c.nc.LocalAddr(), Addr: c.nc.RemoteAddr(),
				Err: os.NewSyscallError("read", err),
			}
		} else if n == 0 {
			err = io.EOF
		}
		c.rawErr = c.filled(b, n, err)
		return true
	}
	return true
}

func (c *Conn) filled(b *buffer, n int, err error) error {
	if n <= 0 {
		putBuffer(b)
		if err == nil {
			return io.ErrNoProgress
		}
		return err
	}
	// Under load read more at once, and less again when it is over.
	if n == len(b.b) && c.inSize < sizeBulk {
		c.inSize++
	} else if n < len(b.b)/4 && c.inSize == sizeBulk {
		c.inSize--
	}
	b.end = n
	c.in = b
	return nil // err, if any, comes back with the next read
}

// flush sends what steps have left. Without wait it leaves that to a sender who
// is at it: a reader must not stand behind a blocked Write.
func (c *Conn) flush(wait bool) error {
	for {
		if wait {
			c.sendMu.Lock()
		} else if !c.sendMu.TryLock() {
			return nil
		}
		err := c.send()
		c.sendMu.Unlock()
		if err != nil {
			return err
		}
		// Somebody may have added to out, and found the lock taken, since send
		// looked last.
		c.mu.Lock()
		more := c.out != nil
		c.mu.Unlock()
		if !more {
			return nil
		}
		wait = false
	}
}

// send is flush, under sendMu.
func (c *Conn) send() error {
	if c.sendErr != nil {
		return c.sendErr
	}
	for {
		if c.sending == nil {
			c.mu.Lock()
			c.sending, c.out = c.out, nil
			if c.c != nil && c.c.spill_len > 0 {
				c.step(C.SCB_OP_DRAIN, nil, nil, sizeBulk)
			}
			c.mu.Unlock()
			if c.sending == nil {
				return nil
			}
		}
		n, err := c.nc.Write(c.sending.b[c.sending.start:c.sending.end])
		c.sending.start += n
		if err != nil {
			if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
				c.sendErr = err
			}
			return err
		}
		putBuffer(c.sending)
		c.sending = nil
	}
}

// ---- handshake ---------------------------------------------------------------------

// Handshake runs the handshake if it has not run. What it costs in time is
// bounded by the deadlines of the connection; after a timeout it can be called
// again, any other failure is final. Corresponds to SSL_do_handshake(3).
func (c *Conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// HandshakeContext is Handshake, given up when ctx is done, which closes the
// underlying connection. A session is looked up in a store under ctx too.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if c.done.Load() {
		return nil
	}
	_, err := c.advance(ctx, C.SCB_OP_HANDSHAKE, nil)
	return err
}

// advance takes the handshake on: to its end, or through one call for early
// data, of which it returns how much was moved.
func (c *Conn) advance(ctx context.Context, op C.int, p []byte) (n int, err error) {
	if c.inHandler() {
		return 0, ErrReentrant
	}
	c.hmu.Lock()
	defer c.hmu.Unlock()
	if c.hsErr != nil {
		return 0, c.hsErr
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if over, err := c.enterEarly(op); over || err != nil {
		return 0, err
	}
	var stop func() bool
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { c.nc.Close() })
	}
	begin := time.Now()
	c.rmu.Lock()
	n, err = c.handshake(ctx, op, p)
	err = c.closedError(err)
	c.rmu.Unlock()
	c.took += time.Since(begin)
	if stop != nil && !stop() {
		err = ctx.Err() // for good: the connection below is closed, or about to be
		c.hsErr = err
	} else if err == nil {
		if op == C.SCB_OP_HANDSHAKE {
			c.done.Store(true)
			c.ctx.shookHands(c)
		}
	} else if ne, ok := err.(net.Error); (!ok || !ne.Timeout()) && err != io.EOF {
		c.hsErr = err
	}
	if c.done.Load() || c.hsErr != nil {
		c.endResumption(ctx)
	}
	return n, err
}

func (c *Conn) handshake(ctx context.Context, op C.int, p []byte) (n int, err error) {
	// What a call before this one could not send comes first: the peer answers
	// nothing else.
	if err := c.flush(true); err != nil {
		return 0, err
	}
	for {
		c.mu.Lock()
		if c.c == nil {
			c.mu.Unlock()
			return 0, ErrClosed
		}
		e := c.step(op, p, c.in, sizeSmall)
		c.consumed()
		n = int(c.c.n)
		if r := c.resume; r != nil {
			r.proved = c.c.reused != 0
		}
		var failed error
		if e == C.SSL_ERROR_SSL || e == C.SSL_ERROR_SYSCALL {
			failed = c.stepError("handshake")
		}
		puts, out := c.puts, c.out != nil
		c.puts = nil
		noMore := op == C.SCB_OP_READ_EARLY && c.c.early == C.SSL_READ_EARLY_DATA_FINISH
		tickets := op == C.SCB_OP_HANDSHAKE && e == C.SSL_ERROR_NONE && !c.client && C.scb_ssl_version(c.c.ssl) == versionTLS13
		c.mu.Unlock()
		c.closeIfPostponed()

		// Stored before the flight that carries the id or ticket leaves: the
		// client cannot come back earlier.
		putAll(ctx, puts)
		var sent error
		if tickets {
			c.sendTickets()
		} else if out {
			sent = c.flush(true)
		}
		switch {
		case failed != nil:
			return 0, failed
		case sent != nil:
			return n, sent
		case noMore:
			c.early = earlyOver
			return 0, io.EOF
		case e == C.SSL_ERROR_NONE:
			return n, nil
		case e == C.SSL_ERROR_WANT_CLIENT_HELLO_CB:
			c.resume.lookUp(ctx, c.ctx)
		case e == C.SSL_ERROR_WANT_READ:
			if err := c.fill(); err == io.EOF {
				return 0, fmt.Errorf("libssl: handshake: %w", io.ErrUnexpectedEOF)
			} else if err != nil {
				return 0, err
			}
		case e == C.SSL_ERROR_ZERO_RETURN:
			return 0, fmt.Errorf("libssl: handshake: closed by the peer: %w", io.ErrUnexpectedEOF)
		default:
			return 0, &Error{Op: "handshake", Code: int(e)}
		}
	}
}

// sendTickets sends what a TLS 1.3 server adds to a complete handshake. Nobody
// waits for it where that could take until the client reads, which a client
// that only writes never does: net.Pipe has no buffer. If it fails, the next
// Write says so; what the client has sent can still be read.
func (c *Conn) sendTickets() {
	if _, ok := c.nc.(syscall.Conn); ok {
		c.flush(true)
	} else {
		go c.flush(true)
	}
}

// ---- reading and writing -------------------------------------------------------------

// Read reads decrypted data, after a handshake if there was none.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.inHandler() {
		return 0, ErrReentrant
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for {
		if c.readErr != nil {
			return 0, c.readErr
		}
		n, more, err := c.readStep(p)
		if n > 0 || err != nil {
			return n, err
		}
		if !more {
			continue // readErr says why
		}
		if err := c.fill(); err == io.EOF {
			c.readErr = io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, c.closedError(err)
		}
	}
}

// readStep decrypts what is here, under rmu; more says that there is nothing
// and input is needed.
func (c *Conn) readStep(p []byte) (n int, more bool, err error) {
	c.mu.Lock()
	if c.c == nil {
		c.mu.Unlock()
		return 0, false, ErrClosed
	}
	if c.in == nil && c.c.starved != 0 {
		c.mu.Unlock()
		return 0, true, nil
	}
	e := c.step(C.SCB_OP_READ, p, c.in, sizeSmall)
	c.consumed()
	n = int(c.c.n)
	switch e {
	case C.SSL_ERROR_NONE, C.SSL_ERROR_WANT_READ:
		more = n == 0
	case C.SSL_ERROR_ZERO_RETURN:
		c.readErr = io.EOF
	default:
		c.readErr = c.stepError("read")
	}
	answer := c.c.out_len > 0
	c.mu.Unlock()
	c.closeIfPostponed()
	if answer {
		// Of the protocol's own: its failure is the next Write's.
		c.flush(false)
	}
	return n, more, nil
}

// closedError says ErrClosed where the error comes from our own Close.
func (c *Conn) closedError(err error) error {
	// A Close that sends its close_notify closes the writing side first.
	if c.closing.Load() != closeNone && (errors.Is(err, net.ErrClosed) || err == errHalfClosed) {
		return ErrClosed
	}
	return err
}

// Write encrypts and sends p, after a handshake if there was none. What it
// returns counts as sent: after a timeout the rest of the ciphertext goes out
// with the next Write.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if c.inHandler() {
		return 0, ErrReentrant
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := c.flush(true); err != nil {
		return 0, c.closedError(err)
	}
	total := 0
	for len(p) > 0 {
		// What is encrypted counts as sent, so nothing is once it is too late.
		if d := c.writeDeadline.Load(); d != 0 && sinceStart() >= d {
			return total, os.ErrDeadlineExceeded
		}
		n, err := c.writeStep(p[:min(len(p), maxWrite)], nil)
		if err == errWantRead {
			// A renegotiation, where somebody switched that on.
			err = c.writeReading(p[:min(len(p), maxWrite)], &n)
		}
		total += n
		p = p[n:]
		if err == nil {
			err = c.flush(true)
		}
		if err != nil {
			return total, c.closedError(err)
		}
	}
	return total, nil
}

var errWantRead = errors.New("libssl: write needs input")

func (c *Conn) writeStep(p []byte, in *buffer) (int, error) {
	c.mu.Lock()
	n, err := c.writeLocked(p, in)
	c.mu.Unlock() // not deferred: see abandoned
	c.closeIfPostponed()
	return n, err
}

func (c *Conn) writeLocked(p []byte, in *buffer) (int, error) {
	switch {
	case c.c == nil:
		return 0, ErrClosed
	case c.halved:
		return 0, errHalfClosed
	case c.broken:
		return 0, errBroken
	}
	size := sizeBulk
	if len(p) < bufferBytes[sizeSmall]-512 {
		size = sizeSmall
	} else if len(p) <= 16384 {
		size = sizeRecord
	}
	switch e := c.step(C.SCB_OP_WRITE, p, in, size); e {
	case C.SSL_ERROR_NONE:
		return int(c.c.n), nil
	case C.SSL_ERROR_WANT_READ:
		return 0, errWantRead
	default:
		return 0, c.stepError("write")
	}
}

func (c *Conn) writeReading(p []byte, n *int) (err error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for {
		if err := c.flush(true); err != nil {
			return err
		}
		if c.in == nil {
			if err := c.fill(); err != nil {
				return err
			}
		}
		*n, err = c.writeStep(p, c.in)
		c.consumed()
		if err != errWantRead {
			return err
		}
	}
}

// ---- the end ---------------------------------------------------------------------------

// CloseWrite sends close_notify: the peer reads io.EOF, and reading goes on
// here. Corresponds to SSL_shutdown(3), called once.
func (c *Conn) CloseWrite() error {
	if !c.done.Load() {
		return errEarlyCloseWrite
	}
	if c.inHandler() {
		return ErrReentrant
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	if c.c == nil {
		c.mu.Unlock()
		return ErrClosed
	}
	c.closeNotify()
	c.mu.Unlock()
	return c.flush(true)
}

// closeNotify makes the alert, once, under mu.
func (c *Conn) closeNotify() {
	if c.halved || c.broken {
		return
	}
	c.halved = true
	if e := c.step(C.SCB_OP_SHUTDOWN, nil, nil, sizeSmall); e == C.SSL_ERROR_SSL || e == C.SSL_ERROR_SYSCALL {
		c.stepError("shutdown") // the connection ends in any case
	}
}

const (
	closeNotifyTimeout = 5 * time.Second // as crypto/tls
	drainTimeout       = 100 * time.Millisecond
)

// Close ends the connection: it sends close_notify unless a Write is blocked,
// then drains for at most 100 ms what the peer has in flight, because closing a
// socket with unread data (TLS 1.3 tickets, say) resets it and loses what the
// peer has not read. It marks the shutdown, so the session stays resumable.
// Corresponds to SSL_shutdown(3) and SSL_free(3). From a handler it takes effect
// when the handler has returned.
func (c *Conn) Close() error { return c.close(closeQuietly) }

// Abort ends the connection as a broken peer would: without a close_notify, and
// OpenSSL drops the session and calls the remove handler, internal cache or
// not. Corresponds to SSL_free(3) alone.
func (c *Conn) Abort() error { return c.close(closeAbort) }

func (c *Conn) close(how uint32) error {
	if !c.closing.CompareAndSwap(closeNone, how) {
		return ErrClosed
	}
	if c.handlers.Load() > 0 {
		c.postpone.Store(true)
		// The handler may have ended between the two.
		if c.handlers.Load() > 0 {
			return nil
		}
		if !c.postpone.CompareAndSwap(true, false) {
			return nil
		}
	}
	return c.finish()
}

// closeIfPostponed is called after every step, with nothing locked but hmu, rmu
// or wmu.
func (c *Conn) closeIfPostponed() {
	if c.postpone.Load() && c.postpone.CompareAndSwap(true, false) {
		c.finish()
	}
}

func (c *Conn) finish() error {
	quietly := c.closing.Load() == closeQuietly
	if quietly && c.done.Load() && c.wmu.TryLock() {
		// For a sender who is no Write, too: tickets, or an answer of a reader's.
		c.nc.SetWriteDeadline(time.Now().Add(closeNotifyTimeout))
		c.sendMu.Lock()
		// Behind ciphertext that has timed out before there is no use waiting.
		if c.sending == nil {
			c.mu.Lock()
			c.closeNotify()
			c.mu.Unlock()
			if c.send() == nil {
				c.drain()
			}
		}
		c.sendMu.Unlock()
		c.wmu.Unlock()
	}
	err := c.nc.Close()

	c.mu.Lock()
	cc := c.c
	c.c = nil
	if c.out != nil {
		putBuffer(c.out)
		c.out = nil
	}
	c.mu.Unlock()
	c.net.Stop()
	C.scb_conn_free(cc, cbool(!quietly))
	conns.Delete(c.handle)
	if c.rmu.TryLock() {
		// Else the reader still wants it.
		if c.in != nil {
			putBuffer(c.in)
			c.in = nil
		}
		c.rmu.Unlock()
	}
	if c.hmu.TryLock() {
		// Else the handshake under way does it.
		c.endResumption(context.Background())
		c.hmu.Unlock()
	}
	return err
}

// drain reads to the end of the stream what nobody will read, unless somebody
// is reading, or has read the end.
func (c *Conn) drain() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || !c.rmu.TryLock() {
		return
	}
	defer c.rmu.Unlock()
	if c.readErr != nil || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(drainTimeout)) != nil {
		return
	}
	b := getBuffer(sizeRecord)
	defer putBuffer(b)
	for {
		if _, err := c.nc.Read(b.b); err != nil {
			return
		}
	}
}

// ---- what a connection knows ------------------------------------------------------------

// ConnectionState describes the connection in crypto/tls's own type, so that
// net/http understands it. It runs the handshake if that has not run, under the
// connection's deadlines; if it fails the state is zero. Methods of the state
// that need crypto/tls's internals, ExportKeyingMaterial, cannot work.
//
// After a resumption a server knows the leaf of the client's chain only, and
// nothing was verified again.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if !c.inHandler() && c.Handshake() != nil {
		return tls.ConnectionState{}
	}
	defer c.unlock(c.lock())
	if c.c == nil {
		return tls.ConnectionState{}
	}
	i := C.scb_conn_get_info(c.c)
	s := tls.ConnectionState{
		Version:            uint16(i.version),
		HandshakeComplete:  c.done.Load(),
		DidResume:          i.reused != 0,
		CipherSuite:        uint16(i.cipher),
		CurveID:            tls.CurveID(i.group),
		NegotiatedProtocol: C.GoStringN((*C.char)(unsafe.Pointer(i.alpn)), C.int(i.alpn_len)),
		ServerName:         C.GoString(i.server_name),
		PeerCertificates:   c.certificates(C.SCB_CERTS_PEER),

		NegotiatedProtocolIsMutual: true, // as crypto/tls: always
	}
	if chain := c.certificates(C.SCB_CERTS_VERIFIED); len(chain) > 0 {
		s.VerifiedChains = [][]*x509.Certificate{chain}
	}
	return s
}

func (c *Conn) certificates(which C.int) (certs []*x509.Certificate) {
	var out *C.uchar
	n := C.scb_conn_certs(c.c, which, &out)
	if n == 0 {
		return nil
	}
	der := C.GoBytes(unsafe.Pointer(out), C.int(n))
	C.scb_wipe(unsafe.Pointer(out), n)
	for len(der) >= 4 {
		size := int(binary.BigEndian.Uint32(der))
		cert, err := x509.ParseCertificate(der[4 : 4+size])
		if err != nil {
			return nil // OpenSSL accepts some that crypto/x509 does not
		}
		certs = append(certs, cert)
		der = der[4+size:]
	}
	return certs
}

// SetSession offers a session for resumption: a client's, before its handshake.
// s stays the caller's. Corresponds to SSL_set_session(3).
func (c *Conn) SetSession(s *Session) (err error) {
	if !c.client {
		return unsupported("SetSession on a server's connection")
	}
	if c.inHandler() {
		return ErrReentrant
	}
	c.hmu.Lock()
	defer c.hmu.Unlock()
	if c.done.Load() || c.hsErr != nil {
		return errors.New("libssl: SetSession after the handshake")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil {
		return ErrClosed
	}
	dead := s.with(func(p *C.SSL_SESSION) {
		if C.scb_conn_set_session(c.c, p) != C.SCB_OK {
			err = c.stepError("set session")
		}
	})
	if dead != nil {
		return dead
	}
	return err
}

// Session returns the connection's session, with a reference that is the
// caller's to release. Corresponds to SSL_get1_session(3).
//
// TLS 1.3: a client has one worth keeping once it has read a ticket, which comes
// with or after the first application data; Session.Resumable tells.
func (c *Conn) Session() (*Session, error) {
	defer c.unlock(c.lock())
	if c.c == nil {
		return nil, ErrClosed
	}
	p := C.scb_conn_get1_session(c.c)
	if p == nil {
		return nil, errors.New("libssl: the connection has no session")
	}
	return newSession(p), nil
}

// SessionReused reports whether the handshake resumed a session. Corresponds to
// SSL_session_reused(3).
func (c *Conn) SessionReused() bool {
	defer c.unlock(c.lock())
	return c.c != nil && c.c.reused != 0
}

// ResumedFrom is the id that a store answered for and that the handshake then
// resumed, zero if it did not: in TLS 1.3 no other call tells it, because the
// connection moves on to a session of its own.
func (c *Conn) ResumedFrom() SessionID {
	defer c.unlock(c.lock())
	return c.resumedFrom()
}

// NetConn is the connection below. Reading or writing it directly breaks this
// one.
func (c *Conn) NetConn() net.Conn { return c.nc }

// LocalAddr is the address of the connection below.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// RemoteAddr is the peer's address of the connection below.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// SetDeadline sets the deadlines of the connection below. A timeout is never
// fatal: see Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.noteWriteDeadline(t)
	return c.nc.SetDeadline(t)
}

// SetReadDeadline is SetDeadline for reading.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// SetWriteDeadline is SetDeadline for writing.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.noteWriteDeadline(t)
	return c.nc.SetWriteDeadline(t)
}

var start = time.Now()

// sinceStart is never 0.
func sinceStart() int64 { return int64(time.Since(start)) + 1 }

func (c *Conn) noteWriteDeadline(t time.Time) {
	if t.IsZero() {
		c.writeDeadline.Store(0)
	} else {
		c.writeDeadline.Store(max(1, int64(t.Sub(start))))
	}
}
