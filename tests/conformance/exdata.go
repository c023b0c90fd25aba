package conformance

import (
	"bytes"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

const (
	noSessionData = "Go offers no ex_data of sessions: a handler keeps what it wants under the session's id"
	noDestructors = "no Go code runs in a session's destructor"
)

// In Go the place of ex_data on an SSL_CTX is taken by the Context's handle: LiveResources counts those that the
// destructor has not given up yet.
var exdataFacts = []Fact{
	{
		ID:   "F8.1",
		Says: "The destructor of SSL_CTX ex_data runs once, after the last remove callback",
		Cases: []Case{
			{
				Name: "three connections that break",
				C:    `the application's reference: "", then "R", "R", "RRD", ex_data missing 0`,
			},
			{Name: "a connection that was switched", C: "destroyed before its end 0 of 2, after 2"},
		},
		Go: func(o *observer) {
			brokenConnections(o)
			switchedConnection(o)
		},
	},
	{
		ID:   "F8.2",
		Says: "It runs on the thread that gives the last reference back",
		Cases: []Case{
			{Name: "last connection ended elsewhere", C: "remove runs there yes, destroyed when that returns yes"},
			{Name: "thread", C: "the destructor runs there yes", Go: absent, Why: "a goroutine has no thread of its own"},
			{
				Name: "collected", C: absent, Go: "cached 1, counted 1, handles left 0, objects left 0, remove 0",
				Why: "a forgotten Context is closed by the collector, which calls no handler",
			},
		},
		Go: func(o *observer) {
			endedElsewhere(o)
			collected(o)
		},
	},
	{
		ID:   "F8.3",
		Says: "It runs also for contexts on which nothing was set, with NULL",
		Cases: []Case{
			{
				Name: "nothing set", C: "destructor 1, with NULL 1",
				Go: "destructor 1, handles given up 0", Why: "the hook is in C, Go sees the handles that it gives up",
			},
		},
		Go: contextOfOthers,
	},
	{
		ID:   "F8.4",
		Says: "A value set on a session is copied to the next ticket's session and destroyed twice",
		Cases: []Case{
			{
				Name: "set on the first ticket's session", C: "new 2, the second's session has it yes, destroyed 2",
				Go: absent, Why: noSessionData,
			},
			{
				Name: "with a dup function that clears it", C: "new 2, the second's session has it no, destroyed 1",
				Go: absent, Why: noSessionData,
			},
			{
				Name: "kept by Go", C: absent,
				Go:  "new 2, destroyed with the first 1, the second is good then yes, destroyed with both 2",
				Why: noSessionData,
			},
		},
		Go: keptOfTwoTickets,
	},
	{
		ID:   "F8.5",
		Says: "A session's destructor may run under the context's lock: when displaced; by release when evicted or flushed",
		Cases: []Case{
			{Name: "displaced", C: "held", Go: absent, Why: noDestructors},
			{Name: "evicted", C: "held", Go: absent, Why: noDestructors, Before: v40},
			// PR 31540, which 3.6.5 carries, frees what was evicted after the lock.
			{Name: "evicted", C: "not held", Go: absent, Why: noDestructors, From: v30},
			{Name: "flushed", C: "held", Go: absent, Why: noDestructors, Before: v30},
			{Name: "flushed", C: "not held", Go: absent, Why: noDestructors, From: v30},
			{Name: "removed", C: "not held", Go: absent, Why: noDestructors},
		},
	},
	{
		ID:   "F8.6",
		Says: "A session may outlive its context, and is good for others unless that had it cached at its end",
		Cases: []Case{
			{
				Name: "a server's session, not cached",
				C:    "encodes yes, resumable yes, another server resumes it yes",
			},
			{Name: "a server's session, cached to the end", C: "encodes yes, resumable no"},
			{Name: "a client's session", C: "encodes yes, another client resumes it yes"},
		},
		Go: func(o *observer) {
			outliveServer(o, "a server's session, not cached", libssl.CacheServer|libssl.CacheNoInternal)
			outliveServer(o, "a server's session, cached to the end", libssl.CacheServer)
			outliveClient(o)
		},
	},
}

func handles() int { return libssl.LiveResources().Contexts }

// ---- F8.1: the destructor comes last ------------------------------------------------

func brokenConnections(o *observer) {
	l := o.lab(tls12)
	l.server.SetSessionCacheMode(libssl.CacheServer)
	l.store()
	before, missing := handles(), 0
	l.onRemove = func(ctx *libssl.Context, _ *libssl.Session) {
		if ctx != l.server || handles() != before {
			missing++
		}
	}
	l.mustVisit(l.server, nil) // leaves its session in the cache
	var links []*link
	for range 3 {
		k := l.open(l.server, "", nil)
		o.mustBe(k.run(), "a handshake")
		links = append(links, k)
	}
	gone := 0
	during := func(f func()) string { // an R for a call, a D for a handle that is gone afterwards
		l.reset()
		f()
		trace := l.trace()
		for ; gone < before-handles(); gone++ {
			trace += "D"
		}
		return trace
	}
	application := during(func() { l.server.Close() })
	var ends []any
	for _, k := range links {
		ends = append(ends, during(k.closeUnclean))
	}
	o.say("three connections that break", "the application's reference: %q, then %q, %q, %q, ex_data missing %d",
		application, ends[0], ends[1], ends[2], missing)
}

func switchedConnection(o *observer) {
	l := o.lab(tls12)
	second := l.newServer()
	l.server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return second })
	k := l.open(l.server, "server.test", nil)
	o.mustBe(k.run(), "a handshake")
	both := handles()
	l.server.Close()
	second.Close()
	before := both - handles()
	k.closeClean()
	o.say("a connection that was switched", "destroyed before its end %d of 2, after %d", before, both-handles())
}

