// Package cabitest builds the C library, programs on it, and runs them as servers. All tests of the library are here, so that it
// is built once.
package cabitest

import (
	"bufio"
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

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// Library is a built library, in the folders of an installed one.
type Library struct{ Dir string }

var build = struct {
	sync.Once
	dir string
	out []byte
	err error
}{}

// Build builds the library, once for a test binary, whose TestMain calls Main. Its folder is two below the repository's.
func Build(t testing.TB) Library {
	t.Helper()
	build.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "cabi"); build.err != nil {
			return
		}
		cmd := exec.Command(filepath.Join("..", "..", "cabi", "build.sh"), append([]string{build.dir}, sanitize...)...)
		cmd.Env = append(os.Environ(), "PREFIX="+build.dir)
		build.out, build.err = cmd.CombinedOutput()
	})
	require.NoError(t, build.err, "%s", build.out)
	return Library{build.dir}
}

// Main runs the tests and removes what Build made.
func Main(m *testing.M) int {
	defer func() { os.RemoveAll(build.dir) }()
	return m.Run()
}

// Compile compiles a program or, with -shared, a library, with every warning an error, and returns its path. Arguments
// follow the source.
func (l Library) Compile(t testing.TB, compiler, source string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(source), filepath.Ext(source)))
	all := append(fields("CGO_CFLAGS"), "-g", "-Wall", "-Wextra", "-Werror")
	if len(sanitize) > 0 {
		all = append(all, "-fsanitize=address")
	}
	all = append(all, source, "-o", out)
	all = append(all, args...)
	all = append(all, "-lpthread", "-ldl")
	all = append(all, fields("CGO_LDFLAGS")...)
	said, err := exec.Command(compiler, all...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", compiler, source, said)
	return out
}

func fields(name string) []string { return strings.Fields(os.Getenv(name)) }

// Shared are the compiler's arguments for the shared library, as pkg-config has them.
func (l Library) Shared(t testing.TB) []string {
	t.Helper()
	return append(l.pkgConfig(t, "--cflags", "--libs"), "-Wl,-rpath,"+filepath.Join(l.Dir, "lib"))
}

// Headers are those for a program that loads the library by itself.
func (l Library) Headers(t testing.TB) []string {
	t.Helper()
	return l.pkgConfig(t, "--cflags")
}

// Static are those for the static one, with OpenSSL shared.
func (l Library) Static(t testing.TB) []string {
	t.Helper()
	args := append(l.pkgConfig(t, "--cflags", "--libs"), "-lresolv")
	for i, arg := range args {
		if arg == "-llssl" {
			args[i] = "-l:liblssl.a"
		}
	}
	return args
}

func (l Library) pkgConfig(t testing.TB, args ...string) []string {
	t.Helper()
	cmd := exec.Command("pkg-config", append(args, "lssl", "libcrypto")...)
	cmd.Env = append(os.Environ(), "PKG_CONFIG_PATH="+filepath.Join(l.Dir, "lib", "pkgconfig")+":"+os.Getenv("PKG_CONFIG_PATH"))
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

// Server is a process that serves TLS.
type Server struct {
	Addr string

	t   testing.TB
	cmd *exec.Cmd
	out *bufio.Reader
}

// Start starts a program that prints the address it listens on, as the examples do.
func Start(t testing.TB, program string, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, cmd: exec.Command(program, args...)}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	s.out = bufio.NewReader(out)
	line, err := s.out.ReadString('\n')
	require.NoError(t, err, "%s says nothing", program)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, ok, line)
	s.Addr = addr
	return s
}

// End ends it politely and returns what it said last.
func (s *Server) End() string {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	out, err := io.ReadAll(s.out)
	require.NoError(s.t, err)
	require.NoError(s.t, s.cmd.Wait())
	return strings.TrimSpace(string(out))
}

// Client makes the Context of a client that speaks one version.
func Client(t testing.TB, version uint16, ca []byte) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.AddRootCAsPEM(ca))
	require.NoError(t, ctx.SetVersions(version, version))
	return ctx
}

// Visit connects, offers a session that may be nil, sends what is to be said and reads to the end. sess is the one to offer
// next, released with the test.
func Visit(t testing.TB, ctx *libssl.Context, addr, say string, offer *libssl.Session) (heard string, resumed bool, sess *libssl.Session) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	c, err := libssl.Client(nc, ctx, "127.0.0.1")
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if offer != nil {
		require.NoError(t, c.SetSession(offer))
	}
	require.NoError(t, c.Handshake())
	if say != "" {
		_, err = io.WriteString(c, say)
		require.NoError(t, err)
	}
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	sess, err = c.Session()
	require.NoError(t, err)
	t.Cleanup(sess.Release)
	return string(all), c.SessionReused(), sess
}
