package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

const (
	noHelloAccess = "Go parks by itself: handlers see neither the pauses nor the hello, but for the server name"
	noAsync       = "Go has no SSL_MODE_ASYNC: a job that goes on on another thread crashes, and goroutines move"
	onlyStores    = "the store layer is Go's own"
)

var namedVersions = []protocolVersion{{"TLS 1.2", tls12}, {"TLS 1.3", tls13}}

var helloFacts = []Fact{
	{
		ID:   "F6.1",
		Says: "The ClientHello callback can pause a handshake, any number of times; get then answers from memory",
		Cases: []Case{
			{Name: "TLS 1.2", C: "looked up 1 while parked, given 1, resumed yes"},
			{Name: "TLS 1.3", C: "looked up 1 while parked, given 1, resumed yes"},
			{
				Name: "TLS 1.2, state", C: "SSL_get_error 11 and 11, errors queued no, calls HHHHG",
				Go: absent, Why: noHelloAccess,
			},
			{
				Name: "TLS 1.3, state", C: "SSL_get_error 11 and 11, errors queued no, calls HHHHG",
				Go: absent, Why: noHelloAccess,
			},
			{
				Name: "TLS 1.2, more parked than there are threads", C: absent,
				Go: "all at once yes, resumed all yes", Why: onlyStores,
			},
			{
				Name: "TLS 1.3, more parked than there are threads", C: absent,
				Go: "all at once yes, resumed all yes", Why: onlyStores,
			},
		},
		Go: func(o *observer) {
			for _, v := range namedVersions {
				lookUpWhileParked(o, v.name, v.version)
				parkMoreThanThreads(o, v.name+", more parked than there are threads", v.version)
			}
		},
	},
	{
		ID:   "F6.2",
		Says: "The hello tells what get will be asked for, byte for byte: the 32-byte identities, or the session id",
		Cases: []Case{
			{Name: "TLS 1.3, a ticket", C: "guessed the identity, asked for the identity"},
			{Name: "TLS 1.3, nothing", C: "guessed nothing, asked for nothing"},
			{Name: "TLS 1.3, an id of TLS 1.2", C: "guessed nothing, asked for nothing"},
			{Name: "TLS 1.2, an id", C: "guessed the session id, asked for the session id"},
			{Name: "TLS 1.2, nothing", C: "guessed the session id, asked for the session id"},
			{Name: "TLS 1.2, a ticket", C: "guessed the session id, asked for the session id"},
			{Name: "TLS 1.2 with tickets, an id", C: "guessed the session id, asked for the session id"},
			{Name: "TLS 1.2 with tickets, a ticket", C: "guessed nothing, asked for nothing"},
			{
				Name: "TLS 1.2, nothing, tagged ids", C: absent, Go: "guessed nothing",
				Why: "an id without the fleet's tag belongs to no session of the fleet: it is not looked up",
			},
		},
		Go: guessKeys,
	},
	{
		ID:   "F6.3",
		Says: "All of the hello is readable in the callback and while parked, not afterwards; its lengths may lie",
		Cases: []Case{
			{
				Name: "readable", Go: absent, Why: noHelloAccess,
				C: "of 7 functions answer 7 in the callback, 7 while parked, the same yes, 0 afterwards",
			},
			{Name: "an identity longer than its hello", C: "looked up 0, handshake no, alert 50"},
		},
		Go: func(o *observer) {
			l, st := o.lab(tls13), newSpyStore()
			l.useStore(l.server, st, libssl.StoreOptions{Plaintext: true}) // no tags: whatever is guessed is looked up
			_, s := l.mustVisit(l.server, nil)
			id := st.put[0].Bytes()
			k := l.open(l.server, "", s)
			k.wire.clientHook = func(p []byte) []byte {
				if i := bytes.Index(p, id); i >= 2 {
					p = bytes.Clone(p)
					p[i-2], p[i-1] = 0xff, 0xff
				}
				return p
			}
			ok := k.run()
			o.say("an identity longer than its hello", "looked up %d, handshake %s, alert %d",
				len(st.gets), yes(ok), alertOf(k.clientErr))
			k.closeClean()
		},
	},
	{
		ID:   "F6.4",
		Says: "After a HelloRetryRequest the callback runs again and get asks again: one pause for each hello",
		Cases: []Case{
			{
				Name: "parked for each hello", C: "parked 2, looked up 2, given 2, resumed yes",
				Go:  "parked 2, looked up 1, given 2, resumed yes",
				Why: "the second question is answered from the connection's memory",
			},
			{Name: "calls, each hello", C: "HHGHHG", Go: absent, Why: noHelloAccess},
			{
				Name: "parked for each connection", C: "parked 1, looked up 1, given 1, resumed no",
				Go: absent, Why: "Go parks for each hello",
			},
			{Name: "calls, each connection", C: "HHGHG", Go: absent, Why: noHelloAccess},
		},
		Go: func(o *observer) {
			l, st := o.lab(tls13), newSpyStore()
			l.retryGroups(l.server)
			sc := l.useStore(l.server, st, libssl.StoreOptions{})
			_, s := l.mustVisit(l.server, nil)
			resumed, _ := l.mustVisit(l.server, s)
			o.say("parked for each hello", "parked %d, looked up %d, given %d, resumed %s",
				sc.Stats().Suspended, len(st.gets), l.server.Stats().CallbackHits, yes(resumed))
		},
	},
	{
		ID:   "F6.5",
		Says: "A callback that switches the context and pauses runs again as the new context's callback, or not at all",
		Cases: []Case{
			{
				Name: "the new context has a callback", C: "parked yes, calls AB, handshake yes",
				Go:  "parked yes, calls A, handshake yes",
				Why: "Go switches in the last call, after the lookup, and asks one handler only",
			},
			{Name: "the new context has none", C: "parked yes, calls A, handshake yes"},
		},
		Go: func(o *observer) {
			switchAndPark(o, "the new context has a callback", true)
			switchAndPark(o, "the new context has none", false)
		},
	},
	{
		ID:   "F6.6",
		Says: "Order: hello, get, servername, ALPN and certificate, new; the lookup compares the hello's id context",
		Cases: []Case{
			// On every release TLS 1.2 asks for the certificate before ALPN, and TLS 1.3 after it.
			{Name: "TLS 1.2", C: "HGSCAN", Go: "SGN", Why: namesAtTheHello},
			{Name: "TLS 1.3", C: "HGSACN", Go: "SGN", Why: namesAtTheHello},
			{Name: "TLS 1.2, name known to get", C: "no"},
			{Name: "TLS 1.3, name known to get", C: "no"},
			{Name: "TLS 1.2, id context of the hello", C: "the session's: resumed yes, another: resumed no"},
			{Name: "TLS 1.3, id context of the hello", C: "the session's: resumed yes, another: resumed no"},
		},
		Go: func(o *observer) {
			for _, v := range namedVersions {
				orderOfHandlers(o, v.name, v.version)
			}
		},
	},
	{
		ID:   "F6.7",
		Says: "Early data works with a pause, and a connection may be freed while it is paused",
		Cases: []Case{
			{Name: "early data", C: "SSL_get_error 11, then accepted yes", Go: absent, Why: noEarlyData},
			{Name: "SingleUse, early data", C: absent, Go: "parked 1, accepted", Why: onlySingleUse},
			{Name: "freed while parked", C: "removed 0, sessions left over 0"},
		},
		Go: func(o *observer) {
			l, st := o.lab(tls13), newSpyStore()
			sc := l.useStore(l.server, st, libssl.StoreOptions{})
			o.must(l.server.SetMaxEarlyData(100))
			_, s := l.mustVisit(l.server, nil)
			came := l.offer(l.server, s)
			o.say("SingleUse, early data", "parked %d, %s", sc.Stats().Suspended, came)

			l, st = o.lab(tls13), newSpyStore()
			sc = l.useStore(l.server, st, libssl.StoreOptions{})
			_, s = l.mustVisit(l.server, nil)
			live := cref.LiveSessions()
			parked, goOn := make(chan struct{}), make(chan struct{})
			st.onGet = func(context.Context, store.ID) error {
				close(parked)
				<-goOn
				return nil
			}
			k := l.open(l.server, "", s)
			ran := make(chan bool)
			go func() { ran <- k.run() }()
			<-parked
			k.server.Abort()
			close(goOn)
			o.mustBe(!<-ran, "a handshake given up")
			k.client.Close()
			o.must(sc.Close(context.Background())) // what it removes is queued
			o.say("freed while parked", "removed %d, sessions left over %d",
				sc.Stats().Removed, cref.LiveSessions()-live)
		},
	},
	{
		ID:   "F6.8",
		Says: "With SSL_MODE_ASYNC get itself can pause, but the job has to go on on the same thread, or it crashes",
		Cases: []Case{
			{Name: "the same thread", C: "SSL_get_error 9, paused 1, resumed yes", Go: absent, Why: noAsync},
			{
				Name: "the same thread, HelloRetryRequest", C: "SSL_get_error 9, paused 2, resumed yes",
				Go: absent, Why: noAsync,
			},
			{Name: "another thread", C: "crash", Go: absent, Why: noAsync},
			{
				Name: "SSL_MODE_ASYNC on an SSL_CTX of C", C: absent, Go: "handlers run in a job no, resumed yes",
				Why: noAsync,
			},
		},
		Go: func(o *observer) {
			l := o.lab(tls13)
			cref.SetAsync(l.server.Pointer())
			l.store()
			var inJob atomic.Bool
			l.onNew = func(*libssl.SSL, *libssl.Session) { inJob.Store(inJob.Load() || cref.InAsyncJob()) }
			l.onGet = func(*libssl.SSL, libssl.SessionID) { inJob.Store(inJob.Load() || cref.InAsyncJob()) }
			_, s := l.mustVisit(l.server, nil)
			resumed, _ := l.mustVisit(l.server, s)
			o.say("SSL_MODE_ASYNC on an SSL_CTX of C", "handlers run in a job %s, resumed %s",
				yes(inJob.Load()), yes(resumed))
		},
		Children: map[string]func(*observer){"another thread": nil},
	},
	{
		ID:   "F6.9",
		Says: "A hello callback that refuses ends the handshake with its alert, before any session callback",
		Cases: []Case{
			{Name: "TLS 1.2", C: "handshake no, alert 112, session callbacks 0", Go: absent, Why: neverRefuses},
			{Name: "TLS 1.3", C: "handshake no, alert 112, session callbacks 0", Go: absent, Why: neverRefuses},
			{Name: "TLS 1.2, a handler that panics", C: absent, Go: "failed, told off 1", Why: refusesUnchosen},
			{Name: "TLS 1.3, a handler that panics", C: absent, Go: "failed, told off 1", Why: refusesUnchosen},
			{Name: "TLS 1.2, a store that fails", C: absent, Go: "full, reported 1", Why: neverRefuses},
			{Name: "TLS 1.3, a store that fails", C: absent, Go: "full, reported 1", Why: neverRefuses},
			{Name: "TLS 1.2, a store that panics", C: absent, Go: "full, reported 1", Why: neverRefuses},
			{Name: "TLS 1.3, a store that panics", C: absent, Go: "full, reported 1", Why: neverRefuses},
		},
		Go: func(o *observer) {
			for _, v := range namedVersions {
				failInTheHello(o, v.name, v.version)
			}
		},
	},
}

