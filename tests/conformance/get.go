package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/ticket"
)

const (
	noGenerator      = "Go has no id generator to set; a store's own makes 32 bytes"
	idsAreTagged     = "a store's ids carry a tag, so those of others are never looked up"
	noFlag           = "Go presets no flag: its zero value means what C presets, Copy"
	collectorTakesIt = "a forgotten Session gives its reference back when it is collected"
	deadOwner        = "a Session that was transferred is dead to its owner, and answers ErrReleased"
	refused          = "a session without a cipher, which only C can make, is refused"
	checked          = "answers of a store, plaintext or sealed, are checked: a bad entry is a miss"
	forgeable        = "a checksum stops accidents; only a seal stops who can write to the store"
	protocol         = "what TLS itself demands is no matter of the entry"
	ownPolicy        = "a store's id context is computed from the policy"
	remembered       = "a connection remembers what it took"
	switchesAtHello  = "Go's server name callback is the hello callback, so that it runs before any lookup"
	noRenegotiation  = "Go does not count renegotiations, and allows none"
)

// cases are cases by name and text, the same in C and in Go.
func cases(pairs ...string) (all []Case) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Case{Name: pairs[i], C: pairs[i+1]})
	}
	return all
}

// goOnly are cases of Go alone.
func goOnly(why string, pairs ...string) (all []Case) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Case{Name: pairs[i], C: absent, Go: pairs[i+1], Why: why})
	}
	return all
}

// cOnly are cases of C alone.
func cOnly(why string, pairs ...string) (all []Case) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Case{Name: pairs[i], C: pairs[i+1], Go: absent, Why: why})
	}
	return all
}

func join(all ...[]Case) []Case { return slices.Concat(all...) }

