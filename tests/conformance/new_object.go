package conformance

import (
	"bytes"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F1.8: the object -------------------------------------------------------------

// stateOfObject gives the references back one after the other; the object's end tells which of them exist.
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
