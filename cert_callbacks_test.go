package libssl_test

import (
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errNoSuchHost = errors.New("no such host")

type chooser = func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error)

// bare is a server without a certificate of its own.
func (f *fleet) bare(t testing.TB) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.SetVersions(f.version, f.version))
	return ctx
}

// byName is a callback that knows these hosts.
func byName(certs map[string]*libssl.Certificate) chooser {
	return func(_ context.Context, h *libssl.ClientHello) (*libssl.Certificate, error) {
		if c := certs[h.ServerName]; c != nil {
			return c, nil
		}
		return nil, errNoSuchHost
	}
}

func TestCertificateCallback_Chooses(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		mid := f.ca.Intermediate(t, "intermediate")
		cert, key := mid.Leaf(t, "a.test")
		a := parsed(t, append(cert, mid.PEM...), key)
		staple := []byte{0x30, 3, 0x0a, 1, 1}
		a.SetOCSPStaple(staple)
		certs := map[string]*libssl.Certificate{"a.test": a, "b.test": parsedLeaf(t, f.ca, "b.test")}
		server := f.bare(t)
		require.NoError(t, server.SetALPN("x"))
		var seen *libssl.ClientHello
		require.NoError(t, server.SetCertificateCallback(func(ctx context.Context, h *libssl.ClientHello) (*libssl.Certificate, error) {
			seen = h
			return byName(certs)(ctx, h)
		}))
		for _, name := range []string{"a.test", "b.test", "c.test"} {
			cn, sn := tcpPipe(t)
			s, err := libssl.Server(sn, server)
			require.NoError(t, err)
			c := tls.Client(cn, &tls.Config{RootCAs: f.ca.Pool(), ServerName: name, NextProtos: []string{"w", "x"},
				MaxVersion: f.version, CipherSuites: []uint16{suiteECDSA}})
			err = bothHandshake(c, s)
			require.Equal(t, name, seen.ServerName)
			require.Equal(t, []string{"w", "x"}, seen.ALPN)
			require.Equal(t, f.version, seen.Versions[0])
			require.Contains(t, seen.Versions, uint16(tls.VersionTLS12))
			require.Contains(t, seen.CipherSuites, suiteECDSA)
			require.Contains(t, seen.SignatureSchemes, uint16(tls.ECDSAWithP256AndSHA256))
			require.Same(t, sn, seen.Conn)
			if name == "c.test" {
				require.ErrorIs(t, err, errNoSuchHost)
				require.ErrorContains(t, err, "internal error")
			} else {
				require.NoError(t, err)
				state := c.ConnectionState()
				require.Equal(t, []string{name}, state.PeerCertificates[0].DNSNames)
				if name == "a.test" {
					require.Len(t, state.PeerCertificates, 2)
					require.Equal(t, staple, state.OCSPResponse)
				}
				require.Equal(t, name, s.ConnectionState().ServerName)
				require.NoError(t, exchange(c, s))
			}
			closeBoth(c, s)
		}
	})
}

func TestCertificateCallback_Signer(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	key := &spySigner{Signer: newECKey(t, elliptic.P256())}
	cert, err := libssl.SignerCertificate(signerChain(t, f.ca, key.Signer), key)
	require.NoError(t, err)
	defer cert.Close()
	server := f.bare(t)
	require.NoError(t, server.SetCertificateCallback(byName(map[string]*libssl.Certificate{serverName: cert})))
	f.visit(t, server, nil)
	requireOpts(t, key)
}

func TestCertificateCallback_Ends(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		closed := parsedLeaf(t, f.ca, serverName)
		closed.Close()
		for name, c := range map[string]struct {
			f    func() (*libssl.Certificate, error)
			is   error
			says string
			told int
		}{
			"error":  {f: func() (*libssl.Certificate, error) { return nil, errNoSuchHost }, is: errNoSuchHost, says: "certificate callback: no such host"},
			"both":   {f: func() (*libssl.Certificate, error) { return closed, errNoSuchHost }, is: errNoSuchHost},
			"panic":  {f: func() (*libssl.Certificate, error) { panic("why") }, says: "panicked", told: 1},
			"closed": {f: func() (*libssl.Certificate, error) { return closed, nil }, is: libssl.ErrClosed},
		} {
			t.Run(name, func(t *testing.T) {
				server := f.server(t)
				told := 0
				server.OnCallbackError(func(e *libssl.CallbackError) {
					assert.Equal(t, "certificate", e.Callback)
					told++
				})
				require.NoError(t, server.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) { return c.f() }))
				cn, sn := tcpPipe(t)
				cl, s := wrap(t, cn, sn, f.client, server)
				failed := make(chan error, 1)
				go func() { failed <- cl.Handshake() }()
				err := s.Handshake()
				require.ErrorContains(t, err, c.says)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				require.ErrorContains(t, receive(t, "the client", failed), "internal error")
				require.Equal(t, c.told, told)
				require.Equal(t, err, s.Handshake(), "for good")
			})
		}
	})
}

