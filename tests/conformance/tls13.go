package conformance

import (
	"bytes"
	"errors"
	"io"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
)

const (
	noEarlyData       = "Go offers early data only together with UseStore and entries that are taken"
	noTicketCallbacks = "Go has no ticket callbacks: neither SSL_CTX_set_session_ticket_cb nor a ticket key callback"
	noExternalPSKs    = "Go has no external PSKs"
	onlySingleUse     = "StoreOptions.SingleUse is Go's own"
)

var tls13Facts = []Fact{
	{
		ID:   "F5.1",
		Says: "Replay protection is whether the internal cache had the session, and an answer of get is put there first",
		Cases: []Case{
			{Name: "no early data allowed", C: "resumed, resumed, remove 0"},
			{Name: "ticket", C: "of 32 bytes, the id of an entry yes", Go: absent, Why: noEarlyData},
			{Name: "in the internal cache", C: "accepted, calls RN", Go: absent, Why: noEarlyData},
			{Name: "consumed", C: "full, calls GN", Go: absent, Why: noEarlyData},
			{Name: "answered by get", C: "accepted, calls GRN", Go: absent, Why: noEarlyData},
		},
		Go: func(o *observer) {
			l := o.lab(tls13)
			l.store()
			l.server.SetSessionCacheMode(libssl.CacheServer)
			_, s := l.mustVisit(l.server, nil)
			l.reset()
			first := l.offer(l.server, s)
			second := l.offer(l.server, s)
			o.say("no early data allowed", "%s, %s, remove %d", first, second, l.removes)
		},
	},
	{
		ID:   "F5.2",
		Says: "Only a store that takes, without internal lookups, stops a replay: at B, again at B, then at its issuer A",
		Cases: []Case{
			earlyOnly("replay protection, internal cache", "accepted, accepted, accepted, get 2, remove 3"),
			earlyOnly("replay protection, internal cache, remove deletes", "accepted, full, accepted, get 2, remove 2"),
			earlyOnly("replay protection, internal cache, get takes", "accepted, full, accepted, get 2, remove 2"),
			earlyOnly("replay protection, NO_INTERNAL", "full, full, full, get 3, remove 3"),
			earlyOnly("replay protection, NO_INTERNAL_STORE", "full, full, full, get 3, remove 3"),
			earlyOnly("replay protection, NO_INTERNAL, get takes", "full, full, full, get 3, remove 1"),
			earlyOnly("replay protection, NO_INTERNAL_LOOKUP, get takes", "accepted, full, full, get 3, remove 1"),
			earlyOnly("NO_ANTI_REPLAY, NO_INTERNAL", "accepted, accepted, accepted, get 3, remove 0"),
			earlyOnly("NO_ANTI_REPLAY, NO_INTERNAL, get takes", "accepted, full, full, get 3, remove 0"),
			{Name: "no early data, get keeps", C: "resumed, resumed, resumed, get 3, remove 0"},
			{Name: "no early data, get takes", C: "resumed, full, full, get 3, remove 0"},
			{Name: "SingleUse", C: absent, Go: "resumed, full, full, Take 3, Get 0", Why: onlySingleUse},
			{Name: "SingleUse, early data", C: absent, Go: "accepted, full, full, Take 3, Get 0", Why: onlySingleUse},
			{Name: "SingleUse, no Taker", C: absent, Go: "unsupported yes, with early data yes", Why: onlySingleUse},
		},
		Go: func(o *observer) {
			for _, take := range []bool{false, true} {
				l := o.lab(tls13)
				l.store()
				other := l.newServer()
				l.storeOn(other)
				l.take = take
				name := "no early data, get keeps"
				if take {
					name = "no early data, get takes"
				}
				came := l.threeOffers(other)
				o.say(name, "%s, get %d, remove %d", came, l.gets, l.removes)
			}
			for _, early := range []bool{false, true} {
				l, st := o.lab(tls13), newSpyStore()
				other := l.newServer()
				l.useStore(l.server, st, libssl.StoreOptions{SingleUse: true})
				l.useStore(other, st, libssl.StoreOptions{SingleUse: true})
				name := "SingleUse"
				if early {
					name = "SingleUse, early data"
					o.must(l.server.SetMaxEarlyData(100))
					o.must(other.SetMaxEarlyData(100))
				}
				came := l.threeOffers(other)
				o.say(name, "%s, Take %d, Get %d", came, len(st.takes), len(st.gets))
			}
			noTaker := struct{ store.Store }{newSpyStore()}
			l := o.lab(tls13)
			_, err := l.server.UseStore(noTaker, &libssl.StoreOptions{Plaintext: true, SingleUse: true})
			o.must(l.server.SetMaxEarlyData(100))
			_, earlyErr := l.server.UseStore(noTaker, &libssl.StoreOptions{Plaintext: true})
			o.say("SingleUse, no Taker", "unsupported %s, with early data %s",
				yes(errors.Is(err, libssl.ErrUnsupported)), yes(errors.Is(earlyErr, libssl.ErrUnsupported)))
		},
	},
	{
		ID:   "F5.3",
		Says: "A HelloRetryRequest asks twice: what the first hello consumed, the second one misses",
		Cases: []Case{
			{Name: "internal cache, replay protection", C: "full, calls RGN", Go: absent, Why: noEarlyData},
			{Name: "get takes", C: "full, calls GGN"},
			{Name: "get keeps", C: "resumed, calls GGN"},
			{
				Name: "SingleUse", C: absent, Go: "resumed, Take 1, OpenSSL answered 2",
				Why: "the second question is answered from the connection's memory",
			},
			{
				Name: "SingleUse, early data", C: absent, Go: "resumed, Take 1",
				Why: "the retry refuses what came early, and the session resumes all the same",
			},
		},
		Go: func(o *observer) {
			for _, take := range []bool{true, false} {
				l := o.lab(tls13)
				l.retryGroups(l.server)
				l.store()
				_, s := l.mustVisit(l.server, nil)
				l.take = take
				l.reset()
				name := "get keeps"
				if take {
					name = "get takes"
				}
				came := l.offer(l.server, s)
				o.say(name, "%s, calls %s", came, l.trace())
			}
			l, st := o.lab(tls13), newSpyStore()
			l.retryGroups(l.server)
			l.useStore(l.server, st, libssl.StoreOptions{SingleUse: true})
			_, s := l.mustVisit(l.server, nil)
			came := l.offer(l.server, s)
			o.say("SingleUse", "%s, Take %d, OpenSSL answered %d", came, len(st.takes), l.server.Stats().CallbackHits)
			o.must(l.server.SetMaxEarlyData(100))
			_, s = l.mustVisit(l.server, nil)
			st.takes = nil
			came = l.offer(l.server, s)
			o.say("SingleUse, early data", "%s, Take %d", came, len(st.takes))
		},
	},
	{
		ID:   "F5.4",
		Says: "The session is consumed before the binder is checked: anyone who saw the identity can burn it",
		Cases: []Case{
			{
				Name: "replay protection, remove deletes", C: "forged failed, calls GR, honest full, calls GN",
				Go: absent, Why: noEarlyData,
			},
			{Name: "get takes", C: "forged failed, calls G, honest full, calls GN"},
			{Name: "get keeps", C: "forged failed, calls G, honest resumed, calls GN"},
			{
				Name: "SingleUse", C: absent, Go: "forged failed, put back 1, honest resumed, put back 0",
				Why: "an entry that was taken for a client who then proves nothing goes back",
			},
			{Name: "alert", C: "47", Before: v35},
			{Name: "alert", C: "51", From: v35},
		},
		Go: func(o *observer) {
			for _, take := range []bool{true, false} {
				l := o.lab(tls13)
				l.store()
				_, s := l.mustVisit(l.server, nil)
				other := l.newServer()
				l.storeOn(other)
				l.take = take
				l.reset()
				forged, alert := l.forge(other, s)
				calls := l.trace()
				l.reset()
				honest := l.offer(other, s)
				name := "get keeps"
				if take {
					name = "get takes"
				}
				o.say(name, "forged %s, calls %s, honest %s, calls %s", forged, calls, honest, l.trace())
				if take {
					o.say("alert", "%d", alert)
				}
			}
			l, st := o.lab(tls13), newSpyStore()
			sc := l.useStore(l.server, st, libssl.StoreOptions{SingleUse: true})
			_, s := l.mustVisit(l.server, nil)
			forged, _ := l.forge(l.server, s)
			back := sc.Stats().PutBack
			honest := l.offer(l.server, s)
			o.say("SingleUse", "forged %s, put back %d, honest %s, put back %d",
				forged, back, honest, sc.Stats().PutBack-back)
		},
	},
	{
		ID:   "F5.5",
		Says: "Without early data a stateful ticket serves any number of times, and an expired one stays until a flush",
		Cases: []Case{
			{Name: "no early data", C: "resumed, resumed, resumed"},
			{
				Name: "expired, internal cache",
				C:    "full, get 0, remove 0, cached 2, after a flush remove 1, cached 1",
			},
		},
		Go: func(o *observer) {
			l := o.lab(tls13)
			l.store()
			_, s := l.mustVisit(l.server, nil)
			first := l.offer(l.server, s)
			second := l.offer(l.server, s)
			o.say("no early data", "%s, %s, %s", first, second, l.offer(l.server, s))

			l.server.SetSessionCacheMode(libssl.CacheServer)
			l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
				if l.news == 1 {
					s.SetTime(s.Time().Add(-2 * s.Timeout()))
				}
			}
			l.reset()
			_, s = l.mustVisit(l.server, nil)
			came := l.offer(l.server, s)
			removed, cached := l.removes, l.server.Stats().Number
			o.must(l.server.FlushSessions(s.Time()))
			o.say("expired, internal cache", "%s, get %d, remove %d, cached %d, after a flush remove %d, cached %d",
				came, l.gets, removed, cached, l.removes, l.server.Stats().Number)
		},
	},
	{
		ID:   "F5.6",
		Says: "A resumed connection has a new session if it sent a ticket, else the one that was looked up",
		Cases: []Case{
			{Name: "one ticket", C: "resumed yes, its session has the id that was looked up no"},
			{Name: "no ticket", C: "resumed yes, its session has the id that was looked up yes"},
			{
				Name: "ResumedFrom", C: absent, Go: "the id that was looked up yes",
				Why: "Conn.ResumedFrom is Go's own, for sessions of a store",
			},
		},
		Go: func(o *observer) {
			for tickets, name := range []string{"no ticket", "one ticket"} {
				l := o.lab(tls13)
				l.store()
				_, s := l.mustVisit(l.server, nil)
				var asked libssl.SessionID
				l.onGet = func(_ *libssl.SSL, id libssl.SessionID) { asked = id }
				o.must(l.server.SetNumTickets(tickets))
				k := l.open(l.server, "", s)
				o.mustBe(k.run(), "a handshake")
				now, err := k.server.Session()
				o.must(err)
				o.say(name, "resumed %s, its session has the id that was looked up %s",
					yes(k.resumed()), yes(now.ID() == asked))
				now.Release()
				k.closeClean()
			}
			l, st := o.lab(tls13), newSpyStore()
			l.useStore(l.server, st, libssl.StoreOptions{})
			_, s := l.mustVisit(l.server, nil)
			k := l.open(l.server, "", s)
			o.mustBe(k.run(), "a handshake")
			o.mustBe(len(st.gets) == 1, "one lookup")
			o.say("ResumedFrom", "the id that was looked up %s", yes(k.server.ResumedFrom() == st.gets[0]))
			k.closeClean()
		},
	},
	{
		ID:   "F5.7",
		Says: "Stateful tickets run the generate callback, whose data the DER carries, but no decrypt or key callback",
		Cases: []Case{
			{
				Name: "stateful", Go: absent, Why: noTicketCallbacks,
				C: "issued with generate 1, key 0, resumed yes with decrypt 0, key 0, get 1, application data ours",
			},
			{
				Name: "stateless", Go: absent, Why: noTicketCallbacks,
				C: "issued with generate 1, key 1, resumed yes with decrypt 1, key 1, get 0, application data ours",
			},
		},
	},
	{
		ID:   "F5.8",
		Says: "A ticket that is an id is useless while the server is stateless: a full handshake, and get is not asked",
		Cases: []Case{
			{Name: "stateless now", C: "full, get 0"},
			{Name: "stateful again", C: "resumed, get 1"},
		},
		Go: func(o *observer) {
			l := o.lab(tls13)
			l.store()
			_, s := l.mustVisit(l.server, nil)
			l.server.ClearOptions(libssl.OpNoTicket)
			l.reset()
			came := l.offer(l.server, s)
			o.say("stateless now", "%s, get %d", came, l.gets)
			l.server.SetOptions(libssl.OpNoTicket)
			l.reset()
			came = l.offer(l.server, s)
			o.say("stateful again", "%s, get %d", came, l.gets)
		},
	},
	{
		ID:   "F5.9",
		Says: "NO_TICKET and get work on every release, early data and sessions from another server's DER included",
		Cases: []Case{
			{Name: "from DER on another server", C: "resumed, get 1"},
			{Name: "early data there", C: "accepted, get 1", Go: absent, Why: noEarlyData},
			{Name: "SingleUse, early data there", C: absent, Go: "accepted, Take 1", Why: onlySingleUse},
		},
		Go: func(o *observer) {
			l := o.lab(tls13)
			l.store()
			other := l.newServer()
			l.storeOn(other)
			_, s := l.mustVisit(l.server, nil)
			l.reset()
			came := l.offer(other, s)
			o.say("from DER on another server", "%s, get %d", came, l.gets)

			l, st := o.lab(tls13), newSpyStore()
			other = l.newServer()
			for _, server := range []*libssl.Context{l.server, other} {
				l.useStore(server, st, libssl.StoreOptions{})
				o.must(server.SetMaxEarlyData(100))
			}
			_, s = l.mustVisit(l.server, nil)
			came = l.offer(other, s)
			o.say("SingleUse, early data there", "%s, Take %d", came, len(st.takes))
		},
	},
	{
		ID:   "F5.10",
		Says: "External PSKs are asked for first, for every identity, and outside the cache's replay protection",
		Cases: []Case{
			{Name: "an identity of ours", C: "resumed, asked FSG", Go: absent, Why: noExternalPSKs},
			{
				Name: "an external one, replay protection", C: "accepted, accepted, asked FF, remove 0",
				Go: absent, Why: noExternalPSKs,
			},
		},
	},
}

