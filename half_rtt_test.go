package libssl_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/require"
)

// withheld is a client's transport that keeps back its Writes while hold is set.
type withheld struct {
	net.Conn
	hold bool
	kept bytes.Buffer
}

func (w *withheld) Write(p []byte) (int, error) {
	if w.hold {
		return w.kept.Write(p)
	}
	return w.Conn.Write(p)
}

func (w *withheld) release(t *testing.T) {
	w.hold = false
	_, err := w.kept.WriteTo(w.Conn)
	require.NoError(t, err)
}

func TestHalfRTT_ArrivesBeforeTheFinished(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, cache := f.early(t, memstore.New(memstore.Options{}), nil)
	for _, size := range []int{1, 200_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			sess := f.visit(t, server, nil).next
			taken := cache.Stats().Taken
			cn, sn := tcpPipe(t)
			below := &withheld{Conn: cn}
			c, s := f.ends(t, below, sn, server, sess)
			half := random(size)
			wrote, served := make(chan error, 1), make(chan error, 1)
			go func() {
				early := make([]byte, 100)
				n, err := s.ReadEarlyData(early)
				if err == nil && string(early[:n]) != "early" {
					err = fmt.Errorf("early data: %q", early[:n])
				}
				if err == nil {
					_, err = s.Write(half)
				}
				wrote <- err
				if _, err = readEarly(s); err == nil {
					err = s.Handshake()
				}
				served <- err
			}()
			_, err := c.WriteEarlyData([]byte("early"))
			require.NoError(t, err)
			below.hold = true
			require.NoError(t, c.Handshake())
			got := make([]byte, size)
			_, err = io.ReadFull(c, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(half, got))
			require.NoError(t, receive(t, "the Write", wrote))
			require.NotZero(t, below.kept.Len(), "the Finished")
			require.Equal(t, taken+1, cache.Stats().Taken, "no one else can be sent this")
			below.release(t)
			require.NoError(t, receive(t, "the handshake", served))
			require.NoError(t, exchange(c, s))
			require.True(t, s.SessionReused())
		})
	}
}

// traced is a socket that notes its Reads and Writes, r and w.
type traced struct {
	*net.TCPConn
	log string
}

func (l *traced) Read(p []byte) (int, error) {
	l.log += "r"
	return l.TCPConn.Read(p)
}

func (l *traced) Write(p []byte) (int, error) {
	l.log += "w"
	return l.TCPConn.Write(p)
}

// Write reads, which is for the client's Finished, where it may not write yet.
func TestHalfRTT_WaitsForTheFinished(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, f *fleet, server *libssl.Context)
		resumed bool
		half    bool
	}{
		"without a certificate":      {func(*testing.T, *fleet, *libssl.Context) {}, false, true},
		"resumed":                    {func(*testing.T, *fleet, *libssl.Context) {}, true, true},
		"certificate to come":        {askClients, false, false},
		"certificate in the session": {askClients, true, true},
		"HelloRetryRequest": {func(t *testing.T, f *fleet, server *libssl.Context) {
			require.NoError(t, server.SetGroups("P-384"))
			require.NoError(t, f.client.SetGroups("P-256:P-384"))
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, tls.VersionTLS13)
			server := f.server(t)
			test.prepare(t, f, server)
			useStore(t, server, memstore.New(memstore.Options{}), nil)
			require.NoError(t, server.SetMaxEarlyData(1000))
			var sess *libssl.Session
			if test.resumed {
				sess = f.visit(t, server, nil).next
			}
			cn, sn := tcpPipe(t)
			below := &traced{TCPConn: sn.(*net.TCPConn)}
			c, s := f.ends(t, cn, below, server, sess)
			served := make(chan error, 1)
			go func() {
				_, err := readEarly(s)
				below.log = ""
				if err == nil {
					_, err = s.Write([]byte("half"))
				}
				if err == nil {
					err = s.Handshake()
				}
				served <- err
			}()
			got := make([]byte, 4)
			_, err := io.ReadFull(c, got)
			require.NoError(t, err)
			require.Equal(t, "half", string(got))
			require.NoError(t, receive(t, "the server", served))
			require.Equal(t, test.half, below.log[0] == 'w', below.log)
			require.Equal(t, test.resumed, s.SessionReused())
			require.NoError(t, exchange(c, s))
		})
	}
}

// askClients makes the server require a certificate, which the client has.
func askClients(t *testing.T, f *fleet, server *libssl.Context) {
	require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
	require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
	require.NoError(t, f.client.UseCertificatePEM(f.ca.Leaf(t, "client")))
}
