package libssl_test

import (
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// onThread reports whether the caller runs on a thread of a Listener.
func onThread() bool {
	name, _ := os.ReadFile("/proc/thread-self/comm")
	return strings.TrimSpace(string(name)) == "libssl accept"
}

// withThreads has the Listeners of a test use threads, whatever -threads says.
func withThreads(t testing.TB) {
	before := libssl.UsesThreads()
	libssl.UseThreads(true)
	t.Cleanup(func() { libssl.UseThreads(before) })
}

// through makes a connection to l, over which a byte goes both ways, and returns its session.
func (f *fleet) through(t testing.TB, l *libssl.Listener, sess *libssl.Session) (next *libssl.Session, resumed bool, err error) {
	t.Helper()
	nc, err := net.Dial(l.Addr().Network(), l.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	c, err := libssl.Client(nc, f.client, f.name)
	require.NoError(t, err)
	defer c.Close()
	if sess != nil {
		require.NoError(t, c.SetSession(sess))
	}
	if err := c.Handshake(); err != nil {
		return nil, false, err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return nil, false, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return nil, false, err
	}
	next, err = c.Session()
	require.NoError(t, err)
	t.Cleanup(next.Release)
	return next, c.SessionReused(), nil
}

// localSpy is a store.Local that notes on which threads it is called.
type localSpy struct {
	*memstore.Store
	onThread, elsewhere atomic.Int32
}

func (s *localSpy) note() {
	if onThread() {
		s.onThread.Add(1)
	} else {
		s.elsewhere.Add(1)
	}
}

func (s *localSpy) Get(ctx context.Context, id store.ID) (store.Record, error) {
	s.note()
	return s.Store.Get(ctx, id)
}

func (s *localSpy) Put(ctx context.Context, r store.Record) error {
	s.note()
	return s.Store.Put(ctx, r)
}

func (s *localSpy) Take(ctx context.Context, id store.ID) (store.Record, error) {
	s.note()
	return s.Store.Take(ctx, id)
}

// Sessions of every kind of store resume, one after another and many at once.
func TestThreads_SessionsResume(t *testing.T) {
	withThreads(t)
	remote := newSpy()
	local := &localSpy{Store: memstore.New(memstore.Options{})}
	for name, useIt := range map[string]func(*testing.T, *libssl.Context){
		"local": func(t *testing.T, ctx *libssl.Context) { useStore(t, ctx, local, nil) },
		"remote": func(t *testing.T, ctx *libssl.Context) {
			useStore(t, ctx, remote, &libssl.StoreOptions{Keys: newRing(t)})
		},
		"single use": func(t *testing.T, ctx *libssl.Context) {
			useStore(t, ctx, local, &libssl.StoreOptions{SingleUse: true})
		},
		"tickets": func(*testing.T, *libssl.Context) {},
		"internal cache": func(_ *testing.T, ctx *libssl.Context) {
			ctx.SetOptions(libssl.OpNoTicket)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				server := f.server(t)
				useIt(t, server)
				l := listen(t, "tcp", "127.0.0.1:0", server)
				serveEcho(t, l)
				const clients, visits = 20, 5
				var all sync.WaitGroup
				for range clients {
					all.Go(func() {
						var sess *libssl.Session
						for i := range visits {
							next, resumed, err := f.through(t, l, sess)
							if !assert.NoError(t, err) || !assert.Equal(t, i > 0, resumed) {
								return
							}
							sess = next
						}
					})
				}
				all.Wait()
				require.Equal(t, clients*visits, server.Stats().ByThreads)
				wait(t, "the counts", func() bool { return server.Stats().HandshakesUnderWay == 0 })
			})
		})
	}
	require.Positive(t, local.onThread.Load())
	require.Zero(t, local.elsewhere.Load())
}

// A session is stored before the client has what it needs to offer it.
func TestThreads_StoreBeforeTheFlight(t *testing.T) {
	withThreads(t)
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		entered, release := st.holdPuts()
		server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t)})
		l := listen(t, "tcp", "127.0.0.1:0", server)
		serveEcho(t, l)
		nc := dial(t, l)
		c, err := libssl.Client(nc, f.client, serverName)
		require.NoError(t, err)
		defer c.Close()
		done := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte{1})
			if err == nil {
				_, err = io.ReadFull(c, make([]byte, 1))
			}
			done <- err
		}()
		receive(t, "Put", entered)
		require.Empty(t, done)
		s, err := c.Session() // of TLS 1.3: without a ticket
		if err == nil {
			require.False(t, s.Resumable())
			s.Release()
		}
		close(release)
		require.NoError(t, receive(t, "the client", done))
	}, tls.VersionTLS13)
}