func TestCertificateCallback_NilIsTheContextsOwn(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		none := func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) { return nil, nil }
		for _, set := range []bool{false, true} {
			server := f.server(t)
			if set {
				require.NoError(t, server.UseCertificate(parsed(t, f.cert, f.key)))
			}
			require.NoError(t, server.SetCertificateCallback(none))
			require.Equal(t, derOfPEM(f.cert), served(t, f.client, server).Raw)
			require.NoError(t, server.SetCertificateCallback(nil))
			require.Equal(t, derOfPEM(f.cert), served(t, f.client, server).Raw)
		}
		server := f.bare(t)
		require.NoError(t, server.SetCertificateCallback(none))
		err, _ := handshakeOrNot(t, f.client, server)
		require.Error(t, err)
	})
}

// Once a handshake: after a HelloRetryRequest, and where a store parks it as well.
func TestCertificateCallback_IsAskedOnce(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, stored := range []bool{false, true} {
		for _, named := range []bool{false, true} {
			t.Run(fmt.Sprintf("store=%t, chosen by name=%t", stored, named), func(t *testing.T) {
				front, server := f.bare(t), f.bare(t)
				calls := 0
				require.NoError(t, server.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) {
					calls++
					return parsed(t, f.cert, f.key), nil
				}))
				if !named {
					front = server
				} else {
					require.NoError(t, front.SetSessionIDContext([]byte("front")))
					front.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return server })
					require.NoError(t, front.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) {
						return nil, errNoSuchHost // the chosen Context's is asked
					}))
				}
				require.NoError(t, front.SetGroups("P-384"))
				client := newClient(t, f.ca)
				require.NoError(t, client.SetGroups("P-256:P-384"))
				if stored {
					useStore(t, front, memstore.New(memstore.Options{}), nil)
				}
				var sess *libssl.Session
				for i := range 3 {
					cn, sn := tcpPipe(t)
					sent := &tap{Conn: cn}
					c, s := wrap(t, sent, sn, client, front)
					if sess != nil {
						require.NoError(t, c.SetSession(sess))
					}
					require.NoError(t, exchange(c, s))
					require.Equal(t, 2, sent.hellos())
					require.Equal(t, sess != nil, s.SessionReused())
					require.Equal(t, i+1, calls)
					sess = sessionOf(t, c)
					closeBoth(c, s)
				}
			})
		}
	}
}

// resumers prepare a Context for each way to resume.
var resumers = map[string]func(t testing.TB, server *libssl.Context){
	"tickets":     func(testing.TB, *libssl.Context) {},
	"ticket keys": func(t testing.TB, server *libssl.Context) { require.NoError(t, server.UseTicketKeys(newRing(t))) },
	"store":       func(t testing.TB, server *libssl.Context) { useStore(t, server, memstore.New(memstore.Options{}), nil) },
	"internal":    func(_ testing.TB, server *libssl.Context) { server.SetOptions(libssl.OpNoTicket) },
	"internal, id context": func(t testing.TB, server *libssl.Context) {
		server.SetOptions(libssl.OpNoTicket)
		require.NoError(t, server.SetSessionIDContext([]byte("one")))
	},
}