var getFacts = []Fact{
	{
		ID:   "F2.1",
		Says: "get is asked on servers: for a TLS 1.2 session id without ticket, for each 32-byte identity of TLS 1.3",
		Cases: cases(
			"1.2 tickets off", "get 1, resumed",
			"1.2 no ticket extension", "get 1, resumed",
			"1.2 empty ticket extension", "get 1, resumed",
			"1.2 no session id", "get 0, full handshake",
			"1.2 internal hit", "get 0, resumed",
			"1.2 internal miss", "get 1, resumed",
			"1.2 no internal lookup", "get 1, resumed",
			"1.2 cache off", "get 1, resumed",
			"1.2 cache for clients", "get 1, resumed",
			"1.3 stateful", "get 1, resumed",
			"1.3 no identity", "get 0, full handshake",
			"1.3 internal hit", "get 0, resumed",
			"1.3 internal miss", "get 1, resumed",
			"1.3 no internal lookup", "get 1, resumed",
			"1.3 cache off", "get 1, resumed",
			"1.3 cache for clients", "get 1, resumed",
			"1.3 two identities, the first known", "get 1, the PSK's identity was the last no, resumed",
			"1.3 two identities, none known", "get 2, the PSK's identity was the last yes, full handshake",
		),
		Go: func(o *observer) {
			askAll(o, whenAsked)
			twoIdentities(o, "1.3 two identities, the first known", false)
			twoIdentities(o, "1.3 two identities, none known", true)
		},
	},
	{
		ID:   "F2.2",
		Says: "get is not asked for stateless tickets, the id beside a ticket, a TLS 1.2 id where 1.3 is negotiated",
		Cases: cases(
			"1.2 ticket of another server", "get 0, full handshake",
			"1.2 ticket of its own", "get 0, resumed",
			"1.3 stateless ticket of its own", "get 0, resumed",
			"1.3 stateless ticket of another server", "get 0, full handshake",
			"1.2 session at a server that negotiates 1.3", "get 0, full handshake",
		),
		Go: func(o *observer) { askAll(o, whenNotAsked) },
	},
	{
		ID:   "F2.3",
		Says: "On TLS 1.2 servers get is asked for the random session id of every new client that also speaks 1.3",
		Cases: join(cases(
			"fresh client of 1.2 at a server of 1.2", "get 0, full handshake",
			"fresh client of 1.2 and 1.3 at a server of 1.2", "get 1, full handshake",
			"fresh client of 1.2 and 1.3 at a server of both", "get 0, full handshake",
		), goOnly(idsAreTagged,
			"fresh client of 1.2 and 1.3 at a server of 1.2 with a store", "store asked 0, untagged 1, full handshake",
		)),
		Go: func(o *observer) {
			askAll(o, whenFresh)
			freshAtStore(o)
		},
	},
	{
		ID:   "F2.4",
		Says: "The id is the hello's session id in TLS 1.2 and the PSK identity in 1.3, byte for byte",
		Cases: cases(
			"1.2", "32 bytes, the hello's session id yes, the identity offered no, the stored session's id yes",
			"1.3", "32 bytes, the hello's session id no, the identity offered yes, the stored session's id yes",
			"1.2 ids that the client made up",
			"1 bytes as written yes, 25 bytes as written yes, 32 bytes as written yes",
		),
		Go: whatIsAsked,
	},
	{
		ID:   "F2.5",
		Says: "get is called under no lock, on the thread of the handshake, and holds up no other handshake",
		Cases: cases(
			"1.2",
			"lock held no, another handshake went through meanwhile yes, on the handshake's thread yes, resumed yes",
			"1.3",
			"lock held no, another handshake went through meanwhile yes, on the handshake's thread yes, resumed yes",
		),
		Go: slowGet,
	},
	{
		ID:   "F2.6",
		Says: "Ids that a generator made shorter resume in TLS 1.2, and never in 1.3",
		Cases: join(cOnly(noGenerator,
			"1.2", "issued 16 bytes, get 1, resumed",
			"1.3", "issued 16 bytes, get 0, full handshake",
		), goOnly(noGenerator,
			"1.2 with a store", "issued 32 bytes, resumed",
			"1.3 with a store", "issued 32 bytes, resumed",
		)),
		Go: storeIDs,
	},
	{
		ID:   "F2.7",
		Says: "*copy is 1 on entry, then OpenSSL takes a reference of its own; with 0 it takes over the callback's",
		Cases: join(cOnly(noFlag, "copy on entry", "1"), cases(
			"1.2 internal, copy 1", "3 (answerer, connection, cache), the connection uses that very object yes",
			"1.2 internal, copy 0", "3 (answerer, connection, cache), the connection uses that very object yes",
			"1.2 NO_INTERNAL, copy 1", "2 (answerer, connection), the connection uses that very object yes",
			"1.2 NO_INTERNAL, copy 0", "2 (answerer, connection), the connection uses that very object yes",
			"1.3 internal, copy 1", "2 (answerer, cache), the connection uses that very object no",
			"1.3 internal, copy 0", "2 (answerer, cache), the connection uses that very object no",
			"1.3 NO_INTERNAL, copy 1", "1 (answerer), the connection uses that very object no",
			"1.3 NO_INTERNAL, copy 0", "1 (answerer), the connection uses that very object no",
			"1.3 internal without tickets, copy 1",
			"3 (answerer, connection, cache), the connection uses that very object yes",
			"1.3 internal without tickets, copy 0",
			"3 (answerer, connection, cache), the connection uses that very object yes",
			"1.3 NO_INTERNAL without tickets, copy 1",
			"2 (answerer, connection), the connection uses that very object yes",
			"1.3 NO_INTERNAL without tickets, copy 0",
			"2 (answerer, connection), the connection uses that very object yes",
		), eachVersion(
			Case{
				Name: "fresh object, copy left alone", C: "resumed yes, references leaked 1",
				Go: "resumed yes, references leaked 0", Why: collectorTakesIt,
			},
			Case{Name: "shared object, copy 0, no up_ref", C: "resumed yes, destroyed under its owner yes"},
			Case{
				Name: "its owner's Session", C: absent,
				Go: "dead yes, handed over again: full handshake, ErrReleased reported yes", Why: deadOwner,
			},
		)),
		Go: whoOwnsWhat,
	},
	{
		ID:   "F2.8",
		Says: "An answer marked not resumable is ignored from 3.0 on; the internal cache never looks at the mark",
		Cases: eachVersion(
			Case{Name: "answered", C: "resumed, callback hits 1, remove 0, given back yes", Before: v30},
			Case{Name: "answered", C: "full handshake, callback hits 0, remove 0, given back yes", From: v30},
			Case{Name: "in the internal cache", C: "resumed, get 0"},
		),
		Go: markedAnswers,
	},
	{
		ID:   "F2.9",
		Says: "The answer goes into the internal cache before it is checked, and displaces an equal id without remove",
		Cases: eachVersion(cases(
			"internal", "resumed yes, number 1, kept after the close yes, after a flush no",
			"cache off", "resumed yes, number 1, kept after the close yes, after a flush no",
			"no internal store", "resumed yes, number 0, kept after the close no, after a flush no",
			"rejected, cache off", "resumed no, number 1, kept after the close yes, after a flush no",
			"equal id", "resumed yes, the old object destroyed before no, after yes, number 1, remove 0",
		)...),
		Go: cachedAnswers,
	},
	{
		ID:   "F2.10",
		Says: "A bad answer is a miss, a failed handshake or a crash, depending on what is bad",
		Cases: join(cases(
			"1.2 sound", "resumed, remove 0, timeouts 0, given back yes",
			"1.3 sound", "resumed, remove 0, timeouts 0, given back yes",
			"1.2 other version", "full handshake, remove 0, timeouts 0, given back yes",
			"1.3 other version", "full handshake, remove 0, timeouts 0, given back yes",
			"1.2 other id context", "full handshake, remove 0, timeouts 0, given back yes",
			"1.3 other id context", "full handshake, remove 0, timeouts 0, given back yes",
			"1.2 VERIFY_PEER, no id context", "fails on the server, remove 0, timeouts 0, given back yes",
			"1.3 VERIFY_PEER, no id context", "fails on the server, remove 1, timeouts 0, given back yes",
			"1.2 expired", "full handshake, remove 1, timeouts 1, given back yes",
			"1.3 expired", "full handshake, remove 0, timeouts 1, given back yes",
			"1.2 EMS, hello without", "fails on the server, remove 0, timeouts 0, given back yes",
			"1.2 no EMS, hello with", "full handshake, remove 0, timeouts 0, given back yes",
		), []Case{
			{Name: "1.2 other id inside", C: "fails on the client, remove 1, timeouts 0, given back yes", Before: v36},
			{Name: "1.2 other id inside", C: "full handshake, remove 0, timeouts 0, given back yes", From: v36},
		}, cases(
			"1.3 other id inside", "resumed, remove 0, timeouts 0, given back yes",
			"1.2 wrong secret", "fails on the client, remove 1, timeouts 0, given back yes",
			"1.3 wrong secret", "fails on the server, remove 0, timeouts 0, given back yes",
			"1.2 cipher not offered", "fails on the server, remove 1, timeouts 0, given back yes",
			"1.3 cipher not offered", "resumed with the answer's cipher no, remove 0, timeouts 0, given back yes",
			"1.3 cipher not offered, other hash", "full handshake, remove 0, timeouts 0, given back yes",
			"1.2 cipher disabled since", "resumed with the answer's cipher yes, remove 0, timeouts 0, given back yes",
			"1.3 cipher disabled since", "resumed with the answer's cipher no, remove 0, timeouts 0, given back yes",
			"1.3 cipher disabled since, other hash", "full handshake, remove 0, timeouts 0, given back yes",
		), []Case{
			{Name: "no cipher 1.2", C: "crash", Go: "full handshake, refused yes", Why: refused},
			{Name: "no cipher 1.3", C: "crash", Go: "full handshake, refused yes", Why: refused},
			{Name: "blank 1.2", C: "full handshake", Go: "full handshake, refused yes", Why: refused},
			{Name: "blank 1.3", C: "crash", Go: "full handshake, refused yes", Why: refused},
		}, goOnly(checked,
			"1.2 store, sound", "resumed, hits 1, rejected 0, undecodable 0, deleted 0",
			"1.3 store, sound", "resumed, hits 1, rejected 0, undecodable 0, deleted 0",
			"1.2 store, other version", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, other version", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, other id context", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, other id context", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, VERIFY_PEER, no id context", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, VERIFY_PEER, no id context", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, expired", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, expired", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, other id inside", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, other id inside", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, wrong secret", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, wrong secret", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, cipher not offered", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, cipher not offered", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, cipher not offered, other hash", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, cipher disabled since", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, cipher disabled since", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.3 store, cipher disabled since, other hash",
			"full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
			"1.2 store, no cipher", "full handshake, hits 0, rejected 0, undecodable 1, deleted 0",
			"1.3 store, no cipher", "full handshake, hits 0, rejected 0, undecodable 1, deleted 0",
			"1.2 store, blank", "full handshake, hits 0, rejected 0, undecodable 1, deleted 0",
			"1.3 store, blank", "full handshake, hits 0, rejected 0, undecodable 1, deleted 0",
		), goOnly(forgeable,
			"1.2 plaintext store, wrong secret forged",
			"fails on the client, hits 1, rejected 0, undecodable 0, deleted 1",
			"1.3 plaintext store, wrong secret forged",
			"fails on the server, hits 1, rejected 0, undecodable 0, deleted 0",
		), goOnly(protocol,
			"1.2 store, EMS, hello without", "fails on the server, hits 1, rejected 0, undecodable 0, deleted 0",
			"1.2 store, no EMS, hello with", "full handshake, hits 1, rejected 0, undecodable 0, deleted 0",
		)),
		Go: badAnswers,
		Children: map[string]func(*observer){
			"no cipher 1.2": func(o *observer) { o.answerUseless(tls12, withoutCipher) },
			"no cipher 1.3": func(o *observer) { o.answerUseless(tls13, withoutCipher) },
			"blank 1.2":     func(o *observer) { o.answerUseless(tls12, blankSession) },
			"blank 1.3":     func(o *observer) { o.answerUseless(tls13, blankSession) },
		},
	},
	{
		ID:   "F2.11",
		Says: "From 3.6 on a TLS 1.2 answer with another id inside is a miss; before, it breaks the connection",
		Cases: []Case{
			{Name: "1.2", C: "fails on the client, remove named the innocent session yes", Before: v36},
			{Name: "1.2", C: "full handshake, remove named the innocent session no", From: v36},
			{Name: "1.3", C: "resumed, remove named the innocent session no"},
		},
		Go: func(o *observer) {
			for _, v := range bothVersions {
				m := o.meet(defectCalled("other id inside"), v)
				o.say(v.name, "%s, remove named the innocent session %s", m.outcome, yes(m.innocent))
			}
		},
	},
	{
		ID:   "F2.12",
		Says: "A server with VERIFY_PEER and no id context fails the handshake that would resume",
		Cases: join(cases(
			"1.2 VERIFY_PEER, no id context", "fails on the server, remove 0, timeouts 0, given back yes",
			"1.3 VERIFY_PEER, no id context", "fails on the server, remove 1, timeouts 0, given back yes",
		), goOnly(ownPolicy,
			"1.2 VERIFY_PEER and a store", "resumed, id context 32 bytes",
			"1.3 VERIFY_PEER and a store", "resumed, id context 32 bytes",
		)),
		Go: func(o *observer) {
			for _, v := range bothVersions {
				o.badAnswer(defectCalled("VERIFY_PEER, no id context"), v)
				o.verifyWithStore(v)
			}
		},
	},
	{
		ID:   "F2.13",
		Says: "TLS 1.2 resumes with the session's cipher even where the server has since disabled it",
		Cases: join(cases(
			"1.2 cipher disabled since", "resumed with the answer's cipher yes, remove 0, timeouts 0, given back yes",
		), goOnly(ownPolicy,
			"1.2 store, cipher disabled since", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
		)),
		Go: func(o *observer) {
			d := defectCalled("cipher disabled since")
			o.badAnswer(d, bothVersions[0])
			o.badEntry(d, bothVersions[0])
		},
	},
	{
		ID:   "F2.14",
		Says: "TLS 1.3, another hash than the session's: a full handshake, which on older releases issues no ticket",
		Cases: []Case{
			{Name: "hash differs", C: "full handshake, tickets 0", Before: v32}, // 3.0.22 issues again, 3.0.19 does not
			{Name: "hash differs", C: "full handshake, tickets 1", From: v30},
		},
		Go: func(o *observer) {
			m := o.meet(defectCalled("cipher disabled since, other hash"), bothVersions[1])
			o.say("hash differs", "%s, tickets %d", m.outcome, m.lab.news)
		},
	},
	{
		ID:   "F2.15",
		Says: "A HelloRetryRequest makes it two questions: the first answer is dropped between them",
		Cases: join(cases(
			"retried hello", "GGN, resumed yes, the first object was gone at the second question yes",
		), goOnly(remembered,
			"retried hello with a store of single use", "store asked 1, resumed yes",
		)),
		Go: retriedHello,
	},
	{
		ID:   "F2.16",
		Says: "OpenSSL's counters: misses are the internal cache's alone, callback hits include answers then refused",
		Cases: join(cases(
			"1.2 answered, no internal lookup", "resumed, hits 1, misses 0, callback hits 1, timeouts 0",
			"1.2 answered after an internal miss", "resumed, hits 1, misses 1, callback hits 1, timeouts 0",
			"1.2 not answered", "full handshake, hits 0, misses 1, callback hits 0, timeouts 0",
			"1.2 other id context", "full handshake, hits 0, misses 0, callback hits 1, timeouts 0",
			"1.2 expired", "full handshake, hits 0, misses 0, callback hits 1, timeouts 1",
			"1.3 answered, no internal lookup", "resumed, hits 1, misses 0, callback hits 1, timeouts 0",
			"1.3 answered after an internal miss", "resumed, hits 1, misses 1, callback hits 1, timeouts 0",
			"1.3 not answered", "full handshake, hits 0, misses 1, callback hits 0, timeouts 0",
			"1.3 other id context", "full handshake, hits 0, misses 0, callback hits 1, timeouts 0",
			"1.3 expired", "full handshake, hits 0, misses 0, callback hits 1, timeouts 1",
			"1.2 wrong secret", "fails on the client, hits 1, misses 0, callback hits 1, timeouts 0",
		), eachVersion(
			Case{
				Name: "switched by the servername callback", Before: v35, Go: absent, Why: switchesAtHello,
				C: "accept 0 where it began and 1 where it went, accept good 0 and 1",
			},
			Case{
				Name: "switched by the servername callback", From: v35, Go: absent, Why: switchesAtHello,
				C: "accept 1 where it began and 0 where it went, accept good 0 and 1",
			},
			// On every release: it is the servername callback after which accept stays where it began, from 3.5 on.
			Case{
				Name: "switched by the hello callback",
				C:    "accept 0 where it began and 1 where it went, accept good 0 and 1",
			},
		), []Case{
			{Name: "1.2 evictions", C: "4 sessions in a cache of 2, number 2, cache full 2", Before: v30},
			{Name: "1.2 evictions", C: "4 sessions in a cache of 2, number 1, cache full 3", From: v30},
		}, cOnly(noRenegotiation, // more than one for each where the server asks
			"1.2 renegotiation by the client", "renegotiated once, counted 1",
			"1.2 renegotiation by the server", "renegotiated once, counted 3",
		)),
		Go: counters,
	},
}

