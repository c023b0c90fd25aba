package libssl_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// cut is a transport whose input ends after left bytes.
type cut struct {
	net.Conn
	left int
	read int
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	c.read += n
	return n, err
}

// run runs the handshake of one end, and closes its transport if it fails.
func run(end *libssl.Conn) error {
	err := end.Handshake()
	if err != nil {
		end.NetConn().Close()
	}
	return err
}

func TestHandshake_PeerDisconnectsAtEveryByte(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		// With a client certificate, so that each side sends two flights.
		server := f.server(t)
		require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
		require.NoError(t, f.client.UseCertificatePEM(f.ca.Leaf(t, "client")))
		require.NoError(t, server.SetNumTickets(0))

		// try returns the error of the end whose input is cut; whole is true if the
		// input sufficed.
		try := func(client bool, n int) (err error, whole bool) {
			cn, sn := net.Pipe()
			short := &cut{left: n}
			if client {
				short.Conn, cn = cn, short
			} else {
				short.Conn, sn = sn, short
			}
			c, err := libssl.Client(cn, f.client, serverName)
			require.NoError(t, err)
			s, err := libssl.Server(sn, server)
			require.NoError(t, err)
			end, other := s, c
			if client {
				end, other = c, s
			}
			ended := make(chan error, 1)
			go func() { ended <- run(other) }()
			err = run(end)
			cn.Close()
			sn.Close()
			<-ended
			end.Close()
			other.Close()
			return err, short.read < n
		}
		for _, client := range []bool{true, false} {
			for n := 0; ; n++ {
				err, whole := try(client, n)
				if err == nil {
					require.Greater(t, n, 300)
					break
				}
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "after %d bytes, client %v", n, client)
				require.False(t, whole)
			}
		}
	})
}

// gated is a socket whose Reads after the first wait for open.
type gated struct {
	*net.TCPConn
	reads int
	open  chan struct{}
}

func (g *gated) Read(p []byte) (int, error) {
	if g.reads++; g.reads > 1 {
		<-g.open
	}
	return g.TCPConn.Read(p)
}

// A client that goes on writing hears why it was refused, although the server does not read that any more.
func TestHandshake_AlertArrivesBesideDataUnderWay(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
	for range 5 {
		cn, sn := tcpPipe(t)
		gate := &gated{TCPConn: sn.(*net.TCPConn), open: make(chan struct{})}
		s, err := libssl.Server(gate, server)
		require.NoError(t, err)
		c := tls.Client(cn, &tls.Config{RootCAs: f.ca.Pool(), ServerName: serverName})
		refused, closed := make(chan error, 1), make(chan error, 1)
		go func() { refused <- s.Handshake() }()
		require.NoError(t, c.Handshake())
		_, err = c.Write(make([]byte, 100_000))
		require.NoError(t, err)
		close(gate.open)
		require.Error(t, receive(t, "the refusal", refused))
		go func() { closed <- s.Close() }()
		select { // a server that does not wait for the client resets the connection now
		case err := <-closed:
			closed <- err
		case <-time.After(20 * time.Millisecond):
		}
		_, err = c.Write([]byte("more"))
		require.NoError(t, err, "after which many a client reads no more")
		_, err = c.Read(make([]byte, 1))
		require.ErrorContains(t, err, "certificate required")
		c.Close()
		require.NoError(t, receive(t, "the Close", closed))
	}
}

func TestHandshake_Garbage(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	require.NoError(t, server.SetVersions(0, 0))
	for name, garbage := range map[string][]byte{
		"text":           []byte("GET / HTTP/1.1\r\nHost: server.test\r\n\r\n"),
		"zeros":          make([]byte, 100),
		"noise":          append([]byte{0xf3}, random(5000)...),
		"huge record":    append([]byte{22, 3, 3, 0xff, 0xff}, random(0xffff)...),
		"alert":          {21, 3, 3, 0, 2, 2, 40},
		"data too early": {23, 3, 3, 0, 3, 1, 2, 3},
		"empty record":   {22, 3, 1, 0, 0, 99, 99, 99, 99, 99},
		"broken hello":   append([]byte{22, 3, 1, 0, 60, 1, 0, 0, 56}, random(56)...),
	} {
		for _, client := range []bool{true, false} {
			t.Run(map[bool]string{true: "client/", false: "server/"}[client]+name, func(t *testing.T) {
				cn, sn := tcpPipe(t)
				c, s := f.ends(t, cn, sn, server, nil)
				end, peer := s, cn
				if client {
					end, peer = c, sn
				}
				go func() {
					_, _ = peer.Write(garbage)
					// Nothing more comes, so that an end that waits for more ends too.
					_ = peer.(*net.TCPConn).CloseWrite()
				}()
				err := end.Handshake()
				require.Error(t, err)
				var e *libssl.Error
				if errors.As(err, &e) {
					require.Equal(t, "handshake", e.Op)
					require.NotEmpty(t, e.Queue)
					require.NotEmpty(t, e.Queue[0].Reason)
				} else {
					require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				}
				require.Equal(t, err, end.Handshake(), "a failed handshake is final")
				_, werr := end.Write([]byte("x"))
				require.Equal(t, err, werr)
				_, rerr := end.Read(make([]byte, 1))
				require.Equal(t, err, rerr)
				require.Zero(t, end.ConnectionState())
			})
		}
	}
}

