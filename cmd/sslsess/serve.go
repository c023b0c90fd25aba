package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/internal/storeurl"
	"github.com/libssl-go/libssl/metrics"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/sharedring"
	"github.com/libssl-go/libssl/ticket"
)

var serveCommand = command{
	name:  "serve",
	about: "a TLS server that keeps its sessions in a store",
	long: `Servers resume each other's sessions if they share a store, its keys, a certificate
and a policy. Store URLs are

  memory:                              for one process
  sqlite:PATH                          for the processes of one host. Entries are sealed with the
                                       key in PATH.key unless -keyring names a ring
  valkey://[user:pass@]host:port/db    for several hosts: Valkey or Redis. valkeys:// uses TLS;
                                       redis:// and rediss:// mean the same.
                                       ?addr=host:port adds a cluster node or a sentinel,
                                       &master_set=NAME makes them sentinels,
                                       ?password_file=FILE reads the password from a file
  memcached://host:port                for several hosts: memcached
  tiered:URL                           one of the URLs for several hosts, behind a cache in this
                                       process. Sessions of this process resume without a round
                                       trip; a session that another host removed resumes here for
                                       up to ten seconds more
  env:NAME                             the URL in the environment variable NAME

A store for several hosts needs -keyring or -plaintext. It is an error if the store cannot
be reached at the start. If it fails later, clients make full handshakes.

All servers of a fleet share one key ring. -keyring is one of

  FILE                                 a file (see sslsess help keyring); changes take effect
                                       without a restart
  env:NAME                             the environment variable NAME, with commas for line ends
  store:FILE                           a ring in the store itself. The first server makes it, and
                                       one of the servers rotates it once a day. It is sealed under
                                       the ring in FILE, which all servers share, which rarely
                                       changes, and whose changes take effect without a restart

When the server is ready it prints "listening on ADDR" on standard output. All other
messages go to standard error. It answers any HTTP/1.1 request with

  {"node","version","cipher","resumed","session_id","resumed_from"}

and with -revocable also "origin", the name of the full handshake behind the connection.
version is the name in OpenSSL (TLSv1.3), cipher the IANA name
(TLS_AES_256_GCM_SHA384), and ids are in hexadecimal. With -backend it forwards the
bytes of each connection instead. With -http it serves a page with live numbers,
/healthz, /stats and /history in JSON, and /metrics for Prometheus.

SIGHUP loads the certificate again, at once. SIGTERM and SIGINT end the server cleanly,
with status 0.`,
	flags: serve,
}

// Time limits that no flag sets.
const (
	dialTimeout    = 10 * time.Second
	requestTimeout = time.Minute     // to send a request, or to receive the answer
	idleTimeout    = 2 * time.Minute // between requests
	grace          = 3 * time.Second // at the end, for open connections and queued writes
)

type serveFlags struct {
	listen, node     string
	cert, key        string
	store            string
	keyring          string
	plaintext        bool
	revocable        bool
	tls, tickets     *string
	clientCA         string
	handshakeTimeout time.Duration
	idleTimeout      time.Duration
	maxConns         int
	backend, http    string
}

func serve(fs *flag.FlagSet) action {
	var f serveFlags
	fs.StringVar(&f.listen, "listen", "", "`address` to listen on, host:port; port 0 picks one")
	fs.StringVar(&f.node, "node", "", "`name` of this server in its answers (default: the address it listens on)")
	fs.StringVar(&f.cert, "cert", "", "certificate chain, a PEM `file`, which is followed when it changes; by default the server makes a certificate of its own, which no other server shares")
	fs.StringVar(&f.key, "key", "", "the certificate's key, a PEM `file`")
	fs.StringVar(&f.store, "store", "memory:", "`URL` of the session store")
	fs.StringVar(&f.keyring, "keyring", "", "the `ring` of keys that seal the entries of the store: a file, env:NAME or store:FILE")
	fs.BoolVar(&f.plaintext, "plaintext", false, "do not seal the entries of the store: a reader of the store can decrypt the traffic")
	fs.BoolVar(&f.revocable, "revocable", false, "let sslsess store revoke end sessions; all servers of the store must have it. Answers then name the connection's origin")
	f.tls = tlsFlag(fs)
	f.tickets = choiceFlag(fs, "tickets", "the `mode` of resumption: stateful (ids in TLS 1.2, stateful tickets in 1.3), stateless (tickets encrypted with the keys of -keyring, by default with a key of this process) or none (ids in 1.2, no resumption in 1.3)",
		"stateful", "stateless", "none")
	fs.StringVar(&f.clientCA, "client-ca", "", "require client certificates, signed by the CAs in this PEM `file`")
	fs.DurationVar(&f.handshakeTimeout, "handshake-timeout", 10*time.Second, "the longest `duration` of a handshake; those under way do not count against -max-conns")
	fs.IntVar(&f.maxConns, "max-conns", 0, "serve at most `N` connections at once, the others wait after their handshakes; 0 means no limit")
	fs.StringVar(&f.backend, "backend", "", "forward the bytes to this `host:port`")
	fs.DurationVar(&f.idleTimeout, "idle-timeout", 10*time.Minute, "with -backend, end a connection on which neither side has sent data for this `duration`")
	fs.StringVar(&f.http, "http", "", "`address` of a plain HTTP server for a page with live numbers, /healthz, /stats and /metrics")
	return func(ctx context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 0, 0); err != nil {
			return err
		}
		if err := f.check(); err != nil {
			return err
		}
		ctx, stop := untilSignal(ctx)
		defer stop()
		return f.serve(ctx, std)
	}
}