// protocolVersion is one of the two.
type protocolVersion struct {
	name    string
	version uint16
}

var bothVersions = []protocolVersion{{"1.2", tls12}, {"1.3", tls13}}

func (v protocolVersion) named(name string) string { return v.name + " " + name }

// eachVersion are cases for both versions.
func eachVersion(all ...Case) (both []Case) {
	for _, v := range bothVersions {
		for _, c := range all {
			c.Name = v.named(c.Name)
			both = append(both, c)
		}
	}
	return both
}

// outcome is what came of a handshake. The end that only heard of a failure has an alert on its queue.
func (k *link) outcome(ok bool) string {
	const alerts = 1000 // SSL_AD_REASON_OFFSET
	var e *libssl.Error
	switch {
	case ok && k.resumed():
		return "resumed"
	case ok:
		return "full handshake"
	case errors.As(k.serverErr, &e) && len(e.Queue) > 0 && e.Queue[0].Code&0xfff < alerts:
		return "fails on the server"
	}
	return "fails on the client"
}

// ranWell is outcome of a handshake that may not fail.
func (k *link) ranWell() string {
	k.o.mustBe(k.run(), "a handshake")
	return k.outcome(true)
}

// labWithSession is a lab with its callbacks, and the client's session after a full handshake.
func (o *observer) labWithSession(version uint16, mode libssl.CacheMode) (*lab, *libssl.Session) {
	l := o.lab(version)
	l.store()
	l.server.SetSessionCacheMode(mode)
	_, offer := l.mustVisit(l.server, nil)
	return l, offer
}

