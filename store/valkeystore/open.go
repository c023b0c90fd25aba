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
)

const (
	// dialTimeout bounds one attempt to connect, openTimeout all of Open.
	dialTimeout = 5 * time.Second
	openTimeout = 10 * time.Second

	// settling is how long after any trouble the store is not prompt: greetings take no longer than dialTimeout, and a connection that
	// owes an answer is broken after answerTimeout, by when nobody waits for either.
	settling = dialTimeout + time.Second

	// promptCalls is how many calls may be under way in a prompt store. A connection takes a thousand that were not answered; whoever
	// comes then waits for room, whatever the context.
	promptCalls = 500

	// answerTimeout is how long a connection may owe an answer before it counts as broken, which is how a server that is gone
	// without a word is noticed.
	answerTimeout = 2 * time.Second

	// refreshInterval is how often sentinels and clusters are asked who serves, should a message about it be lost.
	refreshInterval = 5 * time.Second
)

// ErrURL is in the error of Open where it is the URL that cannot be used, whatever the server.
var ErrURL = errors.New("unusable URL")

// Options are what a URL does not say.
type Options struct {
	// Prefix begins every key; DefaultPrefix if empty. Fleets that share a server need different ones. In braces ("{libssl}:") it would
	// put all records of a cluster on one node.
	Prefix string

	// TLS is for valkeys:// and rediss://; nil checks the server's name against the system's roots.
	TLS *tls.Config
}

// Open connects to the server that rawURL names and checks that it can serve:
//
//	valkey://[[user]:password@]host[:port][/db]      redis:// is the same
//	valkeys://...                                    with TLS, as is rediss://
//
// The parameter addr, which may be repeated, adds a host:port: of further nodes of a cluster, or, with master_set=NAME, of sentinels that
// know the server called NAME; the first host is then a sentinel too, and user and password are the server's. Clusters are
// recognised. For all else make a client and use New.
//
// Errors never show what the URL says, as it may hold a password.
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
	// The one command that old servers, replicas and limited users lack, on a key that no record has.
	if _, err := s.commands.GetDel(ctx, cmp.Or(opts.Prefix, DefaultPrefix)+"check"); err != nil {
		s.close()
		return nil, fmt.Errorf("valkeystore: %s: %w", addrs, explained(err))
	}
	return s, nil
}

// connect is valkey.NewClient, within ctx.
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
	case <-ctx.Done(): // the other side took the connection and says nothing
		go func() {
			if r := <-made; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// explained says what the client's words for it hide.
func explained(err error) error {
	var e net.Error
	switch {
	case errors.As(err, &e) && e.Timeout(): // as a context's is too
		return fmt.Errorf("no answer from a Valkey or Redis server (with TLS where the URL is of valkeys: or rediss:): %w", err)
	case strings.Contains(err.Error(), "unknown message type"):
		return fmt.Errorf("the server speaks another protocol than Valkey's: %w", err)
	}
	return err
}

// parse is not valkey.ParseURL because that shows parts of what it refuses, and accepts parameters it doesn't know.
func parse(rawURL string, tlsConfig *tls.Config) (valkey.ClientOption, error) {
	o := valkey.ClientOption{
		Dialer:           net.Dialer{Timeout: dialTimeout},
		ConnWriteTimeout: answerTimeout,
		AlwaysPipelining: true, // else a call that nobody shares breaks its connection when its context ends
		DisableCache:     true,
		ClientName:       "libssl",
		Sentinel:         valkey.SentinelOption{Dialer: net.Dialer{Timeout: dialTimeout}, TopologyRefreshInterval: refreshInterval},
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
		return o, fmt.Errorf("unknown scheme %q", u.Scheme)
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
			return o, errors.New("after the host there may be the number of a database only")
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
		default:
			return errors.New("it has a parameter other than addr and master_set")
		}
	}
	return nil
}

// dialer finishes what a caller had no time for. The client connects within the context of whichever call needs the connection, and
// lookups have less time than TCP, TLS and a greeting may take over some distance: they would start anew for ever. Here a
// connection is kept for the next call where it comes too late, or so late that a greeting would probably not fit in either, which
// costs the client the connection.
type dialer struct {
	mu    sync.Mutex
	ready map[string]net.Conn // nil once closed

	made    time.Time
	trouble atomic.Int64 // when there was any, as a time.Duration since made
}

// troubled notes that connections are not what they should be: one is made, or a call has failed.
func (d *dialer) troubled() { d.trouble.Store(int64(time.Since(d.made))) }

func (d *dialer) settled() bool { return time.Since(d.made)-time.Duration(d.trouble.Load()) > settling }

func (d *dialer) dial(ctx context.Context, addr string, netDialer *net.Dialer, tlsConfig *tls.Config) (net.Conn, error) {
	d.troubled()
	defer d.troubled() // from here the greeting counts
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
