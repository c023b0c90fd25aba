package conformance

import (
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

	index := map[libssl.SessionID]int{}
	for i, s := range s { // the first expires first
		index[s.ID()] = i
		o.must(s.SetTime(time.Now().Add(time.Duration(10*i-100) * time.Second)))
	}
	var seen []int
	watch := func() {
		seen = nil
		l.onRemove = func(_ *libssl.Context, s *libssl.Session) { seen = append(seen, index[s.ID()]) }
	}
	l.server.SetSessionCacheSize(4)
	l.add(s[5])
	l.add(s[1])
	l.add(s[6])
	watch()
	l.add(s[7])
	if len(seen) == 0 { // where 4 means 4
		l.add(s[2])
	}
	victim := "another"
	switch {
	case len(seen) != 1:
		victim = "not one"
	case seen[0] == 5:
		victim = "inserted first"
	case seen[0] == 1:
		victim = "expires first"
	}
	o.say("victim", "%s", victim)
	l.onRemove = nil
	l.flush()

	l.server.SetSessionCacheSize(0)
	for _, i := range []int{3, 0, 6, 1, 7, 5, 2, 4} {
		l.add(s[i])
	}
	watch()
	l.flush()
	rising, falling := 0, 0
	for i := 1; i < len(seen); i++ {
		if seen[i] > seen[i-1] {
			rising++
		} else {
			falling++
		}
	}
	order := "another"
	switch {
	case falling == 0:
		order = "first to expire first"
	case rising == 0:
		order = "last to expire first"
	}
	o.say("order of a flush", "%s", order)

	l.onRemove = nil
	l.add(s[0])
	l.reset()
	o.must(l.server.FlushSessions(s[0].Expires()))
	o.say("flush at time and lifetime", "remove %d", l.removes)
	o.must(l.server.FlushSessions(s[0].Expires().Add(time.Second)))
	o.say("flush a second later", "remove %d", l.removes)
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
