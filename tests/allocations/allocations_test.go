// Package allocations lets single allocations of OpenSSL fail, everywhere in the handshakes of a server and in the calls that
// set one up. Nothing may crash or leak, and no client may get more than it would get otherwise.
package allocations

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/internal/leftover"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

var (
	failures = flag.Int("allocations.failures", 30, "how many allocations fail in each case")
	seed     = flag.Uint64("allocations.seed", 1, "which ones")
	each     = flag.Bool("allocations.each", false, "each allocation fails, one at a time")
)

// OpenSSL takes memory functions before its first allocation only, so the tests run in a process that begins with them.
func TestMain(m *testing.M) {
	flag.Parse()
	if cref.CountsMemory() {
		os.Exit(leftover.Run(m, func() libssl.Resources { return libssl.Resources{} }))
	}
	child := exec.Command(os.Args[0], os.Args[1:]...)
	child.Env = append(os.Environ(), cref.MemoryVariable+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := child.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		panic(err)
	}
}

const (
	open    = "open.test"
	guarded = "guarded.test" // asks for a client certificate
)

type pki struct {
	servers, clients      *tlstest.CA
	cert, key             []byte
	clientCert, clientKey []byte
}

func newPKI(t testing.TB) *pki {
	p := &pki{servers: tlstest.NewCA(t, "servers"), clients: tlstest.NewCA(t, "clients")}
	p.cert, p.key = p.servers.Leaf(t, open, guarded)
	p.clientCert, p.clientKey = p.clients.Leaf(t, "client")
	return p
}

// server makes a Context with all its settings. It fails where one of them fails.
func (p *pki) server(version uint16, strict bool, more func(*libssl.Context) error) (*libssl.Context, error) {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return nil, err
	}
	steps := []func() error{
		func() error { return ctx.UseCertificatePEM(p.cert, p.key) },
		func() error { return ctx.SetVersions(version, version) },
		func() error { return ctx.SetALPN("a", "b") },
		func() error { return ctx.SetSessionIDContext([]byte("same")) },
	}
	if strict {
		steps = append(steps, func() error { return ctx.AddClientCAsPEM(p.clients.PEM) },
			func() error { return ctx.SetVerify(libssl.VerifyRequirePeer) })
	}
	steps = append(steps, func() error { return more(ctx) })
	for _, step := range steps {
		if err := step(); err != nil {
			ctx.Close()
			return nil, err
		}
	}
	return ctx, nil
}

func (p *pki) client(certificate bool) (*libssl.Context, error) {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err == nil {
		err = ctx.AddRootCAsPEM(p.servers.PEM)
	}
	if err == nil && certificate {
		err = ctx.UseCertificatePEM(p.clientCert, p.clientKey)
	}
	if err == nil {
		err = ctx.SetALPN("b")
	}
	if err != nil && ctx != nil {
		ctx.Close()
		return nil, err
	}
	return ctx, err
}

// entrance leads to a server that greets each client whose handshake is complete. served waits until it has served a client that
// closed its end, near.
type entrance func() (near net.Conn, served func(), err error)

// over is an entrance over a pair of sockets.
func over(server *libssl.Context) entrance {
	return func() (near net.Conn, wait func(), err error) {
		near, far, err := tlstest.SocketPair()
		if err != nil {
			return nil, nil, err
		}
		far.SetDeadline(time.Now().Add(time.Minute))
		var serving sync.WaitGroup
		serving.Go(func() {
			defer far.Close()
			s, err := libssl.Server(far, server)
			if err == nil {
				greet(s)
			}
		})
		return near, serving.Wait, nil
	}
}

func greet(s *libssl.Conn) {
	defer s.Close()
	if s.Handshake() == nil {
		_, _ = s.Write([]byte("hello"))
	}
}

