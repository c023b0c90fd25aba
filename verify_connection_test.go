package libssl_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errDisliked = errors.New("disliked")

// judging are Contexts of which one has a function that decides.
type judging struct {
	f              *fleet
	client, server *libssl.Context
	ours           *libssl.Context // the one that decides
	onServer       bool
	mutual         bool
	sess           *libssl.Session
}

// eachJudging goes over versions, roles, client certificates, and full and resumed handshakes.
func eachJudging(t *testing.T, test func(t *testing.T, j *judging)) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, role := range []string{"client", "server"} {
			for _, mutual := range []bool{false, true} {
				for _, resumed := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, mutual %t, resumed %t", role, mutual, resumed), func(t *testing.T) {
						j := &judging{f: f, client: newClient(t, f.ca), server: f.server(t), mutual: mutual, onServer: role == "server"}
						if mutual {
							require.NoError(t, j.server.AddClientCAsPEM(f.ca.PEM))
							require.NoError(t, j.server.SetVerify(libssl.VerifyRequirePeer))
							require.NoError(t, j.client.UseCertificatePEM(f.ca.Leaf(t, "client")))
						}
						useStore(t, j.server, memstore.New(memstore.Options{}), nil)
						if resumed {
							c, s := handshake(t, j.client, j.server, nil)
							j.sess = sessionOf(t, c)
							closeBoth(c, s)
						}
						j.ours = j.client
						if j.onServer {
							j.ours = j.server
						}
						test(t, j)
					})
				}
			}
		}
	})
}

func (j *judging) ends(t *testing.T) (ours, theirs *libssl.Conn) {
	cn, sn := tcpPipe(t)
	c, s := wrap(t, cn, sn, j.client, j.server)
	if j.sess != nil {
		require.NoError(t, c.SetSession(j.sess))
	}
	if j.onServer {
		return s, c
	}
	return c, s
}

func TestVerifyConnection_Refuses(t *testing.T) {
	eachJudging(t, func(t *testing.T, j *judging) {
		calls := 0
		require.NoError(t, j.ours.SetVerifyConnection(func(tls.ConnectionState) error { calls++; return errDisliked }))
		ours, theirs := j.ends(t)
		other := make(chan error, 1)
		go func() {
			err := theirs.Handshake()
			if err == nil {
				_, err = io.ReadFull(theirs, make([]byte, 1))
			}
			other <- err
		}()
		err := ours.Handshake()
		require.ErrorIs(t, err, errDisliked)
		require.Equal(t, 1, calls)
		require.ErrorContains(t, receive(t, "the peer", other), "bad certificate")
		require.ErrorIs(t, ours.Handshake(), errDisliked, "for good")
		_, err = ours.Read(make([]byte, 1))
		require.ErrorIs(t, err, errDisliked)
		_, err = ours.Write(make([]byte, 1))
		require.ErrorIs(t, err, errDisliked)
		require.Zero(t, ours.ConnectionState())
	})
}

func TestVerifyConnection_SeesTheState(t *testing.T) {
	eachJudging(t, func(t *testing.T, j *judging) {
		require.NoError(t, j.client.SetALPN("a"))
		require.NoError(t, j.server.SetALPN("a"))
		var ours *libssl.Conn
		var seen []tls.ConnectionState
		require.NoError(t, j.ours.SetVerifyConnection(func(s tls.ConnectionState) error {
			seen = append(seen, s)
			_, err := ours.Read(make([]byte, 1))
			assert.ErrorIs(t, err, libssl.ErrReentrant)
			assert.ErrorIs(t, ours.Handshake(), libssl.ErrReentrant)
			return nil
		}))
		var theirs *libssl.Conn
		ours, theirs = j.ends(t)
		if j.onServer {
			require.NoError(t, exchange(theirs, ours))
		} else {
			require.NoError(t, exchange(ours, theirs))
		}
		require.Len(t, seen, 1)
		want, got := ours.ConnectionState(), seen[0]
		require.False(t, got.HandshakeComplete)
		require.Equal(t, j.sess != nil, got.DidResume)
		got.HandshakeComplete, got.TLSUnique, got.CurveID = true, want.TLSUnique, want.CurveID
		require.Equal(t, want, got)
		if !j.onServer || j.mutual {
			require.NotEmpty(t, got.PeerCertificates)
		}
		require.NoError(t, j.ours.SetVerifyConnection(nil))
	})
}

