package conformance

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

const trampolines = "the C pointers stay while connections live, only the Go side is swapped"

var threadFacts = []Fact{
	{
		ID:   "F4.1",
		Says: "The context's lock protects the cache: callbacks, settings, counters, references and marks don't wait for it",
		Cases: []Case{
			{Name: "add", C: "waits for the lock yes"},
			{Name: "remove", C: "waits for the lock yes"},
			{Name: "flush", C: "waits for the lock yes"},
			{Name: "callbacks", C: "waits for the lock no"},
			{Name: "mode", C: "waits for the lock no"},
			{Name: "size", C: "waits for the lock no"},
			{Name: "timeout", C: "waits for the lock no"},
			{Name: "id context", C: "waits for the lock no"},
			{Name: "counters", C: "waits for the lock no"},
			{Name: "read the mark", C: "waits for the lock no"},
			{Name: "references", C: "waits for the lock no"},
		},
		Go: whoWaits,
	},
	{
		// That C crashes where a callback becomes NULL between test and call is not run: nothing can be made to happen
		// between the two.
		ID:   "F4.2",
		Says: "Callbacks are plain fields, read without a lock: one function may take another's place while handshakes run",
		Cases: []Case{
			{Name: "none set", C: "all getters return nil yes"},
			{Name: "one function swapped for another", C: "handshakes 50 of 50, new 50"},
			{Name: "a function swapped for nil", C: absent, Go: "handshakes 50 of 50", Why: trampolines},
			{Name: "nil, a connection lives", C: absent, Go: "new 0, a C pointer yes", Why: trampolines},
			{Name: "nil, none lives", C: absent, Go: "a C pointer no", Why: trampolines},
		},
		Go: swappedCallbacks,
	},
	{
		// The races themselves are not shown: it takes a thread checker that sees into OpenSSL.
		ID:   "F4.3",
		Says: "A cached session is not immutable: a resumption with another cipher changes it",
		Cases: []Case{
			{Name: "resumed with another cipher of the same hash", C: "resumed yes, the cached session's cipher 1301, then 1303"},
			{Name: "inserted", C: "its time changes no"},
			{Name: "inserted under UPDATE_TIME", C: "its time changes no", Before: v30},
			{Name: "inserted under UPDATE_TIME", C: "its time changes yes", From: v30},
		},
		Go: changingSessions,
	},
	{
		ID:   "F4.4",
		Says: "One object in two TLS 1.2 connections is spoilt for both by one's unclean end; in 1.3 they move to duplicates",
		Cases: []Case{
			{Name: "two connections, 1.2", C: "both are on that object yes, after one's unclean end it is resumable no"},
			{Name: "answered once more, 1.2", C: "resumed yes", Before: v30},
			{Name: "answered once more, 1.2", C: "resumed no", From: v30},
			{Name: "two connections, 1.3", C: "both are on that object no, after one's unclean end it is resumable yes"},
			{Name: "answered once more, 1.3", C: "resumed yes"},
		},
		Go: func(o *observer) {
			sharedObject(o, tls12)
			sharedObject(o, tls13)
		},
	},
	{
		ID:   "F4.5",
		Says: "SSL_SESSION_dup copies the not-resumable mark, not the place in a cache; a further ticket's duplicate is unmarked",
		Cases: append([]Case{
			{Name: "of a session", C: "resumable yes"},
			{Name: "in another context's cache", C: "cached 1 there, 0 here"},
			{Name: "of a marked session", C: "resumable no"},
		}, either(Case{Name: "for the ticket after a marked one"}, "resumable yes after no", "resumable no after no")...),
		Go: duplicates,
	},
	{
		ID:   "F4.6",
		Says: "Four threads, an external store, unclean ends and a flusher: no crash, no failed handshake, nothing leaked",
		Cases: []Case{
			{Name: "no internal cache", C: "failed 0, some resumed in 1.2 yes, in 1.3 yes, leaked 0"},
			{Name: "cache of 3", C: "failed 0, some resumed in 1.2 yes, in 1.3 yes, leaked 0"},
		},
		Go: func(o *observer) { stressBoth(o, "no internal cache", libssl.CacheServer|libssl.CacheNoInternal) },
		Children: map[string]func(o *observer){
			"cache of 3": func(o *observer) { stressBoth(o, "cache of 3", libssl.CacheServer) }, // there are evictions
		},
	},
}

// ---- F4.1 ---------------------------------------------------------------------------

