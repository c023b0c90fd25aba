package main

import (
	"context"
	"crypto/tls"
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
	long: `Servers resume each other's sessions where they share a store, its keys, a certificate
and a policy. Store URLs are

  memory:                              this process
  sqlite:PATH                          the processes of one host; what it holds is sealed with
                                       the key in PATH.key unless -keyring names a ring
  valkey://[user:pass@]host:port/db    Valkey or Redis, which several hosts share, with TLS if
                                       it is valkeys://; redis:// and rediss:// are the same.
                                       ?addr=host:port adds a node of a cluster or a sentinel,
                                       &master_set=NAME says that they are sentinels
  memcached://host:port                memcached, which several hosts share
  tiered:URL                           a cache in this process before one of the last two: sessions
                                       of this process are resumed without a round trip, those that
                                       another host removed for up to ten seconds

A store of several hosts needs -keyring or -plaintext. One that cannot be reached at the
start is an error; one that goes away later costs resumptions, and no handshake.

The key ring of -keyring, which all servers of a fleet share, is one of

  FILE                                 a file (see sslsess help keyring), followed while it changes
  env:NAME                             the environment variable NAME, with commas for line ends
  store:FILE                           a ring that the servers keep in the store: the first of them
                                       makes it, whoever is first rotates it once a day, and it is
                                       sealed there under the ring in FILE, which they share and
                                       follow and which rarely changes

Once it is bound it prints "listening on ADDR" on standard output; everything else goes
to standard error. It answers any HTTP/1.1 request with

  {"node","version","cipher","resumed","session_id","resumed_from"}

where version is spelled as OpenSSL does (TLSv1.3), cipher as the IANA does
(TLS_AES_256_GCM_SHA384), and ids are in hexadecimal. With -backend it forwards the
bytes of each connection instead. With -http it serves a page with live numbers,
/healthz, /stats and /history in JSON, and /metrics for Prometheus.

SIGTERM and SIGINT end it politely, with status 0.`,
	flags: serve,
}

// How long things may take that no flag is for.
const (
	dialTimeout    = 10 * time.Second
	requestTimeout = time.Minute     // to send a request, or to take the answer
	idleTimeout    = 2 * time.Minute // between requests
	grace          = 3 * time.Second // at the end, for what is under way
)

type serveFlags struct {
	listen, node     string
	cert, key        string
	store            string
	keyring          string
	plaintext        bool
	tls, tickets     *string
	clientCA         string
	handshakeTimeout time.Duration
	maxConns         int
	backend, http    string
}

func serve(fs *flag.FlagSet) action {
	var f serveFlags
	fs.StringVar(&f.listen, "listen", "", "`address` to listen on, host:port; port 0 picks one")
	fs.StringVar(&f.node, "node", "", "`name` of this server in its answers (default: the address it listens on)")
	fs.StringVar(&f.cert, "cert", "", "certificate chain, a PEM `file`; without one a certificate is made, which no other server shares")
	fs.StringVar(&f.key, "key", "", "the certificate's key, a PEM `file`")
	fs.StringVar(&f.store, "store", "memory:", "`URL` of the session store")
	fs.StringVar(&f.keyring, "keyring", "", "the `ring` of keys that seal what the store holds: a file, env:NAME or store:FILE")
	fs.BoolVar(&f.plaintext, "plaintext", false, "do not seal what the store holds: whoever reads it can read the traffic")
	f.tls = tlsFlag(fs)
	f.tickets = choiceFlag(fs, "tickets", "how sessions are resumed, a `mode`: stateful (ids in TLS 1.2, stateful tickets in 1.3), stateless (encrypted tickets, under the keys of -keyring where given, else this process's own) or none (ids in 1.2, nothing in 1.3)",
		"stateful", "stateless", "none")
	fs.StringVar(&f.clientCA, "client-ca", "", "require client certificates, of the CAs in this PEM `file`")
	fs.DurationVar(&f.handshakeTimeout, "handshake-timeout", 10*time.Second, "how long a handshake may take, a `duration`")
	fs.IntVar(&f.maxConns, "max-conns", 0, "serve at most `N` connections at once, others wait; 0 is no limit")
	fs.StringVar(&f.backend, "backend", "", "forward the bytes to this `host:port`")
	fs.StringVar(&f.http, "http", "", "`address` for a page with live numbers, /healthz, /stats and /metrics, in plain HTTP")
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
	case f.keyring == envRing || f.keyring == storeRing:
		return usagef("-keyring %s names nothing: it is a file, env:NAME or store:FILE", f.keyring)
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

// serve is the life of a server, from binding to the end.
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
	if err := f.configure(sslCtx, logger); err != nil {
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
			logger.Print(err) // an outage, and no reason to call the end impolite
		}
	}()

	l, err := net.Listen("tcp", f.listen)
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

	s := &server{
		ssl: sslCtx, node: f.node, handshakeTimeout: f.handshakeTimeout,
		log: logger, refused: &seldom{log: logger}, conns: map[*conn]struct{}{},
	}
	if f.maxConns > 0 {
		s.slots = make(chan struct{}, f.maxConns)
	}
	if f.backend != "" {
		s.run(ctx, l, func(c *conn) { s.forward(ctx, c, f.backend) }, func(context.Context) {})
		return nil
	}
	web := newWeb(s)
	s.run(ctx, l, web.hand, web.shutdown)
	return nil
}