// Handlers may block, and end their goroutine: none of them may run on a thread that serves others too.
func TestThreads_HandlersRunOnGoroutines(t *testing.T) {
	withThreads(t)
	cases := map[string]func(t *testing.T, f *fleet, ctx *libssl.Context, ran func()){
		"server name": func(_ *testing.T, _ *fleet, ctx *libssl.Context, ran func()) {
			ctx.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { ran(); return nil })
		},
		"certificate": func(t *testing.T, _ *fleet, ctx *libssl.Context, ran func()) {
			require.NoError(t, ctx.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) {
				ran()
				return nil, nil
			}))
		},
		"verify connection": func(t *testing.T, _ *fleet, ctx *libssl.Context, ran func()) {
			require.NoError(t, ctx.SetVerifyConnection(func(tls.ConnectionState) error { ran(); return nil }))
		},
		"new": func(_ *testing.T, _ *fleet, ctx *libssl.Context, ran func()) {
			ctx.SetOptions(libssl.OpNoTicket)
			ctx.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { ran(); return false })
		},
		"key log": func(_ *testing.T, _ *fleet, ctx *libssl.Context, ran func()) {
			ctx.SetKeyLogWriter(writerFunc(func(p []byte) (int, error) { ran(); return len(p), nil }))
		},
		"store": func(t *testing.T, _ *fleet, ctx *libssl.Context, ran func()) {
			st := newSpy()
			st.OnPut = func(ctx context.Context, r store.Record) error { ran(); return st.mem.Put(ctx, r) }
			useStore(t, ctx, st, &libssl.StoreOptions{Keys: newRing(t)})
		},
		"signer": func(t *testing.T, f *fleet, ctx *libssl.Context, ran func()) {
			key := newECKey(t, elliptic.P256())
			cert, err := libssl.SignerCertificate(signerChain(t, f.ca, key), &spySigner{Signer: key, before: func() error {
				ran()
				return nil
			}})
			if errors.Is(err, libssl.ErrUnsupported) {
				ran() // OpenSSL 1.1.1
				return
			}
			require.NoError(t, err)
			defer cert.Close()
			require.NoError(t, ctx.UseCertificate(cert))
		},
	}
	for name, install := range cases {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				server := f.server(t)
				var calls, onThreads atomic.Int32
				install(t, f, server, func() {
					calls.Add(1)
					if onThread() {
						onThreads.Add(1)
					}
				})
				l := listen(t, "tcp", "127.0.0.1:0", server)
				serveEcho(t, l)
				_, _, err := f.through(t, l, nil)
				require.NoError(t, err)
				require.Positive(t, calls.Load())
				require.Zero(t, onThreads.Load())
				require.Equal(t, 1, server.Stats().ByThreads)
			})
		})
	}
}

// The connection below is what net.Listener makes.
func TestThreads_NetConn(t *testing.T) {
	withThreads(t)
	f := newFleet(t, tls.VersionTLS13)
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		l := listen(t, network, addr, f.server(t))
		done := make(chan error, 1)
		nc, err := net.Dial(network, l.Addr().String())
		require.NoError(t, err)
		c, err := libssl.Client(nc, f.client, serverName)
		require.NoError(t, err)
		defer c.Close()
		go func() { done <- c.Handshake() }()
		accepted, err := l.Accept()
		require.NoError(t, err)
		defer accepted.Close()
		require.NoError(t, receive(t, "the handshake", done))
		below := accepted.(*libssl.Conn).NetConn()
		require.NoError(t, below.SetDeadline(time.Now().Add(-time.Second)))
		_, err = accepted.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, below.SetDeadline(time.Time{}))
		require.NoError(t, exchange(c, accepted))
		if network == "tcp" {
			requireOptions(t, below.(*net.TCPConn))
			require.NoError(t, below.(*net.TCPConn).CloseWrite())
		} else {
			require.NoError(t, below.(*net.UnixConn).CloseWrite())
		}
		_, err = c.Read(make([]byte, 1))
		require.Equal(t, io.ErrUnexpectedEOF, err)
	}
}

// requireOptions compares a socket's options with those that the net package sets.
func requireOptions(t testing.TB, nc *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	usual, err := l.Accept()
	require.NoError(t, err)
	defer usual.Close()
	require.Equal(t, socketOptions(t, usual.(*net.TCPConn)), socketOptions(t, nc))
}

func socketOptions(t testing.TB, nc *net.TCPConn) (all []int) {
	t.Helper()
	raw, err := nc.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		for _, o := range [][2]int{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE}, {syscall.IPPROTO_TCP, syscall.TCP_NODELAY}, {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL}, {syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT},
		} {
			v, err := syscall.GetsockoptInt(int(fd), o[0], o[1])
			require.NoError(t, err)
			all = append(all, v)
		}
	}))
	return all
}