// A session is good for the name that it was made under, also when its certificate was renewed, and for no other.
func TestCertificateCallback_Resumes(t *testing.T) {
	const first, second = "a.test", "b.test"
	for how, prepare := range resumers {
		t.Run(how, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				server := f.bare(t)
				require.NoError(t, f.client.SetVerify(libssl.VerifyNone))
				cert, refused := parsedLeaf(t, f.ca, first, second), false
				require.NoError(t, server.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) {
					if refused {
						return nil, errNoSuchHost
					}
					return cert, nil
				}))
				prepare(t, server)
				for _, c := range []struct {
					from, to string
					resumed  bool
				}{
					{first, first, true}, {first, "A.test", true}, {first, second, false}, {first, "", false}, {"", first, false}, {"", "", true},
				} {
					f.name = c.from
					sess := f.visit(t, server, nil).next
					cert = parsedLeaf(t, f.ca, first, second) // a renewal
					f.name = c.to
					require.Equal(t, c.resumed, f.visit(t, server, sess).resumed, "%q to %q", c.from, c.to)
				}
				f.name = first
				sess := f.visit(t, server, nil).next
				refused = true
				cn, sn := tcpPipe(t)
				c, s := f.ends(t, cn, sn, server, sess)
				require.ErrorIs(t, agree(c, s), errNoSuchHost, "a session does not outlive the refusal")
			})
		})
	}
}

func TestCertificateCallback_EarlyData(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.early(t, memstore.New(memstore.Options{}), nil)
	require.NoError(t, server.SetSessionIDContext([]byte("early")))
	require.NoError(t, server.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) { return nil, nil }))
	sess := f.visit(t, server, nil).next
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	_, err := c.WriteEarlyData([]byte("early"))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- c.Handshake() }()
	got, err := readEarly(s)
	require.NoError(t, err)
	require.Equal(t, "early", string(got))
	require.NoError(t, s.Handshake())
	require.NoError(t, receive(t, "the client", done))
	require.NoError(t, exchange(c, s))
}

func TestCertificateCallback_Setting(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	ca := f.ca
	mine := parsedLeaf(t, ca, serverName)
	one := func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) { return mine, nil }
	other := func(context.Context, *libssl.CertificateRequest) (*libssl.Certificate, error) { return nil, nil }
	server, client := newServer(t, ca), newClient(t, ca)
	require.ErrorIs(t, client.SetCertificateCallback(one), libssl.ErrUnsupported)
	require.ErrorIs(t, server.SetClientCertificateCallback(other), libssl.ErrUnsupported)
	before := f.server(t)
	c, s := handshake(t, client, before, nil) // which keeps the SSL_CTX
	p := before.Pointer()
	require.NoError(t, before.Close())
	require.ErrorIs(t, before.SetCertificateCallback(one), libssl.ErrClosed)
	attached, err := libssl.AttachContext(p)
	require.NoError(t, err)
	require.ErrorIs(t, attached.SetCertificateCallback(one), libssl.ErrUnsupported)
	require.ErrorIs(t, attached.SetClientCertificateCallback(other), libssl.ErrUnsupported)
	require.NoError(t, attached.Close())
	closeBoth(c, s)

	useStore(t, server, memstore.New(memstore.Options{}), nil)
	require.ErrorContains(t, server.SetCertificateCallback(one), "session id context")
	require.NoError(t, server.SetCertificateCallback(nil), "there was none")
	require.NotEqual(t, leafOf(t, mine).SerialNumber, served(t, client, server).SerialNumber, "it was not set")
	require.NoError(t, server.SetSessionIDContext([]byte("mine")))
	require.NoError(t, server.SetCertificateCallback(one))
	require.NoError(t, server.SetCertificateCallback(nil))

	early := f.bare(t)
	require.NoError(t, early.SetCertificateCallback(one))
	useStore(t, early, memstore.New(memstore.Options{}), nil)
	require.NoError(t, early.SetCertificateCallback(one), "replaced")
	require.ErrorContains(t, early.SetCertificateCallback(nil), "session id context")
	require.Equal(t, leafOf(t, mine).SerialNumber, served(t, client, early).SerialNumber)
}

// ---- waiting -------------------------------------------------------------------

// untilDone is a callback that waits until its context ends.
func untilDone(entered chan<- error) chooser {
	return func(ctx context.Context, _ *libssl.ClientHello) (*libssl.Certificate, error) {
		entered <- nil
		<-ctx.Done()
		entered <- context.Cause(ctx)
		return nil, ctx.Err()
	}
}

