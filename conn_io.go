package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl/internal/wire"
)

// maxWrite is how much plaintext one step encrypts: four records.
const maxWrite = 4 * 16384

// readSide is for one reader at a time, who holds mu.
type readSide struct {
	mu  sync.Mutex
	in  wire.Reader
	err error // what ended reading
}

// writeSide is for one writer at a time, who holds mu. The lock of out is taken after mu, or without it by a reader whose
// step left output.
type writeSide struct {
	mu       sync.Mutex
	out      wire.Writer
	deadline atomic.Int64 // on the clock of sinceStart, 0 for none
}

// flush sends the output of steps.
func (c *Conn) flush() error { return c.write.out.Flush(c.nc, &c.tls) }

// Read reads decrypted data, after a handshake if there was none. It waits for a Write that is blocked once the peer has
// asked for more than 64 KiB of answers, such as KeyUpdates, without reading them.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.tls.inHandler() {
		return 0, ErrReentrant
	}
	if c.end.begun() {
		return 0, ErrClosed
	}
	r := &c.read
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.err != nil {
			return 0, r.err
		}
		s := c.tls.read(p, r.in.Pending())
		if s.owing {
			if err := c.flush(); err != nil {
				return 0, c.end.closedError(err)
			}
			continue
		}
		r.in.Taken(s.taken)
		c.closeIfPostponed()
		if s.err == ErrClosed {
			return 0, s.err
		}
		if s.output {
			// An answer of the protocol. If sending it fails the next Write says so.
			c.write.out.FlushUnlessBusy(c.nc, &c.tls)
		}
		switch s.code {
		case C.SSL_ERROR_NONE, C.SSL_ERROR_WANT_READ:
		case C.SSL_ERROR_ZERO_RETURN:
			r.err = io.EOF
		default:
			if r.err = s.err; r.err == nil {
				r.err = &Error{Op: "read", Code: int(s.code)}
			}
		}
		if s.n > 0 {
			return s.n, nil
		}
		if r.err != nil {
			continue
		}
		if err := r.in.Fill(c.nc); err == io.EOF {
			r.err = c.tls.endOfStream()
		} else if err != nil {
			return 0, c.end.closedError(err)
		}
	}
}

// Write encrypts and sends p, after a handshake if there was none. The number of bytes it returns counts as sent: after a
// timeout the rest of their ciphertext goes out with the next Write. On a server that reads early data it does not wait for
// the end of the handshake: see ReadEarlyData.
func (c *Conn) Write(p []byte) (int, error) {
	total, err := c.writeHalfRTT(p)
	if p = p[total:]; err != nil || (total > 0 && len(p) == 0) {
		return total, err
	}
	if err := c.Handshake(); err != nil {
		return total, err
	}
	if c.tls.inHandler() {
		return total, ErrReentrant
	}
	if c.end.begun() {
		return total, ErrClosed
	}
	w := &c.write
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.flush(); err != nil {
		return total, c.end.closedError(err)
	}
	for len(p) > 0 {
		// Encrypted data counts as sent, so nothing is encrypted after the deadline.
		if d := w.deadline.Load(); d != 0 && sinceStart() >= d {
			return total, os.ErrDeadlineExceeded
		}
		n, err := c.encrypt(p[:min(len(p), maxWrite)])
		total += n
		p = p[n:]
		if err == nil {
			err = c.flush()
		}
		if err != nil {
			return total, c.end.closedError(err)
		}
	}
	return total, nil
}

// encrypt makes ciphertext of p. If OpenSSL asks for input first, which a renegotiation does, it reads.
func (c *Conn) encrypt(p []byte) (int, error) {
	s := c.tls.write(p, nil)
	c.closeIfPostponed()
	if s.err != nil || s.code != C.SSL_ERROR_WANT_READ {
		return s.written()
	}
	r := &c.read
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := c.flush(); err != nil {
			return 0, err
		}
		if r.in.Pending() == nil {
			if err := r.in.Fill(c.nc); err != nil {
				return 0, err
			}
		}
		s = c.tls.write(p, r.in.Pending())
		r.in.Taken(s.taken)
		c.closeIfPostponed()
		if s.err != nil || s.code != C.SSL_ERROR_WANT_READ {
			return s.written()
		}
	}
}

// written is the result of a write that needs no input.
func (s stepped) written() (int, error) {
	if s.err == nil && s.code != C.SSL_ERROR_NONE {
		return 0, &Error{Op: "write", Code: int(s.code)}
	}
	return s.n, s.err
}

// ---- the end ---------------------------------------------------------------------------

// closeState is how the connection is to end.
type closeState struct {
	how       atomic.Uint32 // one of the constants below
	postponed atomic.Bool   // a handler closed: the goroutine that made the step finishes
}

