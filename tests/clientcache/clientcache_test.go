package clientcache_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// start starts a program of a Debian package, with files as its descriptors from 3 on. It ends with the test.
func start(t *testing.T, files []*os.File, program string, args ...string) (stdin io.Writer, stdout io.Reader) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path = filepath.Join("/usr/sbin", program) // which is often not in PATH
	}
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = files
	stdin, err = cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err = cmd.StdoutPipe()
	require.NoError(t, err)
	var said bytes.Buffer
	cmd.Stderr = &said
	require.NoError(t, cmd.Start(), "%s is missing: install Debian's package", program)
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // the master of nginx then ends its workers
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", program, said.String())
		}
	})
	return stdin, stdout
}

func write(t *testing.T, dir, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestClientCache_Nginx(t *testing.T) {
	each(t, []mode{
		{name: "tickets"},
		{name: "ids", settings: []string{"ssl_session_tickets off;", "ssl_session_cache shared:tls:1m;"}},
		{name: "no cache", settings: []string{"ssl_session_tickets off;", "ssl_session_cache off;"}, not12: true, not13: true},
	}, func(t *testing.T, h *host, settings []string) clientcache.Server {
		dir, addr, user := t.TempDir(), servertest.FreeAddr(t), ""
		if os.Getuid() == 0 {
			user = "user root;" // other users cannot read the directory
		}
		conf := write(t, dir, "nginx.conf", fmt.Sprintf(`
%s
daemon off;
worker_processes 2;
pid pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {
		listen %s ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		%s
		location / { return 200 "hello"; }
	}
}
`, user, addr, h.cert, h.key, strings.Join(settings, " ")))
		_, stdout := start(t, nil, "nginx", "-p", dir, "-e", "stderr", "-c", conf)
		go io.Copy(io.Discard, stdout)
		require.Eventually(t, func() bool {
			nc, err := net.Dial("tcp", addr)
			if err == nil {
				nc.Close()
			}
			return err == nil
		}, 20*time.Second, 5*time.Millisecond, "nginx does not listen")
		return h.server(addr)
	})
}

func TestClientCache_HAProxy(t *testing.T) {
	each(t, []mode{
		{name: "tickets"},
		{name: "ids", settings: []string{"no-tls-tickets"}},
	}, func(t *testing.T, h *host, settings []string) clientcache.Server {
		dir, pem := t.TempDir(), ""
		l, err := net.Listen("tcp", "127.0.0.1:0") // which HAProxy inherits, so that a connection waits for its start
		require.NoError(t, err)
		defer l.Close()
		socket, err := l.(*net.TCPListener).File()
		require.NoError(t, err)
		defer socket.Close()
		for _, file := range []string{h.cert, h.key} {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			pem += string(text)
		}
		conf := write(t, dir, "haproxy.cfg", fmt.Sprintf(`
global
	maxconn 1000
defaults
	mode http
	timeout client 60s
frontend hello
	bind fd@3 ssl crt %s ssl-min-ver TLSv1.2 %s
	http-request return status 200
`, write(t, dir, "server.pem", pem), strings.Join(settings, " ")))
		_, stdout := start(t, []*os.File{socket}, "haproxy", "-db", "-f", conf)
		go io.Copy(io.Discard, stdout)
		return h.server(l.Addr().String())
	})
}

// sServer starts openssl s_server. It serves one connection after another.
func sServer(t *testing.T, h *host, settings []string) (s clientcache.Server, stdin io.Writer) {
	t.Helper()
	stdin, stdout := start(t, nil, "openssl", append([]string{"s_server", "-accept", "127.0.0.1:0", "-cert", h.cert, "-key", h.key}, settings...)...)
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
