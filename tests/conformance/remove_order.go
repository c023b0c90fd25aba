package conformance

import (
	"slices"
	"time"

	"github.com/libssl-go/libssl"
)

// ---- F3.10, F3.11 ---------------------------------------------------------------------------------

func orderAndAmount(o *observer) {
	const n = 8
	l, s := o.stage(tls12, n)
	o.say("default size", "%d", l.server.SetSessionCacheSize(0))
	var held []any
	for size := range 4 {
		l.server.SetSessionCacheSize(size)
		for _, s := range s {
			l.add(s)
		}
		held = append(held, l.server.Stats().Number)
		l.flush()
	}
	o.say("a size of 0, 1, 2, 3", "holds %d, %d, %d, %d of 8", held...)

	for i, s := range s { // the first expires first
		o.must(s.SetTime(time.Now().Add(time.Duration(10*i-100) * time.Second)))
	}
	o.say("victim", "%s", l.victim(s))
	o.say("order of a flush", "%s", l.flushOrder(s))

	l.add(s[0])
	l.reset()
	o.must(l.server.FlushSessions(s[0].Expires()))
	o.say("flush at time and lifetime", "remove %d", l.removes)
	o.must(l.server.FlushSessions(s[0].Expires().Add(time.Second)))
	o.say("flush a second later", "remove %d", l.removes)
}

// removedOf runs do and returns the sessions that remove was called with meanwhile, as indices of s.
func (l *lab) removedOf(s []*libssl.Session, do func()) (removed []int) {
	index := map[libssl.SessionID]int{}
	for i, s := range s {
		index[s.ID()] = i
	}
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) { removed = append(removed, index[s.ID()]) }
	do()
	l.onRemove = nil
	return removed
}

// victim tells which session a full cache evicts. Those in s expire in their order.
func (l *lab) victim(s []*libssl.Session) string {
	l.server.SetSessionCacheSize(4)
	l.add(s[5])
	l.add(s[1])
	l.add(s[6])
	evicted := l.removedOf(s, func() { l.add(s[7]) })
	if len(evicted) == 0 { // this release holds four where the size is 4
		evicted = l.removedOf(s, func() { l.add(s[2]) })
	}
	l.flush()
	switch {
	case len(evicted) != 1:
		return "not one"
	case evicted[0] == 5:
		return "inserted first"
	case evicted[0] == 1:
		return "expires first"
	}
	return "another"
}

// flushOrder tells in which order a flush removes sessions. Those in s expire in their order.
func (l *lab) flushOrder(s []*libssl.Session) string {
	l.server.SetSessionCacheSize(0)
	for _, i := range []int{3, 0, 6, 1, 7, 5, 2, 4} {
		l.add(s[i])
	}
	removed := l.removedOf(s, l.flush)
	switch {
	case slices.IsSorted(removed):
		return "first to expire first"
	case slices.IsSortedFunc(removed, func(a, b int) int { return b - a }):
		return "last to expire first"
	}
	return "another"
}

func automaticFlush(o *observer) {
	for _, switched := range []bool{false, true} {
		l, s := o.stage(tls12, 1)
		name := "none switched"
		if switched {
			name = "all switched to another context"
			other := l.newServer()
			l.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return other })
		}
		o.must(s[0].SetTime(longAgo()))
		l.add(s[0])
		answer := l.askForLock()
		at := l.flushedIn(260)
		if at == 0 {
			o.say(name, "an expired session stays in the cache")
		} else { // the handshake of stage was the context's first
			o.say(name, "an expired session leaves it in handshake %d, %s", at+1, answer())
		}
		l.onRemove = nil
	}
}

// flushedIn is the handshake in which a session that has expired leaves the cache, 0 if none of n is. All but the
// first resume, which is quick.
func (l *lab) flushedIn(n int) int {
	var offer *libssl.Session
	for i := 1; i <= n; i++ {
		k := l.open(l.server, "", offer)
		l.o.mustBe(k.run(), "a handshake")
		l.o.mustBe(k.resumed() == (i > 1), "a resumption")
		if i == 1 {
			offer = k.session()
		}
		k.closeClean()
		if l.removes > 0 {
			return i
		}
	}
	return 0
}