// issued is what a full handshake left in the entries.
func (l *lab) issued() (id libssl.SessionID, der []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.o.mustBe(len(l.entries) == 1, "one entry")
	for id, der = range l.entries {
	}
	return id, der
}

func (o *observer) marshal(s *libssl.Session) []byte {
	der, err := s.MarshalBinary()
	o.must(err)
	return der
}

const (
	external = libssl.CacheServer | libssl.CacheNoInternal
	internal = libssl.CacheServer
	noLookup = internal | libssl.CacheNoInternalLookup
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
		name: "1.2 session at a server that negotiates 1.3", version: tls12, offers: true, client13: true, server13: true,
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
			yes(bytes.Equal(asked.Bytes(), field(o, o.marshal(offer), fieldTicket))), yes(asked == stored))
	}

	made := make([]byte, store.MaxIDLen)
	copy(made, "whatever the client wrote")
	l, offer := o.labWithSession(tls12, external)
	var texts []string
	for _, n := range []int{1, 25, 32} {
		var asked libssl.SessionID
		l.onGet = func(_ *libssl.SSL, id libssl.SessionID) { asked = id }
		l.mustVisit(l.server, o.parse(withField(o, o.marshal(offer), fieldID, made[:n])))
		texts = append(texts, fmt.Sprintf("%d bytes as written %s", n, yes(bytes.Equal(asked.Bytes(), made[:n]))))
	}
	o.say("1.2 ids that the client made up", "%s", strings.Join(texts, ", "))
}