// A panic and a Goexit end the connection.
func TestVerifyConnection_Panics(t *testing.T) {
	eachJudging(t, func(t *testing.T, j *judging) {
		told := 0
		j.ours.OnCallbackError(func(e *libssl.CallbackError) {
			assert.Equal(t, "verifyconnection", e.Callback)
			told++
		})
		require.NoError(t, j.ours.SetVerifyConnection(func(tls.ConnectionState) error { panic("why") }))
		ours, theirs := j.ends(t)
		other := make(chan error, 1)
		go func() {
			err := theirs.Handshake()
			if err == nil {
				_, err = io.ReadFull(theirs, make([]byte, 1))
			}
			other <- err
		}()
		require.ErrorContains(t, ours.Handshake(), "panicked")
		require.ErrorContains(t, receive(t, "the peer", other), "bad certificate")
		require.Equal(t, 1, told)
	})
}

// A server in TLS 1.3 that asked and got no certificate has no alert for it.
func TestVerifyConnection_WithoutTheCertificateAskedFor(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		require.NoError(t, server.SetVerify(libssl.VerifyPeer))
		require.NoError(t, server.SetVerifyConnection(func(s tls.ConnectionState) error {
			assert.Empty(t, s.PeerCertificates)
			return errDisliked
		}))
		cn, sn := tcpPipe(t)
		c, s := wrap(t, cn, sn, f.client, server)
		served := make(chan error, 1)
		go func() {
			served <- s.Handshake()
			s.Close()
		}()
		err := c.Handshake()
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		require.Error(t, err)
		require.ErrorIs(t, receive(t, "the server", served), errDisliked)
	})
}

// The Context that the server name selects decides.
func TestVerifyConnection_AfterAServerName(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		plain, chosen := f.server(t), f.server(t)
		plain.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return chosen })
		for name, c := range map[string]struct {
			plain, chosen error
			set           bool // on chosen
			want          error
		}{
			"the chosen one refuses": {chosen: errDisliked, set: true, want: errDisliked},
			"the chosen one agrees":  {plain: errDisliked, set: true},
			"only the first has one": {plain: errDisliked, want: errDisliked},
		} {
			t.Run(name, func(t *testing.T) {
				require.NoError(t, plain.SetVerifyConnection(func(tls.ConnectionState) error { return c.plain }))
				require.NoError(t, chosen.SetVerifyConnection(nil))
				if c.set {
					require.NoError(t, chosen.SetVerifyConnection(func(tls.ConnectionState) error { return c.chosen }))
				}
				cn, sn := tcpPipe(t)
				cl, s := wrap(t, cn, sn, f.client, plain)
				served := make(chan error, 1)
				go func() { served <- s.Handshake() }()
				err := cl.Handshake()
				if c.want == nil {
					require.NoError(t, err)
				}
				require.ErrorIs(t, receive(t, "the server", served), c.want)
			})
		}
	})
}

// Early data is handed up only after the function has agreed.
func TestVerifyConnection_BeforeEarlyData(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.early(t, memstore.New(memstore.Options{}), nil)
	for _, refusal := range []error{nil, errDisliked} {
		sess := f.visit(t, server, nil).next
		require.NoError(t, server.SetVerifyConnection(func(s tls.ConnectionState) error {
			assert.True(t, s.DidResume)
			return refusal
		}))
		cn, sn := tcpPipe(t)
		c, s := f.ends(t, cn, sn, server, sess)
		_, err := c.WriteEarlyData([]byte("early"))
		require.NoError(t, err)
		buf := make([]byte, 100)
		n, err := s.ReadEarlyData(buf)
		if refusal == nil {
			require.NoError(t, err)
			require.Equal(t, "early", string(buf[:n]))
		} else {
			require.ErrorIs(t, err, errDisliked)
			require.Zero(t, n)
			require.False(t, bytes.Contains(buf, []byte("early")), "nor is it left in the buffer")
			require.ErrorContains(t, c.Handshake(), "bad certificate")
		}
		require.NoError(t, server.SetVerifyConnection(nil))
		closeBoth(c, s)
	}
}
