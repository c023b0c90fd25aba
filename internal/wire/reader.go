package wire

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// maxEmptyReads is how many reads in a row may bring neither data nor an error before the connection counts as broken. A
// single one is ordinary: an empty Write into a net.Pipe is such a Read at its other end.
const maxEmptyReads = 100

// Reader reads ciphertext. It is for one goroutine at a time.
type Reader struct {
	in      *Buffer // read and not taken yet
	size    Size    // of the next read
	raw     syscall.RawConn
	rawRead func(fd uintptr) bool
	rawErr  error
	ahead   <-chan *Buffer // comes before all that r reads itself; nil without an Ahead
}

// Pending is the ciphertext that was read and not taken yet, nil if there is none.
func (r *Reader) Pending() []byte {
	if r.in == nil {
		return nil
	}
	return r.in.Data()
}

// Taken removes the first n bytes of Pending.
func (r *Reader) Taken(n int) {
	if r.in == nil {
		return
	}
	if r.in.Taken(n); r.in.Empty() {
		r.Discard()
	}
}

// Discard drops Pending.
func (r *Reader) Discard() {
	Put(r.in)
	r.in = nil
}

// Begin makes p, which was read before, the first that is Pending.
func (r *Reader) Begin(p []byte) { r.in = Of(p) }

// Fill waits for input; Pending must be empty. While a plain socket is idle it holds no buffer; other connections hold a
// small one.
func (r *Reader) Fill(nc net.Conn) error {
	if r.ahead != nil {
		if r.in = <-r.ahead; r.in != nil {
			return nil
		}
		r.ahead = nil // its error comes back with a read of our own
	}
	if r.rawRead == nil && !r.useDescriptor(nc) {
		b := Get(r.size)
		n, err := readSome(nc, b.b)
		return r.filled(b, n, err)
	}
	if err := r.raw.Read(r.rawRead); err != nil {
		return err
	}
	return r.rawErr
}

// FillArrived is Fill for what has arrived: it does not wait. Only a plain socket can tell what has. The end of the stream
// and errors are left to the next Fill.
func (r *Reader) FillArrived(nc net.Conn) {
	if r.ahead != nil {
		select {
		case r.in = <-r.ahead:
			if r.in != nil {
				return
			}
			r.ahead = nil
		default:
			return
		}
	}
	if r.rawRead != nil || r.useDescriptor(nc) {
		_ = r.raw.Control(func(fd uintptr) { r.rawRead(fd) })
	}
}

// readSome reads at least a byte, unless it fails.
func readSome(nc net.Conn, p []byte) (n int, err error) {
	for try := 0; n == 0 && err == nil && try < maxEmptyReads; try++ {
		n, err = nc.Read(p)
	}
	return n, err
}

// Ahead reads for a Reader that does something else meanwhile, so that the end of the stream is noticed early.
type Ahead struct {
	got  chan *Buffer
	over atomic.Bool
}

// maxAhead bounds what a peer can have read ahead, in small buffers.
const maxAhead = 4

// NewAhead returns an Ahead that has read nothing.
func NewAhead() *Ahead { return &Ahead{got: make(chan *Buffer, maxAhead)} }

// Read reads until that fails, the Reader follows, or enough was read. It is called once, on a goroutine of its own.
func (a *Ahead) Read(nc net.Conn) error {
	defer close(a.got)
	for range maxAhead {
		b := Get(Small)
		n, err := readSome(nc, b.b)
		if n > 0 {
			b.Filled(n)
			a.got <- b
		} else {
			Put(b)
		}
		if err != nil || n == 0 || a.over.Load() {
			return err
		}
	}
	return nil
}

// Follow makes the next Fill begin with what a has read, or is about to read.
func (r *Reader) Follow(a *Ahead) {
	a.over.Store(true)
	r.ahead = a.got
}

// useDescriptor prepares to read from a socket's descriptor. Only for the plain types: a type that embeds one may read
// something else.
func (r *Reader) useDescriptor(nc net.Conn) bool {
	var err error
	switch nc := nc.(type) {
	case *net.TCPConn:
		r.raw, err = nc.SyscallConn()
	case *net.UnixConn:
		r.raw, err = nc.SyscallConn()
	default:
		return false
	}
	if err != nil {
		return false
	}
	r.size = Record
	r.rawRead = func(fd uintptr) bool {
		b := Get(r.size)
		n, err := syscall.Read(int(fd), b.b)
		for err == syscall.EINTR {
			n, err = syscall.Read(int(fd), b.b)
		}
		if err == syscall.EAGAIN {
			Put(b)
			return false
		}
		if err != nil {
			err = &net.OpError{
				Op: "read", Net: nc.LocalAddr().Network(), Source: nc.LocalAddr(), Addr: nc.RemoteAddr(),
				Err: os.NewSyscallError("read", err),
			}
		} else if n == 0 {
			err = io.EOF
		}
		r.rawErr = r.filled(b, n, err)
		return true
	}
	return true
}

func (r *Reader) filled(b *Buffer, n int, err error) error {
	if n <= 0 {
		Put(b)
		if err == nil {
			return io.ErrNoProgress
		}
		return err
	}
	// Read more at once under load, and less again afterwards.
	if n == len(b.b) && r.size < Bulk {
		r.size++
	} else if n < len(b.b)/4 && r.size == Bulk {
		r.size--
	}
	b.Filled(n)
	r.in = b
	return nil // an error that came with data comes back with the next read
}

// Drain half-closes nc and reads to the end of its stream, for at most limit, and most bytes or a little more. Closing a
// socket that has unread input resets it, and the peer then loses what it has not read.
func Drain(nc net.Conn, limit time.Duration, most int) {
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || nc.SetReadDeadline(time.Now().Add(limit)) != nil {
		return
	}
	b := Get(Small)
	defer Put(b)
	for most > 0 {
		n, err := nc.Read(b.b)
		if err != nil {
			return
		}
		most -= n
	}
}
