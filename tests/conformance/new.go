package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

const storedFirst = "what a step produced leaves only after its new sessions are stored"

var newFacts = []Fact{
	{
		ID:   "F1.1",
		Says: "TLS 1.2 without tickets: new runs once a full handshake, after the server's Finished was written",
		Cases: []Case{{
			Name: "full handshake", C: "new 1, its flight was already written yes",
			Go: "new 1, its flight was already written no", Why: storedFirst,
		}},
		Go: func(o *observer) { whenNewRuns(o, tls12) },
	},
	{
		ID:   "F1.2",
		Says: "TLS 1.3: new runs once a ticket, while it is built and before its bytes are written",
		Cases: []Case{
			{Name: "full handshake", C: "new 1, its flight was already written no"},
			{Name: "state", C: "handshake finished no", Go: absent, Why: "Go has no SSL_is_init_finished"},
		},
		Go: func(o *observer) { whenNewRuns(o, tls13) },
	},
	{
		ID:   "F1.3",
		Says: "new runs once a ticket: 2 by default, 1 in a resumed TLS 1.3 handshake, none in a resumed TLS 1.2 one",
		Cases: []Case{
			{Name: "1.3 default", C: "new 2"},
			{Name: "1.3 none", C: "new 0, objects 0, ids 0"},
			{Name: "1.3 three", C: "new 3, objects 3, ids 3"},
			{Name: "1.3 resumed", C: "resumed yes, new 1"},
			{Name: "1.3 resumed, none", C: "resumed yes, new 0"},
			{Name: "1.2 resumed", C: "resumed yes, new 0"},
			{
				Name: "1.3 requested", C: "new 0 at the request, 1 with a handshake call, 2 with the next write",
				Go: absent, Why: "Go has no SSL_new_session_ticket", From: v30,
			},
		},
		Go: func(o *observer) {
			defaultTickets(o)
			setTickets(o, "1.3 none", 0)
			setTickets(o, "1.3 three", 3)
			resumedTickets(o, "1.3 resumed", tls13, 3)
			resumedTickets(o, "1.3 resumed, none", tls13, 0)
			resumedTickets(o, "1.2 resumed", tls12, 3)
		},
	},
	{
		ID:   "F1.4",
		Says: "TLS 1.2 with tickets on both ends: new is never called, the session has no id",
		Cases: []Case{
			{Name: "client with tickets", C: "new 0, id 0 bytes, then get 0, resumed yes"},
			{Name: "client without", C: "new 1, id 32 bytes, then get 1, resumed yes"},
		},
		Go: func(o *observer) {
			ticketsIn12(o, "client with tickets", true)
			ticketsIn12(o, "client without", false)
		},
	},
	{
		ID:   "F1.5",
		Says: "TLS 1.3 with stateless tickets: new is called with an id that no ticket holds and get is never asked for",
		Cases: []Case{
			{
				Name: "stateless",
				C:    "new 1, id 32 bytes, in the client's ticket no, has ticket no, then get 0, resumed yes",
			},
			{
				Name: "stateless, client with the option",
				C:    "new 1, id 32 bytes, in the client's ticket no, has ticket no, then get 0, resumed yes",
			},
			{
				Name: "stateful",
				C:    "new 1, id 32 bytes, in the client's ticket yes, has ticket no, then get 1, resumed yes",
			},
			{Name: "stateless, another server's key", C: "get 0, resumed no"},
		},
		Go: func(o *observer) {
			ticketsIn13(o, "stateless", false, false)
			ticketsIn13(o, "stateless, client with the option", false, true)
			ticketsIn13(o, "stateful", true, false)
			ticketOfAnother(o)
		},
	},
	{
		ID:   "F1.6",
		Says: "Cache modes without SERVER stop new, the NO_INTERNAL bits do not; TLS 1.3 still sends tickets then",
		Cases: []Case{
			{Name: "1.2 off", C: "new 0, the client may come back no, then get 0, resumed no"},
			{Name: "1.2 client", C: "new 0, the client may come back no, then get 0, resumed no"},
			{Name: "1.2 no internal store", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.2 no internal lookup", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.2 no internal", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.3 off", C: "new 0, the client may come back yes, then get 1, resumed no"},
			{Name: "1.3 client", C: "new 0, the client may come back yes, then get 1, resumed no"},
			{Name: "1.3 no internal store", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.3 no internal lookup", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.3 no internal", C: "new 1, the client may come back yes, then get 1, resumed yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				cachedWith(o, "off", v, libssl.CacheOff)
				cachedWith(o, "client", v, libssl.CacheClient)
				cachedWith(o, "no internal store", v, libssl.CacheServer|libssl.CacheNoInternalStore)
				cachedWith(o, "no internal lookup", v, libssl.CacheServer|libssl.CacheNoInternalLookup)
				cachedWith(o, "no internal", v, libssl.CacheServer|libssl.CacheNoInternal)
			}
		},
	},
	{
		ID:   "F1.7",
		Says: "Without an id context any application's sessions are good, and with VERIFY_PEER new is silently skipped",
		Cases: []Case{
			{Name: "1.2 no context", C: "new 1, another application's server resumes it yes"},
			{Name: "1.2 no context, VERIFY_PEER", C: "new 0, the client may come back yes"},
			{Name: "1.2 context, VERIFY_PEER", C: "new 1, the client may come back yes"},
			{Name: "1.3 no context", C: "new 2, another application's server resumes it yes"},
			{Name: "1.3 no context, VERIFY_PEER", C: "new 0, the client may come back yes"},
			{Name: "1.3 context, VERIFY_PEER", C: "new 1, the client may come back yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				withoutContext(o, v)
				verifying(o, "no context, VERIFY_PEER", v, false)
				verifying(o, "context, VERIFY_PEER", v, true)
			}
		},
	},
	{
		ID:   "F1.8",
		Says: "new gets the connection's own session, already cached, with a reference of its own and final serial form",
		Cases: []Case{
			{
				Name: "1.2 cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 1",
			},
			{
				Name: "1.2 references, cached",
				C:    "gone after the callback's no, the connection's no, a flush yes",
			},
			{
				Name: "1.2 not cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 0",
			},
			{
				Name: "1.2 references, not cached",
				C:    "gone after the callback's no, the connection's yes, a flush yes",
			},
			{
				Name: "1.2 serial form",
				C:    "final yes, key yes, time yes, lifetime 1234, ALPN h2, name server.test, early data 0",
			},
			{
				Name: "1.3 cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 1",
			},
			{
				Name: "1.3 references, cached",
				C:    "gone after the callback's no, the connection's no, a flush yes",
			},
			{
				Name: "1.3 not cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 0",
			},
			{
				Name: "1.3 references, not cached",
				C:    "gone after the callback's no, the connection's yes, a flush yes",
			},
			{
				Name: "1.3 serial form",
				C:    "final yes, key yes, time yes, lifetime 1234, ALPN h2, name server.test, early data 4096",
			},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				stateOfObject(o, v, "cached", libssl.CacheServer)
				stateOfObject(o, v, "not cached", libssl.CacheServer|libssl.CacheNoInternal)
				serialForm(o, v)
			}
		},
	},
	{
		ID:   "F1.9",
		Says: "What new returns is about its reference alone: 0 vetoes nothing; removing the session in there does",
		Cases: []Case{
			{Name: "1.2 returning 0", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.2 reference after 0", C: "objects left to the application 0, after its release 0"},
			{Name: "1.2 returning 1", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.2 reference after 1", C: "objects left to the application 1, after its release 0"},
			{Name: "1.2 removed in the callback", C: "cached 0, remove 1, then get 1, resumed no"},
			{Name: "1.3 returning 0", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.3 reference after 0", C: "objects left to the application 0, after its release 0"},
			{Name: "1.3 returning 1", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.3 reference after 1", C: "objects left to the application 1, after its release 0"},
			{Name: "1.3 removed in the callback", C: "cached 0, remove 1, then get 1, resumed no"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				returning(o, v, 0)
				returning(o, v, 1)
				vetoing(o, v)
			}
		},
	},
	{
		ID:   "F1.10",
		Says: "No lock is held while new runs",
		Cases: []Case{
			{Name: "1.2 lock", C: "held no, the session can be removed there yes"},
			{Name: "1.3 lock", C: "held no, the session can be removed there yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				lockDuringNew(o, v)
			}
		},
	},
	{
		ID:    "F1.11",
		Says:  "Callbacks, mode and cache are those of the SSL_CTX a connection was made with, also after a switch",
		Cases: switchCases,
		Go: func(o *observer) {
			for _, v := range protocols {
				for _, inHello := range []bool{false, true} {
					for _, onSecond := range []bool{false, true} {
						afterSwitch(o, v, inHello, onSecond)
					}
				}
			}
		},
	},
	{
		ID:   "F1.12",
		Says: "A renegotiation resumes the same session without a call, unless an option says otherwise",
		Cases: []Case{
			{Name: "by default", C: "renegotiated yes, the same session yes, new 1 in all"},
			{
				Name: "NO_SESSION_RESUMPTION_ON_RENEGOTIATION",
				C:    "renegotiated yes, the same session no, new 2 in all",
			},
		},
		Go: func(o *observer) {
			renegotiating(o, "by default", false)
			renegotiating(o, "NO_SESSION_RESUMPTION_ON_RENEGOTIATION", true)
		},
	},
	{
		ID:   "F1.13",
		Says: "Sessions of stateless TLS 1.3 tickets fill the internal cache only if a remove callback is set",
		Cases: []Case{
			{Name: "stateless, no remove callback", C: "new 1, cached 0"},
			{Name: "stateless, a remove callback", C: "new 1, cached 1"},
			{Name: "replay protection, no remove callback", C: "new 1, cached 1"},
			{Name: "NO_TICKET, no remove callback", C: "new 1, cached 1"},
		},
		Go: func(o *observer) {
			cachedIn13(o, "stateless, no remove callback", false, 0, false)
			cachedIn13(o, "stateless, a remove callback", true, 0, false)
			cachedIn13(o, "replay protection, no remove callback", false, 4096, false)
			cachedIn13(o, "NO_TICKET, no remove callback", false, 0, true)
		},
	},
	{
		ID:   "F1.14",
		Says: "A client in mode CLIENT: one call a full 1.2 handshake, one a 1.3 ticket read, none for a renewed 1.2 ticket",
		Cases: []Case{
			{Name: "1.2 mode SERVER", C: "new 0"},
			{Name: "1.2 server with NO_TICKET", C: "new 1 in the handshake, 0 while reading"},
			{Name: "1.2 server with tickets", C: "new 1 in the handshake, 0 while reading"},
			{
				// A 1.2 client sends this id in the ClientHello that offers the ticket, to see by the server's echo whether
				// the ticket was accepted.
				Name: "1.2 id with a ticket",
				C:    "32 bytes, the ticket's SHA-256 yes, resumed yes, sent for that yes",
			},
			{Name: "1.2 renewed ticket", C: "resumed yes, new 0, remove 1, the connection has another ticket yes"},
			{Name: "1.3 mode SERVER", C: "new 0"},
			{Name: "1.3 server with NO_TICKET", C: "new 0 in the handshake, 2 while reading"},
			{Name: "1.3 server with tickets", C: "new 0 in the handshake, 2 while reading"},
			{
				Name: "1.3 id with a ticket",
				C:    "32 bytes, the ticket's SHA-256 yes, resumed yes, sent for that no",
			},
			{Name: "1.3 renewed ticket", C: "resumed yes, new 1, remove 1, the connection has another ticket yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				clientByDefault(o, v)
				clientCalls(o, "server with NO_TICKET", v, false)
				clientCalls(o, "server with tickets", v, true)
				clientIDs(o, v)
				clientRenews(o, v)
			}
		},
	},
}

var protocols = []uint16{tls12, tls13}

// versioned is the name of a case that is shown for both versions.
func versioned(version uint16, name string) string {
	if version == tls13 {
		return "1.3 " + name
	}
	return "1.2 " + name
}

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

// untoldServer is a server that nobody told a number of tickets, nor an id context.
func (l *lab) untoldServer() *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	l.o.must(err)
	l.o.atEnd(func() { ctx.Close() })
	pem, err := cref.CertificatePEM()
	l.o.must(err)
	l.o.must(ctx.UseCertificatePEM(pem, pem))
	l.o.must(ctx.SetVersions(l.version, l.version))
	ctx.SetOptions(libssl.OpNoTicket)
	return ctx
}

func defaultTickets(o *observer) {
	l := o.lab(tls13)
	ctx := l.untoldServer()
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
	one, other := l.untoldServer(), l.untoldServer()
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
		ctx = l.untoldServer()
	}
	l.storeOn(ctx)
	o.must(ctx.SetVerify(libssl.VerifyPeer))
	_, session := l.mustVisit(ctx, nil)
	o.say(versioned(version, name), "new %d, the client may come back %s", l.news, yes(session.Resumable()))
}

// ---- F1.8: the object -------------------------------------------------------------

// stateOfObject gives the references back one after the other, to see who has any.
func stateOfObject(o *observer, version uint16, name string, mode libssl.CacheMode) {
	l := o.lab(version)
	l.store()
	l.server.SetSessionCacheMode(mode)
	l.keep = true
	var kept *libssl.Session
	own, cached := false, 0
	l.onNew = func(ssl *libssl.SSL, s *libssl.Session) {
		kept, cached = s, l.server.Stats().Number
		if current, err := ssl.Conn().Session(); err == nil {
			own = current.Pointer() == s.Pointer()
			current.Release()
		}
		o.say(versioned(version, name), "id %d bytes, id context set %s, resumable %s, the connection's %s, cached %d",
			len(s.ID().Bytes()), yes(string(s.IDContext()) == "conformance"), yes(s.Resumable()), yes(own), cached)
	}
	k := l.open(l.server, "", nil)
	o.mustBe(k.run(), "a handshake")
	k.session() // or the client's object would be counted too
	before := cref.SessionsDestroyed()
	gone := func() string { return yes(cref.SessionsDestroyed() > before) }
	kept.Release()
	callback := gone()
	k.closeClean()
	connection := gone()
	o.must(l.server.FlushSessions(time.Time{}))
	o.say(versioned(version, "references, "+name), "gone after the callback's %s, the connection's %s, a flush %s",
		callback, connection, gone())
}

func serialForm(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	l.server.SetSessionTimeout(1234 * time.Second)
	l.server.SetOptions(libssl.OpNoAntiReplay)
	o.must(l.server.SetALPN("h2"))
	o.must(l.client.SetALPN("h2"))
	o.must(cref.SetMaxEarlyData(l.server.Pointer(), 4096))
	var der []byte
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { der, _ = s.MarshalBinary() }
	k := l.open(l.server, "server.test", nil)
	o.mustBe(k.run(), "a handshake")
	last, err := k.server.Session()
	o.must(err)
	o.atEnd(last.Release)
	final, err := last.MarshalBinary()
	o.must(err)
	k.closeClean()
	s, err := libssl.ParseSession(der)
	o.must(err)
	o.atEnd(s.Release)
	age := time.Since(s.Time())
	o.say(versioned(version, "serial form"), "final %s, key %s, time %s, lifetime %d, ALPN %s, name %s, early data %d",
		yes(bytes.Equal(der, final)), yes(len(cref.MasterKey(s.Pointer())) > 0), yes(age >= 0 && age < time.Minute),
		s.Timeout()/time.Second, s.ALPN(), s.ServerName(), s.MaxEarlyData())
}

// ---- F1.9: the return value -------------------------------------------------------

func returning(o *observer, version uint16, value int) {
	before := cref.LiveSessions()
	l := o.lab(version)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	l.keep, l.deaf = value != 0, true
	var seen *libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { seen = s }
	_, session := l.mustVisit(l.server, nil)
	cached, removes := l.server.Stats().Number, l.removes
	l.onNew, l.keep = nil, false // a resumption in 1.3 makes another
	resumed, again := l.mustVisit(l.server, session)
	o.say(versioned(version, "returning "+[]string{"0", "1"}[value]), "cached %d, remove %d, then get %d, resumed %s",
		cached, removes, l.gets, yes(resumed))
	session.Release()
	again.Release()
	l.client.Close()
	l.server.Close()
	left := cref.LiveSessions() - before
	seen.Release() // which does nothing where it was not kept
	o.say(versioned(version, "reference after "+[]string{"0", "1"}[value]),
		"objects left to the application %d, after its release %d", left, cref.LiveSessions()-before)
}

func vetoing(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	l.deaf = true
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { l.server.RemoveSession(s) }
	_, session := l.mustVisit(l.server, nil)
	cached, removes := l.server.Stats().Number, l.removes
	resumed, _ := l.mustVisit(l.server, session)
	o.say(versioned(version, "removed in the callback"), "cached %d, remove %d, then get %d, resumed %s", cached,
		removes, l.gets, yes(resumed))
}

// ---- F1.10: locks -----------------------------------------------------------------

func lockDuringNew(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	held, removed := false, false
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		held = l.lockHeld(l.server)
		removed, _ = l.server.RemoveSession(s)
	}
	l.mustVisit(l.server, nil)
	o.say(versioned(version, "lock"), "held %s, the session can be removed there %s", yes(held), yes(removed))
}

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

// ---- F1.14: on a client -----------------------------------------------------------

// clientLab is a lab whose callbacks are the client's.
func clientLab(o *observer, version uint16, tickets bool) *lab {
	l := o.lab(version)
	l.storeOn(l.client)
	l.client.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	if tickets {
		l.server.ClearOptions(libssl.OpNoTicket)
	}
	return l
}

func clientByDefault(o *observer, version uint16) {
	l := clientLab(o, version, true)
	l.client.SetSessionCacheMode(libssl.CacheServer) // as by default
	l.mustVisit(l.server, nil)
	o.say(versioned(version, "mode SERVER"), "new %d", l.news)
}

func clientCalls(o *observer, name string, version uint16, tickets bool) {
	l := clientLab(o, version, tickets)
	o.must(l.server.SetNumTickets(2))
	k := l.open(l.server, "", nil)
	var served error
	var both sync.WaitGroup
	both.Go(func() { served = k.server.Handshake() })
	err := k.client.Handshake()
	both.Wait()
	o.must(errors.Join(err, served))
	handshake := l.news
	o.mustBe(k.run(), "a byte each way")
	o.say(versioned(version, name), "new %d in the handshake, %d while reading", handshake, l.news-handshake)
	k.closeClean()
}

// clientIDs has the client come back under the wire's eyes.
func clientIDs(o *observer, version uint16) {
	l := clientLab(o, version, true)
	var id []byte
	hash := false
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		digest := sha256.Sum256(ticketOf(s))
		id = s.ID().Bytes()
		hash = bytes.Equal(id, digest[:])
	}
	_, session := l.mustVisit(l.server, nil)
	l.onNew = nil
	k := l.open(l.server, "", session)
	var crossed atomic.Bool
	k.wire.clientHook = func(p []byte) []byte {
		if bytes.Contains(p, id) {
			crossed.Store(true)
		}
		return p
	}
	k.wire.serverHook = k.wire.clientHook
	o.mustBe(k.run(), "a handshake")
	o.say(versioned(version, "id with a ticket"), "%d bytes, the ticket's SHA-256 %s, resumed %s, sent for that %s",
		len(id), yes(hash), yes(k.resumed()), yes(crossed.Load()))
	k.closeClean()
}

func clientRenews(o *observer, version uint16) {
	l := clientLab(o, version, true)
	cref.RenewTickets(l.server.Pointer())
	_, first := l.mustVisit(l.server, nil)
	l.reset()
	resumed, second := l.mustVisit(l.server, first)
	o.say(versioned(version, "renewed ticket"), "resumed %s, new %d, remove %d, the connection has another ticket %s",
		yes(resumed), l.news, l.removes, yes(!bytes.Equal(ticketOf(first), ticketOf(second))))
}

// ticketOf finds the ticket in the serial form: [10] EXPLICIT OCTET STRING. nil where there is none.
func ticketOf(s *libssl.Session) (ticket []byte) {
	der, err := s.MarshalBinary()
	var v asn1.RawValue
	if err == nil {
		_, err = asn1.Unmarshal(der, &v)
	}
	for rest := v.Bytes; err == nil && len(rest) > 0; {
		if rest, err = asn1.Unmarshal(rest, &v); err == nil && v.Class == asn1.ClassContextSpecific && v.Tag == 10 {
			asn1.Unmarshal(v.Bytes, &ticket)
		}
	}
	return ticket
}