// through is an entrance through a Listener, with its end.
func through(server *libssl.Context) (way entrance, end func(), err error) {
	l, err := libssl.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		return nil, nil, err
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { greet(c.(*libssl.Conn)) })
		}
	})
	way = func() (near net.Conn, served func(), err error) {
		near, err = net.Dial("tcp", l.Addr().String())
		return near, func() {}, err
	}
	return way, func() {
		l.Close()
		serving.Wait()
	}, nil
}

// visit is one connection. greeted says that the server's data came, which it sends after its handshake.
func visit(client *libssl.Context, in entrance, name string, offer *libssl.Session) (sess *libssl.Session, greeted, resumed bool, err error) {
	near, served, err := in()
	if err != nil {
		return nil, false, false, err
	}
	near.SetDeadline(time.Now().Add(time.Minute))
	defer served()
	defer near.Close()
	c, err := libssl.Client(near, client, name)
	if err != nil {
		return nil, false, false, err
	}
	defer c.Close()
	if offer != nil {
		if err := c.SetSession(offer); err != nil {
			return nil, false, false, err
		}
	}
	greeting := make([]byte, 5)
	if _, err = io.ReadFull(c, greeting); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, false, false, &violation{"the client was neither served nor refused"}
	} else if err != nil {
		return nil, false, false, err
	}
	sess, err = c.Session()
	return sess, string(greeting) == "hello", c.SessionReused(), err
}

// try lets allocations fail in f, which says what must not have happened, and checks afterwards that f works and that
// nothing is left behind.
func try(t *testing.T, f func() error) {
	require.NoError(t, f())
	require.NoError(t, f())
	before, _ := cref.Allocations()
	require.NoError(t, f())
	after, _ := cref.Allocations()
	all := after - before
	require.Greater(t, all, 0)

	random := rand.New(rand.NewPCG(*seed, 0))
	fail := func() {
		tries := *failures / 2
		if *each {
			tries = all
		}
		for i := range tries {
			n, rest := 1+random.IntN(all), random.IntN(4) == 0
			if *each {
				n, rest = 1+i, false
			}
			cref.FailAllocation(n, rest)
			err := f()
			cref.FailAllocation(0, false)
			var wrong *violation
			if errors.As(err, &wrong) {
				t.Fatalf("allocation %d of %d failed (all after it: %t): %v", n, all, rest, wrong)
			}
		}
		require.NoError(t, f(), "it works again")
		runtime.GC()
	}
	_, failedBefore := cref.Allocations()
	fail()
	live := cref.LiveAllocations()
	fail()
	_, failedAfter := cref.Allocations()
	t.Logf("%d allocations, %d failed", all, failedAfter-failedBefore)
	require.Greater(t, failedAfter-failedBefore, *failures/2, "the failures did not come")
	for place, n := range cref.LiveAllocations() {
		// OpenSSL keeps some for each thread, and a few threads may be new. Once in a process 3.6 fills a table of 47 more.
		if n -= live[place]; n > *failures/50+80 {
			t.Errorf("%s: %d allocations are left", place, n)
		}
	}
}

// oneByOne calls f with the number of the allocation that it lets fail, until f makes fewer, and returns the last number.
func oneByOne(f func(n int)) (n int) {
	for failed, before := 0, -1; failed != before; {
		n++
		_, before = cref.Allocations()
		f(n)
		_, failed = cref.Allocations()
	}
	return n
}

// violation is what may not happen even where memory is short.
type violation struct{ what string }

func (v *violation) Error() string { return v.what }