const (
	closeNone = iota
	closeQuietly
	closeAbort
	closeAbandoned // by engine.abandoned: nothing is left to close
)

// begun reports whether the connection is being closed. Its last calls into OpenSSL may run a remove handler with the locks
// of Read and Handshake held, so nothing new may wait for these.
func (e *closeState) begun() bool {
	how := e.how.Load()
	return how == closeQuietly || how == closeAbort
}

// closedError is ErrClosed in place of an error that the connection's own Close causes.
func (e *closeState) closedError(err error) error {
	// A Close that sends its close_notify ends the writing side first.
	if e.how.Load() != closeNone && (errors.Is(err, net.ErrClosed) || err == errHalfClosed) {
		return ErrClosed
	}
	return err
}

var errEarlyCloseWrite = errors.New("libssl: CloseWrite before the handshake is complete")

// CloseWrite sends close_notify: the peer reads io.EOF, and this side can go on reading. Corresponds to SSL_shutdown(3),
// called once.
func (c *Conn) CloseWrite() error {
	if !c.hs.complete() {
		return errEarlyCloseWrite
	}
	if c.tls.inHandler() {
		return ErrReentrant
	}
	if c.end.begun() {
		return ErrClosed
	}
	c.write.mu.Lock()
	defer c.write.mu.Unlock()
	if err := c.tls.closeNotify(); err != nil {
		return err
	}
	return c.flush()
}

const (
	closeNotifyTimeout = 5 * time.Second // crypto/tls has the same
	drainTimeout       = 100 * time.Millisecond
	maxDrain           = 1 << 20
)

// Close ends the connection. It sends close_notify unless a Write is blocked, and then reads and drops, for at most 100 ms
// and up to 1 MiB, what the peer has sent. A socket that is closed with unread data, such as TLS 1.3 tickets, is reset, and
// the peer loses what it has not read: so also after a failure, the alert. Close marks the shutdown, so the session stays resumable. From a handler it takes effect when the
// handler has returned. Corresponds to SSL_shutdown(3) and SSL_free(3).
func (c *Conn) Close() error { return c.close(closeQuietly) }

// Abort ends the connection as a broken peer would: without a close_notify, and OpenSSL drops the session and calls the
// remove handler, internal cache or not. Corresponds to SSL_free(3) alone.
func (c *Conn) Abort() error { return c.close(closeAbort) }

func (c *Conn) close(how uint32) error {
	if !c.end.how.CompareAndSwap(closeNone, how) {
		return ErrClosed
	}
	if c.tls.handlers.Load() > 0 {
		c.end.postponed.Store(true)
		// The handler may have ended between the two.
		if c.tls.handlers.Load() > 0 || !c.end.postponed.CompareAndSwap(true, false) {
			return nil
		}
	}
	return c.finish()
}

// closeIfPostponed is called after every step, outside the locks of the engine and the Writer.
func (c *Conn) closeIfPostponed() {
	if c.end.postponed.Load() && c.end.postponed.CompareAndSwap(true, false) {
		c.finish()
	}
}

func (c *Conn) finish() error {
	quietly := c.end.how.Load() == closeQuietly
	abort := C.int(1)
	if quietly {
		abort = 0
	}
	if giveUp := c.hs.giveUp.Load(); giveUp != nil {
		(*giveUp)(ErrClosed)
	}
	if quietly && c.write.mu.TryLock() {
		c.sayGoodbye()
		c.write.mu.Unlock()
	}
	err := c.nc.Close()
	c.tls.free(abort)
	if c.read.mu.TryLock() { // or a reader still needs the input
		c.read.in.Discard()
		c.read.mu.Unlock()
	}
	if c.hs.mu.TryLock() { // or the handshake under way ends its visit
		c.endOffer()
		c.tls.endVisit(context.Background(), ending{complete: c.hs.complete(), took: c.hs.took})
		c.hs.mu.Unlock()
	}
	return err
}

// sayGoodbye sends close_notify and drains. After a failure it sends what is left of the alert, and drains where the peer
// may be sending: a client that has had no answer to its ClientHello waits for one. The write side is locked.
func (c *Conn) sayGoodbye() {
	stage, failed := c.hs.stage.Load(), c.tls.failed()
	if stage == handshakeNew || stage == handshakeAnswered && !failed {
		return
	}
	// The deadline is also for a goroutine that is sending tickets, or a reader's answer.
	c.nc.SetWriteDeadline(time.Now().Add(closeNotifyTimeout))
	if c.write.out.FlushLast(c.nc, &c.tls, func() { c.tls.closeNotify() }) != nil {
		return
	}
	// Nothing is drained while a reader reads, or after the end was read.
	if !c.read.mu.TryLock() {
		return
	}
	defer c.read.mu.Unlock()
	if failed || c.read.err == nil {
		wire.Drain(c.nc, drainTimeout, maxDrain)
	}
}
