package conformance

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/ticket"
)

const (
	noClear      = "Go has no SSL_clear, and a server's Conn no SetSession"
	noQuiet      = "Go has no quiet shutdown: Close never drops a session"
	closeKeeps   = "Close never drops a session, Abort does what SSL_free does"
	reentrant    = "calls that need the context's lock answer ErrReentrant from a remove handler, on every release"
	deadSession  = "a nil Session answers ErrReleased"
	noReplay     = "early data is offered only through UseStore, which takes entries instead of OpenSSL's replay protection"
	noExData     = "a Session has no ex_data"
	noCallsLeft  = "a Context that is closed has no call left that could wait"
	addsAreInRow = "AddSession calls of a Context wait for each other"
)

const (
	lockHeld = "lock held"
	noLock   = "no lock"
)

// either are two alternatives of a case.
func either(c Case, one, other string) []Case {
	a, b := c, c
	a.C, b.C = one, other
	return []Case{a, b}
}

func concat(parts ...[]Case) (all []Case) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

var removeFacts = []Fact{
	{
		ID:   "F3.1",
		Says: "remove: requests, expiry, flush, eviction, alerts, unclean ends, replay protection, the context's end",
		Cases: concat(
			[]Case{
				{Name: "asked for, cached", C: "remove 1, it was there yes"},
				{Name: "asked for, not cached", C: "remove 1, it was there no"},
				{Name: "asked for, NULL", C: "remove 0, it was there no", Go: "remove 0, ErrReleased", Why: deadSession},
				{Name: "asked for, empty id", C: "remove 0, it was there no"},
				{Name: "displaced by an equal id", C: "remove 0, cached 1"},
				{Name: "flush", C: "remove 1"},
				{Name: "eviction", C: "remove 1"},
				{Name: "context freed with 2 cached", C: "remove 2"},
				{Name: "expired in the store, 1.2", C: "resumed no, remove 1"},
				{Name: "expired in the store, 1.3", C: "resumed no, remove 0"},
				{Name: "expired in the cache, 1.2", C: "resumed no, remove 1, cached then 1"},
				{Name: "expired in the cache, 1.3", C: "resumed no, remove 0, cached then 2"},
			},
			endCases("1.2"), endCases("1.3"),
			[]Case{
				{
					Name: "consumed by replay protection, 1.3", C: "resumed yes, remove 1",
					Go: "resumed yes, remove 0", Why: noReplay,
				},
				{Name: "a client's ticket is renewed, 1.2", C: "resumed yes, remove 1"},
				{Name: "a client's session is used, 1.3", C: "resumed yes, remove 1"},
			},
		),
		Go: func(o *observer) {
			removedByCall(o)
			removedFromCache(o)
			for _, version := range []uint16{tls12, tls13} {
				removedByLookup(o, version)
				removedByEnd(o, version)
				abandoned(o, version)
			}
			consumed(o)
			removedOnClient(o, tls12, "a client's ticket is renewed, 1.2")
			removedOnClient(o, tls13, "a client's session is used, 1.3")
		},
	},
	{
		ID:   "F3.2",
		Says: "No reason code and no SSL: a server that ends reports all it has cached, unless the callback is taken away",
		Cases: []Case{
			{Name: "a server ends", C: "remove 3, entries left 0 of 3"},
			{Name: "callback taken away first", C: "remove 0, entries left 3 of 3"},
		},
		Go: noReason,
	},
	{
		ID:   "F3.3",
		Says: "Removals and additions don't pair up",
		Cases: []Case{
			{Name: "cache off", C: "new 0, remove 1"},
			{Name: "3 tickets", C: "new 3, remove 1, of the last yes"},
			{Name: "a session of another server", C: "new 0, remove 1"},
			{Name: "one session, three times", C: "remove 3"},
		},
		Go: noPairs,
	},
	{
		ID:   "F3.4",
		Says: "The object is marked not resumable, no longer cached, the caller's own; a reference outlives the context",
		Cases: []Case{
			{Name: "flush", C: "resumable no, destroyed by the call 1"},
			{Name: "cached during a flush", C: "others 0"},
			{Name: "eviction", C: "resumable no, destroyed by the call 1"},
			{Name: "cached during an eviction", C: "others 1"},
			{Name: "context freed", C: "resumable no, destroyed by the call 1"},
			{Name: "asked for, not cached", C: "resumable no, destroyed by the call 0"},
			{Name: "flush, a connection holds it too", C: "resumable no, destroyed by the call 0"},
			{Name: "then the connection's end", C: "destroyed 1"},
			{Name: "asked for with an equal copy", C: "it is the caller's object yes, the cached one is resumable yes, cached 0"},
			{Name: "its content", C: "DER as before yes"},
			{Name: "its ex_data", C: "readable yes", Go: absent, Why: noExData},
			{Name: "a reference outlives the context", C: "DER as before yes"},
		},
		Go: removedObjects,
	},
	{
		ID:   "F3.5",
		Says: "Eviction marks the object not resumable for all who hold it",
		Cases: []Case{
			{Name: "cached", C: "resumable yes"},
			{Name: "evicted", C: "remove 1, resumable for who holds it no"},
		},
		Go: evictionPoisons,
	},
	{
		// No release number tells: 3.6.3 holds the lock, 3.6.5 does not.
		ID:   "F3.6",
		Says: "Flush, eviction and the context's end may call remove under the context's lock, nothing else does",
		Cases: concat(
			[]Case{
				{Name: "flush", C: lockHeld, Before: v30},
				{Name: "eviction", C: lockHeld, Before: v30},
				{Name: "context freed", C: lockHeld, Go: absent, Why: noCallsLeft, Before: v30},
			},
			either(Case{Name: "flush", From: v30}, lockHeld, noLock),
			either(Case{Name: "eviction", From: v30}, lockHeld, noLock),
			either(Case{Name: "context freed", Go: absent, Why: noCallsLeft, From: v30}, lockHeld, noLock),
			[]Case{
				{Name: "asked for", C: noLock},
				{Name: "expired at lookup, 1.2", C: noLock},
				{Name: "fatal alert sent", C: noLock},
				{Name: "fatal alert received", C: noLock},
				{Name: "freed", C: noLock},
				{Name: "SSL_clear", C: noLock, Go: absent, Why: noClear},
				{Name: "replay protection, 1.3", C: noLock, Go: "not called", Why: noReplay},
			},
		),
		Go: removeLocks,
	},
	{
		ID:   "F3.7",
		Says: "Releases that call remove after the lock chain what they evict through the sessions: inserted again, they crash",
		Cases: concat(
			[]Case{{Name: "re-insertion from remove", C: "refused", Go: "ErrReentrant", Why: reentrant, Before: v30}},
			either(Case{Name: "re-insertion from remove", Go: "ErrReentrant", Why: reentrant, From: v30}, "refused", "crash"),
			[]Case{
				{Name: "four threads insert shared sessions", C: "sound"},
				{Name: "four threads insert shared sessions", C: "crash", Go: "sound", Why: addsAreInRow, From: v30},
			},
		),
		Children: map[string]func(o *observer){
			"re-insertion from remove":            reinsertion,
			"four threads insert shared sessions": insertShared,
		},
	},
	{
		ID:   "F3.8",
		Says: "Without the internal store remove comes for single sessions only, and never under a lock",
		Cases: []Case{
			{Name: "3 sessions, cache of 1", C: "new 3, cached 0, remove 0"},
			{Name: "flush", C: "remove 0"},
			{Name: "freed without close_notify", C: "remove 1, no lock"},
			{Name: "asked for", C: "remove 1, no lock"},
			{Name: "expired at lookup, 1.2", C: "remove 1, no lock"},
			{Name: "context freed", C: "remove 0"},
		},
		Go: noInternalStore,
	},
	{
		ID:   "F3.9",
		Says: "Calls back into the context fail silently under the lock, or break it on 1.1.1; without the lock they work",
		Cases: concat(
			[]Case{
				inFlush(Case{C: "add works yes, remove works yes, flush works yes, locks that are never free again 3", Before: v30}),
				inFlush(Case{C: "add works no, remove works no, flush works no, locks that are never free again 0", From: v30}),
				inFlush(Case{C: "add works yes, remove works yes, flush works yes, locks that are never free again 0", From: v30}),
				inFlush(Case{C: "crash", From: v35}), // a library with assertions aborts
				{Name: "harmless calls in a flush",
					C: "count yes, encode yes, duplicate yes, retain yes, new connection yes, set timeout yes"},
				{Name: "add in a removal", C: "done"},
				{Name: "remove in a removal", C: "done"},
				{Name: "flush in a removal", C: "done"},
				{Name: "the same session removed in its removal", C: "remove 2"},
			},
		),
		Go:       reentry,
		Children: map[string]func(o *observer){"calls in a flush": nil},
	},
	{
		ID:   "F3.10",
		Says: "A size of N holds N on 1.1.1 and N-1 later; victims and order of a flush differ too; expiry is strict",
		Cases: concat(
			[]Case{
				{Name: "default size", C: "20480"},
				{Name: "a size of 0, 1, 2, 3", C: "holds 8, 1, 2, 3 of 8", Before: v30},
				{Name: "a size of 0, 1, 2, 3", C: "holds 8, 1, 1, 2 of 8", From: v30},
				{Name: "victim", C: "inserted first", Before: v30},
				{Name: "victim", C: "expires first", From: v30},
				{Name: "order of a flush", C: "another", Before: v30}, // the hash table's
			},
			// It goes with calling remove after the lock, as 4.0 and 3.6.5 do: these begin with the last to expire.
			either(Case{Name: "order of a flush", From: v30}, "first to expire first", "last to expire first"),
			[]Case{
				{Name: "flush at time and lifetime", C: "remove 0"},
				{Name: "flush a second later", C: "remove 1"},
			},
		),
		Go: orderAndAmount,
	},
	{
		ID:   "F3.11",
		Says: "The cache is flushed by every 255th good handshake of the context, and never where all are switched away",
		Cases: concat(
			[]Case{{Name: "none switched", C: "an expired session leaves it in handshake 256, lock held", Before: v30}},
			either(Case{Name: "none switched", From: v30}, "an expired session leaves it in handshake 256, lock held",
				"an expired session leaves it in handshake 256, no lock"),
			[]Case{{Name: "all switched to another context", C: "an expired session stays in the cache"}},
		),
		Go: automaticFlush,
	},
	{
		ID:   "F3.12",
		Says: "Anyone on the path can make the server forget a session",
		Cases: []Case{
			{Name: "an alert in the clear after somebody's id, 1.2", C: "remove 1, the honest client resumes then no"},
			{Name: "a corrupted record, 1.2", C: "remove 1, the honest client resumes then no"},
			{Name: "a corrupted record, 1.3", C: "remove 1, the honest client resumes then no"},
			{
				Name: "a wrong binder, replay protection", C: "handshake fails yes, remove 1",
				Go: "handshake fails yes, remove 0", Why: noReplay,
			},
			{Name: "a wrong binder, no replay protection", C: "handshake fails yes, remove 0"},
		},
		Go: anyoneRemoves,
	},
}

