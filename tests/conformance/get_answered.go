package conformance

import (
	"errors"
	"runtime"
	"strings"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F2.7: who owns what --------------------------------------------------------

func whoOwnsWhat(o *observer) {
	for _, c := range []struct {
		name    string
		version uint16
		mode    libssl.CacheMode
		tickets int
	}{
		{"1.2 internal", tls12, internal, 1},
		{"1.2 NO_INTERNAL", tls12, external, 1},
		{"1.3 internal", tls13, internal, 1},
		{"1.3 NO_INTERNAL", tls13, external, 1},
		{"1.3 internal without tickets", tls13, internal, 0},
		{"1.3 NO_INTERNAL without tickets", tls13, external, 0},
	} {
		l, offer := o.labWithSession(c.version, c.mode)
		o.must(l.server.SetNumTickets(c.tickets))
		_, der := l.issued()
		for _, f := range []struct {
			name string
			flag libssl.CopyFlag
		}{{"copy 1", libssl.Copy}, {"copy 0", libssl.Transfer}} {
			var who []string
			var veryObject bool
			for _, holder := range []string{"answerer", "connection", "cache"} {
				held, very := l.holds(offer, der, f.flag, holder)
				veryObject = very
				if held {
					who = append(who, holder)
				}
			}
			o.say(c.name+", "+f.name, "%d (%s), the connection uses that very object %s", len(who),
				strings.Join(who, ", "), yes(veryObject))
		}
	}
	for _, v := range bothVersions {
		forgottenAnswer(o, v)
		givenAway(o, v)
	}
}

// holds says whether the holder has a reference while the connection is open. All others give theirs back first: the
// holder has one if the object lives until it gives its own back.
func (l *lab) holds(offer *libssl.Session, der []byte, flag libssl.CopyFlag, holder string) (held, veryObject bool) {
	o := l.o
	s := o.parse(der)
	o.must(l.server.FlushSessions(time.Time{}))
	cref.Watch(s.Pointer())
	object := s.Pointer()
	answerer := s
	if flag == libssl.Transfer {
		var err error
		answerer, err = s.Retain()
		o.must(err)
		o.atEnd(answerer.Release)
	}
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return s, flag }
	k := l.open(l.server, "", offer)
	o.mustBe(k.ranWell() == "resumed", "a resumption")
	own, err := k.server.Session()
	o.must(err)
	veryObject = own.Pointer() == object
	own.Release()
	release := map[string]func(){
		"answerer":   answerer.Release,
		"connection": k.closeClean,
		"cache":      func() { o.must(l.server.FlushSessions(time.Time{})) },
	}
	for _, name := range sortedKeys(release) {
		if name != holder {
			release[name]()
		}
	}
	before := cref.WatchedIsGone()
	release[holder]()
	o.mustBe(cref.WatchedIsGone(), "the end of the object")
	return !before, veryObject
}

// forgottenSessions are those that scenarios leave to the collector on purpose.
var forgottenSessions int64

