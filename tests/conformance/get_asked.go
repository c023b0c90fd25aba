package conformance

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F2.1, F2.2, F2.3: which hellos make it ask ---------------------------------

// cacheModes are those of the server when it issues and when it is asked.
type cacheModes struct{ issuer, asked libssl.CacheMode }

var noCache = cacheModes{external, external}

type question struct {
	name                   string
	version                uint16
	offers                 bool // a session issued before
	issuerTickets, tickets bool // tickets are on where it was issued, and where it is offered
	other                  bool // that is another server
	clientNoTicket         bool // the client sends no ticket extension
	client13, server13     bool // 1.3 is enabled too when it is offered
	modes                  cacheModes
	flush                  bool // the internal cache, between the two
}

var whenAsked = []question{
	{name: "1.2 tickets off", version: tls12, offers: true, modes: noCache},
	{
		name: "1.2 no ticket extension", version: tls12, offers: true, tickets: true, clientNoTicket: true,
		modes: noCache,
	},
	{name: "1.2 empty ticket extension", version: tls12, offers: true, tickets: true, modes: noCache},
	{name: "1.2 no session id", version: tls12, modes: noCache},
	{name: "1.2 internal hit", version: tls12, offers: true, modes: cacheModes{internal, internal}},
	{name: "1.2 internal miss", version: tls12, offers: true, modes: cacheModes{internal, internal}, flush: true},
	{name: "1.2 no internal lookup", version: tls12, offers: true, modes: cacheModes{internal, noLookup}},
	{name: "1.2 cache off", version: tls12, offers: true, modes: cacheModes{external, libssl.CacheOff}},
	{name: "1.2 cache for clients", version: tls12, offers: true, modes: cacheModes{external, libssl.CacheClient}},
	{name: "1.3 stateful", version: tls13, offers: true, modes: noCache},
	{name: "1.3 no identity", version: tls13, modes: noCache},
	{name: "1.3 internal hit", version: tls13, offers: true, modes: cacheModes{internal, internal}},
	{name: "1.3 internal miss", version: tls13, offers: true, modes: cacheModes{internal, internal}, flush: true},
	{name: "1.3 no internal lookup", version: tls13, offers: true, modes: cacheModes{internal, noLookup}},
	{name: "1.3 cache off", version: tls13, offers: true, modes: cacheModes{external, libssl.CacheOff}},
	{name: "1.3 cache for clients", version: tls13, offers: true, modes: cacheModes{external, libssl.CacheClient}},
}

var whenNotAsked = []question{
	{
		name: "1.2 ticket of another server", version: tls12, offers: true, issuerTickets: true, tickets: true, other: true,
		modes: noCache,
	},
	{name: "1.2 ticket of its own", version: tls12, offers: true, issuerTickets: true, tickets: true, modes: noCache},
	{
		name: "1.3 stateless ticket of its own", version: tls13, offers: true, issuerTickets: true, tickets: true,
		modes: noCache,
	},
	{
		name: "1.3 stateless ticket of another server", version: tls13, offers: true, issuerTickets: true, tickets: true, other: true,
		modes: noCache,
	},
	{
		name: "1.2 session at a server that negotiates 1.3", version: tls12, offers: true, other: true, client13: true, server13: true,
		modes: noCache,
	},
}

var whenFresh = []question{
	{name: "fresh client of 1.2 at a server of 1.2", version: tls12, modes: noCache},
	{name: "fresh client of 1.2 and 1.3 at a server of 1.2", version: tls12, client13: true, modes: noCache},
	{
		name: "fresh client of 1.2 and 1.3 at a server of both", version: tls12, client13: true, server13: true,
		modes: noCache,
	},
}

func askAll(o *observer, all []question) {
	for _, q := range all {
		q.ask(o)
	}
}

func switchTickets(ctx *libssl.Context, on bool) {
	if on {
		ctx.ClearOptions(libssl.OpNoTicket)
	} else {
		ctx.SetOptions(libssl.OpNoTicket)
	}
}

func (q question) ask(o *observer) {
	l := o.lab(q.version)
	l.store()
	switchTickets(l.server, q.issuerTickets)
	l.server.SetSessionCacheMode(q.modes.issuer)
	var offer *libssl.Session
	if q.offers {
		_, offer = l.mustVisit(l.server, nil)
	}
	server := l.server
	if q.other {
		server = l.newServer()
		l.storeOn(server)
	}
	switchTickets(server, q.tickets)
	switchTickets(l.client, !q.clientNoTicket)
	server.SetSessionCacheMode(q.modes.asked)
	if q.flush {
		o.must(server.FlushSessions(time.Time{}))
	}
	if q.client13 {
		l.renewClient()
		switchTickets(l.client, !q.clientNoTicket)
		o.must(l.client.SetVersions(tls12, tls13))
	}
	if q.server13 {
		o.must(server.SetVersions(tls12, tls13))
	}
	l.reset()
	k := l.open(server, "", offer)
	came := k.ranWell()
	k.closeClean()
	o.say(q.name, "get %d, %s", l.gets, came)
}

func twoIdentities(o *observer, name string, deaf bool) {
	l := o.lab(tls13)
	l.store()
	identity := cref.OfferIdentity(l.client.Pointer())
	o.mustBe(len(identity) == store.MaxIDLen, "a client that offers a PSK")
	_, offer := l.mustVisit(l.server, nil)
	l.reset()
	l.deaf = deaf
	pskLast := false
	l.onGet = func(_ *libssl.SSL, id libssl.SessionID) { pskLast = bytes.Equal(id.Bytes(), identity) }
	k := l.open(l.server, "", offer)
	came := k.ranWell()
	k.closeClean()
	o.say(name, "get %d, the PSK's identity was the last %s, %s", l.gets, yes(pskLast), came)
}