// The fields of a session's DER: the place of those without a tag, and 100 plus the tag of the others.
const (
	fieldVersion   = 1
	fieldCipher    = 2
	fieldID        = 3
	fieldSecret    = 4
	fieldIDContext = 104
	fieldTicket    = 110
	fieldFlags     = 113
)

// edit runs change on the content of a field, if der has it, and returns der with what change returns.
func edit(o *observer, der []byte, number int, change func(content []byte) []byte) []byte {
	var seq asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	o.must(err)
	var out []byte
	for i, rest := 0, seq.Bytes; len(rest) > 0; i++ {
		var v asn1.RawValue
		rest, err = asn1.Unmarshal(rest, &v)
		o.must(err)
		switch {
		case v.Class == asn1.ClassUniversal && i == number:
			v.FullBytes, v.Bytes = nil, change(v.Bytes)
		case v.Class == asn1.ClassContextSpecific && 100+v.Tag == number:
			var inner asn1.RawValue
			_, err = asn1.Unmarshal(v.Bytes, &inner)
			o.must(err)
			inner.FullBytes, inner.Bytes = nil, change(inner.Bytes)
			v.FullBytes = nil
			v.Bytes, err = asn1.Marshal(inner)
			o.must(err)
		}
		b, err := asn1.Marshal(v)
		o.must(err)
		out = append(out, b...)
	}
	seq.FullBytes, seq.Bytes = nil, out
	der, err = asn1.Marshal(seq)
	o.must(err)
	return der
}