func forgottenAnswer(o *observer, v protocolVersion) {
	l, offer := o.labWithSession(v.version, external)
	_, der := l.issued()
	l.answer = func(*libssl.SSL, libssl.SessionID) (s *libssl.Session, flag libssl.CopyFlag) {
		s, err := libssl.ParseSession(der)
		if err == nil {
			cref.Watch(s.Pointer())
		}
		return s, flag
	}
	resumed, _ := l.mustVisit(l.server, offer)
	forgottenSessions++
	leaked := 1
	for range 1000 {
		if cref.WatchedIsGone() {
			leaked = 0
			break
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	o.say(v.named("fresh object, copy left alone"), "resumed %s, references leaked %d", yes(resumed), leaked)
}

func givenAway(o *observer, v protocolVersion) {
	l, offer := o.labWithSession(v.version, external)
	_, der := l.issued()
	s := o.parse(der)
	cref.Watch(s.Pointer())
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return s, libssl.Transfer }
	resumed, _ := l.mustVisit(l.server, offer)
	o.say(v.named("shared object, copy 0, no up_ref"), "resumed %s, destroyed under its owner %s", yes(resumed),
		yes(cref.WatchedIsGone()))

	_, err := s.MarshalBinary()
	k := l.open(l.server, "", offer)
	came := k.ranWell()
	k.closeClean()
	o.say(v.named("its owner's Session"), "dead %s, handed over again: %s, ErrReleased reported %s",
		yes(errors.Is(err, libssl.ErrReleased)),
		came, yes(len(l.misuse) == 1 && errors.Is(l.misuse[0], libssl.ErrReleased)))
}

// ---- F2.8: the mark "not resumable" ---------------------------------------------

// marked is a session marked by a Context that has nothing to do with it.
func (l *lab) marked(der []byte) *libssl.Session {
	s := l.o.parse(der)
	_, err := l.client.RemoveSession(s)
	l.o.must(err)
	l.o.mustBe(!s.Resumable(), "marked")
	return s
}

func markedAnswers(o *observer) {
	for _, v := range bothVersions {
		l, offer := o.labWithSession(v.version, external)
		_, der := l.issued()
		s := l.marked(der)
		cref.Watch(s.Pointer())
		l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return s, libssl.Transfer }
		k := l.open(l.server, "", offer)
		came := k.ranWell()
		k.closeClean()
		o.say(v.named("answered"), "%s, callback hits %d, remove %d, given back %s", came,
			l.server.Stats().CallbackHits, l.removes, yes(cref.WatchedIsGone()))

		l, offer = o.labWithSession(v.version, internal)
		_, der = l.issued()
		o.must(l.server.FlushSessions(time.Time{}))
		_, err := l.server.AddSession(l.marked(der))
		o.must(err)
		k = l.open(l.server, "", offer)
		came = k.ranWell()
		k.closeClean()
		o.say(v.named("in the internal cache"), "%s, get %d", came, l.gets)
	}
}

// ---- F2.9: the answer in the internal cache -------------------------------------

func cachedAnswers(o *observer) {
	for _, v := range bothVersions {
		cachedAnswer(o, v, "internal", internal, nil)
		cachedAnswer(o, v, "cache off", libssl.CacheOff, nil)
		cachedAnswer(o, v, "no internal store", internal|libssl.CacheNoInternalStore, nil)
		cachedAnswer(o, v, "rejected, cache off", libssl.CacheOff, otherContext)
		displacedByAnswer(o, v)
	}
}

func cachedAnswer(o *observer, v protocolVersion, name string, mode libssl.CacheMode,
	spoil func(*observer, []byte) []byte) {
	l, offer := o.labWithSession(v.version, internal)
	_, der := l.issued()
	if spoil != nil {
		der = spoil(o, der)
	}
	s := o.parse(der)
	o.must(l.server.FlushSessions(time.Time{}))
	l.server.SetSessionCacheMode(mode)
	o.must(l.server.SetNumTickets(0))
	cref.Watch(s.Pointer())
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return s, libssl.Transfer }
	resumed, _ := l.mustVisit(l.server, offer)
	number, kept := l.server.Stats().Number, !cref.WatchedIsGone()
	o.must(l.server.FlushSessions(time.Time{}))
	o.say(v.named(name), "resumed %s, number %d, kept after the close %s, after a flush %s", yes(resumed), number,
		yes(kept), yes(!cref.WatchedIsGone()))
}

func displacedByAnswer(o *observer, v protocolVersion) {
	l := o.lab(v.version)
	l.store()
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { cref.Watch(s.Pointer()) }
	l.server.SetSessionCacheMode(noLookup)
	_, offer := l.mustVisit(l.server, nil)
	o.must(l.server.SetNumTickets(0))
	before := cref.WatchedIsGone()
	resumed, _ := l.mustVisit(l.server, offer)
	o.say(v.named("equal id"), "resumed %s, the old object destroyed before %s, after %s, number %d, remove %d",
		yes(resumed), yes(before), yes(cref.WatchedIsGone()), l.server.Stats().Number, l.removes)
}