func whoWaits(o *observer) {
	l, s := o.stage(tls12, 2)
	calls := []struct {
		name string
		call func()
	}{
		{"add", func() { l.server.AddSession(s[1]) }},
		{"remove", func() { l.server.RemoveSession(s[1]) }},
		{"flush", func() { l.server.FlushSessions(time.Unix(1, 0)) }},
		{"callbacks", func() {
			l.server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { return false })
			l.server.SetSessGetCallback(nil)
			l.server.SetSessRemoveCallback(nil)
		}},
		{"mode", func() { l.server.SetSessionCacheMode(libssl.CacheServer) }},
		{"size", func() { l.server.SetSessionCacheSize(100) }},
		{"timeout", func() { l.server.SetSessionTimeout(100 * time.Second) }},
		{"id context", func() { l.server.SetSessionIDContext([]byte("other")) }},
		{"counters", func() { l.server.Stats() }},
		{"read the mark", func() { s[1].Resumable() }},
		{"references", func() {
			if held, err := s[1].Retain(); err == nil {
				held.Release()
			}
		}},
	}
	const mayWait = 3
	release := cref.HoldLock(l.server.Pointer(), s[0].Pointer())
	done := make(chan int, len(calls))
	for i, c := range calls {
		go func() {
			c.call()
			done <- i
		}()
	}
	waits := slices.Repeat([]bool{true}, len(calls))
	arrived := 0
	for ; arrived < len(calls)-mayWait; arrived++ { // a call that waits wrongly is the suite's to time out
		waits[<-done] = false
	}
	late := time.After(300 * time.Millisecond)
	for over := false; arrived < len(calls) && !over; {
		select {
		case i := <-done:
			waits[i] = false
			arrived++
		case <-late:
			over = true
		}
	}
	release()
	for ; arrived < len(calls); arrived++ {
		<-done
	}
	for i, c := range calls {
		o.say(c.name, "waits for the lock %s", yes(waits[i]))
	}
}

// ---- F4.2 ---------------------------------------------------------------------------

func swappedCallbacks(o *observer) {
	const visits = 50
	l := o.lab(tls12)
	o.say("none set", "all getters return nil %s", yes(l.server.SessNewCallback() == nil &&
		l.server.SessGetCallback() == nil && l.server.SessRemoveCallback() == nil))
	var calls atomic.Int64
	count := func(*libssl.SSL, *libssl.Session) bool { calls.Add(1); return false }
	other := func(*libssl.SSL, *libssl.Session) bool { calls.Add(1); return false }
	during := func(other libssl.NewSessionFunc) (good int) {
		l.server.SetSessNewCallback(count)
		over := make(chan struct{})
		var swapper sync.WaitGroup
		swapper.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				l.server.SetSessNewCallback(other)
				l.server.SetSessNewCallback(count)
			}
		})
		for range visits {
			if ok, _, _ := l.visit(l.server, nil); ok {
				good++
			}
		}
		close(over)
		swapper.Wait()
		return good
	}
	good := during(other)
	o.say("one function swapped for another", "handshakes %d of %d, new %d", good, visits, calls.Load())
	o.say("a function swapped for nil", "handshakes %d of %d", during(nil), visits)

	pointer := func() string { return yes(cref.Installed(l.server.Pointer(), cref.New) != cref.Unset) }
	k := l.open(l.server, "", nil)
	l.server.SetSessNewCallback(nil)
	there := pointer()
	calls.Store(0)
	o.mustBe(k.run(), "a handshake")
	o.say("nil, a connection lives", "new %d, a C pointer %s", calls.Load(), there)
	k.closeClean()
	o.say("nil, none lives", "a C pointer %s", pointer())
}

// ---- F4.3 ---------------------------------------------------------------------------

func changingSessions(o *observer) {
	l := o.lab(tls13)
	l.store()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	held := l.hold()
	o.must(l.client.SetCipherSuites("TLS_AES_128_GCM_SHA256"))
	_, offer := l.mustVisit(l.server, nil)
	l.onNew = nil
	before := held().CipherSuite()
	l.renewClient()
	o.must(l.client.SetCipherSuites("TLS_CHACHA20_POLY1305_SHA256"))
	resumed, _ := l.mustVisit(l.server, offer)
	o.say("resumed with another cipher of the same hash", "resumed %s, the cached session's cipher %04x, then %04x",
		yes(resumed), before, held().CipherSuite())

	l, s := o.stage(tls12, 1)
	for _, update := range []bool{false, true} {
		name, mode := "inserted", libssl.CacheServer
		if update {
			name, mode = "inserted under UPDATE_TIME", mode|libssl.CacheUpdateTime
		}
		l.server.SetSessionCacheMode(mode)
		o.must(s[0].SetTime(time.Now().Add(-100 * time.Second)))
		then := s[0].Time()
		l.add(s[0])
		o.say(name, "its time changes %s", yes(!s[0].Time().Equal(then)))
		l.flush()
	}
}

// ---- F4.4 ---------------------------------------------------------------------------