func (f *serveFlags) check() error {
	switch {
	case f.listen == "":
		return usagef("-listen is missing")
	case (f.cert == "") != (f.key == ""):
		return usagef("-cert and -key go together")
	case f.keyring != "" && f.plaintext:
		return usagef("-keyring and -plaintext exclude each other")
	case f.revocable && *f.tickets == "stateless":
		return usagef("-revocable and -tickets stateless exclude each other: no server can take a ticket back")
	case f.keyring == envRing || f.keyring == storeRing:
		return usagef("-keyring %s names nothing: it is a file, env:NAME or store:FILE", f.keyring)
	case f.idleTimeout <= 0:
		return usagef("-idle-timeout must be more than 0")
	case f.handshakeTimeout <= 0:
		return usagef("-handshake-timeout must be more than 0")
	case f.maxConns < 0:
		return usagef("-max-conns must not be negative")
	}
	for _, a := range [][2]string{{"-listen", f.listen}, {"-backend", f.backend}, {"-http", f.http}} {
		if a[1] != "" {
			if _, _, err := net.SplitHostPort(a[1]); err != nil {
				return usagef("%s: %v", a[0], err)
			}
		}
	}
	return nil
}

// serve runs the server until ctx is done.
func (f *serveFlags) serve(ctx context.Context, std stdio) error {
	logger := log.New(std.err, "sslsess: ", 0)
	st, closeStore, err := storeurl.Open(f.store, true)
	if err != nil {
		return err
	}
	defer func() {
		if err := closeStore(); err != nil {
			logger.Print(err)
		}
	}()

	sslCtx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	stopCertificate, err := f.useCertificate(sslCtx, logger)
	if err != nil {
		return err
	}
	defer stopCertificate()
	if err := f.configure(sslCtx); err != nil {
		return err
	}
	ring, stopFollowing, err := f.loadRing(ctx, st, logger)
	if err != nil {
		return err
	}
	defer stopFollowing()
	cache, err := f.useStore(sslCtx, st, ring, logger)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if err := cache.Close(ctx); err != nil {
			logger.Print(err) // the store failed; the server itself still ends cleanly
		}
	}()

	return f.listenAndServe(ctx, std, sslCtx, cache, logger)
}

func (f *serveFlags) listenAndServe(ctx context.Context, std stdio, sslCtx *libssl.Context, cache *libssl.SessionCache, logger *log.Logger) error {
	l, err := libssl.Listen("tcp", f.listen, sslCtx)
	if err != nil {
		return err
	}
	defer l.Close()
	if f.node == "" {
		f.node = l.Addr().String()
	}
	logger.SetPrefix("sslsess " + f.node + ": ")
	if f.http != "" {
		stop, err := f.serveStats(sslCtx, cache, logger)
		if err != nil {
			return err
		}
		defer stop()
	}
	if _, err := fmt.Fprintf(std.out, "listening on %s\n", l.Addr()); err != nil {
		return err
	}

	s := &server{node: f.node, revocable: f.revocable, log: logger, refused: &rateLimitedLog{log: logger}, conns: map[*conn]struct{}{}}
	l.HandshakeTimeout = f.handshakeTimeout
	l.OnHandshakeError = func(remote net.Addr, err error) { s.refused.print(remote, err) }
	if f.maxConns > 0 {
		s.slots = make(chan struct{}, f.maxConns)
	}
	if f.backend != "" {
		s.run(ctx, l, func(accept func() *conn) {
			for c := accept(); c != nil; c = accept() {
				go s.forward(ctx, c, f.backend, f.idleTimeout)
			}
		}, func(context.Context) {})
		return nil
	}
	web := s.web()
	s.run(ctx, l, func(accept func() *conn) { web.Serve(handshaken{accept}) }, func(ctx context.Context) { shutDown(ctx, web) })
	return nil
}

