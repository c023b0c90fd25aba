// Package rig runs handshakes of any TLS implementation in the same way: so many in flight, over
// memory or loopback TCP, for so long, and says what CPU time they took. The programs that are
// compared with each other share it, each in a process of its own where that is needed.
package rig

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// Stack is one TLS implementation, set up for one kind of handshake.
//
// One handshake is: connect, handshake, one byte from server to client, close_notify both ways, all
// closed. Serve and what NewClient returns are the two halves of it.
type Stack struct {
	Serve func(nc net.Conn) error
	// NewClient returns the client half for one worker, which calls it for one connection after the
	// other. Where sessions are resumed its first call is a full handshake, and every later one
	// resumes that session and fails if the server did not.
	NewClient func() func(nc net.Conn) error
}

// Sample is what one run measured.
type Sample struct {
	N    int           // handshakes
	CPU  time.Duration // of the whole process, user and system
	Wall time.Duration
}

// Cost is the CPU time of one handshake in microseconds.
func (s Sample) Cost() float64 { return float64(s.CPU.Nanoseconds()) / 1e3 / float64(s.N) }

// Rate is handshakes per second of wall time.
func (s Sample) Rate() float64 { return float64(s.N) / s.Wall.Seconds() }

// CPUTime is what this process has used so far.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it has no way to fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Transport makes the connections of one worker, one at a time.
type Transport interface {
	Dial() (net.Conn, error)
	Accept() (net.Conn, error)
	Close() error
}

// Memory is a Transport that uses one Pipe again and again, so that none of the memory it needs is
// counted against what is measured.
func Memory() (Transport, error) {
	return &memory{pipe: NewPipe(), dialled: make(chan struct{})}, nil
}

type memory struct {
	pipe    *Pipe
	dialled chan struct{}
}

func (m *memory) Dial() (net.Conn, error) {
	m.pipe.Reset()
	m.dialled <- struct{}{}
	return m.pipe.Client(), nil
}

func (m *memory) Accept() (net.Conn, error) {
	if _, ok := <-m.dialled; !ok {
		return nil, net.ErrClosed
	}
	return m.pipe.Server(), nil
}

func (m *memory) Close() error {
	close(m.dialled)
	return nil
}

// TCP is a Transport over the loopback interface.
func TCP() (Transport, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return tcp{l}, err
}

type tcp struct{ net.Listener }

func (t tcp) Dial() (net.Conn, error) { return net.Dial("tcp", t.Addr().String()) }

// Rig keeps a number of handshakes in flight.
type Rig struct{ workers []*worker }

// New starts inFlight workers and lets each make two handshakes, so that all have their session and
// nothing is left to be set up.
func New(st Stack, inFlight int, transport func() (Transport, error)) (*Rig, error) {
	r := new(Rig)
	for range inFlight {
		t, err := transport()
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		w := &worker{transport: t, client: st.NewClient(), served: make(chan error)}
		r.workers = append(r.workers, w)
		go w.serve(st.Serve)
	}
	return r, r.each(func(w *worker) error { return errors.Join(w.handshake(), w.handshake()) })
}

// Run makes handshakes for d.
func (r *Rig) Run(d time.Duration) (Sample, error) {
	start, cpu := time.Now(), CPUTime()
	until := start.Add(d)
	counts := make(chan int, len(r.workers))
	err := r.each(func(w *worker) error {
		n := 0
		defer func() { counts <- n }()
		for n == 0 || time.Now().Before(until) {
			if err := w.handshake(); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	s := Sample{CPU: CPUTime() - cpu, Wall: time.Since(start)}
	for range r.workers {
		s.N += <-counts
	}
	return s, err
}

// Handshakes makes n handshakes, one after the other.
func (r *Rig) Handshakes(n int) error {
	for range n {
		if err := r.workers[0].handshake(); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the workers.
func (r *Rig) Close() error {
	var errs []error
	for _, w := range r.workers {
		errs = append(errs, w.transport.Close())
	}
	return errors.Join(errs...)
}

func (r *Rig) each(f func(*worker) error) error {
	errs := make([]error, len(r.workers))
	var wg sync.WaitGroup
	for i, w := range r.workers {
		wg.Go(func() { errs[i] = f(w) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one is enough: they tend to be the same
		}
	}
	return nil
}

// worker makes one handshake at a time; the server's half runs on a goroutine of its own.
type worker struct {
	transport Transport
	client    func(net.Conn) error
	served    chan error
}

func (w *worker) serve(half func(net.Conn) error) {
	for {
		nc, err := w.transport.Accept()
		if err != nil {
			return
		}
		err = half(nc)
		if err != nil {
			nc.Close() // or the client would wait for ever
			err = fmt.Errorf("server: %w", err)
		}
		w.served <- err
	}
}

func (w *worker) handshake() error {
	nc, err := w.transport.Dial()
	if err != nil {
		return err
	}
	if err = w.client(nc); err != nil {
		nc.Close()
		err = fmt.Errorf("client: %w", err)
	}
	return errors.Join(err, <-w.served)
}
