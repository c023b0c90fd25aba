package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/stretchr/testify/require"
)

// visitor connects again and again, with the session it got last.
type visitor struct {
	sess            *libssl.Session
	visits, resumed atomic.Int64
	client, server  *libssl.Context
	name            string
}

func (v *visitor) visit() error {
	l, err := connect(v.client, v.server, v.name, v.sess)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.talk(); err != nil {
		return err
	}
	next, err := l.client.Session()
	if err != nil {
		return err
	}
	v.sess.Release()
	v.sess = next
	if l.server.SessionReused() {
		v.resumed.Add(1)
	}
	v.visits.Add(1)
	return nil
}

// The store dies while clients come and go, and comes back. No handshake fails; without the store they are full.
func TestH2O_StoreThatDiesUnderLoad(t *testing.T) {
	deaths := map[string]func(ctx context.Context) error{
		"errors": func(context.Context) error { return errors.New("connection refused") },
		"panics": func(context.Context) error { panic("nil pointer") },
		"hangs":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}
	each(t, lookups, func(t *testing.T, h *host) {
		for name, death := range deaths {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // each waits for its breaker
				k := newShared()
				server, cache := h.node(t, k, libssl.StoreOptions{
					Keys: newRing(t), LookupTimeout: 200 * time.Millisecond, PutTimeout: 200 * time.Millisecond,
				})
				client := h.client(t)
				var load sync.WaitGroup
				stop, failed := make(chan struct{}), make(chan error, 8)
				visitors := make([]*visitor, 4)
				for i := range visitors {
					v := &visitor{client: client, server: server, name: h.name}
					visitors[i] = v
					load.Go(func() {
						defer func() { v.sess.Release() }()
						for {
							select {
							case <-stop:
								return
							default:
							}
							if err := v.visit(); err != nil {
								failed <- err
								return
							}
						}
					})
				}
				// Each comes n times more, and resumes n times more if that is asked for.
				all := func(what string, n int64, count func(v *visitor) int64) {
					var before []int64
					for _, v := range visitors {
						before = append(before, count(v))
					}
					eventually(t, what, func() bool {
						for i, v := range visitors {
							if count(v) < before[i]+n {
								return len(failed) > 0
							}
						}
						return true
					})
				}
				visits := func(v *visitor) int64 { return v.visits.Load() }
				resumed := func(v *visitor) int64 { return v.resumed.Load() }

				all("a store that works", 3, resumed)
				k.on(death, beforeGet, beforePut)
				eventually(t, "the breaker", func() bool { return cache.Stats().Open || len(failed) > 0 })
				all("a store that is left alone", 3, visits)
				hits := cache.Stats().Hits
				all("no store", 3, visits)
				require.Equal(t, hits, cache.Stats().Hits, "no session resumes from a dead store")
				k.on(nil, beforeGet, beforePut)
				all("a store that is back", 3, resumed)
				close(stop)
				load.Wait()
				close(failed)
				for err := range failed {
					require.NoError(t, err)
				}
				require.False(t, cache.Stats().Open)
				require.NotZero(t, cache.Stats().Skipped)
				if name == "hangs" {
					require.NotZero(t, cache.Stats().Timeouts)
				} else {
					require.NotZero(t, cache.Stats().Errors)
				}
			})
		}
	})
}