func endCases(version string) []Case {
	return []Case{
		{Name: "fatal alert sent, " + version, C: "remove 1, after SSL_free 1"},
		{Name: "fatal alert received, " + version, C: "remove 1, after SSL_free 1"},
		{Name: "freed, " + version, C: "remove 0, after SSL_free 1"},
		{Name: "SSL_clear, " + version, C: "remove 1, after SSL_free 1", Go: absent, Why: noClear},
		{Name: "SSL_set_session, " + version, C: "remove 1, after SSL_free 1", Go: absent, Why: noClear},
		{Name: "close_notify only received, " + version, C: "remove 0, after SSL_free 1"},
		{Name: "close_notify sent, " + version, C: "remove 0, after SSL_free 0"},
		{Name: "quiet shutdown, " + version, C: "remove 0, after SSL_free 0", Go: absent, Why: noQuiet},
		{Name: "closed while a Write is blocked, " + version, C: absent, Go: "remove 0", Why: closeKeeps},
		{Name: "resumption abandoned half way, " + version, C: "looked up 1, remove 0"},
	}
}

func inFlush(c Case) Case {
	c.Name, c.Go, c.Why = "calls in a flush", "add ErrReentrant, remove ErrReentrant, flush ErrReentrant", reentrant
	return c
}

// ---- what the scenarios share -------------------------------------------------------