// The threads begin with the first Accept, are as many as GOMAXPROCS, and end with the last Listener.
func TestThreads_AreAsManyAsGOMAXPROCS(t *testing.T) {
	withThreads(t)
	f := newFleet(t, tls.VersionTLS13)
	threads := func(n int) func() bool { return func() bool { return libssl.LiveResources().Threads == n } }
	wait(t, "other tests", threads(0))
	server, n := f.server(t), runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(n)
	first, second := listen(t, "tcp", "127.0.0.1:0", server), listen(t, "tcp", "127.0.0.1:0", server)
	require.True(t, threads(0)())
	serveEcho(t, first)
	wait(t, "the first Accept", threads(n))
	serveEcho(t, second)
	for _, procs := range []int{n + 2, 1} {
		runtime.GOMAXPROCS(procs)
		for _, l := range []*libssl.Listener{first, second} {
			_, _, err := f.through(t, l, nil)
			require.NoError(t, err)
		}
		wait(t, "GOMAXPROCS", func() bool {
			_, _, err := f.through(t, first, nil)
			return assert.NoError(t, err) && threads(procs)()
		})
	}
	require.NoError(t, first.Close())
	_, _, err := f.through(t, second, nil)
	require.NoError(t, err)
	require.NoError(t, second.Close())
	wait(t, "the last Listener", threads(0))
}

// Settings change whole while threads make connections of them.
func TestThreads_SettingsChangeWhileServing(t *testing.T) {
	withThreads(t)
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
		l := listen(t, "tcp", "127.0.0.1:0", server)
		serveEcho(t, l)
		stop := make(chan struct{})
		var changing, clients sync.WaitGroup
		changing.Go(func() {
			ca, _ := tlstest.NewCA(t, "another").Leaf(t, "another")
			for on := false; ; on = !on {
				select {
				case <-stop:
					return
				default:
				}
				assert.NoError(t, server.UseCertificatePEM(f.cert, f.key))
				assert.NoError(t, server.SetALPN("h2", "http/1.1"))
				assert.NoError(t, server.AddClientCAsPEM(ca))
				if on {
					server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return nil })
				} else {
					server.SetServerNameCallback(nil)
				}
			}
		})
		for range 8 {
			clients.Go(func() {
				for range 10 {
					_, _, err := f.through(t, l, nil)
					assert.NoError(t, err)
				}
			})
		}
		clients.Wait()
		close(stop)
		changing.Wait()
	})
}

// A Context that is closed ends the serving, as it does without threads.
func TestThreads_ContextIsClosed(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	var reported atomic.Int32
	l := listen(t, "tcp", "127.0.0.1:0", server)
	l.OnHandshakeError = func(net.Addr, error) { reported.Add(1) }
	failed := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		failed <- err
	}()
	wait(t, "the first Accept", func() bool { return !libssl.UsesThreads() || libssl.LiveResources().Threads > 0 })
	require.NoError(t, server.Close())
	nc := dial(t, l)
	require.ErrorIs(t, receive(t, "Accept", failed), libssl.ErrClosed)
	_, err := nc.Read(make([]byte, 1))
	require.Error(t, err)
	require.EqualValues(t, 1, reported.Load())
}

// The owner of the listener below may close that one.
func TestThreads_ListenerBelowIsClosed(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := libssl.NewListener(inner, f.server(t))
	defer l.Close()
	failed := make(chan error, 1)
	accept := func() {
		_, err := l.Accept()
		failed <- err
	}
	go accept()
	nc := dial(t, l) // silent: its handshake is under way
	wait(t, "the connection", func() bool { return l.Context().Stats().HandshakesUnderWay == 1 })
	require.NoError(t, inner.Close())
	require.ErrorIs(t, receive(t, "Accept", failed), net.ErrClosed)
	go accept()
	require.ErrorIs(t, receive(t, "the next Accept", failed), net.ErrClosed)
	_ = nc
}

// Without a descriptor for the next connection Accept says so, and the next Accept goes on.
func TestThreads_RunOutOfDescriptors(t *testing.T) {
	withThreads(t)
	f := newFleet(t, tls.VersionTLS13)
	l := listen(t, "tcp", "127.0.0.1:0", f.server(t))
	accepted := make(chan error, 1)
	accept := func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}
	go accept()
	wait(t, "the first Accept", func() bool { return libssl.LiveResources().Threads > 0 })

	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer syscall.Close(fd)
	few := before
	few.Cur = 64 + uint64(fd)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
	var used []int
	for {
		n, err := syscall.Dup(fd)
		if err != nil {
			break
		}
		used = append(used, n)
	}
	addr := l.Addr().(*net.TCPAddr)
	connected := syscall.Connect(fd, &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())})
	err = receive(t, "Accept", accepted)
	for _, n := range used {
		syscall.Close(n)
	}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	require.NoError(t, connected)
	require.ErrorIs(t, err, syscall.EMFILE)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	go accept()
	_, _, err = f.through(t, l, nil)
	require.Error(t, err) // it is accepted and closed
	require.NoError(t, receive(t, "Accept", accepted))
}
