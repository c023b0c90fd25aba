package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
)

// silent is what clients that connect and say nothing do to a Listener.
type silent struct {
	Each   measured // KB resident
	Beside measured // p99 of the handshakes of other clients, against the same without silent ones
	Gone   measured // seconds after HandshakeTimeout until the last is gone
}

// silentRow is one figure of a run that all its rows share.
func (s *session) silentRow(of func(silent) measured) func() (measured, error) {
	return func() (measured, error) {
		all, err := s.silent()
		return of(all), err
	}
}

const (
	silentClients = 10_000
	silentTimeout = 10 * time.Second
	goodClients   = 500 // behind each p99
)

// silentListener is a Listener that the clients of another process meet.
type silentListener struct {
	*libssl.Listener
	clients *rig.CoProcess
	gone    atomic.Int64 // clients
	last    atomic.Int64 // when, in ns
}

func newSilentListener() (*silentListener, error) {
	cert, key, err := certificate()
	if err != nil {
		return nil, err
	}
	ctx, _, err := libsslContexts("full13", cert, key)
	if err != nil {
		return nil, err
	}
	l := &silentListener{}
	if l.Listener, err = libssl.Listen("tcp", "127.0.0.1:0", ctx); err != nil {
		return nil, err
	}
	l.HandshakeTimeout, l.MaxHandshakes = silentTimeout, 2*silentClients
	l.OnHandshakeError = func(net.Addr, error) {
		l.last.Store(time.Now().UnixNano())
		l.gone.Add(1)
	}
	self, err := os.Executable()
	if err == nil {
		l.clients, err = rig.StartCoProcess(self, []string{"child", "silent-client", l.Addr().String()}, nil)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go l.serve()
	return l, nil
}

func (l *silentListener) serve() {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			c.Write(oneByte) // the client complains
			c.Close()
		}()
	}
}

func silentServer() (all silent, err error) {
	l, err := newSilentListener()
	if err != nil {
		return all, err
	}
	defer l.Close()
	defer l.clients.Close()
	alone, err := l.handshakes()
	if err != nil {
		return all, err
	}
	before, err := resident()
	if err != nil {
		return all, err
	}
	if _, err := l.clients.Ask("connect"); err != nil {
		return all, err
	}
	connected := time.Now()
	for runtime.NumGoroutine() < silentClients { // one for each handshake
		time.Sleep(time.Millisecond)
	}
	after, err := resident()
	if err != nil {
		return all, err
	}
	beside, err := l.handshakes()
	if err != nil {
		return all, err
	}
	if n := l.gone.Load(); n > 0 {
		return all, fmt.Errorf("%d silent clients were gone before the handshakes beside them were done", n)
	}
	for l.gone.Load() < silentClients {
		if time.Since(connected) > 2*silentTimeout {
			return all, fmt.Errorf("%d silent clients were never told off", silentClients-l.gone.Load())
		}
		time.Sleep(time.Millisecond)
	}
	overdue := time.Unix(0, l.last.Load()).Sub(connected.Add(silentTimeout)).Seconds()
	return silent{
		Each:   exactly((after-before)/silentClients, fmt.Sprintf("%d clients", silentClients)),
		Beside: exactly(beside/alone, fmt.Sprintf("%.2f : %.2f ms", beside, alone)),
		Gone:   exactly(max(overdue, 0), ""),
	}, nil
}

// resident is the memory of this process in KB.
func resident() (float64, error) {
	debug.FreeOSMemory()
	return procStatus("VmRSS")
}

// handshakes has the clients make some, and returns their p99 in milliseconds.
func (l *silentListener) handshakes() (float64, error) {
	answer, err := l.clients.Ask("handshakes")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(answer, 64)
}

// silentClient connects and says nothing, or makes handshakes and answers their p99 in milliseconds.
func silentClient(addr string) error {
	var held []net.Conn
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "connect":
			for range silentClients {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return err
				}
				held = append(held, c)
			}
			fmt.Println(len(held))
		case "handshakes":
			took := make([]time.Duration, goodClients)
			for i := range took {
				begun := time.Now()
				c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
				if err != nil {
					return err
				}
				took[i] = time.Since(begun)
				c.Close()
			}
			slices.Sort(took)
			fmt.Println(took[goodClients*99/100].Seconds() * 1000)
		default:
			return errors.New("what is " + lines.Text() + "?")
		}
	}
	return nil
}
