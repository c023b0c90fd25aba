package conformance

import (
	"bytes"
	"sync/atomic"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F1.1, F1.2: when it runs -----------------------------------------------------

func whenNewRuns(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	k := l.open(l.server, "", nil)
	var asked atomic.Int64 // what had left the server when the client wrote last
	k.wire.clientHook = func(p []byte) []byte {
		asked.Store(k.wire.fromServer.Load())
		return p
	}
	written := false
	l.onNew = func(*libssl.SSL, *libssl.Session) { written = k.wire.fromServer.Load() > asked.Load() }
	o.mustBe(k.run(), "a handshake")
	k.closeClean()
	o.say("full handshake", "new %d, its flight was already written %s", l.news, yes(written))
}

// ---- F1.3: how many ---------------------------------------------------------------

func defaultTickets(o *observer) {
	l := o.lab(tls13)
	ctx := l.bareServer()
	l.storeOn(ctx)
	l.mustVisit(ctx, nil)
	o.say("1.3 default", "new %d", l.news)
}

func setTickets(o *observer, name string, tickets int) {
	l := o.lab(tls13)
	l.store()
	l.keep = true // or one object might come where another one was
	objects, ids := map[any]bool{}, map[libssl.SessionID]bool{}
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		objects[s.Pointer()], ids[s.ID()] = true, true
		o.atEnd(s.Release)
	}
	o.must(l.server.SetNumTickets(tickets))
	l.mustVisit(l.server, nil)
	o.say(name, "new %d, objects %d, ids %d", l.news, len(objects), len(ids))
}

func resumedTickets(o *observer, name string, version uint16, tickets int) {
	l := o.lab(version)
	l.store()
	_, session := l.mustVisit(l.server, nil)
	o.must(l.server.SetNumTickets(tickets))
	l.reset()
	resumed, _ := l.mustVisit(l.server, session)
	o.say(name, "resumed %s, new %d", yes(resumed), l.news)
}

// ---- F1.4, F1.5: tickets that hold the session ------------------------------------

func ticketsIn12(o *observer, name string, clientHas bool) {
	l := o.lab(tls12)
	l.store()
	l.server.ClearOptions(libssl.OpNoTicket)
	if !clientHas {
		l.client.SetOptions(libssl.OpNoTicket)
	}
	k := l.open(l.server, "", nil)
	o.mustBe(k.run(), "a handshake")
	served, err := k.server.Session()
	o.must(err)
	o.atEnd(served.Release)
	session := k.session()
	k.closeClean()
	resumed, _ := l.mustVisit(l.server, session)
	o.say(name, "new %d, id %d bytes, then get %d, resumed %s", l.news, len(served.ID().Bytes()), l.gets, yes(resumed))
}

func ticketsIn13(o *observer, name string, serverOption, clientOption bool) {
	l := o.lab(tls13)
	l.store()
	if !serverOption {
		l.server.ClearOptions(libssl.OpNoTicket)
	}
	if clientOption {
		l.client.SetOptions(libssl.OpNoTicket)
	}
	var id []byte
	hasTicket := false
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { id, hasTicket = s.ID().Bytes(), s.HasTicket() }
	_, session := l.mustVisit(l.server, nil)
	der, err := session.MarshalBinary()
	o.must(err)
	news := l.news
	l.onNew = nil
	resumed, _ := l.mustVisit(l.server, session)
	o.say(name, "new %d, id %d bytes, in the client's ticket %s, has ticket %s, then get %d, resumed %s", news, len(id),
		yes(bytes.Contains(der, id)), yes(hasTicket), l.gets, yes(resumed))
}

func ticketOfAnother(o *observer) {
	l := o.lab(tls13)
	other := l.newServer()
	for _, ctx := range []*libssl.Context{l.server, other} {
		l.storeOn(ctx)
		ctx.ClearOptions(libssl.OpNoTicket)
	}
	_, session := l.mustVisit(l.server, nil)
	resumed, _ := l.mustVisit(other, session)
	o.say("stateless, another server's key", "get %d, resumed %s", l.gets, yes(resumed))
}

// ---- F1.6, F1.7: what stops it ----------------------------------------------------

func cachedWith(o *observer, name string, version uint16, mode libssl.CacheMode) {
	l := o.lab(version)
	l.store()
	l.server.SetSessionCacheMode(mode)
	_, session := l.mustVisit(l.server, nil)
	news, may := l.news, session.Resumable()
	resumed, _ := l.mustVisit(l.server, session)
	o.say(versioned(version, name), "new %d, the client may come back %s, then get %d, resumed %s", news, yes(may),
		l.gets, yes(resumed))
}

func withoutContext(o *observer, version uint16) {
	l := o.lab(version)
	one, other := l.bareServer(), l.bareServer()
	l.storeOn(one)
	l.storeOn(other)
	_, session := l.mustVisit(one, nil)
	news := l.news
	resumed, _ := l.mustVisit(other, session)
	o.say(versioned(version, "no context"), "new %d, another application's server resumes it %s", news, yes(resumed))
}

func verifying(o *observer, name string, version uint16, context bool) {
	l := o.lab(version)
	ctx := l.server
	if !context {
		ctx = l.bareServer()
	}
	l.storeOn(ctx)
	o.must(ctx.SetVerify(libssl.VerifyPeer))
	_, session := l.mustVisit(ctx, nil)
	o.say(versioned(version, name), "new %d, the client may come back %s", l.news, yes(session.Resumable()))
}

// ---- F1.13: what remove costs -----------------------------------------------------

func cachedIn13(o *observer, name string, removing bool, early uint32, noTicket bool) {
	l := o.lab(tls13)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	if !removing {
		l.server.SetSessRemoveCallback(nil)
	}
	if !noTicket {
		l.server.ClearOptions(libssl.OpNoTicket)
	}
	o.must(cref.SetMaxEarlyData(l.server.Pointer(), early))
	l.mustVisit(l.server, nil)
	o.say(name, "new %d, cached %d", l.news, l.server.Stats().Number)
}
