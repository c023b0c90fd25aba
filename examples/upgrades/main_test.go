package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
)

// site is a CA, in a file, and a certificate for localhost.
type site struct {
	ca        *tlstest.CA
	caFile    string
	cert, key []byte
}

func newSite(t *testing.T) *site {
	s := &site{ca: tlstest.NewCA(t, "ca"), caFile: filepath.Join(t.TempDir(), "ca.pem")}
	require.NoError(t, os.WriteFile(s.caFile, s.ca.PEM, 0o600))
	s.cert, s.key = s.ca.Leaf(t, "localhost")
	return s
}

func (s *site) client(t *testing.T) *libssl.Context {
	ctx, err := client(s.caFile)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	return ctx
}

// localhost is addr by the name that the certificate is for.
func localhost(t *testing.T, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return net.JoinHostPort("localhost", port)
}

func version(t *testing.T, s *site, url string) (string, error) {
	var out bytes.Buffer
	err := run(timeout(t), s.caFile, url, &out)
	return out.String(), err
}

func requireHostnameError(t *testing.T, err error) {
	var name x509.HostnameError
	require.ErrorAs(t, err, &name)
	require.Equal(t, "127.0.0.1", name.Host)
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// scripted serves connections of a protocol until the test ends.
func scripted(t *testing.T, script func(net.Conn)) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				script(nc)
			}()
		}
	}()
	return l.Addr().String()
}

func TestRun_SaysWhatIsWrong(t *testing.T) {
	s := newSite(t)
	_, err := version(t, s, "mysql://localhost/")
	require.ErrorContains(t, err, `"mysql://localhost/"`)
	require.ErrorContains(t, run(timeout(t), "absent.pem", "smtp://localhost:25", io.Discard), "absent.pem")
}

// A server that says nothing holds no client longer than its context lasts.
func TestUpgrade_SilentServersAreBounded(t *testing.T) {
	s := newSite(t)
	for name, ask := range map[string]func(net.Conn) error{
		"postgres": askPostgres, "smtp": askSMTP, "handshake": func(net.Conn) error { return nil },
	} {
		nc, server, err := tlstest.SocketPair()
		require.NoError(t, err)
		defer server.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = upgrade(ctx, nc, s.client(t), "localhost", ask)
		require.Equal(t, context.DeadlineExceeded, err, name)
		_, err = nc.Read(make([]byte, 1))
		assert.ErrorIs(t, err, net.ErrClosed, name)
	}
}