// useCertificate loads the certificate and follows its files until stop. SIGHUP loads them at once.
func (f *serveFlags) useCertificate(ctx *libssl.Context, logger *log.Logger) (stop func(), err error) {
	if f.cert != "" {
		stopWatching, err := ctx.WatchCertificate(f.cert, f.key, watchInterval, func(err error) { logger.Print(err) })
		if err != nil {
			return nil, err
		}
		stopReloading := onHangup(func() { f.reloadCertificate(ctx, logger) })
		return func() {
			stopReloading()
			stopWatching()
		}, nil
	}
	host, _, _ := net.SplitHostPort(f.listen)
	cert, key, err := selfSigned(host)
	if err != nil {
		return nil, err
	}
	if err := ctx.UseCertificatePEM(cert, key); err != nil {
		return nil, err
	}
	logger.Print("no -cert: made a self-signed certificate, so no other server can resume these sessions")
	return onHangup(func() { logger.Print("SIGHUP: no -cert, so there is no certificate to load") }), nil
}

// reloadCertificate loads the certificate again. If the watcher does so at the same time it may put back what it has read
// before; it then notices the newer files at its next check.
func (f *serveFlags) reloadCertificate(ctx *libssl.Context, logger *log.Logger) {
	cert, err := libssl.LoadCertificate(f.cert, f.key, nil)
	if err == nil {
		err = ctx.UseCertificate(cert)
		cert.Close()
	}
	if err != nil {
		logger.Printf("SIGHUP: the old certificate stays: %v", err)
		return
	}
	logger.Printf("SIGHUP: loaded %s", f.cert)
}

// configure must run before UseStore, which computes the id context from these settings.
func (f *serveFlags) configure(ctx *libssl.Context) error {
	if f.clientCA != "" {
		pem, err := os.ReadFile(f.clientCA)
		if err != nil {
			return err
		}
		if err := ctx.AddClientCAsPEM(pem); err != nil {
			return fmt.Errorf("%s: %w", f.clientCA, err)
		}
		if err := ctx.SetVerify(libssl.VerifyRequirePeer); err != nil {
			return err
		}
	}
	if *f.tickets == "none" {
		if err := ctx.SetNumTickets(0); err != nil {
			return err
		}
	}
	return setVersions(ctx, *f.tls)
}

// watchInterval is how often the files of a key ring and of the certificate are checked for changes. Only tests change it.
var watchInterval = 5 * time.Second

// Prefixes of -keyring. For a file whose name begins with one of them, write ./ in front.
const (
	envRing   = "env:"
	storeRing = "store:"
)

// loadRing reads the ring of -keyring and follows its changes until stop. Without -keyring the ring is nil.
func (f *serveFlags) loadRing(ctx context.Context, st store.Store, logger *log.Logger) (ring *ticket.Ring, stop func(), err error) {
	onError := func(err error) { logger.Print(err) }
	if f.keyring == "" {
		return nil, func() {}, nil
	} else if name, ok := strings.CutPrefix(f.keyring, envRing); ok {
		ring, err = ticket.RingFromEnv(name)
		return ring, func() {}, err
	} else if file, ok := strings.CutPrefix(f.keyring, storeRing); ok {
		ring, stop, err = openSharedRing(ctx, st, file, onError)
	} else {
		ring, stop, err = ticket.WatchRing(f.keyring, watchInterval, onError)
	}
	if err != nil {
		return nil, nil, err
	}
	ring.OnChange(func() { logger.Printf("%s: %v", f.keyring, ring) })
	return ring, stop, nil
}

// openSharedRing opens the ring in the store, which is sealed under the ring in file.
func openSharedRing(ctx context.Context, st store.Store, file string, onError func(error)) (*ticket.Ring, func(), error) {
	secret, stopSecret, err := ticket.WatchRing(file, watchInterval, onError)
	if err != nil {
		return nil, nil, err
	}
	ring, stop, err := sharedring.Open(ctx, st, sharedring.Options{Secret: secret, OnError: onError})
	if err != nil {
		stopSecret()
		return nil, nil, err
	}
	return ring, func() {
		stop()
		stopSecret()
	}, nil
}