const (
	namesAtTheHello = "Go's server name handler runs at the hello, before the lookup; ALPN and certificates have none"
	neverRefuses    = "in Go no store that fails at the hello ends a handshake: it goes on without a session"
	refusesUnchosen = "a handler that should choose the Context and panics ends the handshake"
)

// ---- F6.1 ---------------------------------------------------------------------------

func lookUpWhileParked(o *observer, name string, version uint16) {
	l, st := o.lab(version), newSpyStore()
	sc := l.useStore(l.server, st, libssl.StoreOptions{})
	_, s := l.mustVisit(l.server, nil)
	parked := 0
	st.onGet = func(context.Context, store.ID) error {
		parked += sc.Stats().Parked
		return nil
	}
	resumed, _ := l.mustVisit(l.server, s)
	o.say(name, "looked up %d while parked, given %d, resumed %s", parked, sc.Stats().Hits, yes(resumed))
}

// threads counts the threads of the process: 0 on a system without /proc.
func threads() int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	return len(tasks)
}

// parkMoreThanThreads has more handshakes wait for the store than the process has threads.
func parkMoreThanThreads(o *observer, name string, version uint16) {
	l, st := o.lab(version), newSpyStore()
	sc := l.useStore(l.server, st, libssl.StoreOptions{})
	_, s := l.mustVisit(l.server, nil)
	n := threads() + 16
	waiting, goOn := make(chan struct{}), make(chan struct{})
	st.onGet = func(context.Context, store.ID) error {
		waiting <- struct{}{}
		<-goOn
		return nil
	}
	resumed := make(chan bool, n)
	var links []*link
	for range n {
		k := l.open(l.server, "", s)
		links = append(links, k)
		go func() { resumed <- k.run() && k.resumed() }()
		<-waiting // or the steps before the lookup would make threads, too
	}
	atOnce := sc.Stats().Parked == n && threads() < n
	close(goOn)
	every := true
	for range n {
		every = <-resumed && every
	}
	for _, k := range links {
		k.closeClean()
	}
	o.say(name, "all at once %s, resumed all %s", yes(atOnce), yes(every))
}

