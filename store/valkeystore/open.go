package valkeystore

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/libssl-go/libssl/internal/ownfile"
)

const (
	// dialTimeout bounds one attempt to connect, openTimeout all of Open.
	dialTimeout = 5 * time.Second
	openTimeout = 10 * time.Second

	// settling is how long after any trouble the store is not prompt. By then no call waits for a greeting, which takes
	// dialTimeout at most, or for a connection that owes an answer, which counts as broken after answerTimeout.
	settling = dialTimeout + time.Second

	// promptCalls is how many calls may be under way in a prompt store. A connection holds a thousand unanswered calls; after
	// that a call waits for room and ignores its context.
	promptCalls = 500

	// answerTimeout is how long a connection may owe an answer before it counts as broken. It detects a server that
	// vanished without closing its connections.
	answerTimeout = 2 * time.Second

	// connBuffer is the size of the client library's buffers of a connection. A record fits.
	connBuffer = 96 << 10

	// refreshInterval is how often the client asks sentinels and clusters which nodes serve, in case a notification was lost.
	refreshInterval = 5 * time.Second
)

// ErrURL is wrapped by the errors of Open for a URL that cannot be used.
var ErrURL = errors.New("unusable URL")

// Options of a store, besides its URL.
type Options struct {
	// Prefix begins every key; DefaultPrefix if empty. Fleets that share a server need different prefixes. Do not use braces, as in
	// "{libssl}:": a cluster would put all records on one node.
	Prefix string

	// TLS is used for valkeys:// and rediss://. With nil, the server's certificate must be valid for its name and the system's roots.
	TLS *tls.Config
}

// Open connects to the server that rawURL names and checks that it can serve:
//
//	valkey://[[user]:password@]host[:port][/db]      redis:// is the same
//	valkeys://...                                    with TLS, as is rediss://
//
// With password_file=PATH the password is the content of a file, which no other user may read or may have planted (see ticket.LoadRing).
// The parameter addr, which may be repeated, adds the host:port of another node of a cluster. With master_set=NAME all hosts are
// sentinels that know the server called NAME; user and password are those of the server. Open recognises clusters by itself. For
// any other configuration, make a client and use New.
//
// Errors show no part of the URL but hosts, because it may hold a password.
func Open(rawURL string, opts Options) (*Store, error) {
	clientOptions, err := parse(rawURL, opts.TLS)
	if err != nil {
		return nil, fmt.Errorf("valkeystore: %w: %w", ErrURL, err)
	}
	d := &dialer{ready: map[string]net.Conn{}, made: time.Now()}
	clientOptions.DialCtxFn = d.dial
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	addrs := strings.Join(clientOptions.InitAddress, ", ")
	client, err := connect(ctx, clientOptions)
	if err != nil {
		return nil, fmt.Errorf("valkeystore: %s: %w", addrs, explained(err))
	}
	s := newStore(&commands{client: client, dialer: d}, opts)
	s.close = func() {
		client.Close()
		d.close()
	}
	// Old servers, replicas and limited users fail this command. No record has this key.
	if _, err := s.commands.GetDel(ctx, cmp.Or(opts.Prefix, DefaultPrefix)+"check"); err != nil {
		s.close()
		return nil, fmt.Errorf("valkeystore: %s: %w", addrs, explained(err))
	}
	return s, nil
}