// sharing are the ways in which servers share sessions. Each call of share puts one more Context on the same ones.
func sharing(t testing.TB) map[string]func(*libssl.Context) error {
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	mem := memstore.New(memstore.Options{MaxEntries: 100})
	return map[string]func(*libssl.Context) error{
		"nothing": func(*libssl.Context) error { return nil },
		"ring":    func(c *libssl.Context) error { return c.UseTicketKeys(ring) },
		"store": func(c *libssl.Context) error {
			_, err := c.UseStore(mem, nil)
			return err
		},
		"handlers": func(c *libssl.Context) error {
			c.SetOptions(libssl.OpNoTicket)
			c.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			var last []byte
			c.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
				if der, err := s.MarshalBinary(); err == nil {
					last = der
				}
				return false
			})
			c.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				s, err := libssl.ParseSession(last)
				if err == nil && s.ID() != id {
					s.Release()
					return nil, libssl.Transfer
				}
				return s, libssl.Transfer
			})
			c.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) {})
			return nil
		},
	}
}

// versions runs f for both versions and all ways to share sessions.
func versions(t *testing.T, f func(t *testing.T, version uint16, share func(*libssl.Context) error)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, share := range sharing(t) {
			t.Run(fmt.Sprintf("%s/%s", tls.VersionName(version), name), func(t *testing.T) { f(t, version, share) })
		}
	}
}

// closed closes a Context with the test.
func closed(t testing.TB) func(*libssl.Context, error) *libssl.Context {
	return func(ctx *libssl.Context, err error) *libssl.Context {
		t.Helper()
		require.NoError(t, err)
		t.Cleanup(func() { ctx.Close() })
		return ctx
	}
}

// A server that could be set up keeps everyone out whom it should keep out.
func TestAllocations_SettingUp(t *testing.T) {
	p := newPKI(t)
	stranger := closed(t)(p.client(false))
	versions(t, func(t *testing.T, version uint16, share func(*libssl.Context) error) {
		try(t, func() error {
			server, err := p.server(version, true, share)
			if err != nil {
				return err
			}
			defer server.Close()
			return keptOut(stranger, over(server), guarded, nil)
		})
	})
}

// keptOut is nil if the client is refused as it should be.
func keptOut(client *libssl.Context, in entrance, name string, offer *libssl.Session) error {
	sess, greeted, resumed, err := visit(client, in, name, offer)
	sess.Release()
	switch {
	case greeted || resumed:
		return &violation{fmt.Sprintf("a client without certificate was served; resumed: %t", resumed)}
	case err == nil:
		return &violation{"a client without certificate was answered"}
	}
	return nil
}

// welcome is nil if the client is served. The session is the caller's.
func welcome(client *libssl.Context, in entrance, name string, offer *libssl.Session) (*libssl.Session, error) {
	sess, greeted, _, err := visit(client, in, name, offer)
	if err == nil && !greeted {
		err = errors.New("not greeted")
	}
	return sess, err
}

// A client with its certificate gets in or not. One without does not, neither by the name that leads to the server, nor with a
// session that was made without a certificate.
func TestAllocations_Handshakes(t *testing.T) {
	p := newPKI(t)
	stranger, client := closed(t)(p.client(false)), closed(t)(p.client(true))
	versions(t, func(t *testing.T, version uint16, share func(*libssl.Context) error) {
		front, strict := closed(t)(p.server(version, false, share)), closed(t)(p.server(version, true, share))
		front.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context {
			if name == guarded {
				return strict
			}
			return nil
		})
		try(t, func() error {
			sess, err := welcome(stranger, over(front), open, nil)
			defer sess.Release()
			if err != nil {
				return err
			}
			again, err := welcome(stranger, over(front), open, sess)
			defer again.Release()
			if err != nil {
				return err
			}
			for _, server := range []*libssl.Context{front, strict} {
				if err := keptOut(stranger, over(server), guarded, again); err != nil {
					return err
				}
			}
			known, err := welcome(client, over(front), guarded, nil)
			defer known.Release()
			if err != nil {
				return err
			}
			known2, err := welcome(client, over(strict), guarded, known)
			known2.Release()
			return err
		})
	})
}

