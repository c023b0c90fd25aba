package libssl_test

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// TestMain fails a run that leaves a Context, a Conn, a Session or a goroutine
// behind, or that left one to the collector and did not count it in forgotten.
func TestMain(m *testing.M) {
	threads := flag.Bool("threads", true, "Listeners accept with threads outside Go, where they can")
	flag.Parse()
	libssl.UseThreads(*threads)
	goroutines := runtime.NumGoroutine()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		goroutines++ // fuzzing listens for signals, to the end
	}
	if code == 0 {
		code = leftovers(goroutines)
	}
	os.Exit(code)
}

// forgotten counts what tests leave to the collector on purpose.
var forgotten libssl.Resources

func leftovers(goroutines int) int {
	var live libssl.Resources
	var running int
	for range 500 { // other goroutines may still be ending
		live, running = libssl.LiveResources(), runtime.NumGoroutine()
		if live == forgotten && running <= goroutines {
			return 0
		}
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	if live != forgotten {
		fmt.Fprintf(os.Stderr, "FAIL: resources left behind: %+v, expected %+v\n", live, forgotten)
	}
	if running > goroutines {
		fmt.Fprintf(os.Stderr, "FAIL: goroutines left behind: %d, expected %d\n", running, goroutines)
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	return 1
}

const serverName = "server.test"

// versions are the protocol versions that table tests go over.
var versions = map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}

func newServer(t testing.TB, ca *tlstest.CA) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	cert, key := ca.Leaf(t, serverName, "127.0.0.1")
	require.NoError(t, ctx.UseCertificatePEM(cert, key))
	return ctx
}

func newClient(t testing.TB, ca *tlstest.CA) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.AddRootCAsPEM(ca.PEM))
	return ctx
}

// tcpPipe returns both ends of a loopback connection.
func tcpPipe(t testing.TB) (client, server net.Conn) {
	t.Helper()
	return pipeOver(t, "tcp", "127.0.0.1:0")
}

// unixPipe is tcpPipe over a unix socket.
func unixPipe(t testing.TB) (client, server net.Conn) {
	t.Helper()
	return pipeOver(t, "unix", filepath.Join(t.TempDir(), "socket"))
}

func pipeOver(t testing.TB, network, addr string) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	require.NoError(t, err)
	defer l.Close()
	client, err = net.Dial(network, l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	return client, server
}

// handshake runs one between the contexts and moves a byte each way, which
// brings a TLS 1.3 client its tickets. The connections are closed with the test
// at the latest.
func handshake(t testing.TB, clientCtx, serverCtx *libssl.Context, sess *libssl.Session) (client, server *libssl.Conn) {
	t.Helper()
	cn, sn := tcpPipe(t)
	client, server = wrap(t, cn, sn, clientCtx, serverCtx)
	if sess != nil {
		require.NoError(t, client.SetSession(sess))
	}
	require.NoError(t, exchange(client, server))
	return client, server
}

func wrap(t testing.TB, cn, sn net.Conn, clientCtx, serverCtx *libssl.Context) (client, server *libssl.Conn) {
	t.Helper()
	return wrapNamed(t, cn, sn, clientCtx, serverCtx, serverName)
}

// wrapNamed makes both ends of a connection, closed with the test at the latest.
func wrapNamed(t testing.TB, cn, sn net.Conn, clientCtx, serverCtx *libssl.Context, name string) (client, server *libssl.Conn) {
	t.Helper()
	server, err := libssl.Server(sn, serverCtx)
	require.NoError(t, err)
	client, err = libssl.Client(cn, clientCtx, name)
	require.NoError(t, err)
	t.Cleanup(func() { closeBoth(client, server) })
	deadline := time.Now().Add(time.Minute)
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)
	return client, server
}

// closeBoth lets neither end wait for the other.
func closeBoth(c, s io.Closer) {
	var both sync.WaitGroup
	both.Go(func() { c.Close() })
	s.Close()
	both.Wait()
}

// exchange echoes one byte from the client through the server.
func exchange(client, server net.Conn) error {
	failed := make(chan error, 1)
	go func() {
		b := make([]byte, 1)
		_, err := server.Read(b)
		if err == nil {
			_, err = server.Write(b)
		}
		failed <- err
	}()
	b := []byte{'x'}
	_, err := client.Write(b)
	if err == nil {
		_, err = client.Read(b)
	}
	if serr := <-failed; serr != nil {
		return fmt.Errorf("server: %w (client: %v)", serr, err)
	}
	return err
}

// bothHandshake runs the handshake from both ends.
func bothHandshake(client, server interface{ Handshake() error }) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	err := client.Handshake()
	return errors.Join(err, <-failed)
}