// stage is a lab with the store's callbacks, the internal cache on, and n sessions of the server's that nothing else
// holds, in the order in which they were made.
func (o *observer) stage(version uint16, n int) (*lab, []*libssl.Session) {
	l := o.lab(version)
	l.store()
	made := make([]*libssl.Session, n)
	for i := range made {
		l.onNew = func(_ *libssl.SSL, s *libssl.Session) { made[i] = o.decode(s) }
		l.mustVisit(l.server, nil)
		o.mustBe(made[i] != nil, "a session")
	}
	l.onNew = nil
	clear(l.entries)
	l.reset()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	return l, made
}

// decode makes a copy that nothing else holds, nil if it cannot.
func (o *observer) decode(s *libssl.Session) *libssl.Session {
	der, err := s.MarshalBinary()
	if err != nil {
		return nil
	}
	copied, err := libssl.ParseSession(der)
	if err != nil {
		return nil
	}
	o.atEnd(copied.Release)
	return copied
}

func (o *observer) dup(s *libssl.Session) *libssl.Session {
	dup, err := s.Dup()
	o.must(err)
	o.atEnd(dup.Release)
	return dup
}

func (l *lab) add(s *libssl.Session) {
	_, err := l.server.AddSession(s)
	l.o.must(err)
}

// give leaves the cache's reference as the only one.
func (l *lab) give(s *libssl.Session) {
	l.add(s)
	s.Release()
}

