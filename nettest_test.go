package libssl_test

import (
	"net"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// transports are the kinds of connection that tests run over.
var transports = map[string]func(t testing.TB) (client, server net.Conn){
	"tcp":  tcpPipe,
	"unix": unixPipe,
	"pipe": func(testing.TB) (client, server net.Conn) { return net.Pipe() },
}

func TestConn_PassesNettest(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	for transport, pipe := range transports {
		for name, v := range versions {
			t.Run(transport+"/"+name, func(t *testing.T) {
				server, client := newServer(t, ca), newClient(t, ca)
				require.NoError(t, server.SetVersions(v, v))
				ends := func(clientFirst bool) nettest.MakePipe {
					return func() (c1, c2 net.Conn, stop func(), err error) {
						cn, sn := pipe(t)
						c, err := libssl.Client(cn, client, serverName)
						if err != nil {
							return nil, nil, nil, err
						}
						s, err := libssl.Server(sn, server)
						if err != nil {
							return nil, nil, nil, err
						}
						stop = func() { closeBoth(c, s) }
						// As with crypto/tls, a handshake that a Write runs is under the
						// deadline for reading too, and the suite sets them apart.
						if err := bothHandshake(c, s); err != nil {
							return nil, nil, nil, err
						}
						if clientFirst {
							return c, s, stop, nil
						}
						return s, c, stop, nil
					}
				}
				t.Run("client", func(t *testing.T) { nettest.TestConn(t, ends(true)) })
				t.Run("server", func(t *testing.T) { nettest.TestConn(t, ends(false)) })
			})
		}
	}
}