func TestCertificateCallback_ContextEnds(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for name, c := range map[string]struct {
		end  func(c net.Conn, s *libssl.Conn)
		want error
	}{
		"the client leaves":   {func(c net.Conn, _ *libssl.Conn) { c.Close() }, io.ErrUnexpectedEOF},
		"the Conn is closed":  {func(_ net.Conn, s *libssl.Conn) { s.Close() }, libssl.ErrClosed},
		"the Conn is aborted": {func(_ net.Conn, s *libssl.Conn) { s.Abort() }, libssl.ErrClosed},
		"the deadline passes": {func(_ net.Conn, s *libssl.Conn) { s.SetDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	} {
		for transport, pipe := range map[string]func() (net.Conn, net.Conn){"tcp": func() (net.Conn, net.Conn) { return tcpPipe(t) }, "pipe": net.Pipe} {
			t.Run(name+"/"+transport, func(t *testing.T) {
				server, entered := f.server(t), make(chan error)
				require.NoError(t, server.SetCertificateCallback(untilDone(entered)))
				cn, sn := pipe()
				cl, s := wrap(t, cn, sn, f.client, server)
				go cl.Handshake()
				done := make(chan error, 1)
				go func() { done <- s.Handshake() }()
				receive(t, "the callback", entered)
				c.end(cn, s)
				require.ErrorIs(t, receive(t, "the end of the callback", entered), c.want)
				require.ErrorIs(t, receive(t, "the end of the handshake", done), c.want)
				require.ErrorIs(t, s.Handshake(), c.want, "for good")
				cn.Close()
			})
		}
	}
}

func TestCertificateCallback_ListenerEndsIt(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	for _, closed := range []bool{false, true} {
		t.Run(fmt.Sprintf("closed=%t", closed), func(t *testing.T) {
			server, entered := f.server(t), make(chan error)
			require.NoError(t, server.SetCertificateCallback(untilDone(entered)))
			l := listen(t, "tcp", "127.0.0.1:0", server)
			if l.HandshakeTimeout = 200 * time.Millisecond; closed {
				l.HandshakeTimeout = time.Hour
			}
			told := failures(l)
			go l.Accept()
			c, err := libssl.Client(dial(t, l), f.client, serverName)
			require.NoError(t, err)
			defer c.Close()
			go c.Handshake()
			receive(t, "the callback", entered)
			want := context.DeadlineExceeded
			if closed {
				l.Close()
				want = context.Canceled
			}
			require.ErrorIs(t, receive(t, "the end of the callback", entered), want)
			if !closed {
				require.ErrorIs(t, receive(t, "the failure", told).err, want)
			}
		})
	}
}

// reading tells of each Read.
type reading struct {
	net.Conn
	begun chan struct{}
}

func (r *reading) Read(p []byte) (int, error) {
	select {
	case r.begun <- struct{}{}:
	default:
	}
	return r.Conn.Read(p)
}

// Input that was read ahead, while the callback took its time, is not lost.
func TestCertificateCallback_ReadsAhead(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		cn, sn := tcpPipe(t)
		r := &reading{Conn: sn, begun: make(chan struct{}, 1)}
		c, s := wrap(t, cn, r, f.client, server)
		require.NoError(t, server.SetCertificateCallback(func(ctx context.Context, h *libssl.ClientHello) (*libssl.Certificate, error) {
			for len(r.begun) > 0 {
				<-r.begun
			}
			receive(t, "reading ahead", r.begun)
			return nil, ctx.Err()
		}))
		for range 3 {
			require.NoError(t, exchange(c, s))
		}
	})
}