// Every name's session is offered under every other, and without a name: it resumes where the same host answers, and
// only there. A client that names no host, or an unknown one, gets the default host.
func TestH2O_VirtualHostsDoNotResumeEachOther(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		certificateOf := func(names ...string) setting { return certificate(h.ca.Leaf(t, names...)) }
		hosts := map[string]*libssl.Context{
			"a.test": h.server(t, certificateOf("a.test")),
			"b.test": h.server(t, certificateOf("b.test")),
		}
		front, _ := h.node(t, newShared(), libssl.StoreOptions{Keys: newRing(t)}, certificateOf("default.test", "other.test", "127.0.0.1"))
		front.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context { return hosts[name] })
		naming, nameless := h.client(t), h.client(t, verifyNone)
		visits := []struct {
			name, host string
			client     *libssl.Context
		}{
			{"a.test", "a.test", naming},
			{"b.test", "b.test", naming},
			{"default.test", "default.test", naming},
			{"other.test", "default.test", naming},
			{"127.0.0.1", "default.test", naming}, // an address is no name to send
			{"", "default.test", nameless},
		}
		for _, made := range visits {
			l := open(t, made.client, front, made.name, nil)
			resumed, sess := l.visit(t)
			require.False(t, resumed)
			for _, offered := range visits {
				l := open(t, nameless, front, offered.name, sess) // one that verifies would offer less
				require.NoError(t, l.talk())
				what := fmt.Sprintf("made for %q, offered to %q", made.name, offered.name)
				require.Equal(t, made.host == offered.host, l.server.SessionReused(), what)
				peer := l.client.ConnectionState().PeerCertificates
				require.Equal(t, offered.host, peer[0].Subject.CommonName, what)
				l.close()
			}
		}
	})
}

// process is a server process: a listener, a Context, and a store that it opens and closes.
type process struct {
	listener net.Listener
	server   *libssl.Context
	cache    *libssl.SessionCache
	st       *sqlitestore.Store
	serving  sync.WaitGroup
}

func (h *host) start(t testing.TB, addr, path string, settings ...setting) *process {
	t.Helper()
	p := &process{}
	var err error
	p.st, err = sqlitestore.Open(path)
	require.NoError(t, err)
	p.server, p.cache = h.node(t, p.st, libssl.StoreOptions{}, settings...)
	p.listener, err = libssl.Listen("tcp", addr, p.server)
	require.NoError(t, err)
	p.serving.Go(func() {
		for {
			c, err := p.listener.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() {
				limit(c)
				_ = echo(c)
				c.Close()
			})
		}
	})
	return p
}

func (p *process) end(t testing.TB) {
	t.Helper()
	require.NoError(t, p.listener.Close())
	p.serving.Wait()
	require.NoError(t, p.cache.Close(t.Context()))
	require.NoError(t, p.server.Close())
	require.NoError(t, p.st.Close())
}

// ring makes one connection to the server that listens at addr.
func (h *host) ring(t testing.TB, addr string, client *libssl.Context, offer *libssl.Session) (resumed bool, next *libssl.Session) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	c, err := libssl.Client(nc, client, h.name)
	require.NoError(t, err)
	defer c.Close()
	limit(c)
	if offer != nil {
		require.NoError(t, c.SetSession(offer))
	}
	require.NoError(t, ask(c))
	return c.SessionReused(), sessionOf(t, c)
}

// The server is stopped and another started in its place between two connections of a client.
func TestH2O_ServerReplacedBetweenTwoConnections(t *testing.T) {
	each(t, lookups, func(t *testing.T, h *host) {
		for _, c := range []struct {
			name     string
			settings []setting // of the successor
			moved    bool      // it has another store
			resumes  bool
		}{
			{"by its like", nil, false, true},
			{"by one without its store", nil, true, false},
			{"by one with a renewed certificate", []setting{certificate(h.ca.Leaf(t, h.name))}, false, true},
			{"by one with a certificate for more names", []setting{certificate(h.ca.Leaf(t, h.name, "more.test"))}, false, false},
			{"by one with client certificates", []setting{demands(libssl.VerifyPeer, h.ca)}, false, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "sessions")
				client := h.client(t)
				p := h.start(t, "127.0.0.1:0", path)
				addr := p.listener.Addr().String()
				resumed, sess := h.ring(t, addr, client, nil)
				require.False(t, resumed)
				p.end(t)

				if c.moved {
					path += ".other"
				}
				p = h.start(t, addr, path, c.settings...)
				resumed, sess = h.ring(t, addr, client, sess)
				require.Equal(t, c.resumes, resumed)
				p.end(t)

				p = h.start(t, addr, path, c.settings...)
				resumed, _ = h.ring(t, addr, client, sess)
				require.True(t, resumed, "what the successor made outlives it too")
				p.end(t)
			})
		}
	})
}