// The peer gets an alert for garbage, also after the handshake.
func TestRead_Garbage(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for name, garbage := range map[string][]byte{
			"text":      []byte("GET / HTTP/1.1\r\n\r\n"),
			"bad seal":  append([]byte{23, 3, 3, 0, 64}, random(64)...),
			"bad type":  {99, 3, 3, 0, 1, 0},
			"no length": {23, 3, 3, 0, 0},
		} {
			t.Run(name, func(t *testing.T) {
				cn, sn := tcpPipe(t)
				c, s := f.ends(t, cn, sn, f.server(t), nil)
				require.NoError(t, exchange(c, s))
				_, err := cn.Write(garbage)
				require.NoError(t, err)
				_, err = s.Read(make([]byte, 1))
				var e *libssl.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, "read", e.Op)
				require.NotEmpty(t, e.Queue)
				_, again := s.Read(make([]byte, 1))
				require.Equal(t, err, again)
				_, werr := s.Write([]byte("x"))
				require.Error(t, werr)

				_, err = c.Read(make([]byte, 1))
				require.ErrorAs(t, err, &e)
				require.Contains(t, err.Error(), "alert")
			})
		}
	})
}

// A flight larger than any buffer goes out whole, and in order.
func TestHandshake_LargeFlights(t *testing.T) {
	for name, pipe := range transports {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				// OpenSSL accepts 100 KB of certificates.
				fill := func(cert []byte) (chain []byte, n int) {
					size := 0
					for chain = cert; ; n++ {
						more, _ := f.ca.Leaf(t, "extra.test", string(bytes.Repeat([]byte("a"), 60))+".test")
						block, _ := pem.Decode(more)
						if size += len(block.Bytes) + 10; size > 95_000 {
							return chain, n + 1
						}
						chain = append(chain, more...)
					}
				}
				server := f.server(t)
				chain, n := fill(f.cert)
				require.NoError(t, server.UseCertificatePEM(chain, f.key))
				require.NoError(t, server.AddClientCAsPEM(f.ca.PEM))
				require.NoError(t, server.SetVerify(libssl.VerifyRequirePeer))
				require.NoError(t, server.SetSessionIDContext([]byte("large")))
				cert, key := f.ca.Leaf(t, "client")
				chain, m := fill(cert)
				require.NoError(t, f.client.UseCertificatePEM(chain, key))

				cn, sn := pipe(t)
				defer cn.Close()
				c, s := f.ends(t, cn, sn, server, nil)
				require.NoError(t, bothHandshake(c, s))
				bothWays(t, c, s, random(100_000), writeOddly)
				require.Len(t, c.ConnectionState().PeerCertificates, n)
				require.Len(t, s.ConnectionState().PeerCertificates, m)
			})
		})
	}
}

func TestHandshake_LargeFlightsOverATransportThatTimesOut(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		chain := f.cert
		for range 150 {
			more, _ := f.ca.Leaf(t, "extra.test")
			chain = append(chain, more...)
		}
		server := f.server(t)
		require.NoError(t, server.UseCertificatePEM(chain, f.key))
		for seed := range uint64(5) {
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, newStutter(cn, 2*seed), newStutter(sn, 2*seed+1), server, nil)
			require.NoError(t, bothHandshake(patient{c}, patient{s}))
			require.Len(t, c.ConnectionState().PeerCertificates, 151)
			closeBoth(c, s)
		}
	})
}

// A client that sends and goes away has its request read.
func TestRead_AfterTheClientHasGone(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, &refusing{Conn: sn, after: 2}, f.server(t), nil)
	served := make(chan error, 1)
	got := make([]byte, 7)
	go func() {
		_, err := io.ReadFull(s, got)
		served <- err
	}()
	_, err := c.Write([]byte("request"))
	require.NoError(t, err)
	require.NoError(t, <-served)
	require.Equal(t, "request", string(got))
	_, err = s.Write([]byte("answer"))
	require.ErrorIs(t, err, os.ErrPermission)
	_, err = s.Write([]byte("answer"))
	require.ErrorIs(t, err, os.ErrPermission, "a transport that failed has failed for good")
}

// refusing is a transport that fails from the after'th Write on.
type refusing struct {
	net.Conn
	after int
}

func (r *refusing) Write(p []byte) (int, error) {
	if r.after--; r.after <= 0 {
		return 0, os.ErrPermission
	}
	return r.Conn.Write(p)
}

func TestConn_IdleDeadlineThenData(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		cn, sn := tcpPipe(t)
		c, s := f.handshaken(t, cn, sn)
		for range 3 {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			c.SetReadDeadline(time.Time{})
			require.NoError(t, exchange(s, c))
		}
	})
}
