// Package callbacks_test holds the Go handlers against C: contexts and connections that C makes, callbacks that C
// installs, and SSL_SESSIONs counted by OpenSSL itself.
package callbacks_test

import (
	"crypto/tls"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/internal/leftover"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// TestMain fails a run that leaves anything behind.
func TestMain(m *testing.M) {
	os.Exit(leftover.Run(m, func() libssl.Resources { return forgotten }))
}

// forgotten counts what tests leave to the collector on purpose.
var forgotten libssl.Resources

// mode is one way to resume.
type mode struct {
	name    string
	version uint16
	options libssl.Options
	asks    bool // get_session_cb is asked for what the client offers
	news    int  // calls of new_session_cb by a full handshake, with one ticket
}

var modes = []mode{
	{"1.2 ids", tls.VersionTLS12, libssl.OpNoTicket, true, 1},
	{"1.2 tickets", tls.VersionTLS12, 0, false, 0},
	{"1.3 tickets", tls.VersionTLS13, 0, false, 1},
	{"1.3 stateful", tls.VersionTLS13, libssl.OpNoTicket, true, 1},
}

const name = "server.test"

// prepare gives ctx what a server of the mode needs.
func (m mode) prepare(t testing.TB, ctx *libssl.Context) {
	t.Helper()
	cert, key := tlstest.NewCA(t, "ca").Leaf(t, name)
	require.NoError(t, ctx.UseCertificatePEM(cert, key))
	require.NoError(t, ctx.SetVersions(m.version, m.version))
	require.NoError(t, ctx.SetNumTickets(1))
	require.NoError(t, ctx.SetSessionIDContext([]byte("tests/callbacks")))
	ctx.SetOptions(m.options)
}

func (m mode) server(t testing.TB) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	m.prepare(t, ctx)
	return ctx
}

func newClient(t testing.TB) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.SetVerify(libssl.VerifyNone))
	return ctx
}

// link is a connection after its handshake and a byte each way.
type link struct {
	reused  bool
	session *libssl.Session  // the client's
	close   func(clean bool) // clean: the server sends a close_notify
}

// engine makes links, with SSLs that C or Go drives.
type engine struct {
	name string
	link func(t testing.TB, client, server *libssl.Context, offer *libssl.Session) link
}

var engines = []engine{{"C", linkC}, {"Go", linkGo}}

func linkC(t testing.TB, client, server *libssl.Context, offer *libssl.Session) link {
	t.Helper()
	return linkPointers(t, client.Pointer(), server.Pointer(), offer)
}

func linkPointers(t testing.TB, client, server unsafe.Pointer, offer *libssl.Session) link {
	t.Helper()
	p, err := cref.NewPair(client, server, name, offer.Pointer())
	require.NoError(t, err)
	require.True(t, p.Run(), "handshake in C")
	s, err := libssl.WrapSession(p.Session(), libssl.Transfer)
	require.NoError(t, err)
	return link{p.Reused(), s, p.Free}
}

func linkGo(t testing.TB, clientCtx, serverCtx *libssl.Context, offer *libssl.Session) link {
	t.Helper()
	cn, sn, err := tlstest.TCPPair()
	require.NoError(t, err)
	client, err := libssl.Client(cn, clientCtx, name)
	require.NoError(t, err)
	server, err := libssl.Server(sn, serverCtx)
	require.NoError(t, err)
	deadline := time.Now().Add(30 * time.Second)
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)
	if offer != nil {
		require.NoError(t, client.SetSession(offer))
	}
	failed := make(chan error, 1)
	go func() {
		b := make([]byte, 1)
		_, err := server.Read(b)
		if err == nil {
			_, err = server.Write(b)
		}
		failed <- err
	}()
	_, err = client.Write([]byte{'x'})
	require.NoError(t, err)
	_, err = client.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, <-failed)
	s, err := client.Session()
	require.NoError(t, err)
	return link{client.SessionReused() && server.SessionReused(), s, func(clean bool) {
		// Together, or one would wait for the other's end of the stream.
		closed := make(chan error)
		go func() { closed <- client.Close() }()
		if clean {
			server.Close()
		} else {
			server.Abort()
		}
		<-closed
	}}
}

// closed is a link that has been closed, clean.
func (l link) closed() link {
	l.close(true)
	return l
}
