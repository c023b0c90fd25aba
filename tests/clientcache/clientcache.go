// Package clientcache counts how many connections of a client with a cache resume with a server.
package clientcache

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Server is a server of any make.
type Server struct {
	Addr, Name string
	CA         []byte // PEM
	// AtOnce is how many connections it takes at once.
	AtOnce int
	// Ask asks and reads the answer, with which TLS 1.3 tickets come; nil is an HTTP request.
	Ask func(c *libssl.Conn) error
}

// Check requires that a client with a cache resumes with the server each time but the first, or never: connections one
// after another, and s.AtOnce whose ClientHellos all wait for each other.
func (s Server) Check(t testing.TB, version uint16, resumes bool) {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	defer ctx.Close()
	require.NoError(t, ctx.AddRootCAsPEM(s.CA))
	require.NoError(t, ctx.SetVersions(version, version))
	require.NoError(t, ctx.UseClientCache(4*s.AtOnce))
	for visit := range 5 {
		resumed, err := s.visit(ctx, func() {})
		require.NoError(t, err)
		require.Equal(t, resumes && visit > 0, resumed, "visit %d", visit)
	}
	s.atOnce(t, ctx) // brings a session for each
	want := 0
	if resumes {
		want = s.AtOnce
	}
	require.Equal(t, want, s.atOnce(t, ctx), "of %d at once", s.AtOnce)
}

func (s Server) atOnce(t testing.TB, ctx *libssl.Context) (resumed int) {
	var clients, hellos sync.WaitGroup
	var mu sync.Mutex
	hellos.Add(s.AtOnce)
	for range s.AtOnce {
		clients.Go(func() {
			pass := sync.OnceFunc(func() {
				hellos.Done()
				hellos.Wait()
			})
			defer pass()
			r, err := s.visit(ctx, pass)
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			if r {
				resumed++
			}
		})
	}
	clients.Wait()
	return resumed
}

// visit makes a connection and calls hello before it sends the ClientHello.
func (s Server) visit(ctx *libssl.Context, hello func()) (resumed bool, err error) {
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return false, err
	}
	c, err := libssl.Client(&gate{nc, hello}, ctx, s.Name)
	if err != nil {
		return false, errors.Join(err, nc.Close())
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.Handshake(); err != nil {
		return false, err
	}
	ask := s.Ask
	if ask == nil {
		ask = get
	}
	err = ask(c)
	return c.SessionReused(), err
}

func get(c *libssl.Conn) error {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c)
	return err
}

// gate has each Write pass.
type gate struct {
	net.Conn
	pass func()
}

func (g *gate) Write(p []byte) (int, error) {
	g.pass()
	return g.Conn.Write(p)
}