func withField(o *observer, der []byte, number int, content []byte) []byte {
	return edit(o, der, number, func([]byte) []byte { return content })
}

// field is nil where der has no such field.
func field(o *observer, der []byte, number int) (content []byte) {
	edit(o, der, number, func(b []byte) []byte {
		content = bytes.Clone(b)
		return b
	})
	return content
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

// holds says whether a holder has a reference while the connection is open. It does if the object, when all others have
// given theirs back, is there until this one has.
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

// ---- F2.10 to F2.14: bad answers ------------------------------------------------

// defect is one defect: of the answer, or of the server or hello that it meets.
type defect struct {
	name            string
	only            uint16                               // 0: in both versions
	before, between func(l *lab)                         // the full handshake; the two
	spoil           func(o *observer, der []byte) []byte // the answer
	hideEMS         bool                                 // in the second hello
	aboutCipher     bool
	// How an entry of a store comes to be so: by damage to its bytes. Else by its maker: seal and checksum are right.
	byDamage bool
	// It has no serial form that a handler could decode: only a store's bytes can be so.
	storeOnly bool
}

var defects = []defect{
	{name: "sound"},
	{name: "other version", spoil: otherVersion},
	{name: "other id context", spoil: otherContext},
	{
		name:    "VERIFY_PEER, no id context",
		before:  func(l *lab) { l.o.must(l.server.SetSessionIDContext(nil)) },
		between: func(l *lab) { l.o.must(l.server.SetVerify(libssl.VerifyPeer)) },
	},
	{name: "expired", spoil: expire},
	{name: "EMS, hello without", only: tls12, hideEMS: true},
	{name: "no EMS, hello with", only: tls12, spoil: dropEMS},
	{name: "other id inside", spoil: otherID},
	{name: "wrong secret", spoil: otherSecret, byDamage: true},
	{name: "cipher not offered", before: clientAES128, spoil: otherCipher, aboutCipher: true, byDamage: true},
	{
		name: "cipher not offered, other hash", only: tls13, before: clientAES128,
		spoil: otherHash, aboutCipher: true, byDamage: true,
	},
	{name: "cipher disabled since", before: serverAES128, between: serverChaCha, aboutCipher: true},
	{
		name: "cipher disabled since, other hash", only: tls13, before: serverAES128,
		between: serverAES256, aboutCipher: true,
	},
	{name: "no cipher", spoil: noCipher, storeOnly: true},
	{name: "blank", spoil: func(*observer, []byte) []byte { return nil }, storeOnly: true},
}

func defectCalled(name string) defect {
	for _, d := range defects {
		if d.name == name {
			return d
		}
	}
	panic("no defect is called " + name)
}

func is13(o *observer, der []byte) bool {
	return bytes.Equal(field(o, der, fieldVersion), []byte{3, 4})
}

func otherVersion(o *observer, der []byte) []byte {
	other := []byte{3, 4}
	if is13(o, der) {
		other[1] = 3
	}
	return withField(o, der, fieldVersion, other)
}

func otherContext(o *observer, der []byte) []byte {
	return withField(o, der, fieldIDContext, []byte("another"))
}

func expire(o *observer, der []byte) []byte {
	s := o.parse(der)
	o.must(s.SetTime(time.Now().Add(-s.Timeout() - 10*time.Second)))
	return o.marshal(s)
}

func dropEMS(o *observer, der []byte) []byte {
	return withField(o, der, fieldFlags, []byte{0})
}

var innocentID, _ = store.IDFromBytes([]byte("the id of an innocent session..."))

func otherID(o *observer, der []byte) []byte { return withField(o, der, fieldID, innocentID.Bytes()) }

func otherSecret(o *observer, der []byte) []byte {
	return edit(o, der, fieldSecret, func(secret []byte) []byte {
		secret = bytes.Clone(secret)
		secret[0] ^= 1
		return secret
	})
}

func withCipher(o *observer, der []byte, in12, in13 uint16) []byte {
	c := in12
	if is13(o, der) {
		c = in13
	}
	return withField(o, der, fieldCipher, binary.BigEndian.AppendUint16(nil, c))
}

// otherCipher has the hash of AES-128-GCM.
func otherCipher(o *observer, der []byte) []byte {
	return withCipher(o, der, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256)
}

func otherHash(o *observer, der []byte) []byte {
	return withCipher(o, der, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_AES_256_GCM_SHA384)
}

func noCipher(o *observer, der []byte) []byte { return withCipher(o, der, 0, 0) }

func (l *lab) useCiphers(ctx *libssl.Context, in12, in13 string) {
	l.o.must(ctx.SetCiphers(in12))
	l.o.must(ctx.SetCipherSuites(in13))
}

func clientAES128(l *lab) {
	l.useCiphers(l.client, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256")
}
func serverAES128(l *lab) {
	l.useCiphers(l.server, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256")
}
func serverAES256(l *lab) {
	l.useCiphers(l.server, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384")
}
func serverChaCha(l *lab) {
	l.useCiphers(l.server, "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256")
}

// hideEMS gives the extension, which is empty, a number that nobody knows.
func hideEMS(p []byte) []byte {
	out := bytes.Clone(p)
	if i := bytes.Index(out, []byte{0x00, 0x17, 0x00, 0x00}); i >= 44 {
		out[i] = 0xfa
	}
	return out
}

func run(f func(l *lab), l *lab) {
	if f != nil {
		f(l)
	}
}

// met is what came of a defect.
type met struct {
	lab      *lab
	outcome  string
	innocent bool // remove was called with the other id
}

// meet has a get handler answer with the defect.
func (o *observer) meet(d defect, v protocolVersion) met {
	m := met{lab: o.lab(v.version)}
	l := m.lab
	l.store()
	run(d.before, l)
	_, offer := l.mustVisit(l.server, nil)
	run(d.between, l)
	_, der := l.issued()
	if d.spoil != nil {
		der = d.spoil(o, der)
	}
	l.reset()
	var cipher uint16
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		s, err := libssl.ParseSession(der)
		if err != nil {
			return nil, libssl.Copy
		}
		l.hits++
		cipher = s.CipherSuite()
		cref.Watch(s.Pointer())
		return s, libssl.Transfer
	}
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) { m.innocent = s.ID() == innocentID }
	k := l.open(l.server, "", offer)
	if d.hideEMS {
		k.wire.clientHook = hideEMS
	}
	ok := k.run()
	m.outcome = k.outcome(ok)
	if d.aboutCipher && m.outcome == "resumed" {
		m.outcome += " with the answer's cipher " + yes(k.server.ConnectionState().CipherSuite == cipher)
	}
	k.closeClean()
	o.mustBe(l.hits == 1, "one answer")
	return m
}

func (o *observer) badAnswer(d defect, v protocolVersion) {
	m := o.meet(d, v)
	o.say(v.named(d.name), "%s, remove %d, timeouts %d, given back %s", m.outcome, m.lab.removes,
		m.lab.server.Stats().Timeouts, yes(cref.WatchedIsGone()))
}

func badAnswers(o *observer) {
	for _, d := range defects {
		for _, v := range bothVersions {
			if d.only != 0 && d.only != v.version {
				continue
			}
			if !d.storeOnly {
				o.badAnswer(d, v)
			}
			o.badEntry(d, v)
		}
	}
	forged := defectCalled("wrong secret")
	forged.byDamage = false
	for _, v := range bothVersions {
		o.say(v.named("plaintext store, wrong secret forged"), "%s", o.meetInStore(forged, v, nil))
	}
}

// answerUseless has a get handler answer with a session that only C can make, and pass to Go.
func (o *observer) answerUseless(version uint16, useless func(der []byte) (*libssl.Session, error)) {
	l, offer := o.labWithSession(version, external)
	_, der := l.issued()
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		s, err := useless(der)
		if err != nil {
			return nil, libssl.Copy
		}
		o.atEnd(s.Release)
		return s, libssl.Transfer
	}
	k := l.open(l.server, "", offer)
	came := k.outcome(k.run())
	k.closeClean()
	o.mustBe(l.gets == 1, "one question")
	o.say("useless", "%s, refused %s", came, yes(len(l.misuse) == 1))
}

func withoutCipher(der []byte) (*libssl.Session, error) {
	s, err := libssl.ParseSession(der)
	if err == nil && !cref.DropCipher(s.Pointer()) {
		err = errors.New("the cipher stays")
	}
	return s, err
}

func blankSession([]byte) (*libssl.Session, error) {
	return libssl.WrapSession(cref.BlankSession(), libssl.Transfer)
}

// ---- the store layer ------------------------------------------------------------

// shelf is a store that hands out whatever was put on it, expired or not.
type shelf struct {
	mu            sync.Mutex
	records       map[store.ID]store.Record
	gets, deletes int
}

func (sh *shelf) Get(_ context.Context, id store.ID) (store.Record, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.gets++
	r, ok := sh.records[id]
	if !ok {
		return store.Record{}, store.ErrNotFound
	}
	r.Data = bytes.Clone(r.Data)
	return r, nil
}

func (sh *shelf) Put(_ context.Context, r store.Record) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.records == nil {
		sh.records = map[store.ID]store.Record{}
	}
	r.Data = bytes.Clone(r.Data)
	sh.records[r.ID] = r
	return nil
}