// ---- F6.2 ---------------------------------------------------------------------------

// offering is what a client that speaks both versions offers to a server. A server of TLS 1.3 speaks both, too.
type offering struct {
	name          string
	issueMax      uint16 // of the server that issued what is offered; 0: nothing is
	issueTickets  bool
	max           uint16 // of the server that it is offered to
	tickets, tags bool
}

var offerings = []offering{
	{name: "TLS 1.3, a ticket", issueMax: tls13, max: tls13},
	{name: "TLS 1.3, nothing", max: tls13},
	{name: "TLS 1.3, an id of TLS 1.2", issueMax: tls12, max: tls13},
	{name: "TLS 1.2, an id", issueMax: tls12, max: tls12},
	{name: "TLS 1.2, nothing", max: tls12},
	{name: "TLS 1.2, a ticket", issueMax: tls12, issueTickets: true, max: tls12},
	{name: "TLS 1.2 with tickets, an id", issueMax: tls12, max: tls12, tickets: true},
	{name: "TLS 1.2 with tickets, a ticket", issueMax: tls12, issueTickets: true, max: tls12, tickets: true},
	{name: "TLS 1.2, nothing, tagged ids", max: tls12, tags: true},
}

// guessKeys offers the same to a server with a store, which guesses, and to one with callbacks, which are asked.
func guessKeys(o *observer) {
	l := o.lab(tls12)
	o.must(l.client.SetVersions(tls12, tls13))
	for _, f := range offerings {
		serveAs := func(ctx *libssl.Context, max uint16, tickets bool) {
			o.must(ctx.SetVersions(tls12, max))
			if tickets {
				ctx.ClearOptions(libssl.OpNoTicket)
			} else {
				ctx.SetOptions(libssl.OpNoTicket)
			}
		}
		var s *libssl.Session
		if f.issueMax != 0 {
			issuer := l.newServer()
			serveAs(issuer, f.issueMax, f.issueTickets)
			_, s = l.mustVisit(issuer, nil)
		}
		st := newSpyStore()
		guesser := l.newServer()
		l.useStore(guesser, st, libssl.StoreOptions{Plaintext: !f.tags})
		serveAs(guesser, f.max, f.tickets)
		guessed := l.partOfHello(guesser, s, &st.gets)
		if f.tags {
			o.say(f.name, "guessed %s", guessed)
			continue
		}
		var asked []libssl.SessionID
		callbacks := l.newServer()
		serveAs(callbacks, f.max, f.tickets)
		callbacks.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
			asked = append(asked, id)
			return nil, libssl.Copy
		})
		o.say(f.name, "guessed %s, asked for %s", guessed, l.partOfHello(callbacks, s, &asked))
	}
}

