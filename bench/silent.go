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

func silentServer() (silent, error) {
	cert, key, err := certificate()
	if err != nil {
		return silent{}, err
	}
	ctx, _, err := libsslContexts("full13", cert, key)
	if err != nil {
		return silent{}, err
	}
	var gone atomic.Int64
	var last atomic.Int64
	l, err := libssl.Listen("tcp", "127.0.0.1:0", ctx)
	if err != nil {
		return silent{}, err
	}
	defer l.Close()
	l.HandshakeTimeout, l.MaxHandshakes = silentTimeout, 2*silentClients
	l.OnHandshakeError = func(net.Addr, error) {
		last.Store(time.Now().UnixNano())
		gone.Add(1)
	}
	go func() {
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
	}()
	self, err := os.Executable()
	if err != nil {
		return silent{}, err
	}
	clients, err := rig.StartCoProcess(self, []string{"child", "silent-client", l.Addr().String()}, nil)
	if err != nil {
		return silent{}, err
	}
	defer clients.Close()
	alone, err := askMillis(clients, "handshakes")
	if err != nil {
		return silent{}, err
	}
	debug.FreeOSMemory()
	before, err := procStatus("VmRSS")
	if err != nil {
		return silent{}, err
	}
	if _, err := clients.Ask("connect"); err != nil {
		return silent{}, err
	}
	connected := time.Now()
	for runtime.NumGoroutine() < silentClients { // one for each handshake
		time.Sleep(time.Millisecond)
	}
	debug.FreeOSMemory()
	after, err := procStatus("VmRSS")
	if err != nil {
		return silent{}, err
	}
	beside, err := askMillis(clients, "handshakes")
	if err != nil {
		return silent{}, err
	}
	if n := gone.Load(); n > 0 {
		return silent{}, fmt.Errorf("%d silent clients were gone before the handshakes beside them were done", n)
	}
	for gone.Load() < silentClients {
		if time.Since(connected) > 2*silentTimeout {
			return silent{}, fmt.Errorf("%d silent clients were never told off", silentClients-gone.Load())
		}
		time.Sleep(time.Millisecond)
	}
	overdue := time.Unix(0, last.Load()).Sub(connected.Add(silentTimeout)).Seconds()
	return silent{
		Each:   exactly((after-before)/silentClients, fmt.Sprintf("%d clients", silentClients)),
		Beside: exactly(beside/alone, fmt.Sprintf("%.2f : %.2f ms", beside, alone)),
		Gone:   exactly(max(overdue, 0), ""),
	}, nil
}

func askMillis(p *rig.CoProcess, line string) (float64, error) {
	answer, err := p.Ask(line)
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
