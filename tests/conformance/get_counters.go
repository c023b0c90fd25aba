package conformance

import (
	"time"

	"github.com/libssl-go/libssl"
)

// ---- F2.16: counters ------------------------------------------------------------

func (o *observer) sayCounters(name, came string, ctx *libssl.Context) {
	s := ctx.Stats()
	o.say(name, "%s, hits %d, misses %d, callback hits %d, timeouts %d", came, s.Hits,
		s.Misses, s.CallbackHits, s.Timeouts)
}

func counters(o *observer) {
	for _, v := range bothVersions {
		for _, c := range []struct {
			name string
			mode libssl.CacheMode
			deaf bool
		}{
			{"answered, no internal lookup", external, false},
			{"answered after an internal miss", internal, false},
			{"not answered", internal, true},
		} {
			l, offer := o.labWithSession(v.version, c.mode)
			o.must(l.server.FlushSessions(time.Time{}))
			l.deaf = c.deaf
			k := l.open(l.server, "", offer)
			came := k.ranWell()
			k.closeClean()
			o.sayCounters(v.named(c.name), came, l.server)
		}
		for _, name := range []string{"other id context", "expired"} {
			m := o.meet(defectCalled(name), v)
			o.sayCounters(v.named(name), m.outcome, m.lab.server)
		}
		countSwitched(o, v)
	}
	m := o.meet(defectCalled("wrong secret"), bothVersions[0])
	o.sayCounters("1.2 wrong secret", m.outcome, m.lab.server)

	l := o.lab(tls12)
	l.store()
	l.server.SetSessionCacheMode(internal)
	l.server.SetSessionCacheSize(2)
	for range 4 {
		l.mustVisit(l.server, nil)
	}
	s := l.server.Stats()
	o.say("1.2 evictions", "4 sessions in a cache of 2, number %d, cache full %d", s.Number, s.CacheFull)
}

func countSwitched(o *observer, v protocolVersion) {
	l := o.lab(v.version)
	other := l.newServer()
	l.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return other })
	k := l.open(l.server, "other.test", nil)
	k.ranWell()
	k.closeClean()
	began, went := l.server.Stats(), other.Stats()
	o.say(v.named("switched by the hello callback"), "accept %d where it began and %d where it went, accept good %d and %d",
		began.Accept, went.Accept, began.AcceptGood, went.AcceptGood)
}