// partOfHello connects and says what the ids that came up are in the ClientHello.
func (l *lab) partOfHello(server *libssl.Context, offer *libssl.Session, ids *[]store.ID) string {
	var hello []byte
	k := l.open(server, "", offer)
	k.wire.clientHook = func(p []byte) []byte {
		if hello == nil {
			hello = bytes.Clone(p)
		}
		return p
	}
	l.o.mustBe(k.run(), "a handshake")
	k.closeClean()
	// After the headers of record and message, version and random.
	const at = 5 + 4 + 2 + 32
	sessionID, rest := hello[at+1:at+1+int(hello[at])], hello[at+1+int(hello[at]):]
	var parts []string
	for _, id := range *ids {
		switch {
		case bytes.Equal(id.Bytes(), sessionID):
			parts = append(parts, "the session id")
		case bytes.Contains(rest, id.Bytes()):
			parts = append(parts, "the identity")
		default:
			parts = append(parts, "something else")
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, " and ")
}

// ---- F6.5 ---------------------------------------------------------------------------

func switchAndPark(o *observer, name string, has bool) {
	l, st := o.lab(tls13), newSpyStore()
	sc := l.useStore(l.server, st, libssl.StoreOptions{})
	other := l.newServer()
	calls := ""
	l.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context {
		calls += "A"
		return other
	})
	if has {
		other.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context {
			calls += "B"
			return nil
		})
	}
	_, s := l.mustVisit(l.server, nil)
	calls = ""
	ok, _, _ := l.visit(l.server, s)
	o.say(name, "parked %s, calls %s, handshake %s", yes(sc.Stats().Suspended == 1), calls, yes(ok))
}