// configure sets what UseStore must find set: it computes the id context of it.
func (f *serveFlags) configure(ctx *libssl.Context, logger *log.Logger) error {
	if f.cert != "" {
		if err := ctx.UseCertificateFiles(f.cert, f.key); err != nil {
			return err
		}
	} else {
		host, _, _ := net.SplitHostPort(f.listen)
		cert, key, err := selfSigned(host)
		if err != nil {
			return err
		}
		if err := ctx.UseCertificatePEM(cert, key); err != nil {
			return err
		}
		logger.Print("no -cert: made a self-signed certificate, so no other server can resume these sessions")
	}
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

// watchInterval is how soon a server sees that its key ring was rotated.
const watchInterval = 5 * time.Second

// What -keyring may begin with. A file whose name does has a path in front.
const (
	envRing   = "env:"
	storeRing = "store:"
)

// loadRing reads the ring of -keyring and follows it where it can change; nil without one.
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

// openSharedRing opens the ring in the store, which is sealed under the one in a file.
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
	opt := &libssl.StoreOptions{Keys: ring, Plaintext: f.plaintext, Logger: slog.New(slog.NewTextHandler(printed{logger}, withoutTime))}
	if _, embedded := st.(store.Embedded); !embedded && ring == nil && !f.plaintext {
		return nil, usagef("a store of several hosts needs -keyring, or -plaintext where its readers may read the traffic")
	}
	if *f.tickets == "stateless" {
		if ring == nil { // the tickets of this process alone
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

// pagePolicy lets the page do what it does, and nothing that it might be tricked into.
const pagePolicy = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// serveStats serves what -http is for, until stop.
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
		}{f.node, libssl.Version(), cache.Stats(), ctx.Stats()})
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
		metrics.WriteText(w, metrics.Of(cache, ctx)) // fails only with the connection
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
	json.NewEncoder(w).Encode(v) // fails only with the connection
}

// ---- connections ------------------------------------------------------------------

// server accepts connections and runs their handshakes, each on a goroutine of
// its own and within the timeout, so that a peer that never speaks is in
// nobody's way and gone soon.
type server struct {
	ssl              *libssl.Context
	node             string
	handshakeTimeout time.Duration
	slots            chan struct{} // one taken per connection; nil: no limit
	log              *log.Logger
	refused          *seldom // for what any stranger can cause

	mu    sync.Mutex
	conns map[*conn]struct{} // those with a complete handshake
	wg    sync.WaitGroup     // all
}

// conn gives its slot back when it is closed.
type conn struct {
	*libssl.Conn
	s     *server
	close sync.Once
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

// run serves what l accepts until ctx is done. serve has each connection once
// its handshake is complete, and closes it. At the end finish may bring what is
// under way to a good end; what is left after that is closed.
func (s *server) run(ctx context.Context, l net.Listener, serve func(*conn), finish func(context.Context)) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	handshakes, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	for s.acceptOne(ctx, l, func(nc net.Conn) { s.handshake(handshakes, nc, serve) }) {
	}
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
	giveUp()
	s.mu.Lock()
	for c := range s.conns {
		go c.Close() // each may wait a moment for its peer
	}
	s.mu.Unlock()
	<-gone
}

