package conformance

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

const (
	tls12 = tls.VersionTLS12
	tls13 = tls.VersionTLS13
)

// lab is a server's and a client's Context for one protocol version, set up as cref_lab_new does: a certificate, an
// id context, one ticket, cache mode SERVER | NO_INTERNAL, OpNoTicket; the client verifies nothing.
type lab struct {
	o              *observer
	version        uint16
	server, client *libssl.Context

	// The callbacks of store. They count, trace themselves as N, G and R, keep DER in entries, and answer with a fresh
	// object and Transfer. Each on hook, where set, runs first; answer replaces the answer. The mutex is not held while
	// hooks run.
	onNew    func(ssl *libssl.SSL, s *libssl.Session)
	onGet    func(ssl *libssl.SSL, id libssl.SessionID)
	answer   func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag)
	onRemove func(ctx *libssl.Context, s *libssl.Session)
	keep     bool // what new returns: the hook's to release then
	take     bool // get deletes the entry that it answers with
	deaf     bool // get answers with nothing

	mu                        sync.Mutex
	entries                   map[libssl.SessionID][]byte
	calls                     []byte
	news, gets, hits, removes int
	misuse                    []error // reported callback errors
}

func (o *observer) lab(version uint16) *lab {
	l := &lab{o: o, version: version, entries: map[libssl.SessionID][]byte{}}
	l.server = l.newServer()
	l.renewClient()
	return l
}

// renewClient replaces the client by one that has made no connection.
func (l *lab) renewClient() {
	// NewContext would load the system's roots, which takes longer than all the rest of a scenario.
	p := cref.NewContext(true)
	l.o.mustBe(p != nil, "a client's SSL_CTX")
	client, err := libssl.AttachContext(p)
	cref.FreeContext(p) // the Context has a reference of its own
	l.o.must(err)
	l.o.atEnd(func() { client.Close() })
	l.o.must(client.SetVersions(l.version, l.version))
	l.o.must(client.SetVerify(libssl.VerifyNone))
	l.client = client
}

// newServer makes another server for the same client.
func (l *lab) newServer() *libssl.Context {
	ctx := l.bareServer()
	l.o.must(ctx.SetSessionIDContext([]byte("conformance")))
	l.o.must(ctx.SetNumTickets(1))
	ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	ctx.OnCallbackError(func(e *libssl.CallbackError) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.misuse = append(l.misuse, e)
	})
	return ctx
}

// bareServer is a server with the defaults for the number of tickets and the id context.
func (l *lab) bareServer() *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	l.o.must(err)
	l.o.atEnd(func() { ctx.Close() })
	pem, err := cref.CertificatePEM()
	l.o.must(err)
	l.o.must(ctx.UseCertificatePEM(pem, pem))
	l.o.must(ctx.SetVersions(l.version, l.version))
	ctx.SetOptions(libssl.OpNoTicket)
	return ctx
}

// store installs the callbacks on the lab's server.
func (l *lab) store() { l.storeOn(l.server) }

func (l *lab) storeOn(ctx *libssl.Context) {
	ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
		l.count(&l.news, 'N')
		if l.onNew != nil {
			l.onNew(ssl, s)
		}
		der, err := s.MarshalBinary()
		if err == nil {
			l.put(s.ID(), der)
		}
		return l.keep
	})
	ctx.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		l.count(&l.gets, 'G')
		if l.onGet != nil {
			l.onGet(ssl, id)
		}
		if l.answer != nil {
			return l.answer(ssl, id)
		}
		der := l.entry(id)
		if l.deaf || der == nil {
			return nil, libssl.Copy
		}
		s, err := libssl.ParseSession(der)
		if err != nil {
			return nil, libssl.Copy
		}
		l.mu.Lock()
		l.hits++
		if l.take {
			delete(l.entries, id)
		}
		l.mu.Unlock()
		return s, libssl.Transfer
	})
	ctx.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) {
		l.count(&l.removes, 'R')
		if l.onRemove != nil {
			l.onRemove(ctx, s)
		}
	})
}

func (l *lab) count(n *int, c byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n++
	l.calls = append(l.calls, c)
}

func (l *lab) trace() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.calls)
}

// reset forgets the counters and the trace, not the entries.
func (l *lab) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.news, l.gets, l.hits, l.removes, l.calls = 0, 0, 0, 0, nil
}

func (l *lab) entry(id libssl.SessionID) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[id]
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

// onlyEntry is the DER of issued.
func (l *lab) onlyEntry() []byte {
	_, der := l.issued()
	return der
}

func (l *lab) put(id libssl.SessionID, der []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id] = der
}

