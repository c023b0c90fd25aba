package conformance

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
)

// ---- F3.6, F3.8 -------------------------------------------------------------------------------

// askForLock has the next remove ask whether the server's lock is held.
func (l *lab) askForLock() (answer func() string) {
	text := "not called"
	l.onRemove = func(*libssl.Context, *libssl.Session) {
		if text != "not called" {
			return
		}
		text = noLock
		if l.lockHeld(l.server) {
			text = lockHeld
		}
	}
	return func() string { return text }
}

func removeLocks(o *observer) {
	for _, c := range []struct {
		name    string
		trigger func(l *lab, s []*libssl.Session)
	}{{"flush", flushIt}, {"eviction", evictIt}, {"asked for", removeIt}} {
		l, s := o.stage(tls12, 2)
		answer := l.askForLock()
		c.trigger(l, s)
		o.say(c.name, "%s", answer())
	}

	l := o.lab(tls12)
	l.store()
	_, offer := l.mustVisit(l.server, nil)
	l.expireEntries()
	answer := l.askForLock()
	l.mustVisit(l.server, offer)
	o.say("expired at lookup, 1.2", "%s", answer())
	for _, end := range uncleanEnds {
		answer := l.askForLock()
		k := l.runLink(nil)
		end.how(k)
		k.closeUnclean()
		o.say(end.name, "%s", answer())
	}

	l = o.lab(tls13)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	o.must(l.server.SetMaxEarlyData(1024))
	_, offer = l.mustVisit(l.server, nil)
	answer = l.askForLock()
	l.mustVisit(l.server, offer)
	o.say("replay protection, 1.3", "%s", answer())
}

func noInternalStore(o *observer) {
	l := o.lab(tls12)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternalStore)
	l.server.SetSessionCacheSize(1)
	var made *libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { made = o.decode(s) }
	for range 3 {
		l.mustVisit(l.server, nil)
	}
	l.onNew = nil
	o.say("3 sessions, cache of 1", "new %d, cached %d, remove %d", l.news, l.server.Stats().Number, l.removes)
	l.flush()
	o.say("flush", "remove %d", l.removes)

	answer := l.askForLock()
	l.runLink(nil).closeUnclean()
	o.say("freed without close_notify", "remove %d, %s", l.removes, answer())
	l.reset()
	answer = l.askForLock()
	l.remove(made)
	o.say("asked for", "remove %d, %s", l.removes, answer())
	_, offer := l.mustVisit(l.server, nil)
	l.expireEntries()
	l.reset()
	answer = l.askForLock()
	l.mustVisit(l.server, offer)
	o.say("expired at lookup, 1.2", "remove %d, %s", l.removes, answer())

	l.reset()
	o.must(l.server.Close())
	o.say("context freed", "remove %d", l.removes)
}

// ---- F3.7 -----------------------------------------------------------------------------------------

func reinsertion(o *observer) {
	const n = 5
	l, s := o.stage(tls12, n)
	for _, s := range s[:n-1] {
		l.add(s)
	}
	text := ""
	l.onRemove = func(ctx *libssl.Context, seen *libssl.Session) {
		if text != "" {
			return
		}
		text = "refused"
		for _, s := range s[:n-1] {
			if s.Pointer() == seen.Pointer() {
				continue
			}
			added, err := ctx.AddSession(s)
			switch {
			case err != nil:
				text = outcome(added, err)
			case added:
				text = "accepted"
			}
		}
	}
	l.server.SetSessionCacheSize(1) // so that the next one evicts all of them
	l.add(s[n-1])
	o.say("re-insertion from remove", "%s", text)
}

func insertShared(o *observer) {
	const n = 8
	l, s := o.stage(tls12, n)
	l.server.SetSessRemoveCallback(nil)
	l.server.SetSessionCacheSize(3)
	until := time.Now().Add(400 * time.Millisecond)
	var all sync.WaitGroup
	var failed atomic.Int64
	for i := range 4 {
		all.Go(func() {
			for seed := uint32(i + 1); time.Now().Before(until); {
				seed = seed*1664525 + 1013904223
				if _, err := l.server.AddSession(s[seed>>16%n]); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if failed.Load() > 0 {
		o.say("four threads insert shared sessions", "%d errors", failed.Load())
		return
	}
	o.say("four threads insert shared sessions", "sound")
}

// ---- F3.9 -----------------------------------------------------------------------------------------

// reenter has the first remove call back.
func (l *lab) reenter(what string, other *libssl.Session) (text func() string) {
	said := ""
	l.onRemove = func(ctx *libssl.Context, _ *libssl.Session) {
		if said != "" {
			return
		}
		said = "under way"
		switch what {
		case "add":
			said = outcome(ctx.AddSession(other))
		case "remove":
			said = outcome(ctx.RemoveSession(other))
		default:
			before := l.removes
			err := ctx.FlushSessions(time.Time{})
			said = outcome(l.removes > before, err)
		}
	}
	return func() string { return said }
}

func reentry(o *observer) {
	calls := []string{"add", "remove", "flush"}
	var inFlush []string
	for _, what := range calls {
		l, s := o.stage(tls12, 2)
		o.must(s[0].SetTime(longAgo()))
		l.add(s[0])
		if what != "add" {
			l.add(s[1])
		}
		text := l.reenter(what, s[1])
		o.must(l.server.FlushSessions(time.Now())) // the first alone
		inFlush = append(inFlush, what+" "+text())
		l.onRemove = nil
	}
	o.say("calls in a flush", "%s", strings.Join(inFlush, ", "))

	l, s := o.stage(tls12, 2)
	l.add(s[0])
	l.onRemove = func(ctx *libssl.Context, s *libssl.Session) { callTheHarmless(o, ctx, s) }
	l.flush()

	for _, what := range calls {
		l.onRemove = nil
		l.flush()
		if what != "add" {
			l.add(s[1])
		}
		l.reset()
		text := l.reenter(what, s[1])
		l.remove(s[0])
		o.say(what+" in a removal", "%s", text())
	}
	l.reset()
	var again string
	l.onRemove = func(ctx *libssl.Context, s *libssl.Session) {
		if l.removes == 1 {
			again = outcome(ctx.RemoveSession(s))
		}
	}
	l.remove(s[0])
	o.say("the same session removed in its removal", "remove %d, %s", l.removes, again)
}

func callTheHarmless(o *observer, ctx *libssl.Context, s *libssl.Session) {
	number := ctx.Stats().Number
	der, _ := s.MarshalBinary()
	dup, dupErr := s.Dup()
	ref, refErr := s.Retain()
	pipe, other := net.Pipe()
	other.Close()
	conn, connErr := libssl.Server(pipe, ctx)
	timeoutErr := s.SetTimeout(77 * time.Second)
	o.say("harmless calls in a flush", "count %s, encode %s, duplicate %s, retain %s, new connection %s, set timeout %s",
		yes(number == 0), yes(len(der) > 0), yes(dupErr == nil), yes(refErr == nil), yes(connErr == nil),
		yes(timeoutErr == nil && s.Timeout() == 77*time.Second))
	if connErr == nil {
		conn.Abort()
	}
	dup.Release()
	ref.Release()
}