func (l *lab) remove(s *libssl.Session) {
	_, err := l.server.RemoveSession(s)
	l.o.must(err)
}

func (l *lab) flush() { l.o.must(l.server.FlushSessions(time.Time{})) }

// hold has new handlers retain the session they see last.
func (l *lab) hold() (held func() *libssl.Session) {
	var last *libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		last.Release()
		last, _ = s.Retain()
	}
	l.o.atEnd(func() { last.Release() })
	return func() *libssl.Session { return last }
}

func longAgo() time.Time { return time.Now().Add(-100000 * time.Second) }

// expireEntries has all entries of the store expire long ago.
func (l *lab) expireEntries() {
	for id, der := range l.entries {
		s, err := libssl.ParseSession(der)
		l.o.must(err)
		l.o.must(s.SetTime(longAgo()))
		l.entries[id], err = s.MarshalBinary()
		l.o.must(err)
		s.Release()
	}
}

// forget is what a naive store does on remove.
func (l *lab) forget() {
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.entries, s.ID())
	}
}

func corrupt(p []byte) []byte {
	wrong := append([]byte(nil), p...)
	wrong[len(wrong)-1] ^= 1
	return wrong
}

func (l *lab) runLink(offer *libssl.Session) *link {
	k := l.open(l.server, "", offer)
	l.o.mustBe(k.run(), "a handshake")
	return k
}

func (k *link) readFails() { k.o.mustBe(k.serverRead() != nil, "the end of the connection") }

func (k *link) serverRead() error {
	_, err := k.server.Read(make([]byte, 1))
	return err
}

func (k *link) alertSent() {
	k.wire.clientHook = corrupt
	_, err := k.client.Write([]byte{'x'})
	k.o.must(err)
	k.readFails()
}

func (k *link) alertReceived() {
	k.wire.serverHook = corrupt
	_, err := k.server.Write([]byte{'x'})
	k.o.must(err)
	_, err = k.client.Read(make([]byte, 1))
	k.o.mustBe(err != nil, "a corrupted record")
	k.readFails()
}

// halfWay handshakes and cuts what the client sends after its first flight. then runs when the server waits for that;
// it has to end the server's handshake, which it may wait for.
func (k *link) halfWay(then func(served <-chan error)) {
	reached, served, flights := make(chan struct{}), make(chan error, 1), 0
	k.wire.clientHook = func(p []byte) []byte {
		flights++
		if flights == 1 {
			return p
		}
		if flights == 2 {
			close(reached)
		}
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() { served <- k.server.Handshake() })
	both.Go(func() { k.client.Handshake() })
	select {
	case <-reached:
	case <-time.After(10 * time.Second):
		k.o.mustBe(false, "a second flight of the client's")
	}
	then(served)
	k.client.Abort()
	k.server.Abort()
	both.Wait()
}

func versionText(version uint16) string {
	if version == tls12 {
		return "1.2"
	}
	return "1.3"
}

// outcome is what a call that changes the cache came to.
func outcome(done bool, err error) string {
	switch {
	case errors.Is(err, libssl.ErrReentrant):
		return "ErrReentrant"
	case err != nil:
		return err.Error()
	case done:
		return "done"
	}
	return "nothing done"
}

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

