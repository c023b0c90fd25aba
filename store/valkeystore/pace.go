package valkeystore

import (
	"errors"
	"net"
	"sync"
	"time"
)

// pace bounds how often sentinels are asked during an outage. When a sentinel answers and the server that it names does not,
// the client library begins one more goroutine that asks again, and each stays until the outage ends. Without a bound there
// were 400 after two seconds.
type pace struct {
	mu    sync.Mutex
	addrs map[string]*asking
}

// asking is what is known of the attempts to connect to one sentinel.
type asking struct {
	began, last time.Time // the outage, and the last attempt
	next        time.Time // none is let through before
}

const (
	// calm is for how long nothing was asked when an outage has ended.
	calm = time.Minute
	// minPause and maxPause bound the pause between two attempts, an eighth of the outage so far.
	minPause, maxPause = 200 * time.Millisecond, 30 * time.Second
	// maxSentinels bounds the addresses that are remembered.
	maxSentinels = 100
)

var errAskedBefore = errors.New("the sentinel was asked a moment ago")

// allow reports whether a sentinel may be asked now.
func (p *pace) allow(addr string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.addrs[addr]
	if a == nil || now.Sub(a.last) > calm {
		if p.addrs == nil || len(p.addrs) >= maxSentinels {
			p.addrs = map[string]*asking{}
		}
		a = &asking{began: now, next: now}
		p.addrs[addr] = a
	}
	a.last = now
	if now.Before(a.next) {
		return false
	}
	a.next = now.Add(min(max(now.Sub(a.began)/8, minPause), maxPause))
	return true
}

// sentinelResolver marks the net.Dialer of connections to sentinels. It is the usual resolver.
var sentinelResolver = new(net.Resolver)
