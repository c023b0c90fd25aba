package road_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
)

const examples = "../../../examples/port-from-c"

// The steps, in their order: step n is steps[n]. The first is in C alone.
var steps = []string{"step0-c", "step1-main", "step2-callbacks", "step3-bytes", "step4-store", "step5-go"}

// goFlags and cFlags are extra build flags for the programs, so that they are sanitized as this test is.
var goFlags, cFlags []string

// build compiles all steps, each into a program of its name in dir.
func build(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	args := append(append([]string{"build"}, goFlags...), "-o", dir)
	for _, step := range steps[1:] {
		args = append(args, "./"+filepath.Join(examples, step))
	}
	for _, cmd := range []*exec.Cmd{
		compiler(t, filepath.Join(examples, steps[0], "server.c"), filepath.Join(dir, steps[0])),
		exec.Command("go", args...),
	} {
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", cmd, out)
	}
	return dir
}

// compiler is the C compiler with the flags that cgo is given.
func compiler(t *testing.T, source, program string) *exec.Cmd {
	t.Helper()
	pkgConfig := append(words("PKG_CONFIG", "pkg-config"), "--cflags", "--libs", "libssl", "libcrypto")
	flags, err := exec.Command(pkgConfig[0], pkgConfig[1:]...).Output()
	require.NoError(t, err)
	args := append(words("CC", "gcc"), words("CGO_CFLAGS", "-O2 -g")...)
	args = append(args, cFlags...)
	args = append(args, "-Wall", "-Wextra", "-Werror", "-pthread", source, "-o", program)
	args = append(args, strings.Fields(string(flags))...)
	args = append(args, words("CGO_LDFLAGS", "")...)
	return exec.Command(args[0], args[1:]...)
}

// words are those of an environment variable, or of what stands for it where it is empty.
func words(name, otherwise string) []string {
	if v := os.Getenv(name); v != "" {
		otherwise = v
	}
	return strings.Fields(otherwise)
}

// server is a running step.
type server struct {
	t    *testing.T
	addr string
}

// start runs a step until the test ends, when it must leave without a complaint: under AddressSanitizer that is also
// about what it has not freed.
func start(t *testing.T, program string, args ...string) *server {
	t.Helper()
	cmd := exec.Command(program, args...)
	var complaints buffer
	cmd.Stderr = &complaints
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, cmd.Wait(), "%s", complaints.String())
		if t.Failed() {
			t.Logf("%s said: %s", filepath.Base(program), complaints.String())
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, ok, line)
	return &server{t: t, addr: addr}
}

// buffer is written by the process and read by the test.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// connection is a connection on the client's side.
type connection struct {
	t    *testing.T
	conn *libssl.Conn
	r    *bufio.Reader
}

// connect shakes hands, or fails to. offer may be nil.
func (s *server) connect(client *libssl.Context, offer *libssl.Session) *connection {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	require.NoError(s.t, err)
	require.NoError(s.t, nc.SetDeadline(time.Now().Add(time.Minute)))
	conn, err := libssl.Client(nc, client, "127.0.0.1")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	if offer != nil {
		require.NoError(s.t, conn.SetSession(offer))
	}
	return &connection{t: s.t, conn: conn, r: bufio.NewReader(conn)}
}

// status is the server's view of a connection, and of its table.
type status struct {
	version            string
	resumed            bool
	sessions, answered int
}

// status asks the server for it. A handshake that the server refused shows here at the latest.
func (c *connection) status() (st status, err error) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte("status\n")); err != nil {
		return st, err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return st, err
	}
	var resumed string
	_, err = fmt.Sscanf(line, "version=%s resumed=%s sessions=%d answered=%d\n", &st.version, &resumed, &st.sessions, &st.answered)
	require.NoError(c.t, err, line)
	require.Contains(c.t, []string{"yes", "no"}, resumed)
	st.resumed = resumed == "yes"
	require.Equal(c.t, st.resumed, c.conn.SessionReused(), "both ends agree")
	return st, nil
}

// session is the client's, to come back with: after a status, which in TLS 1.3 has brought the tickets.
func (c *connection) session() *libssl.Session {
	c.t.Helper()
	s, err := c.conn.Session()
	require.NoError(c.t, err)
	c.t.Cleanup(s.Release)
	return s
}

// leave ends the connection as it should be, and waits for the server's half.
func (c *connection) leave() {
	c.t.Helper()
	require.NoError(c.t, c.conn.CloseWrite())
	c.gone()
}

// fail makes the server end the connection for an error.
func (c *connection) fail() {
	c.t.Helper()
	_, err := c.conn.Write([]byte("nonsense\n"))
	require.NoError(c.t, err)
	c.gone()
}

// hangUp ends the connection without a close_notify.
func (c *connection) hangUp() {
	c.t.Helper()
	require.NoError(c.t, c.conn.NetConn().(*net.TCPConn).CloseWrite())
	c.gone()
}

// gone waits until the server has closed the connection, with whatever last words: it is done with the session then.
func (c *connection) gone() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.conn.NetConn())
	require.NoError(c.t, err)
}

// visit connects, asks and leaves.
func (s *server) visit(client *libssl.Context, offer *libssl.Session) (status, *libssl.Session) {
	s.t.Helper()
	c := s.connect(client, offer)
	st, err := c.status()
	require.NoError(s.t, err)
	session := c.session()
	c.leave()
	return st, session
}

// resumes says that session does, or that it is about to be gone: a store hears of a removal when the handshake is over.
func (s *server) resumes(client *libssl.Context, session *libssl.Session, want bool) {
	s.t.Helper()
	if want {
		st, _ := s.visit(client, session)
		require.True(s.t, st.resumed)
		return
	}
	require.Eventually(s.t, func() bool {
		st, _ := s.visit(client, session)
		return !st.resumed
	}, time.Minute, time.Millisecond)
}

// pki is a CA, with the files of a server and a client of its.
type pki struct {
	ca                        *tlstest.CA
	caFile, certFile, keyFile string
	clientCert, clientKey     []byte
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{ca: tlstest.NewCA(t, "ca")}
	p.certFile, p.keyFile = p.ca.LeafFiles(t, "127.0.0.1")
	p.caFile = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(p.caFile, p.ca.PEM, 0o600))
	p.clientCert, p.clientKey = p.ca.Leaf(t, "client")
	return p
}

// client speaks one version, and in TLS 1.2 knows of tickets or not.
func (p *pki) client(t *testing.T, version uint16, tickets bool) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.AddRootCAsPEM(p.ca.PEM))
	require.NoError(t, ctx.UseCertificatePEM(p.clientCert, p.clientKey))
	require.NoError(t, ctx.SetVersions(version, version))
	if version == tls.VersionTLS12 && !tickets {
		ctx.SetOptions(libssl.OpNoTicket)
	}
	return ctx
}