func removedByEnd(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	for _, end := range []struct {
		name string
		how  func(k *link)
	}{
		{"fatal alert sent", (*link).alertSent},
		{"fatal alert received", (*link).alertReceived},
		{"freed", func(*link) {}},
		{"close_notify only received", func(k *link) {
			o.must(k.client.CloseWrite())
			k.readFails()
		}},
		{"close_notify sent", func(k *link) { o.must(k.server.CloseWrite()) }},
	} {
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

// ---- F3.4, F3.5 ---------------------------------------------------------------------------

// Triggers of remove, for a lab with two sessions; the cache has the first one's only reference.

func flushIt(l *lab, s []*libssl.Session) {
	l.give(s[0])
	l.flush()
}

func evictIt(l *lab, s []*libssl.Session) {
	l.server.SetSessionCacheSize(1)
	l.give(s[0])
	l.add(s[1])
}

func freeIt(l *lab, s []*libssl.Session) {
	l.give(s[0])
	l.o.must(l.server.Close())
}

func removeIt(l *lab, s []*libssl.Session) { l.remove(s[0]) }

func removedObjects(o *observer) {
	for _, c := range []struct {
		name, cached string
		trigger      func(l *lab, s []*libssl.Session)
	}{
		{"flush", "cached during a flush", flushIt},
		{"eviction", "cached during an eviction", evictIt},
		{"context freed", "", freeIt},
		{"asked for, not cached", "", removeIt},
	} {
		l, s := o.stage(tls12, 2)
		resumable, cached := true, -1
		l.onRemove = func(ctx *libssl.Context, s *libssl.Session) {
			resumable, cached = s.Resumable(), ctx.Stats().Number
		}
		destroyed := cref.SessionsDestroyed()
		c.trigger(l, s)
		o.say(c.name, "resumable %s, destroyed by the call %d", yes(resumable), cref.SessionsDestroyed()-destroyed)
		if c.cached != "" {
			o.say(c.cached, "others %d", cached)
		}
		l.onRemove = nil
	}
	removedInConnection(o)
	removedCopy(o)
}

func removedInConnection(o *observer) {
	l, _ := o.stage(tls12, 0)
	resumable := true
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) { resumable = s.Resumable() }
	k := l.runLink(nil)
	k.session() // so that closing destroys no session of the client's
	destroyed := cref.SessionsDestroyed()
	l.flush()
	o.say("flush, a connection holds it too", "resumable %s, destroyed by the call %d", yes(resumable),
		cref.SessionsDestroyed()-destroyed)
	k.closeClean()
	o.say("then the connection's end", "destroyed %d", cref.SessionsDestroyed()-destroyed)
}

func removedCopy(o *observer) {
	l, made := o.stage(tls12, 1)
	s, equal := made[0], o.dup(made[0])
	var der []byte
	var kept *libssl.Session
	its := false
	l.onRemove = func(_ *libssl.Context, seen *libssl.Session) { its = seen.Pointer() == equal.Pointer() }
	l.add(s)
	l.remove(equal)
	o.say("asked for with an equal copy", "it is the caller's object %s, the cached one is resumable %s, cached %d",
		yes(its), yes(s.Resumable()), l.server.Stats().Number)

	before, err := s.MarshalBinary()
	o.must(err)
	l.onRemove = func(_ *libssl.Context, seen *libssl.Session) {
		der, _ = seen.MarshalBinary()
		kept, _ = seen.Retain()
	}
	l.give(s)
	o.must(l.server.Close())
	o.say("its content", "DER as before %s", yes(string(der) == string(before)))
	der, err = kept.MarshalBinary()
	o.must(err)
	kept.Release()
	o.say("a reference outlives the context", "DER as before %s", yes(string(der) == string(before)))
}

func evictionPoisons(o *observer) {
	l, s := o.stage(tls12, 2)
	l.server.SetSessionCacheSize(1)
	l.add(s[0])
	o.say("cached", "resumable %s", yes(s[0].Resumable()))
	l.add(s[1])
	o.say("evicted", "remove %d, resumable for who holds it %s", l.removes, yes(s[0].Resumable()))
}

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
	for _, end := range []struct {
		name string
		how  func(k *link)
	}{
		{"fatal alert sent", (*link).alertSent},
		{"fatal alert received", (*link).alertReceived},
		{"freed", func(*link) {}},
	} {
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
	l.onRemove = func(ctx *libssl.Context, s *libssl.Session) {
		if l.removes == 1 {
			ctx.RemoveSession(s)
		}
	}
	l.remove(s[0])
	o.say("the same session removed in its removal", "remove %d", l.removes)
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
	o.say("an alert in the clear after somebody's id, 1.2", "remove %d, the honest client resumes then %s", removes,
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