func sharedObject(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	var shared *libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) { shared = o.decode(s) }
	_, offer := l.mustVisit(l.server, nil)
	l.onNew = nil
	o.mustBe(shared != nil, "a session")
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return shared, libssl.Copy }
	var k [2]*link
	use := true
	for i := range k {
		k[i] = l.runLink(offer)
		o.mustBe(k[i].resumed(), "a resumption")
		s, err := k[i].server.Session()
		o.must(err)
		use = use && s.Pointer() == shared.Pointer()
		s.Release()
	}
	k[0].closeUnclean()
	o.say("two connections, "+versionText(version),
		"both are on that object %s, after one's unclean end it is resumable %s", yes(use), yes(shared.Resumable()))
	k[1].closeClean()
	resumed, _ := l.mustVisit(l.server, offer)
	o.say("answered once more, "+versionText(version), "resumed %s", yes(resumed))
}

// ---- F4.5 ---------------------------------------------------------------------------

func duplicates(o *observer) {
	l, s := o.stage(tls12, 1)
	other := l.newServer()
	l.add(s[0])
	dup := o.dup(s[0])
	o.say("of a session", "resumable %s", yes(dup.Resumable()))
	_, err := other.AddSession(dup)
	o.must(err)
	l.remove(s[0])
	o.say("in another context's cache", "cached %d there, %d here", other.Stats().Number, l.server.Stats().Number)
	o.say("of a marked session", "resumable %s", yes(o.dup(s[0]).Resumable()))

	l = o.lab(tls13)
	l.store()
	o.must(l.server.SetNumTickets(2))
	var resumable []bool
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		if len(resumable) == 0 {
			l.server.RemoveSession(s)
		}
		resumable = append(resumable, s.Resumable())
	}
	l.mustVisit(l.server, nil)
	o.mustBe(len(resumable) == 2, "two tickets")
	o.say("for the ticket after a marked one", "resumable %s after %s", yes(resumable[1]), yes(resumable[0]))
}

// ---- F4.6 ---------------------------------------------------------------------------

func stressBoth(o *observer, name string, mode libssl.CacheMode) {
	live := cref.LiveSessions()
	failed12, resumed12 := stress(o, tls12, mode)
	failed13, resumed13 := stress(o, tls13, mode)
	o.say(name, "failed %d, some resumed in 1.2 %s, in 1.3 %s, leaked %d", failed12+failed13, yes(resumed12 > 0),
		yes(resumed13 > 0), cref.LiveSessions()-live)
}

// stress makes its connections itself, many at once: an observer is for one goroutine.
func stress(o *observer, version uint16, mode libssl.CacheMode) (failed, resumed int64) {
	l := o.lab(version)
	l.store()
	l.forget()
	forgets := l.onRemove
	// Half of the sessions, by their ids: the flusher can be faster than every client, and then nothing would be left
	// to resume.
	l.onRemove = func(ctx *libssl.Context, s *libssl.Session) {
		if s.ID().Bytes()[0]&1 == 0 {
			forgets(ctx, s)
		}
	}
	l.server.SetSessionCacheMode(mode)
	l.server.SetSessionCacheSize(3)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	o.must(err)
	var failures, resumptions atomic.Int64
	over := make(chan struct{})
	var clients, rest sync.WaitGroup
	rest.Go(func() { // the flusher
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				l.server.FlushSessions(time.Time{})
			}
		}
	})
	rest.Go(func() { // the server
		for i := 0; ; i++ {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			rest.Go(func() { l.serveOne(nc, i%4 == 0) })
		}
	})
	for range 4 {
		clients.Go(func() {
			var offer *libssl.Session
			for range 30 {
				s, ok, re := l.callOne(ln.Addr().String(), offer)
				if !ok {
					failures.Add(1)
					continue
				}
				if re {
					resumptions.Add(1)
				}
				offer.Release()
				offer = s
			}
			offer.Release()
		})
	}
	clients.Wait()
	close(over)
	ln.Close()
	rest.Wait()
	o.must(l.server.Close())
	o.must(l.client.Close())
	return failures.Load(), resumptions.Load()
}

// serveOne echoes a byte.
func (l *lab) serveOne(nc net.Conn, unclean bool) {
	c, err := libssl.Server(nc, l.server)
	if err != nil {
		nc.Close()
		return
	}
	b := make([]byte, 1)
	if _, err := c.Read(b); err == nil {
		c.Write(b)
	}
	c.Read(b) // the client's end
	if unclean {
		c.Abort()
	} else {
		c.Close()
	}
}

// callOne is a client's story. The session is the caller's.
func (l *lab) callOne(addr string, offer *libssl.Session) (s *libssl.Session, ok, resumed bool) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, false, false
	}
	c, err := libssl.Client(nc, l.client, "")
	if err != nil {
		nc.Close()
		return nil, false, false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if offer != nil && c.SetSession(offer) != nil {
		return nil, false, false
	}
	b := []byte{'x'}
	if _, err := c.Write(b); err != nil {
		return nil, false, false
	}
	if _, err := c.Read(b); err != nil {
		return nil, false, false
	}
	s, err = c.Session()
	return s, err == nil, c.SessionReused()
}
