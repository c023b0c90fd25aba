package conformance

import (
	"errors"

	"github.com/libssl-go/libssl"
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
			"1.2 store, no EMS, hello with", "full handshake, hits 0, rejected 1, undecodable 0, deleted 0",
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

const (
	external = libssl.CacheServer | libssl.CacheNoInternal
	internal = libssl.CacheServer
	noLookup = internal | libssl.CacheNoInternalLookup
)