func (f *serveFlags) useStore(ctx *libssl.Context, st store.Store, ring *ticket.Ring, logger *log.Logger) (*libssl.SessionCache, error) {
	opt := &libssl.StoreOptions{Keys: ring, Plaintext: f.plaintext, Revocable: f.revocable, Logger: slog.New(slog.NewTextHandler(printed{logger}, withoutTime))}
	if _, embedded := st.(store.Embedded); !embedded && ring == nil && !f.plaintext {
		return nil, usagef("a store of several hosts needs -keyring, or -plaintext if its readers may read the traffic")
	}
	if *f.tickets == "stateless" {
		if ring == nil { // then only this process opens its tickets
			var err error
			if ring, err = ticket.NewRing(); err != nil {
				return nil, err
			}
		}
		if err := ctx.UseTicketKeys(ring); err != nil {
			return nil, err
		}
	}
	return ctx.UseStore(st, opt)
}

//go:embed page.html
var page []byte

// pagePolicy allows the page its own script, styles and requests to this server, and no others.
const pagePolicy = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// serveStats runs the HTTP server of -http until stop.
func (f *serveFlags) serveStats(ctx *libssl.Context, cache *libssl.SessionCache, logger *log.Logger) (stop func(), err error) {
	l, err := net.Listen("tcp", f.http)
	if err != nil {
		return nil, fmt.Errorf("-http: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, struct {
			Node    string            `json:"node"`
			OpenSSL string            `json:"openssl"`
			Cache   libssl.CacheStats `json:"cache"`
			Context libssl.Stats      `json:"context"`

			CertificateExpires time.Time `json:"certificate_expires"`
		}{f.node, libssl.Version(), cache.Stats(), ctx.Stats(), ctx.CertificateExpires()})
	})
	past := newHistory(func() (full, resumed uint64) {
		s := cache.Stats()
		return s.Full.Count(), s.Resumed.Count()
	})
	mux.HandleFunc("GET /history", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, past.read()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Write(page)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		metrics.WriteText(w, metrics.Of(cache, ctx)) // fails only if the connection does
	})
	srv := &http.Server{Handler: mux, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, ErrorLog: logger}
	go srv.Serve(l)
	ctxHistory, cancel := context.WithCancel(context.Background())
	go past.run(ctxHistory)
	logger.Printf("http on %s", l.Addr())
	return func() {
		cancel()
		srv.Close()
	}, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // fails only if the connection does
}

// ---- connections ------------------------------------------------------------------

// server serves the connections of a Listener, which runs their handshakes.
type server struct {
	node      string
	revocable bool
	slots     chan struct{} // every connection with a complete handshake takes one; nil: no limit
	log       *log.Logger
	refused   *rateLimitedLog // for errors that any peer can cause

	mu    sync.Mutex
	conns map[*conn]struct{}
	wg    sync.WaitGroup // counts conns
}

// conn is a connection that returns its slot when it is closed.
type conn struct {
	*libssl.Conn
	s      *server
	close  sync.Once
	answer []byte // to every request, nil before the first; net/http handles one request at a time
}

func (c *conn) Close() (err error) {
	c.close.Do(func() {
		err = c.Conn.Close()
		c.s.mu.Lock()
		delete(c.s.conns, c)
		c.s.mu.Unlock()
		c.s.done()
	})
	return err
}

func (s *server) done() {
	if s.slots != nil {
		<-s.slots
	}
	s.wg.Done()
}

// run serves the connections of l until ctx is done. serve calls accept until it returns nil, and has each connection closed.
// At the end run calls finish, which may complete open requests, and then closes the connections that are left.
func (s *server) run(ctx context.Context, l *libssl.Listener, serve func(accept func() *conn), finish func(context.Context)) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	serve(func() *conn { return s.accept(ctx, l) })
	bounded, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	finish(bounded)

	gone := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return
	case <-bounded.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		go c.Close() // each may wait a moment for its peer
	}
	s.mu.Unlock()
	<-gone
}