// earlyOnly is a case about early data, which Go cannot show.
func earlyOnly(name, c string) Case { return Case{Name: name, C: c, Go: absent, Why: noEarlyData} }

// offer says what a second connection came to. Where the session allows early data the client sends some, and the
// server reads it.
func (l *lab) offer(server *libssl.Context, s *libssl.Session) string {
	k := l.open(server, "", s)
	early := s.MaxEarlyData() > 0
	read := make(chan error, 1)
	go func() {
		var err error
		for early && err == nil {
			_, err = k.server.ReadEarlyData(make([]byte, 100))
		}
		if err == io.EOF {
			err = k.server.Handshake()
		}
		read <- err
	}()
	if early {
		_, err := k.client.WriteEarlyData([]byte("early"))
		l.o.must(err)
		l.o.must(k.client.Handshake())
	}
	if <-read != nil {
		return "failed"
	}
	defer k.closeClean()
	switch {
	case !k.run():
		return "failed"
	case k.client.EarlyDataAccepted() && k.server.EarlyDataAccepted():
		return "accepted"
	case k.resumed():
		return "resumed"
	}
	return "full"
}

// threeOffers offers a session from the lab's server at another server, there once more, and at its issuer.
func (l *lab) threeOffers(other *libssl.Context) string {
	_, s := l.mustVisit(l.server, nil)
	l.reset()
	first := l.offer(other, s)
	again := l.offer(other, s)
	return first + ", " + again + ", " + l.offer(l.server, s)
}

// forge offers s with a binder that does not fit, as a stranger would who has seen the identity only. alert is what
// the stranger is told.
func (l *lab) forge(server *libssl.Context, s *libssl.Session) (came string, alert int) {
	copied, err := s.Dup() // the alert marks it as not resumable
	l.o.must(err)
	defer copied.Release()
	k := l.open(server, "", copied)
	k.wire.clientHook = func(p []byte) []byte {
		if k.wire.fromClient.Load() > 0 {
			return p
		}
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1 // binders are what a ClientHello ends with
		return p
	}
	came = "resumed"
	if !k.run() {
		came = "failed"
	}
	k.closeClean()
	return came, alertOf(k.clientErr)
}

// retryGroups makes server ask the lab's client for another key share.
func (l *lab) retryGroups(server *libssl.Context) {
	l.o.must(server.SetGroups("P-256"))
	l.o.must(l.client.SetGroups("X25519:P-256"))
}

// alertOf is the number of the alert that err stands for, 0 if it stands for none.
func alertOf(err error) int {
	var e *libssl.Error
	if !errors.As(err, &e) || len(e.Queue) == 0 {
		return 0
	}
	return max(int(e.Queue[0].Code&0xfff)-1000, 0) // SSL_AD_REASON_OFFSET
}
