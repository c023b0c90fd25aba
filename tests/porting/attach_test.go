// Package porting_test holds the road from C to Go against programs that are written in C.
package porting_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/cabitest"
	"github.com/libssl-go/libssl/tests/porting/cserver"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bench is a C server and a client for it.
type bench struct {
	*cserver.Server
	t      *testing.T
	client *libssl.Context
}

func newBench(t *testing.T, version uint16, cached bool, threads int) *bench {
	t.Helper()
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	s, err := cserver.New(cert, key, version, cached)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.Serve(threads))
	return &bench{s, t, cabitest.Client(t, version, ca.PEM)}
}

func (b *bench) attach() *libssl.Context {
	b.t.Helper()
	ctx, err := libssl.AttachContext(b.Context())
	require.NoError(b.t, err)
	b.t.Cleanup(func() { ctx.Close() })
	ctx.OnCallbackError(func(e *libssl.CallbackError) { b.t.Error(e) })
	return ctx
}

// visit is a connection to its end on both sides.
func (b *bench) visit(offer *libssl.Session) (resumed bool, sess *libssl.Session) {
	b.t.Helper()
	resumed, sess = talk(b.t, b.client, b.Addr, offer)
	b.Await(1)
	return resumed, sess
}

func talk(t *testing.T, client *libssl.Context, addr string, offer *libssl.Session) (bool, *libssl.Session) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	c, err := libssl.Client(nc, client, "127.0.0.1")
	require.NoError(t, err)
	c.SetDeadline(time.Now().Add(60 * time.Second))
	if offer != nil {
		require.NoError(t, c.SetSession(offer))
	}
	b := make([]byte, 1)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	_, err = c.Write(b)
	require.NoError(t, err)
	_, _ = c.Read(b) // the server's goodbye, or the lack of one
	sess, err := c.Session()
	require.NoError(t, err)
	t.Cleanup(sess.Release)
	resumed := c.SessionReused()
	c.Close()
	return resumed, sess
}

// story makes a few visits and returns the client's outcomes and the calls to C's callbacks.
func (b *bench) story() string {
	b.t.Helper()
	var told []string
	tell := func(resumed bool) { told = append(told, fmt.Sprintf("%t %s", resumed, b.Trace())) }
	resumed, sess := b.visit(nil)
	tell(resumed)
	resumed, next := b.visit(sess)
	tell(resumed)
	b.BeRude(true)
	resumed, broken := b.visit(next)
	b.BeRude(false)
	tell(resumed)
	resumed, _ = b.visit(broken)
	tell(resumed)
	return strings.Join(told, ", ")
}

var protocols = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// notebook is a session cache in Go.
type notebook struct {
	mu                  sync.Mutex
	ders                map[libssl.SessionID][]byte
	news, gets, removes atomic.Int32
}

func (n *notebook) install(t testing.TB, ctx *libssl.Context) {
	n.mu.Lock() // handlers of a Context that was detached may still run
	n.ders = map[libssl.SessionID][]byte{}
	n.mu.Unlock()
	ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
		n.news.Add(1)
		assert.Nil(t, ssl.Conn())
		der, err := s.MarshalBinary()
		assert.NoError(t, err)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.ders[s.ID()] = der
		return false
	})
	ctx.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		n.gets.Add(1)
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.ders[id] == nil {
			return nil, libssl.Copy
		}
		s, err := libssl.ParseSession(n.ders[id])
		assert.NoError(t, err)
		return s, libssl.Transfer
	})
	ctx.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { n.removes.Add(1) })
}

func (n *notebook) calls() int32 { return n.news.Load() + n.gets.Load() + n.removes.Load() }