// accept returns the next connection, or nil when ctx is done.
func (s *server) accept(ctx context.Context, l *libssl.Listener) *conn {
	for {
		if s.slots != nil {
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
		}
		s.wg.Add(1)
		nc, err := l.Accept()
		if err == nil {
			c := &conn{Conn: nc.(*libssl.Conn), s: s}
			s.mu.Lock()
			s.conns[c] = struct{}{}
			s.mu.Unlock()
			return c
		}
		s.done()
		if ctx.Err() != nil {
			return nil
		}
		// Probably out of descriptors, which is temporary.
		s.log.Print(err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// printed writes lines to a log, so that they get its prefix.
type printed struct{ log *log.Logger }

func (p printed) Write(line []byte) (int, error) { return len(line), p.log.Output(0, string(line)) }

// withoutTime drops the time, which the other lines of the log don't have either.
var withoutTime = &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}}

// rateLimitedLog prints at most one line a second, and the number of lines it
// dropped, so that a port scan cannot fill the log.
type rateLimitedLog struct {
	log  *log.Logger
	mu   sync.Mutex
	last time.Time
	left int
}

func (l *rateLimitedLog) print(about any, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.last) < time.Second {
		l.left++
		return
	} else {
		l.last = now
	}
	more := ""
	if l.left > 0 {
		more = fmt.Sprintf(" (and %d more since the last such line)", l.left)
	}
	l.left = 0
	l.log.Printf("%v: %s%s", about, oneLine(err.Error()), more)
}

// ---- answering ----------------------------------------------------------------------

// answer is the server's description of the connection, in JSON.
type answer struct {
	Node        string `json:"node"`
	Version     string `json:"version"`
	Cipher      string `json:"cipher"`
	Resumed     bool   `json:"resumed"`
	SessionID   string `json:"session_id"`
	ResumedFrom string `json:"resumed_from"`
	Origin      string `json:"origin,omitempty"` // with -revocable
}

type connKey struct{}

// web is the net/http server behind the handshakes.
func (s *server) web() *http.Server {
	return &http.Server{
		Handler:     http.HandlerFunc(s.answer),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    s.log,
		ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout,
		DisableGeneralOptionsHandler: true,
	}
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	if c.answer == nil {
		c.answer = s.describe(c)
	}
	w.Header()["Content-Type"] = jsonType
	w.Write(c.answer) // fails only if the connection does
}

var jsonType = []string{"application/json"}

// describe encodes the answer of a connection. A handshake decides all of it: there is no renegotiation.
func (s *server) describe(c *conn) []byte {
	state := c.ConnectionState()
	a := answer{
		Node: s.node, Version: versionName(state.Version), Cipher: cipherName(state.CipherSuite),
		Resumed: c.SessionReused(), ResumedFrom: c.ResumedFrom().String(),
	}
	if session, err := c.Session(); err == nil {
		a.SessionID = session.ID().String()
		session.Release()
	}
	if s.revocable {
		a.Origin = c.SessionOrigin().String()
	}
	text, _ := json.Marshal(a) // strings and a bool cannot fail
	return append(text, '\n')
}

// shutDown waits until open requests are answered, then closes the other connections.
func shutDown(ctx context.Context, web *http.Server) {
	if web.Shutdown(ctx) != nil {
		web.Close()
	}
}

// handshaken is a net.Listener of connections whose handshake is complete. The server closes the listener below.
type handshaken struct{ accept func() *conn }

func (h handshaken) Accept() (net.Conn, error) {
	if c := h.accept(); c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (handshaken) Close() error { return nil }

func (handshaken) Addr() net.Addr { return &net.TCPAddr{} } // unused, but net.Listener needs it

// ---- forwarding ---------------------------------------------------------------------

// forward copies bytes between c and the backend in both directions, until both
// directions have ended, one has failed, or neither has moved for the time of idle.
func (s *server) forward(ctx context.Context, c *conn, addr string, idle time.Duration) {
	defer c.Close()
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		s.refused.print("backend", err)
		return
	}
	b := nc.(*net.TCPConn)
	defer b.Close()

	// A stream that was cut off must not look complete to the other side: the
	// backend sees a reset, the client a stream without close_notify. Abort would
	// do the same, but would also remove the session for the whole fleet.
	cut := func() {
		b.SetLinger(0)
		b.Close()
		c.NetConn().Close()
	}
	t := time.AfterFunc(idle, cut)
	defer t.Stop()
	moving := func(r io.Reader) io.Reader { return movingReader{r, func() { t.Reset(idle) }} }
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.Copy(b, moving(c)); err != nil || b.CloseWrite() != nil {
			cut()
		}
	}()
	if _, err := io.Copy(c, moving(b)); err != nil || c.CloseWrite() != nil {
		cut()
	}
	<-sent
}

// movingReader calls moved when data has come.
type movingReader struct {
	io.Reader
	moved func()
}

func (r movingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.moved()
	}
	return n, err
}