func (sh *shelf) Delete(_ context.Context, id store.ID) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.deletes++
	delete(sh.records, id)
	return nil
}

func (sh *shelf) Take(ctx context.Context, id store.ID) (store.Record, error) {
	r, err := sh.Get(ctx, id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.records, id)
	return r, err
}

func (sh *shelf) count(n *int) int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return *n
}

// only is the record after a full handshake.
func (sh *shelf) only(o *observer) (r store.Record) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	o.mustBe(len(sh.records) == 1, "one record")
	for _, r = range sh.records {
	}
	return r
}

func (o *observer) ring() *ticket.Ring {
	r, err := ticket.NewRing()
	o.must(err)
	return r
}

// useStore gives the shelf, which cannot fail, all the time that a busy machine needs. Without a ring entries are in
// plaintext.
func (o *observer) useStore(ctx *libssl.Context, sh *shelf, ring *ticket.Ring, singleUse bool) *libssl.SessionCache {
	sc, err := ctx.UseStore(sh, &libssl.StoreOptions{
		Keys: ring, Plaintext: ring == nil, LookupTimeout: time.Minute, PutTimeout: time.Minute, SingleUse: singleUse,
	})
	o.must(err)
	o.atEnd(func() { sc.Close(context.Background()) })
	return sc
}