// The same for a Listener, which is set up, accepts and ends while allocations fail.
func TestAllocations_Listener(t *testing.T) {
	p := newPKI(t)
	stranger, client := closed(t)(p.client(false)), closed(t)(p.client(true))
	versions(t, func(t *testing.T, version uint16, share func(*libssl.Context) error) {
		strict := closed(t)(p.server(version, true, share))
		visits := func() error {
			way, end, err := through(strict)
			if err != nil {
				return err
			}
			defer end()
			known, err := welcome(client, way, guarded, nil)
			defer known.Release()
			if err != nil {
				return err
			}
			again, err := welcome(client, way, guarded, known)
			again.Release()
			if err != nil {
				return err
			}
			return keptOut(stranger, way, guarded, nil)
		}
		try(t, visits)

		cref.OnlyAllocationsOf("acceptor.c")
		defer cref.OnlyAllocationsOf("")
		require.Greater(t, oneByOne(func(n int) {
			cref.FailAllocation(n, false)
			err := visits()
			cref.FailAllocation(0, false)
			var wrong *violation
			require.False(t, errors.As(err, &wrong), "allocation %d of acceptor.c: %v", n, err)
		}), 5)
	})
}

// Sessions outside of handshakes.
func TestAllocations_Sessions(t *testing.T) {
	p := newPKI(t)
	client := closed(t)(p.client(true))
	server := closed(t)(p.server(tls.VersionTLS13, true, func(*libssl.Context) error { return nil }))
	sess, err := welcome(client, over(server), guarded, nil)
	require.NoError(t, err)
	defer sess.Release()
	want, err := sess.MarshalBinary()
	require.NoError(t, err)
	try(t, func() error {
		der, err := sess.MarshalBinary()
		if err != nil {
			return err
		}
		s, err := libssl.ParseSession(der)
		if err != nil {
			return err
		}
		defer s.Release()
		dup, err := s.Dup()
		if err != nil {
			return err
		}
		defer dup.Release()
		pem, err := dup.MarshalPEM()
		if err != nil {
			return err
		}
		back, err := libssl.ParseSessionPEM(pem)
		if err != nil {
			return err
		}
		defer back.Release()
		got, err := back.MarshalBinary()
		if err == nil && !bytes.Equal(want, got) {
			return &violation{"another session came back"}
		}
		return err
	})
}

// An SSL that had no memory for its place in a Context does not pass by the Context's handlers. Each allocation of SSL_new
// fails once, for an SSL of a Conn and for one that C makes.
func TestAllocations_MakingSSLs(t *testing.T) {
	p := newPKI(t)
	stranger := closed(t)(p.client(false))
	nothing := func(*libssl.Context) error { return nil }
	front, strict := closed(t)(p.server(0, false, nothing)), closed(t)(p.server(0, true, nothing))
	front.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return strict })
	makes := map[string]func(fail func()) (served bool, err error){
		"Conn": func(fail func()) (bool, error) {
			near, far, err := tlstest.SocketPair()
			require.NoError(t, err)
			defer near.Close()
			fail()
			s, err := libssl.Server(far, front)
			cref.FailAllocation(0, false)
			if err != nil {
				far.Close()
				return false, err
			}
			defer s.Close()
			go func() {
				c, err := libssl.Client(near, stranger, guarded)
				if err == nil {
					_ = c.Handshake()
					c.Close()
				}
			}()
			return s.Handshake() == nil, nil
		},
		"C": func(fail func()) (bool, error) {
			fail()
			pair, err := cref.NewPair(stranger.Pointer(), front.Pointer(), guarded, nil)
			cref.FailAllocation(0, false)
			if err != nil {
				return false, err
			}
			defer pair.Free(false)
			return pair.Run(), nil
		},
	}
	for name, made := range makes {
		t.Run(name, func(t *testing.T) {
			require.Greater(t, oneByOne(func(n int) {
				served, _ := made(func() { cref.FailAllocation(n, false) })
				require.False(t, served, "allocation %d", n)
			}), 10)
		})
	}
}