// Go's handlers replace C's callbacks on a running server. After Close C's are back, call for call.
func TestAttach_HandlersComeAndGo(t *testing.T) {
	for name, version := range protocols {
		for _, cached := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/C has callbacks %t", name, cached), func(t *testing.T) {
				untouched := newBench(t, version, cached, 2)
				want, looks := untouched.story(), untouched.Look()
				if cached {
					require.Contains(t, want, "true G", "the story is one of resumptions")
				}

				b := newBench(t, version, cached, 2)
				for range 2 { // and again
					ctx := b.attach()
					require.Equal(t, cached, ctx.SessGetCallback() != nil)
					var n notebook
					n.install(t, ctx)
					_, sess := b.visit(nil)
					resumed, _ := b.visit(sess)
					require.True(t, resumed)
					require.Empty(t, b.Trace(), "C's are replaced")
					require.Positive(t, n.calls())
					before := n.calls()
					require.NoError(t, ctx.Close())
					require.Equal(t, looks, b.Look())
					require.Equal(t, want, b.story())
					require.Equal(t, before, n.calls())
				}
			})
		}
	}
}

// A Go handler calls the C callback it replaced, and nil silences both for a while.
func TestAttach_HandlersChain(t *testing.T) {
	for name, version := range protocols {
		t.Run(name, func(t *testing.T) {
			untouched := newBench(t, version, true, 2)
			want, looks := untouched.story(), untouched.Look()
			b := newBench(t, version, true, 2)
			ctx := b.attach()
			var calls atomic.Int32
			onNew, onGet, onRemove := ctx.SessNewCallback(), ctx.SessGetCallback(), ctx.SessRemoveCallback()
			ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool { calls.Add(1); return onNew(ssl, s) })
			ctx.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				calls.Add(1)
				return onGet(ssl, id)
			})
			ctx.SetSessRemoveCallback(func(ctx *libssl.Context, s *libssl.Session) { calls.Add(1); onRemove(ctx, s) })
			require.Equal(t, want, b.story(), "C sees what it would see")
			require.EqualValues(t, strings.Count(want, "N")+strings.Count(want, "G")+strings.Count(want, "R"), calls.Load())

			ctx.SetSessGetCallback(nil)
			ctx.SetSessNewCallback(nil)
			_, sess := b.visit(nil)
			resumed, _ := b.visit(sess)
			require.False(t, resumed)
			require.NotContains(t, b.Trace(), "N")
			require.NoError(t, ctx.Close())
			require.Equal(t, looks, b.Look())
			require.Equal(t, want, b.story())
		})
	}
}

// A key log in Go replaces C's, and gives its place back.
func TestAttach_KeyLogComesAndGoes(t *testing.T) {
	for _, logged := range []bool{true, false} {
		t.Run(fmt.Sprintf("C has one %t", logged), func(t *testing.T) {
			untouched, b := newBench(t, tls.VersionTLS13, true, 2), newBench(t, tls.VersionTLS13, true, 2)
			if logged {
				untouched.LogKeys()
				b.LogKeys()
			}
			want, looks := untouched.story(), untouched.Look()
			ctx := b.attach()
			var lines bytes.Buffer
			ctx.SetKeyLogWriter(&lines)
			b.visit(nil)
			require.NotContains(t, b.Trace(), "K", "C's is replaced")
			require.Contains(t, lines.String(), "CLIENT_HANDSHAKE_TRAFFIC_SECRET")
			ctx.SetKeyLogWriter(nil)
			lines.Reset()
			b.visit(nil)
			require.NotContains(t, b.Trace(), "K", "it is off")
			require.Empty(t, lines.String())
			require.NoError(t, ctx.Close())
			require.Equal(t, looks, b.Look())
			require.Equal(t, want, b.story())
		})
	}
}

// A function that C installs over a handler stays.
func TestAttach_CloseLeavesWhatCHasChanged(t *testing.T) {
	b := newBench(t, tls.VersionTLS13, false, 1)
	other := newBench(t, tls.VersionTLS13, true, 1)
	want := b.Look()
	want.New, want.Get, want.Remove = 1, 1, 1
	ctx := b.attach()
	var n notebook
	n.install(t, ctx)
	b.CopyCallbacks(other.Server)
	require.NoError(t, ctx.Close())
	require.Equal(t, want, b.Look())
}

