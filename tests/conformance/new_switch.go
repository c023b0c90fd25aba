package conformance

import (
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F1.11: which SSL_CTX ---------------------------------------------------------

var switchCases = func() (cases []Case) {
	const why = "SSL.Context names the Context that the callbacks belong to"
	for _, version := range protocols {
		for _, how := range []struct{ name, context string }{{"servername", "first"}, {"hello", "second"}} {
			cases = append(cases, Case{
				Name: versioned(version, how.name),
				C: "new 1, get 1, remove 1 with the first, cached 1 and 0, id context the " + how.context +
					"'s, resumed yes",
			}, Case{
				Name: versioned(version, how.name+", current"), C: "second", Go: "first", Why: why,
			}, Case{
				Name: versioned(version, how.name+", the second's callbacks"), C: "new 0, get 0, remove 0",
			})
		}
	}
	return cases
}()

func afterSwitch(o *observer, version uint16, inHello, onSecond bool) {
	l := o.lab(version)
	second := l.newServer()
	o.must(second.SetSessionIDContext([]byte("second")))
	which := func(ctx *libssl.Context) string {
		return map[*libssl.Context]string{l.server: "first", second: "second"}[ctx]
	}
	name := "servername"
	if inHello {
		name = "hello"
		l.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return second })
	} else {
		// Go switches in the ClientHello only; C code may do otherwise on a Context's SSL_CTX.
		cref.SwitchOnName(l.server.Pointer(), second.Pointer())
	}
	for _, ctx := range []*libssl.Context{l.server, second} {
		ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternalLookup)
	}
	if onSecond {
		l.storeOn(second)
	} else {
		l.store()
	}
	var current *libssl.Context
	var context string
	l.onNew = func(ssl *libssl.SSL, s *libssl.Session) {
		current = ssl.Context()
		if context = "first"; string(s.IDContext()) == "second" {
			context = "second"
		}
	}
	removed := 0
	l.onRemove = func(ctx *libssl.Context, _ *libssl.Session) {
		if ctx == l.server {
			removed++
		}
	}
	k := l.open(l.server, "server.test", nil)
	o.mustBe(k.run(), "a handshake")
	session := k.session()
	k.closeClean()
	news, cached := l.news, []int{l.server.Stats().Number, second.Stats().Number}
	o.must(l.server.FlushSessions(time.Time{}))
	k = l.open(l.server, "server.test", session)
	o.mustBe(k.run(), "a handshake")
	resumed := k.resumed()
	k.closeClean()
	if onSecond {
		o.say(versioned(version, name+", the second's callbacks"), "new %d, get %d, remove %d", news, l.gets, l.removes)
		return
	}
	o.say(versioned(version, name),
		"new %d, get %d, remove %d with the first, cached %d and %d, id context the %s's, resumed %s", news, l.gets,
		removed, cached[0], cached[1], context, yes(resumed))
	o.say(versioned(version, name+", current"), "%s", which(current))
}

// ---- F1.12: renegotiation ---------------------------------------------------------

// renegotiating has the SSLs made and driven by C, which alone renegotiates, and the callbacks in Go.
func renegotiating(o *observer, name string, noResumption bool) {
	l := o.lab(tls12)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	l.server.ClearOptions(libssl.OpNoRenegotiation)
	l.client.ClearOptions(libssl.OpNoRenegotiation)
	if noResumption {
		l.server.SetOptions(libssl.OpNoSessionResumptionOnRenegotiation)
	}
	p, err := cref.NewPair(l.client.Pointer(), l.server.Pointer(), "", nil)
	o.must(err)
	o.atEnd(func() { p.Free(true) })
	id := func() libssl.SessionID {
		s, err := libssl.WrapSession(p.Session(), libssl.Transfer)
		o.must(err)
		defer s.Release()
		return s.ID()
	}
	o.mustBe(p.Run(), "a handshake")
	before := id()
	again := p.Renegotiate()
	o.say(name, "renegotiated %s, the same session %s, new %d in all", yes(again), yes(id() == before), l.news)
}