func freshAtStore(o *observer) {
	l := o.lab(tls12)
	sh := &shelf{}
	sc := o.useStore(l.server, sh, o.ring(), false)
	o.must(l.client.SetVersions(tls12, tls13))
	k := l.open(l.server, "", nil)
	came := k.ranWell()
	k.closeClean()
	o.say("fresh client of 1.2 and 1.3 at a server of 1.2 with a store", "store asked %d, untagged %d, %s",
		sh.count(&sh.gets), sc.Stats().Untagged, came)
}

// ---- F2.4: what the id is -------------------------------------------------------

// helloSessionID finds the session id behind the record's and the message's header, the version and the random.
func helloSessionID(p []byte) []byte {
	if len(p) < 44 || len(p) < 44+int(p[43]) {
		return nil
	}
	return bytes.Clone(p[44 : 44+int(p[43])])
}

func whatIsAsked(o *observer) {
	for _, v := range bothVersions {
		l, offer := o.labWithSession(v.version, external)
		stored, _ := l.issued()
		var asked libssl.SessionID
		l.onGet = func(_ *libssl.SSL, id libssl.SessionID) { asked = id }
		k := l.open(l.server, "", offer)
		var hello []byte
		k.wire.clientHook = func(p []byte) []byte {
			if hello == nil {
				hello = helloSessionID(p)
			}
			return p
		}
		k.ranWell()
		k.closeClean()
		o.say(v.name,
			"%d bytes, the hello's session id %s, the identity offered %s, the stored session's id %s",
			asked.Len(), yes(bytes.Equal(asked.Bytes(), hello)),
			yes(bytes.Equal(asked.Bytes(), o.fields(o.marshal(offer)).octets(fieldTicket))), yes(asked == stored))
	}

	made := make([]byte, store.MaxIDLen)
	copy(made, "whatever the client wrote")
	l, offer := o.labWithSession(tls12, external)
	var texts []string
	for _, n := range []int{1, 25, 32} {
		var asked libssl.SessionID
		l.onGet = func(_ *libssl.SSL, id libssl.SessionID) { asked = id }
		l.mustVisit(l.server, o.parse(o.fields(o.marshal(offer)).withPlain(placeID, made[:n]).der()))
		texts = append(texts, fmt.Sprintf("%d bytes as written %s", n, yes(bytes.Equal(asked.Bytes(), made[:n]))))
	}
	o.say("1.2 ids that the client made up", "%s", strings.Join(texts, ", "))
}

// ---- F2.5: locks and threads ----------------------------------------------------

func slowGet(o *observer) {
	for _, v := range bothVersions {
		l, offer := o.labWithSession(v.version, internal)
		o.must(l.server.FlushSessions(time.Time{}))
		k, other := l.open(l.server, "", offer), l.open(l.server, "", nil)
		var caller uint64
		var held, onCaller, otherWent bool
		l.onGet = func(*libssl.SSL, libssl.SessionID) {
			onCaller = cref.Thread() == caller
			held = l.lockHeld(l.server)
			went := make(chan bool)
			go func() { went <- other.run() }()
			otherWent = <-went
		}
		served := make(chan error)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			caller = cref.Thread()
			served <- k.server.Handshake()
		}()
		o.must(k.client.Handshake())
		o.must(<-served)
		came := k.ranWell()
		k.closeClean()
		other.closeClean()
		o.say(v.name,
			"lock held %s, another handshake went through meanwhile %s, on the handshake's thread %s, resumed %s",
			yes(held), yes(otherWent), yes(onCaller), yes(came == "resumed"))
	}
}

// ---- F2.6: short ids ------------------------------------------------------------

func storeIDs(o *observer) {
	for _, v := range bothVersions {
		l := o.lab(v.version)
		sh := &shelf{}
		o.useStore(l.server, sh, o.ring(), false)
		_, offer := l.mustVisit(l.server, nil)
		n := sh.only(o).ID.Len()
		k := l.open(l.server, "", offer)
		came := k.ranWell()
		k.closeClean()
		o.say(v.named("with a store"), "issued %d bytes, %s", n, came)
	}
}

// ---- F2.15: HelloRetryRequest ---------------------------------------------------

func retriedHello(o *observer) {
	l := o.lab(tls13)
	retry := func(l *lab) {
		o.must(l.client.SetGroups("X25519:P-256"))
		o.must(l.server.SetGroups("P-256"))
	}
	retry(l)
	l.store()
	_, offer := l.mustVisit(l.server, nil)
	l.reset()
	_, der := l.issued()
	answers, firstGone := 0, false
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		s, err := libssl.ParseSession(der)
		if err != nil {
			return nil, libssl.Copy
		}
		if answers++; answers == 1 {
			cref.Watch(s.Pointer())
		} else {
			firstGone = cref.WatchedIsGone()
		}
		return s, libssl.Transfer
	}
	resumed, _ := l.mustVisit(l.server, offer)
	o.say("retried hello", "%s, resumed %s, the first object was gone at the second question %s",
		l.trace(), yes(resumed), yes(firstGone))

	l = o.lab(tls13)
	retry(l)
	sh := &shelf{}
	o.useStore(l.server, sh, o.ring(), true)
	_, offer = l.mustVisit(l.server, nil)
	asked := sh.count(&sh.gets)
	resumed, _ = l.mustVisit(l.server, offer)
	o.say("retried hello with a store of single use", "store asked %d, resumed %s",
		sh.count(&sh.gets)-asked, yes(resumed))
}
