package conformance

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/ticket"
)

// ---- F3.1 -----------------------------------------------------------------------------

func removedByCall(o *observer) {
	l, s := o.stage(tls12, 2)
	l.add(s[0])
	ask := func(name string, s *libssl.Session) {
		l.reset()
		there, err := l.server.RemoveSession(s)
		if errors.Is(err, libssl.ErrReleased) {
			o.say(name, "remove %d, ErrReleased", l.removes)
			return
		}
		o.must(err)
		o.say(name, "remove %d, it was there %s", l.removes, yes(there))
	}
	ask("asked for, cached", s[0])
	ask("asked for, not cached", s[1])
	ask("asked for, NULL", nil)

	l.server.ClearOptions(libssl.OpNoTicket) // ids are empty then
	k := l.runLink(nil)
	nameless, err := k.server.Session()
	o.must(err)
	o.atEnd(nameless.Release)
	o.mustBe(nameless.ID() == libssl.SessionID{}, "an empty id")
	ask("asked for, empty id", nameless)
	k.closeClean()
}

func removedFromCache(o *observer) {
	l, s := o.stage(tls12, 3)
	l.add(s[0])
	l.add(o.dup(s[0]))
	o.say("displaced by an equal id", "remove %d, cached %d", l.removes, l.server.Stats().Number)
	l.flush()
	o.say("flush", "remove %d", l.removes)
	l.reset()
	l.server.SetSessionCacheSize(1)
	l.add(s[1])
	l.add(s[2])
	o.say("eviction", "remove %d", l.removes)
	l.flush()
	l.reset()
	l.server.SetSessionCacheSize(0)
	l.add(s[1])
	l.add(s[2])
	o.must(l.server.Close())
	o.say("context freed with 2 cached", "remove %d", l.removes)
}

func removedByLookup(o *observer, version uint16) {
	l, _ := o.stage(version, 0)
	l.server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	_, offer := l.mustVisit(l.server, nil)
	l.expireEntries()
	resumed, _ := l.mustVisit(l.server, offer)
	o.say("expired in the store, "+versionText(version), "resumed %s, remove %d", yes(resumed), l.removes)

	l.server.SetSessionCacheMode(libssl.CacheServer)
	held := l.hold()
	l.deaf = true
	_, offer = l.mustVisit(l.server, nil)
	o.must(held().SetTime(longAgo()))
	l.reset()
	resumed, _ = l.mustVisit(l.server, offer)
	o.say("expired in the cache, "+versionText(version), "resumed %s, remove %d, cached then %d", yes(resumed), l.removes,
		l.server.Stats().Number)
}

// ending is what happens on a connection before the server frees its SSL.
type ending struct {
	name string
	how  func(k *link)
}

// uncleanEnds leave the server without a close_notify in either direction.
var uncleanEnds = []ending{
	{"fatal alert sent", (*link).alertSent},
	{"fatal alert received", (*link).alertReceived},
	{"freed", func(*link) {}},
}

func removedByEnd(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	for _, end := range append(slices.Clip(uncleanEnds),
		ending{"close_notify only received", func(k *link) {
			o.must(k.client.CloseWrite())
			k.readFails()
		}},
		ending{"close_notify sent", func(k *link) { o.must(k.server.CloseWrite()) }},
	) {
		k := l.runLink(nil)
		l.reset()
		end.how(k)
		before := l.removes
		k.server.Abort()
		k.client.Close()
		o.say(end.name+", "+versionText(version), "remove %d, after SSL_free %d", before, l.removes)
	}

	k := l.runLink(nil)
	l.reset()
	blocked, unblock := make(chan struct{}), make(chan struct{})
	k.wire.serverHook = func(p []byte) []byte {
		close(blocked)
		<-unblock
		return p
	}
	var writer sync.WaitGroup
	writer.Go(func() { k.server.Write([]byte{'x'}) })
	<-blocked
	k.server.Close()
	o.say("closed while a Write is blocked, "+versionText(version), "remove %d", l.removes)
	close(unblock)
	writer.Wait()
	k.client.Close()
}

func abandoned(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	_, offer := l.mustVisit(l.server, nil)
	l.reset()
	k := l.open(l.server, "", offer)
	k.halfWay(func(<-chan error) { k.server.Abort() })
	o.say("resumption abandoned half way, "+versionText(version), "looked up %d, remove %d", l.hits, l.removes)
}

func consumed(o *observer) {
	l := o.lab(tls13)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	o.must(l.server.SetMaxEarlyData(1024)) // without OpNoAntiReplay
	_, offer := l.mustVisit(l.server, nil)
	l.reset()
	resumed, _ := l.mustVisit(l.server, offer)
	o.say("consumed by replay protection, 1.3", "resumed %s, remove %d", yes(resumed), l.removes)
}