func TestCertificateCallback_OfItsOwnConn(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		cn, sn := tcpPipe(t)
		c, s := wrap(t, cn, sn, f.client, server)
		require.NoError(t, server.SetCertificateCallback(func(ctx context.Context, h *libssl.ClientHello) (*libssl.Certificate, error) {
			assert.ErrorIs(t, s.Handshake(), libssl.ErrReentrant)
			assert.ErrorIs(t, s.HandshakeContext(ctx), libssl.ErrReentrant)
			_, err := s.Read(make([]byte, 1))
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			_, err = s.Write(make([]byte, 1))
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			_, err = s.ReadEarlyData(make([]byte, 1))
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			assert.Zero(t, s.ConnectionState())
			assert.False(t, s.SessionReused())
			assert.Equal(t, cn.LocalAddr(), h.Conn.RemoteAddr())
			return nil, nil
		}))
		// Another goroutine waits for the handshake, as ever.
		other := make(chan error, 1)
		go func() {
			b := make([]byte, 1)
			_, err := s.Read(b)
			if err == nil {
				_, err = s.Write(b)
			}
			other <- err
		}()
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, receive(t, "the server", other))

		cn, sn = tcpPipe(t)
		c, s = wrap(t, cn, sn, f.client, server)
		require.NoError(t, server.SetCertificateCallback(func(context.Context, *libssl.ClientHello) (*libssl.Certificate, error) {
			return nil, s.Close()
		}))
		go c.Handshake()
		require.ErrorIs(t, s.Handshake(), libssl.ErrClosed)
	})
}

func TestCertificateCallback_SlowOnesHoldNoThread(t *testing.T) {
	const waiting = 500
	eachVersion(t, func(t *testing.T, f *fleet) {
		server, client := f.server(t), newClient(t, f.ca)
		var entered atomic.Int64
		release := make(chan struct{})
		require.NoError(t, server.SetCertificateCallback(func(ctx context.Context, _ *libssl.ClientHello) (*libssl.Certificate, error) {
			entered.Add(1)
			<-release
			return nil, ctx.Err()
		}))
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetSessionIDContext([]byte("x")))
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		mine := parsedLeaf(t, f.ca, "client")
		var asked atomic.Int64
		answer := make(chan struct{})
		require.NoError(t, client.SetClientCertificateCallback(func(ctx context.Context, _ *libssl.CertificateRequest) (*libssl.Certificate, error) {
			asked.Add(1)
			<-answer
			return mine, ctx.Err()
		}))
		before, most := threads(t), 4*runtime.GOMAXPROCS(0)+32
		done := make(chan error, waiting)
		for range waiting {
			cn, sn := net.Pipe()
			c, s := wrap(t, cn, sn, client, server)
			c.SetDeadline(time.Time{})
			s.SetDeadline(time.Time{})
			go func() {
				go s.Write([]byte{'x'})
				_, err := c.Read(make([]byte, 1))
				cn.Close()
				sn.Close()
				done <- err
			}()
		}
		wait(t, "all callbacks of the server", func() bool { return entered.Load() == waiting })
		require.LessOrEqual(t, threads(t)-before, most)
		close(release)
		wait(t, "all callbacks of the clients", func() bool { return asked.Load() == waiting })
		require.LessOrEqual(t, threads(t)-before, most)
		close(answer)
		for range waiting {
			require.NoError(t, receive(t, "a handshake", done))
		}
	})
}

// BenchmarkCertificateCallback is a full handshake with a callback that looks 10,000 names up, and without one, taking turns.
// It reports the difference of the medians.
func BenchmarkCertificateCallback(b *testing.B) {
	f := newFleet(b, tls.VersionTLS13)
	certs := map[string]*libssl.Certificate{serverName: parsed(b, f.cert, f.key)}
	for i := range 9_999 {
		certs[fmt.Sprintf("host%d.test", i)] = certs[serverName]
	}
	plain, choosing := f.bare(b), f.bare(b)
	require.NoError(b, plain.UseCertificate(certs[serverName]))
	require.NoError(b, choosing.SetCertificateCallback(byName(certs)))
	servers := [2]*libssl.Context{plain, choosing}
	var took [2][]time.Duration
	for b.Loop() {
		for i, server := range servers {
			cn, sn := net.Pipe()
			c, err := libssl.Client(cn, f.client, serverName)
			require.NoError(b, err)
			begin := time.Now()
			s, err := libssl.Server(sn, server) // it gets the certificate of plain
			require.NoError(b, err)
			require.NoError(b, bothHandshake(c, s))
			took[i] = append(took[i], time.Since(begin))
			cn.Close()
			sn.Close()
			c.Abort()
			s.Abort()
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	median := func(d []time.Duration) float64 { return float64(d[len(d)/2]) / float64(time.Microsecond) }
	b.ReportMetric(median(took[0]), "plain-us")
	b.ReportMetric(median(took[1])-median(took[0]), "callback-us")
	b.ReportMetric(median(took[1])/median(took[0]), "ratio")
}