// ---- F6.6 ---------------------------------------------------------------------------

func orderOfHandlers(o *observer, name string, version uint16) {
	const host = "server.test"
	l := o.lab(version)
	l.store()
	k := l.open(l.server, host, nil)
	o.mustBe(k.run(), "a handshake")
	s := k.session()
	k.closeClean()

	trace, known := "", false
	l.server.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context {
		if name == host {
			trace += "S"
		}
		return nil
	})
	l.onGet = func(ssl *libssl.SSL, _ libssl.SessionID) {
		trace += "G"
		known = ssl.ServerName() != ""
	}
	l.onNew = func(*libssl.SSL, *libssl.Session) { trace += "N" }
	l.deaf = true
	k = l.open(l.server, host, s)
	o.mustBe(k.run(), "a handshake")
	k.closeClean()
	o.say(name, "%s", trace)
	o.say(name+", name known to get", "%s", yes(known))

	l.deaf = false
	resumedAs := func(idContext string) bool {
		tenant := l.newServer()
		o.must(tenant.SetSessionIDContext([]byte(idContext)))
		l.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return tenant })
		ok, resumed, _ := l.visit(l.server, s)
		return ok && resumed
	}
	its := resumedAs("conformance")
	o.say(name+", id context of the hello", "the session's: resumed %s, another: resumed %s",
		yes(its), yes(resumedAs("another")))
}

// ---- F6.9 ---------------------------------------------------------------------------

func failInTheHello(o *observer, name string, version uint16) {
	panics := o.lab(version)
	panics.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { panic("on purpose") })
	came := panics.offer(panics.server, nil)
	o.say(name+", a handler that panics", "%s, told off %d", came, len(panics.misuse))

	for _, how := range []string{"fails", "panics"} {
		l, st := o.lab(version), newSpyStore()
		var reported atomic.Int64
		l.useStore(l.server, st, libssl.StoreOptions{OnError: func(error) { reported.Add(1) }})
		_, s := l.mustVisit(l.server, nil)
		st.onGet = func(context.Context, store.ID) error {
			if how == "panics" {
				panic("on purpose")
			}
			return errors.New("on purpose")
		}
		came := l.offer(l.server, s)
		o.say(fmt.Sprintf("%s, a store that %s", name, how), "%s, reported %d", came, reported.Load())
	}
}

// ---- stores -------------------------------------------------------------------------

// spyStore is a store as a far one would be: it is not store.Local. It notes what it was asked for.
type spyStore struct {
	mem *memstore.Store
	// onGet, where set, runs first; its error is the answer.
	onGet func(context.Context, store.ID) error

	mu               sync.Mutex
	gets, takes, put []store.ID
}

func newSpyStore() *spyStore { return &spyStore{mem: memstore.New(memstore.Options{})} }

func (s *spyStore) SealingKey() ([]byte, error) { return s.mem.SealingKey() }

func (s *spyStore) Put(ctx context.Context, r store.Record) error {
	s.note(&s.put, r.ID)
	return s.mem.Put(ctx, r)
}

func (s *spyStore) Delete(ctx context.Context, id store.ID) error { return s.mem.Delete(ctx, id) }

func (s *spyStore) Get(ctx context.Context, id store.ID) (store.Record, error) {
	s.note(&s.gets, id)
	if s.onGet != nil {
		if err := s.onGet(ctx, id); err != nil {
			return store.Record{}, err
		}
	}
	return s.mem.Get(ctx, id)
}

func (s *spyStore) Take(ctx context.Context, id store.ID) (store.Record, error) {
	s.note(&s.takes, id)
	return s.mem.Take(ctx, id)
}

func (s *spyStore) note(to *[]store.ID, id store.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*to = append(*to, id)
}

// useStore puts st, with budgets that a slow machine keeps, behind ctx.
func (l *lab) useStore(ctx *libssl.Context, st store.Store, opt libssl.StoreOptions) *libssl.SessionCache {
	opt.LookupTimeout, opt.PutTimeout = time.Minute, time.Minute
	sc, err := ctx.UseStore(st, &opt)
	l.o.must(err)
	l.o.atEnd(func() { sc.Close(context.Background()) })
	return sc
}