// connect calls valkey.NewClient, and returns when ctx ends.
func connect(ctx context.Context, clientOptions valkey.ClientOption) (valkey.Client, error) {
	type result struct {
		client valkey.Client
		err    error
	}
	made := make(chan result, 1)
	go func() {
		client, err := valkey.NewClient(clientOptions)
		made <- result{client, err}
	}()
	select {
	case r := <-made:
		return r.client, r.err
	case <-ctx.Done(): // the server accepts connections and does not answer
		go func() {
			if r := <-made; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// explained adds the likely cause to errors of the client that do not name it.
func explained(err error) error {
	var e net.Error
	switch {
	case errors.As(err, &e) && e.Timeout(): // context.DeadlineExceeded is one too
		return fmt.Errorf("no answer from a Valkey or Redis server (with TLS where the URL begins with valkeys: or rediss:): %w", err)
	case errors.Is(err, errProtocol):
		return fmt.Errorf("the server speaks another protocol, not Valkey's: %w", err)
	}
	return err
}

// parse replaces valkey.ParseURL, whose errors quote the URL, and which accepts unknown parameters.
func parse(rawURL string, tlsConfig *tls.Config) (valkey.ClientOption, error) {
	o := valkey.ClientOption{
		Dialer:           net.Dialer{Timeout: dialTimeout},
		ConnWriteTimeout: answerTimeout,

		ReadBufferEachConn:  connBuffer,
		WriteBufferEachConn: connBuffer,

		AlwaysPipelining: true, // otherwise a call that shares its connection with no other breaks it when its context ends
		DisableCache:     true,
		ClientName:       "libssl",
		Sentinel:         valkey.SentinelOption{Dialer: net.Dialer{Timeout: dialTimeout, Resolver: sentinelResolver}, TopologyRefreshInterval: refreshInterval},
		ClusterOption:    valkey.ClusterOption{ShardsRefreshInterval: refreshInterval},
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return o, errors.New("malformed: special characters in a password are written as %XX")
	}
	switch u.Scheme {
	case "valkey", "redis":
	case "valkeys", "rediss":
		o.TLSConfig = tlsConfig
		if o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{}
		}
		o.Sentinel.TLSConfig = o.TLSConfig
	default:
		return o, errors.New("it does not begin with valkey://, valkeys://, redis:// or rediss://") // the scheme may be a user's name
	}
	if u.Hostname() == "" {
		return o, errors.New("it names no host")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	o.InitAddress = []string{net.JoinHostPort(u.Hostname(), port)}
	o.Username = u.User.Username()
	o.Password, _ = u.User.Password()
	if db := strings.Trim(u.Path, "/"); db != "" {
		if o.SelectDB, err = strconv.Atoi(db); err != nil || o.SelectDB < 0 {
			return o, errors.New("only the number of a database may follow the host")
		}
	}
	err = parseQuery(u, &o)
	return o, err
}

// parseQuery reads the parameters of the URL.
func parseQuery(u *url.URL, o *valkey.ClientOption) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Fragment != "" {
		return errors.New("malformed: special characters in a password are written as %XX")
	}
	for name, values := range query {
		switch name {
		case "addr":
			for _, addr := range values {
				if _, _, err := net.SplitHostPort(addr); err != nil {
					return errors.New("parameter addr is no host:port")
				}
			}
			o.InitAddress = append(o.InitAddress, values...)
		case "master_set":
			o.Sentinel.MasterSet = values[0]
		case "password_file":
			if o.Password != "" {
				return errors.New("a password beside password_file")
			}
			text, err := ownfile.Self().ReadSecret(values[0])
			if err != nil {
				return fmt.Errorf("password_file: %w", err)
			}
			o.Password = strings.TrimRight(string(text), "\r\n")
			clear(text)
			if o.Password == "" {
				return errors.New("password_file: the file is empty")
			}
		default:
			return errors.New("it has a parameter other than addr, master_set and password_file")
		}
	}
	return nil
}

// dialer finishes connections that take longer than the call that asks for them. The client connects within the context of a call,
// and a lookup may have less time than TCP, TLS and a greeting take over some distance: every lookup would start again, and none
// would succeed. The dialer therefore keeps a connection that comes too late for the next call. It also keeps one that leaves
// too little time for the greeting, because the client would close it when the greeting fails.
type dialer struct {
	mu    sync.Mutex
	ready map[string]net.Conn // nil once closed
	pace  pace

	made    time.Time
	trouble atomic.Int64 // when the last trouble was, as a time.Duration since made
}

// troubled notes that a connection is being made, or that a call has failed.
func (d *dialer) troubled() { d.trouble.Store(int64(time.Since(d.made))) }

func (d *dialer) settled() bool { return time.Since(d.made)-time.Duration(d.trouble.Load()) > settling }

func (d *dialer) dial(ctx context.Context, addr string, netDialer *net.Dialer, tlsConfig *tls.Config) (net.Conn, error) {
	d.troubled()
	defer d.troubled() // the greeting comes after the return
	if netDialer.Resolver == sentinelResolver && !d.pace.allow(addr, time.Now()) {
		return nil, errAskedBefore
	}
	if nc := d.take(addr); nc != nil {
		return nc, nil
	}
	type result struct {
		nc  net.Conn
		err error
	}
	dialled := make(chan result)
	began := time.Now()
	go func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		var r result
		if tlsConfig != nil {
			r.nc, r.err = (&tls.Dialer{NetDialer: netDialer, Config: tlsConfig}).DialContext(bound, "tcp", addr)
		} else {
			r.nc, r.err = netDialer.DialContext(bound, "tcp", addr)
		}
		if r.err == nil {
			r.nc = newCheckedConn(r.nc)
		}
		select {
		case dialled <- r:
		case <-ctx.Done():
			if r.err == nil {
				d.keep(addr, r.nc)
			}
		}
	}()
	select {
	case r := <-dialled:
		if deadline, ok := ctx.Deadline(); !ok || r.err != nil || time.Since(began) < time.Until(deadline) {
			return r.nc, r.err
		}
		d.keep(addr, r.nc)
		<-ctx.Done() // the client would use what is left of its time to try again
		return nil, ctx.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *dialer) take(addr string) net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	nc := d.ready[addr]
	delete(d.ready, addr)
	return nc
}

func (d *dialer) keep(addr string, nc net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready == nil || d.ready[addr] != nil {
		nc.Close()
		return
	}
	d.ready[addr] = nc
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, nc := range d.ready {
		nc.Close()
	}
	d.ready = nil
}