// A C server gets a store, and loses it again.
func TestAttach_AStoreComesAndGoes(t *testing.T) {
	for name, version := range protocols {
		t.Run(name, func(t *testing.T) {
			untouched := newBench(t, version, false, 2)
			want, looks := untouched.story(), untouched.Look()
			a := newBench(t, version, false, 2)
			for _, storeFirst := range []bool{true, false} {
				ctx := a.attach()
				sc, err := ctx.UseStore(memstore.New(memstore.Options{}), nil)
				require.NoError(t, err)
				_, sess := a.visit(nil)
				resumed, _ := a.visit(sess)
				require.True(t, resumed)
				if storeFirst {
					require.NoError(t, sc.Close(t.Context()))
					require.NoError(t, ctx.Close())
				} else {
					require.NoError(t, ctx.Close())
					require.NoError(t, sc.Close(t.Context()))
				}
				require.Equal(t, looks, a.Look())
				require.Equal(t, want, a.story())
			}
		})
	}
}

// Many C threads, unknown to Go, serve while Go attaches and detaches.
func TestAttach_PoolsOfThreads(t *testing.T) {
	for name, version := range protocols {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, version, true, 8)
			ctx := b.attach()
			var n notebook
			n.install(t, ctx)
			const clients, visits = 8, 12
			var wg sync.WaitGroup
			var resumptions atomic.Int32
			for range clients {
				wg.Go(func() {
					var offer *libssl.Session
					for range visits {
						resumed, sess := talk(t, b.client, b.Addr, offer)
						if resumed {
							resumptions.Add(1)
						}
						offer = sess
					}
				})
			}
			wg.Wait()
			b.Await(clients * visits)
			require.EqualValues(t, clients*(visits-1), resumptions.Load())
			require.Empty(t, b.Trace())

			// Detached and attached while they serve: no handshake fails.
			stop := make(chan struct{})
			var served atomic.Int32
			for range 4 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							talk(t, b.client, b.Addr, nil)
							served.Add(1)
						}
					}
				})
			}
			for range 20 {
				before := served.Load()
				require.NoError(t, ctx.Close())
				ctx = b.attach()
				n.install(t, ctx)
				require.Eventually(t, func() bool { return served.Load() > before }, 30*time.Second, time.Millisecond)
			}
			close(stop)
			wg.Wait()
			b.Await(int(served.Load()))
			require.NoError(t, ctx.Close())
			require.Equal(t, 1, b.Look().New, "C's again")
		})
	}
}

// The child of a fork serves without its handlers, says so once, and hangs nowhere. The parent does not notice.
func TestAttach_ForkWithoutExec(t *testing.T) {
	for name, version := range protocols {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, version, false, 0)
			ctx := b.attach()
			var n notebook
			n.install(t, ctx)
			type end struct {
				said string
				err  error
			}
			var offer *libssl.Session
			for range 2 {
				ended := make(chan end, 1)
				go func() {
					said, err := b.ServeForked()
					ended <- end{said, err}
				}()
				resumed, sess := talk(t, b.client, b.Addr, offer)
				e := <-ended
				require.NoError(t, e.err)
				require.False(t, resumed)
				require.Equal(t, 1, strings.Count(e.said, "\n"), e.said)
				require.Contains(t, e.said, "forked")
				offer = sess
			}
			require.Zero(t, n.calls())
		})
	}
}

// In the jobs of SSL_MODE_ASYNC, on whose stacks Go cannot run, an SSL behaves as without handlers.
func TestAttach_AsyncJobsDoWithoutGo(t *testing.T) {
	for name, version := range protocols {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, version, true, 2)
			ctx := b.attach()
			var n notebook
			n.install(t, ctx)
			b.SetAsync()
			_, sess := b.visit(nil)
			resumed, _ := b.visit(sess)
			require.False(t, resumed)
			require.Zero(t, n.news.Load()+n.gets.Load())
			require.Empty(t, b.Trace())
		})
	}
}