// lockHeld says whether a lock of ctx is held, so that another thread has to wait for it.
func (l *lab) lockHeld(ctx *libssl.Context) bool {
	flush := func(ctx *libssl.Context) <-chan struct{} {
		flushed := make(chan struct{})
		go func() {
			defer close(flushed)
			ctx.FlushSessions(time.Unix(1, 0))
		}()
		return flushed
	}
	flushed := flush(ctx)
	l.o.atEnd(func() { <-flushed })
	select {
	case <-flushed:
		return false
	case <-time.After(300 * time.Millisecond):
	}
	// On a busy machine the goroutine may not have run at all. So ten later ones, which find a lock free, run to their
	// ends first.
	unlocked := l.client
	if ctx == l.client {
		unlocked = l.server
	}
	for range 10 {
		<-flush(unlocked)
	}
	select {
	case <-flushed:
		return false
	default:
		return true
	}
}

// ---- links ------------------------------------------------------------------------

// link is one connection between the lab's client and a server.
type link struct {
	o              *observer
	client, server *libssl.Conn
	wire           *wire
	// The errors of both ends, in the handshake or with the byte after it.
	clientErr, serverErr error
}

// wire carries the writes of both ends. A hook gets each write before it leaves and returns the bytes to send in its
// place; it runs on the writing end's goroutine.
type wire struct {
	fromClient, fromServer atomic.Int64 // bytes that have left
	clientHook, serverHook func(p []byte) []byte
}

type wiredConn struct {
	net.Conn
	sent *atomic.Int64
	hook *func(p []byte) []byte
}

func (c wiredConn) Write(p []byte) (int, error) {
	out := p
	if *c.hook != nil {
		out = (*c.hook)(p)
	}
	c.sent.Add(int64(len(out)))
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// open makes the ends of a connection over loopback TCP; offer may be nil. Nothing has been sent. The end of the
// scenario aborts ends that are still open.
func (l *lab) open(server *libssl.Context, name string, offer *libssl.Session) *link {
	o := l.o
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	o.must(err)
	defer ln.Close()
	cn, err := net.Dial("tcp", ln.Addr().String())
	o.must(err)
	sn, err := ln.Accept()
	o.must(err)
	w := &wire{}
	k := &link{o: o, wire: w}
	k.server, err = libssl.Server(wiredConn{sn, &w.fromServer, &w.serverHook}, server)
	o.must(err)
	k.client, err = libssl.Client(wiredConn{cn, &w.fromClient, &w.clientHook}, l.client, name)
	o.must(err)
	o.atEnd(func() {
		k.client.Abort()
		k.server.Abort()
	})
	deadline := time.Now().Add(20 * time.Second)
	o.must(k.client.SetDeadline(deadline))
	o.must(k.server.SetDeadline(deadline))
	if offer != nil {
		o.must(k.client.SetSession(offer))
	}
	return k
}

// run handshakes and moves a byte each way, which brings tickets. It reports whether all of it went well.
func (k *link) run() bool {
	served := make(chan error, 1)
	go func() {
		b := make([]byte, 1)
		_, err := k.server.Read(b)
		if err == nil {
			_, err = k.server.Write(b)
		}
		if err != nil {
			k.server.NetConn().(wiredConn).Conn.(*net.TCPConn).CloseWrite() // or the client waits for it
		}
		served <- err
	}()
	b := []byte{'x'}
	_, err := k.client.Write(b)
	if err == nil {
		_, err = k.client.Read(b)
	}
	if err != nil {
		k.client.NetConn().(wiredConn).Conn.(*net.TCPConn).CloseWrite()
	}
	k.clientErr, k.serverErr = err, <-served
	return k.clientErr == nil && k.serverErr == nil
}

func (k *link) resumed() bool { return k.client.SessionReused() && k.server.SessionReused() }

// session is the client's, released with the scenario.
func (k *link) session() *libssl.Session {
	s, err := k.client.Session()
	k.o.must(err)
	k.o.atEnd(s.Release)
	return s
}

// closeClean sends a close_notify from both ends.
func (k *link) closeClean() {
	var both sync.WaitGroup // or one would wait for the other's end of the stream
	both.Go(func() { k.client.Close() })
	k.server.Close()
	both.Wait()
}

// closeUnclean frees the server's end without a close_notify.
func (k *link) closeUnclean() {
	k.server.Abort()
	k.client.Close()
}

// visit opens a connection, runs it, and closes it clean. The session is the client's, nil where the handshake failed.
func (l *lab) visit(server *libssl.Context, offer *libssl.Session) (ok, resumed bool, session *libssl.Session) {
	k := l.open(server, "", offer)
	if ok = k.run(); ok {
		resumed, session = k.resumed(), k.session()
	}
	k.closeClean()
	return ok, resumed, session
}

// mustVisit is visit where a handshake that fails ends the scenario.
func (l *lab) mustVisit(server *libssl.Context, offer *libssl.Session) (resumed bool, session *libssl.Session) {
	ok, resumed, session := l.visit(server, offer)
	if !ok {
		l.o.must(errors.New("the handshake failed"))
	}
	return resumed, session
}
