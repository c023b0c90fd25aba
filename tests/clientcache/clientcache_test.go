package clientcache_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/clientcache"
	"github.com/libssl-go/libssl/tests/internal/leftover"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	os.Exit(leftover.Run(m, func() libssl.Resources { return libssl.Resources{} }))
}

// mode is a way to configure a server. Some servers resume nothing in a version then.
type mode struct {
	name     string
	settings []string
	not12    bool
	not13    bool
}

// host is the name and the certificate that the servers share.
type host struct {
	ca        *tlstest.CA
	cert, key string // files
}

func newHost(t testing.TB) *host {
	h := &host{ca: tlstest.NewCA(t, "ca")}
	h.cert, h.key = h.ca.LeafFiles(t, "server.test")
	return h
}

func (h *host) server(addr string) clientcache.Server {
	return clientcache.Server{Addr: addr, Name: "server.test", CA: h.ca.PEM, AtOnce: 50}
}

// each starts a server in each mode, and checks it in both versions.
func each(t *testing.T, modes []mode, start func(t *testing.T, h *host, settings []string) clientcache.Server) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, newHost(t), m.settings)
			t.Run("1.2", func(t *testing.T) { s.Check(t, tls.VersionTLS12, !m.not12) })
			t.Run("1.3", func(t *testing.T) { s.Check(t, tls.VersionTLS13, !m.not13) })
		})
	}
}

func TestClientCache_Nginx(t *testing.T) {
	each(t, []mode{
		{name: "tickets"},
		{name: "ids", settings: []string{"ssl_session_tickets off;", "ssl_session_cache shared:tls:1m;"}},
		{name: "no cache", settings: []string{"ssl_session_tickets off;", "ssl_session_cache off;"}, not12: true, not13: true},
	}, func(t *testing.T, h *host, settings []string) clientcache.Server {
		return h.server(servertest.Nginx(t, h.cert, h.key, settings...))
	})
}

func TestClientCache_HAProxy(t *testing.T) {
	each(t, []mode{
		{name: "tickets"},
		{name: "ids", settings: []string{"no-tls-tickets"}},
	}, func(t *testing.T, h *host, settings []string) clientcache.Server {
		return h.server(servertest.HAProxy(t, h.cert, h.key, settings...))
	})
}

// sServer starts openssl s_server. It serves one connection after another.
func sServer(t *testing.T, h *host, settings []string) (s clientcache.Server, stdin io.Writer) {
	t.Helper()
	stdin, stdout := servertest.Program(t, nil, "openssl", append([]string{"s_server", "-accept", "127.0.0.1:0", "-cert", h.cert, "-key", h.key}, settings...)...)
	addr := ""
	for lines := bufio.NewScanner(stdout); addr == "" && lines.Scan(); {
		_, addr, _ = strings.Cut(lines.Text(), "ACCEPT ")
	}
	require.NotEmpty(t, addr)
	go io.Copy(io.Discard, stdout)
	s = h.server(addr)
	s.AtOnce = 30 // as many as wait in its backlog
	return s, stdin
}

func TestClientCache_SServer(t *testing.T) {
	each(t, []mode{
		{name: "tickets"},
		{name: "ids", settings: []string{"-no_ticket"}},
		{name: "no ticket in 1.3", settings: []string{"-num_tickets", "0"}, not13: true},
		{name: "one ticket", settings: []string{"-num_tickets", "1"}},
		{name: "two tickets", settings: []string{"-num_tickets", "2"}},
		{name: "four tickets", settings: []string{"-num_tickets", "4"}},
		{name: "no cache", settings: []string{"-no_cache"}},
		{name: "no cache for ids", settings: []string{"-no_cache", "-no_ticket"}, not12: true, not13: true},
	}, func(t *testing.T, h *host, settings []string) clientcache.Server {
		s, _ := sServer(t, h, append(settings, "-www"))
		return s
	})
}

// A server that takes early data takes each ticket once. It does not speak HTTP then, but sends what it reads from stdin.
func TestClientCache_SServerWithEarlyData(t *testing.T) {
	t.Parallel()
	s, stdin := sServer(t, newHost(t), []string{"-early_data"})
	s.AtOnce = 1
	s.Ask = func(c *libssl.Conn) error {
		if _, err := io.WriteString(stdin, "x\n"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 2))
		return err
	}
	s.Check(t, tls.VersionTLS13, true)
}

func TestClientCache_CryptoTLS(t *testing.T) {
	each(t, []mode{
		{name: "tickets"},
		{name: "no tickets", settings: []string{"none"}, not12: true, not13: true},
	}, func(t *testing.T, h *host, settings []string) clientcache.Server {
		cert, err := tls.LoadX509KeyPair(h.cert, h.key)
		require.NoError(t, err)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
			Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: len(settings) > 0,
		})
		require.NoError(t, err)
		srv := &http.Server{Handler: http.NotFoundHandler()}
		go srv.Serve(l)
		t.Cleanup(func() { srv.Close() })
		return h.server(l.Addr().String())
	})
}