// removedOnClient has the callbacks on the client.
func removedOnClient(o *observer, version uint16, name string) {
	l := o.lab(version)
	l.storeOn(l.client)
	l.client.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	l.server.SetSessionCacheMode(libssl.CacheServer)
	var ring *ticket.Ring
	if version == tls12 {
		var err error
		ring, err = ticket.NewRing()
		o.must(err)
		o.must(l.server.UseTicketKeys(ring))
		l.server.ClearOptions(libssl.OpNoTicket)
	}
	_, offer := l.mustVisit(l.server, nil)
	l.reset()
	if ring != nil {
		o.must(ring.Rotate()) // a ticket under an older key is good, and renewed
	}
	resumed, _ := l.mustVisit(l.server, offer)
	o.say(name, "resumed %s, remove %d", yes(resumed), l.removes)
}

// ---- F3.2, F3.3 -------------------------------------------------------------------------

func noReason(o *observer) {
	for _, detached := range []bool{false, true} {
		l, made := o.stage(tls12, 3)
		l.forget()
		for _, s := range made {
			der, err := s.MarshalBinary()
			o.must(err)
			l.put(s.ID(), der)
			l.add(s)
		}
		name := "a server ends"
		if detached {
			name = "callback taken away first"
			l.server.SetSessRemoveCallback(nil)
		}
		o.must(l.server.Close())
		o.say(name, "remove %d, entries left %d of 3", l.removes, len(l.entries))
	}
}

func noPairs(o *observer) {
	l := o.lab(tls13)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheOff)
	l.runLink(nil).closeUnclean()
	o.say("cache off", "new %d, remove %d", l.news, l.removes)

	l.reset()
	var last libssl.SessionID
	ofLast := false
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { last = s.ID() }
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) { ofLast = s.ID() == last }
	l.server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	o.must(l.server.SetNumTickets(3))
	l.runLink(nil).closeUnclean()
	o.say("3 tickets", "new %d, remove %d, of the last %s", l.news, l.removes, yes(ofLast))

	l, s := o.stage(tls12, 1)
	another := l.newServer()
	l.storeOn(another)
	_, err := another.RemoveSession(s[0])
	o.must(err)
	o.say("a session of another server", "new %d, remove %d", l.news, l.removes)
	_, err = another.RemoveSession(s[0])
	o.must(err)
	l.remove(s[0])
	o.say("one session, three times", "remove %d", l.removes)
}

// ---- F3.12 ----------------------------------------------------------------------------------------

func anyoneRemoves(o *observer) {
	l := o.lab(tls12)
	l.store()
	l.forget()
	_, honest := l.mustVisit(l.server, nil)
	resumed, _ := l.mustVisit(l.server, honest)
	o.mustBe(resumed, "resumed")
	k := l.open(l.server, "", honest)
	k.halfWay(func(served <-chan error) {
		alert := []byte{21, 3, 3, 0, 2, 2, 40} // fatal, handshake_failure
		_, err := k.client.NetConn().(wiredConn).Conn.Write(alert)
		o.must(err)
		o.mustBe(<-served != nil, "a failed handshake")
	})
	removes := l.removes
	resumed, _ = l.mustVisit(l.server, honest)
	o.say("an alert in the clear after a client's id, 1.2", "remove %d, the honest client resumes then %s", removes,
		yes(resumed))

	for _, version := range []uint16{tls12, tls13} {
		l := o.lab(version)
		l.store()
		l.forget()
		k := l.runLink(nil)
		honest := k.session()
		k.alertSent()
		k.closeUnclean()
		resumed, _ := l.mustVisit(l.server, honest)
		o.say(fmt.Sprintf("a corrupted record, %s", versionText(version)), "remove %d, the honest client resumes then %s",
			l.removes, yes(resumed))
	}

	for _, protection := range []bool{true, false} {
		l := o.lab(tls13)
		l.store()
		l.server.SetSessionCacheMode(libssl.CacheServer)
		o.must(l.server.SetMaxEarlyData(1024))
		name := "a wrong binder, replay protection"
		if !protection {
			name = "a wrong binder, no replay protection"
			l.server.SetOptions(libssl.OpNoAntiReplay)
		}
		_, honest := l.mustVisit(l.server, nil)
		l.reset()
		k := l.open(l.server, "", honest)
		k.wire.clientHook = corrupt // a hello with a pre-shared key ends in the binder
		ok := k.run()
		k.closeUnclean()
		o.say(name, "handshake fails %s, remove %d", yes(!ok), l.removes)
	}
}
