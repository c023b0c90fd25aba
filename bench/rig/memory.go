package rig

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeLimit is how much one direction of a Pipe holds before Write waits.
const pipeLimit = 256 << 10

// Pipe is a connection in memory with a buffer in each direction. net.Pipe has none, so every
// write there waits for its reader, and the goroutine switches would be what is measured.
// Its buffers, and the Pipe itself, can be used again: see Reset.
type Pipe struct {
	up, down       flow
	client, server pipeEnd
}

// NewPipe returns an open pipe.
func NewPipe() *Pipe {
	p := new(Pipe)
	p.up.wake.L, p.down.wake.L = &p.up.mu, &p.down.mu
	p.client = pipeEnd{in: &p.down, out: &p.up}
	p.server = pipeEnd{in: &p.up, out: &p.down}
	return p
}

// Client and Server return the two ends.
func (p *Pipe) Client() net.Conn { return &p.client }
func (p *Pipe) Server() net.Conn { return &p.server }

// Reset opens a pipe again after both ends are done with it.
func (p *Pipe) Reset() {
	p.up.reset()
	p.down.reset()
}

// flow is one direction.
type flow struct {
	mu       sync.Mutex
	wake     sync.Cond
	buf      []byte
	from     int
	deaf     bool // the reader closed: what is written is dropped, as TCP does with it at first
	ended    bool // the writer closed: the reader gets io.EOF when the buffer is empty
	deadline [2]deadline
}

// The two deadlines of a flow.
const (
	reading = iota
	writing
)

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (f *flow) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf, f.from, f.deaf, f.ended = f.buf[:0], 0, false, false
	for i := range f.deadline {
		f.set(&f.deadline[i], time.Time{})
	}
}

// set needs f.mu. A timer that fires late finds the deadline moved; the goroutines it wakes wait again.
func (f *flow) set(d *deadline, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at = t
	if !t.IsZero() {
		if d.timer == nil {
			d.timer = time.AfterFunc(time.Until(t), f.wakeAll)
		} else {
			d.timer.Reset(time.Until(t))
		}
	}
	f.wake.Broadcast()
}

// wakeAll takes the lock, lest a goroutine between its check and its Wait miss the call.
func (f *flow) wakeAll() {
	f.mu.Lock()
	f.wake.Broadcast()
	f.mu.Unlock()
}

func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.from == len(f.buf) {
		switch {
		case f.deaf:
			return 0, net.ErrClosed
		case f.ended:
			return 0, io.EOF
		case f.deadline[reading].passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		f.wake.Wait()
	}
	n := copy(p, f.buf[f.from:])
	f.from += n
	if f.from == len(f.buf) {
		f.buf, f.from = f.buf[:0], 0
		f.wake.Broadcast()
	}
	return n, nil
}

func (f *flow) write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.buf) >= pipeLimit && !f.deaf && !f.ended {
		if f.deadline[writing].passed() {
			return 0, os.ErrDeadlineExceeded
		}
		f.wake.Wait()
	}
	switch {
	case f.ended:
		return 0, net.ErrClosed
	case f.deaf:
		return len(p), nil
	}
	f.buf = append(f.buf, p...)
	f.wake.Broadcast()
	return len(p), nil
}

func (f *flow) close(reader bool) {
	f.mu.Lock()
	if reader {
		f.deaf = true
	} else {
		f.ended = true
	}
	f.wake.Broadcast()
	f.mu.Unlock()
}

func (f *flow) setDeadline(which int, t time.Time) {
	f.mu.Lock()
	f.set(&f.deadline[which], t)
	f.mu.Unlock()
}

type pipeEnd struct{ in, out *flow }

func (e *pipeEnd) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e *pipeEnd) Write(p []byte) (int, error) { return e.out.write(p) }

func (e *pipeEnd) Close() error {
	e.in.close(true)
	e.out.close(false)
	return nil
}

func (e *pipeEnd) SetDeadline(t time.Time) error {
	e.in.setDeadline(reading, t)
	e.out.setDeadline(writing, t)
	return nil
}

func (e *pipeEnd) SetReadDeadline(t time.Time) error {
	e.in.setDeadline(reading, t)
	return nil
}

func (e *pipeEnd) SetWriteDeadline(t time.Time) error {
	e.out.setDeadline(writing, t)
	return nil
}

func (e *pipeEnd) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *pipeEnd) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