// entry makes an entry as its rightful maker would, of whatever der is.
func entry(ring *ticket.Ring, id store.ID, idContext, der []byte) []byte {
	const sealed, plaintext = 1, 2
	body := append(binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix())), der...)
	authentic := func(format byte) []byte {
		b := append([]byte{format, byte(id.Len())}, id.Bytes()...)
		return append(b, idContext...)
	}
	if ring != nil {
		return ring.Seal([]byte{sealed}, body, authentic(sealed))
	}
	sum := sha256.Sum256(append(authentic(plaintext), body...))
	return append(append([]byte{plaintext}, sum[:8]...), body...)
}

// damaged is an entry of der whose bytes were changed afterwards: to those of bad, where they can be read.
func damaged(entry, der, bad []byte) []byte {
	if bytes.HasSuffix(entry, der) {
		return append(bytes.Clone(entry[:len(entry)-len(der)]), bad...)
	}
	out := bytes.Clone(entry)
	out[len(out)-1] ^= 1
	return out
}

// badEntry has a store answer with the defect, in plaintext and sealed.
func (o *observer) badEntry(d defect, v protocolVersion) {
	plaintext, sealed := o.meetInStore(d, v, nil), o.meetInStore(d, v, o.ring())
	text := plaintext
	if plaintext != sealed {
		text = "in plaintext " + plaintext + ", sealed " + sealed
	}
	o.say(v.named("store, "+d.name), "%s", text)
}

func (o *observer) meetInStore(d defect, v protocolVersion, ring *ticket.Ring) string {
	l := o.lab(v.version)
	o.must(l.server.SetSessionIDContext(nil)) // the store's own
	run(d.before, l)
	sh := &shelf{}
	sc := o.useStore(l.server, sh, ring, false)

	k := l.open(l.server, "", nil)
	k.ranWell()
	offer := k.session()
	own, err := k.server.Session()
	o.must(err)
	defer own.Release()
	k.closeClean()
	rec := sh.only(o)
	o.mustBe(own.ID() == rec.ID, "the session that was stored")
	der := o.marshal(own)
	good := entry(ring, rec.ID, own.IDContext(), der)
	o.mustBe(len(good) == len(rec.Data), "the form of the entries")
	run(d.between, l)
	if d.spoil != nil {
		bad := d.spoil(o, der)
		rec.Data = entry(ring, rec.ID, own.IDContext(), bad)
		if d.byDamage {
			rec.Data = damaged(good, der, bad)
		}
		o.must(sh.Put(context.Background(), rec))
	} else {
		rec.Data = good
		o.must(sh.Put(context.Background(), rec))
	}

	k = l.open(l.server, "", offer)
	if d.hideEMS {
		k.wire.clientHook = hideEMS
	}
	came := k.outcome(k.run())
	k.closeClean()
	o.must(sc.Close(context.Background()))
	s := sc.Stats()
	return fmt.Sprintf("%s, hits %d, rejected %d, undecodable %d, deleted %d", came, s.Hits,
		s.Rejected, s.Undecodable, sh.count(&sh.deletes))
}

func (o *observer) verifyWithStore(v protocolVersion) {
	l := o.lab(v.version)
	o.must(l.server.SetSessionIDContext(nil))
	o.must(l.server.SetVerify(libssl.VerifyPeer))
	o.useStore(l.server, &shelf{}, o.ring(), false)
	_, offer := l.mustVisit(l.server, nil)
	k := l.open(l.server, "", offer)
	came := k.ranWell()
	own, err := k.server.Session()
	o.must(err)
	n := len(own.IDContext())
	own.Release()
	k.closeClean()
	o.say(v.named("VERIFY_PEER and a store"), "%s, id context %d bytes", came, n)
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