// acceptOne gives start a goroutine for the next connection. It returns false
// when ctx is done.
func (s *server) acceptOne(ctx context.Context, l net.Listener, start func(net.Conn)) bool {
	if s.slots != nil {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return false
		}
	}
	s.wg.Add(1)
	nc, err := l.Accept()
	if err != nil {
		s.done()
		if ctx.Err() != nil {
			return false
		}
		// Out of descriptors, most likely: that passes.
		s.log.Print(err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		return true
	}
	go start(nc)
	return true
}

func (s *server) handshake(ctx context.Context, nc net.Conn, serve func(*conn)) {
	tc, err := libssl.Server(nc, s.ssl)
	if err != nil {
		nc.Close()
		s.log.Print(err)
		s.done()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.handshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		tc.Close()
		s.refused.print(nc.RemoteAddr(), err)
		s.done()
		return
	}
	c := &conn{Conn: tc, s: s}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	serve(c)
}

// printed writes lines to a log, with its prefix.
type printed struct{ log *log.Logger }

func (p printed) Write(line []byte) (int, error) { return len(line), p.log.Output(0, string(line)) }

// withoutTime is for logs whose lines have none.
var withoutTime = &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}}

// seldom prints a line a second at most, and how many it left out: no port scan
// may fill the log.
type seldom struct {
	log  *log.Logger
	mu   sync.Mutex
	last time.Time
	left int
}

func (l *seldom) print(about any, err error) {
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

// answer is what the server says of the connection that asks.
type answer struct {
	Node        string `json:"node"`
	Version     string `json:"version"`
	Cipher      string `json:"cipher"`
	Resumed     bool   `json:"resumed"`
	SessionID   string `json:"session_id"`
	ResumedFrom string `json:"resumed_from"`
}

// web hands connections to net/http after their handshake: it is the listener
// of its http.Server.
type web struct {
	http  *http.Server
	conns chan *conn
	over  chan struct{}
	once  sync.Once
}

type connKey struct{}

func newWeb(s *server) *web {
	w := &web{conns: make(chan *conn), over: make(chan struct{})}
	w.http = &http.Server{
		Handler:     http.HandlerFunc(s.answer),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    s.log,
		ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout,
		DisableGeneralOptionsHandler: true,
	}
	go w.http.Serve(w)
	return w
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	state := c.ConnectionState()
	a := answer{
		Node: s.node, Version: versionName(state.Version), Cipher: tls.CipherSuiteName(state.CipherSuite),
		Resumed: c.SessionReused(), ResumedFrom: c.ResumedFrom().String(),
	}
	if session, err := c.Session(); err == nil {
		a.SessionID = session.ID().String()
		session.Release()
	}
	writeJSON(w, a)
}

// hand passes c to http.Server, which closes it.
func (w *web) hand(c *conn) {
	select {
	case w.conns <- c:
	case <-w.over:
		c.Close()
	}
}

// shutdown lets requests under way have their answers, then closes the rest.
func (w *web) shutdown(ctx context.Context) {
	if w.http.Shutdown(ctx) != nil {
		w.http.Close()
	}
}

func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.over:
		return nil, net.ErrClosed
	}
}

func (w *web) Close() error {
	w.once.Do(func() { close(w.over) })
	return nil
}

func (w *web) Addr() net.Addr { return &net.TCPAddr{} } // nobody asks

// ---- forwarding ---------------------------------------------------------------------

// forward copies bytes between c and the backend, each direction to its own
// end, until both have ended or one has failed.
func (s *server) forward(ctx context.Context, c *conn, addr string) {
	defer c.Close()
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		s.refused.print("backend", err)
		return
	}
	b := nc.(*net.TCPConn)
	defer b.Close()

	// What was cut off must not look complete to the other side: the backend
	// sees a reset, the client a stream without close_notify. Abort would do that
	// too, but takes the session from the whole fleet.
	cut := func() {
		b.SetLinger(0)
		b.Close()
		c.NetConn().Close()
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.Copy(b, c); err != nil || b.CloseWrite() != nil {
			cut()
		}
	}()
	if _, err := io.Copy(c, b); err != nil || c.CloseWrite() != nil {
		cut()
	}
	<-sent
}
