package servertest

import (
	"crypto/rand"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is the network between a server and its clients, which a test can disturb. It serves until the test ends.
type Proxy struct {
	Addr string // to connect to, the same all the time

	t       testing.TB
	to      string
	running sync.WaitGroup

	mu       sync.Mutex
	changed  sync.Cond
	listener net.Listener // nil while it refuses
	conns    map[net.Conn]bool
	silent   bool
	garbles  bool
	delay    time.Duration
}

// NewProxy starts a proxy to a server.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	p := &Proxy{Addr: FreeAddr(t), t: t, to: to, conns: map[net.Conn]bool{}}
	p.changed.L = &p.mu
	p.listen()
	t.Cleanup(func() {
		p.Refuse()
		p.running.Wait()
	})
	return p
}

// Pass lets everything through. Data that Drop held back arrives, as TCP sends lost data again.
func (p *Proxy) Pass() {
	p.t.Helper()
	p.listen()
	p.set(func() { p.silent, p.garbles, p.delay = false, false, 0 })
}

// Delay has the server's answers arrive so much later. They don't wait for each other.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Garble replaces the server's answers by as many random bytes.
func (p *Proxy) Garble() { p.set(func() { p.garbles = true }) }

// Drop silently drops all data. It cannot keep the system from accepting new connections.
func (p *Proxy) Drop() { p.set(func() { p.silent = true }) }

// Refuse breaks the connections there are and takes no new ones.
func (p *Proxy) Refuse() {
	p.set(func() {
		p.silent = false
		if p.listener != nil {
			p.listener.Close()
			p.listener = nil
		}
		for nc := range p.conns {
			nc.(*net.TCPConn).SetLinger(0) // so that Close resets
		}
		for nc := range p.conns { // only now: the end of one has the proxy's goroutines close the other
			nc.Close()
		}
	})
}

func (p *Proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.changed.Broadcast()
}

func (p *Proxy) listen() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return
	}
	l, err := net.Listen("tcp", p.Addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.listener = l
	p.running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.carry(nc) })
		}
	})
}

// track has Refuse close nc. It returns false once the proxy refuses.
func (p *Proxy) track(nc net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		nc.Close()
		return false
	}
	p.conns[nc] = true
	return true
}

func (p *Proxy) drop(nc net.Conn) {
	nc.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, nc)
}

// audible waits until something gets through.
func (p *Proxy) audible() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.silent {
		p.changed.Wait()
	}
}

// part is some bytes on their way.
type part struct {
	at time.Time
	b  []byte
}

func (p *Proxy) carry(client net.Conn) {
	if !p.track(client) {
		return
	}
	defer p.drop(client)
	p.audible()
	server, err := net.Dial("tcp", p.to)
	if err != nil || !p.track(server) {
		return
	}
	defer p.drop(server)

	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() {
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			p.audible()
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	parts := make(chan part, 1024)
	both.Go(func() {
		defer client.Close()
		for part := range parts {
			time.Sleep(time.Until(part.at))
			p.audible()
			client.Write(part.b) // if that fails the reading side will too
		}
	})
	defer close(parts)
	for {
		b := make([]byte, 64<<10)
		n, err := server.Read(b)
		if err != nil {
			return
		}
		b = b[:n]
		p.mu.Lock()
		if p.garbles {
			rand.Read(b)
		}
		at := time.Now().Add(p.delay)
		p.mu.Unlock()
		parts <- part{at, b}
	}
}
