package wire

import (
	"errors"
	"net"
	"sync"
)

// Source makes the ciphertext that a Writer sends.
type Source interface {
	// TakeOutput returns what was made since the last call, nil if nothing. The Writer puts it back into its pool.
	TakeOutput() *Buffer

	// HasOutput reports whether TakeOutput would return something.
	HasOutput() bool
}

// Writer sends ciphertext in the order in which it was made. It is safe for concurrent use.
// TakeOutput is called under its lock, HasOutput may be called beside it.
type Writer struct {
	mu      sync.Mutex // held while sending
	sending *Buffer    // partly sent
	err     error      // ended sending
}

// Flush sends all output of src, waiting for a goroutine that is sending already.
func (w *Writer) Flush(nc net.Conn, src Source) error {
	w.mu.Lock()
	return w.flush(nc, src)
}

// FlushUnlessBusy is Flush, but it leaves its output to a goroutine that is sending already: a reader must not wait behind
// a Write that is blocked.
func (w *Writer) FlushUnlessBusy(nc net.Conn, src Source) error {
	if !w.mu.TryLock() {
		return nil
	}
	return w.flush(nc, src)
}

// flush is entered with the lock held.
func (w *Writer) flush(nc net.Conn, src Source) error {
	for {
		err := w.send(nc, src)
		w.mu.Unlock()
		// Output may have been left to this goroutine after send looked last.
		if err != nil || !src.HasOutput() || !w.mu.TryLock() {
			return err
		}
	}
}

var errBehind = errors.New("libssl: earlier ciphertext was not sent")

// FlushLast sends the connection's last ciphertext, which make makes. It is an error if earlier ciphertext has timed out:
// waiting behind that is of no use.
func (w *Writer) FlushLast(nc net.Conn, src Source, make func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sending != nil || w.err != nil {
		return errBehind
	}
	make()
	return w.send(nc, src)
}

func (w *Writer) send(nc net.Conn, src Source) error {
	if w.err != nil {
		return w.err
	}
	for {
		if w.sending == nil {
			if w.sending = src.TakeOutput(); w.sending == nil {
				return nil
			}
		}
		n, err := nc.Write(w.sending.Data())
		w.sending.Taken(n)
		if err == nil || w.sending.Empty() { // a timeout may come after the last byte
			Put(w.sending)
			w.sending = nil
		}
		if err != nil {
			if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
				w.err = err
			}
			return err
		}
	}
}