// ---- F8.2: on which thread ----------------------------------------------------------

// goroutine is what the runtime calls the running one.
func goroutine() string {
	b := make([]byte, 64)
	name, _, _ := bytes.Cut(b[:runtime.Stack(b, false)], []byte(" ["))
	return string(name)
}

func endedElsewhere(o *observer) {
	l := o.lab(tls12)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	removedBy := ""
	l.onRemove = func(*libssl.Context, *libssl.Session) { removedBy = goroutine() }
	k := l.open(l.server, "", nil)
	o.mustBe(k.run(), "a handshake")
	before := handles()
	l.server.Close()
	there, destroyed := "", false
	done := make(chan struct{})
	go func() {
		defer close(done)
		there = goroutine()
		k.closeUnclean()
		destroyed = handles() == before-1
	}()
	<-done
	o.say("last connection ended elsewhere", "remove runs there %s, destroyed when that returns %s",
		yes(removedBy == there), yes(destroyed))
}

// forgotten counts the Contexts that scenarios leave to the collector on purpose.
var forgotten atomic.Int64

func collected(o *observer) {
	l := o.lab(tls12)
	l.store()
	_, session := l.mustVisit(l.server, nil)
	before, live, collected := handles(), cref.LiveSessions(), libssl.LiveResources().ForgottenContexts
	removes := 0
	cached, err := forget(session, &removes)
	o.must(err)
	forgotten.Add(1)
	counted := func() int64 { return libssl.LiveResources().ForgottenContexts - collected }
	for deadline := time.Now().Add(10 * time.Second); counted() == 0 && time.Now().Before(deadline); {
		runtime.GC()
		runtime.Gosched()
	}
	o.say("collected", "cached %d, counted %d, handles left %d, objects left %d, remove %d", cached, counted(),
		handles()-before, cref.LiveSessions()-live, removes)
}

// forget makes a Context with a session in its cache, and forgets it.
func forget(s *libssl.Session, removes *int) (cached int, err error) {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return 0, err
	}
	ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { *removes++ })
	dup, err := s.Dup()
	if err != nil {
		return 0, err
	}
	defer dup.Release()
	_, err = ctx.AddSession(dup)
	return ctx.Stats().Number, err
}

// ---- F8.3: contexts of others -------------------------------------------------------

func contextOfOthers(o *observer) {
	before, destructors := handles(), cref.ContextsDestroyed()
	cref.FreeContext(cref.NewContext(false))
	o.say("nothing set", "destructor %d, handles given up %d", cref.ContextsDestroyed()-destructors, before-handles())
}

// ---- F8.4: values on sessions -------------------------------------------------------

func keptOfTwoTickets(o *observer) {
	l := o.lab(tls13)
	o.must(l.server.SetNumTickets(2))
	l.store()
	l.keep = true
	var kept []*libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { kept = append(kept, s) }
	_, session := l.mustVisit(l.server, nil)
	session.Release()
	o.mustBe(len(kept) == 2, "two tickets")
	o.atEnd(kept[1].Release)
	before := cref.SessionsDestroyed()
	kept[0].Release()
	first, good := cref.SessionsDestroyed()-before, kept[1].Resumable()
	kept[1].Release()
	o.say("kept by Go", "new %d, destroyed with the first %d, the second is good then %s, destroyed with both %d", l.news,
		first, yes(good), cref.SessionsDestroyed()-before)
}

// ---- F8.6: sessions that outlive their context --------------------------------------

func outliveServer(o *observer, name string, mode libssl.CacheMode) {
	l := o.lab(tls13)
	gone := l.newServer()
	l.storeOn(gone)
	l.store()
	gone.SetSessionCacheMode(mode)
	var kept *libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { kept = s }
	l.keep = true
	_, session := l.mustVisit(gone, nil)
	l.onNew, l.keep = nil, false
	o.atEnd(kept.Release)
	before := cref.ContextsDestroyed()
	gone.Close()
	o.mustBe(cref.ContextsDestroyed() == before+1, "the end of the context")
	resumable := kept.Resumable()
	encodes := func() string {
		der, err := kept.MarshalBinary()
		return yes(err == nil && len(der) > 0)
	}
	if mode&libssl.CacheNoInternal == 0 {
		o.say(name, "encodes %s, resumable %s", encodes(), yes(resumable))
		return
	}
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return kept, libssl.Copy }
	resumed, _ := l.mustVisit(l.server, session)
	o.say(name, "encodes %s, resumable %s, another server resumes it %s", encodes(), yes(resumable), yes(resumed))
}

func outliveClient(o *observer) {
	gone, l := o.lab(tls13), o.lab(tls13)
	l.server.ClearOptions(libssl.OpNoTicket)
	_, session := gone.mustVisit(l.server, nil)
	before := cref.ContextsDestroyed()
	gone.client.Close()
	o.mustBe(cref.ContextsDestroyed() == before+1, "the end of the context")
	der, err := session.MarshalBinary()
	resumed, _ := l.mustVisit(l.server, session)
	o.say("a client's session", "encodes %s, another client resumes it %s", yes(err == nil && len(der) > 0),
		yes(resumed))
}
