package sslgrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/examples/route_guide/routeguide"
	"google.golang.org/grpc/status"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslgrpc"
	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestCredentials_MutualInEachPairing(t *testing.T) {
	s := newSite(t)
	for _, p := range pairings {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(p.name+" "+tls.VersionName(version), func(t *testing.T) {
				serverCreds, clientCreds := p.mutual(t, s, version)
				g, _, addr := serve(t, serverCreds)
				client, _ := dial(t, addr, clientCreds)
				server, ofClient := feature(t, g, client)
				for cn, info := range map[string]credentials.TLSInfo{"localhost": server, "client": ofClient} {
					require.Equal(t, []string{cn}, names(info.State.PeerCertificates))
					require.Len(t, info.State.VerifiedChains, 1)
					require.Equal(t, "h2", info.State.NegotiatedProtocol)
					require.Equal(t, version, info.State.Version)
					require.NotZero(t, info.State.CipherSuite)
					require.Equal(t, credentials.PrivacyAndIntegrity, info.SecurityLevel)
					require.Equal(t, "tls", info.AuthType())
					require.Nil(t, info.SPIFFEID)
				}
				require.Equal(t, "localhost", ofClient.State.ServerName)
				chat(t, client)
			})
		}
	}
}

// chat sends a note that is larger than a record after each answer.
func chat(t *testing.T, client pb.RouteGuideClient) {
	stream, err := client.RouteChat(timeout(t))
	require.NoError(t, err)
	for i := range 20 {
		note := &pb.RouteNote{Location: &pb.Point{Latitude: int32(i)}, Message: strings.Repeat(fmt.Sprint(i%10), 50_000)}
		require.NoError(t, stream.Send(note))
		answer, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, note.Message, answer.Message)
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.Equal(t, io.EOF, err)
}

func TestCredentials_ManyCallsAtOnce(t *testing.T) {
	const channels, calls = 10, 20
	s := newSite(t)
	for _, p := range pairings {
		t.Run(p.name, func(t *testing.T) {
			serverCreds, clientCreds := p.mutual(t, s, tls.VersionTLS13)
			g, _, addr := serve(t, serverCreds)
			var inside, all sync.WaitGroup
			inside.Add(channels * calls)
			g.arrive = func() { inside.Done(); inside.Wait() }
			for range channels {
				client, _ := dial(t, addr, clientCreds)
				for i := range calls {
					all.Go(func() {
						f, err := client.GetFeature(timeout(t), &pb.Point{Latitude: int32(i)})
						assert.NoError(t, err)
						assert.Equal(t, fmt.Sprint("feature ", i), f.GetName())
					})
				}
			}
			all.Wait()
		})
	}
}

func TestClientCredentials_Resume(t *testing.T) {
	s := newSite(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		serverCreds, clientCreds := pairings[0].mutual(t, s, version)
		g, _, addr := serve(t, serverCreds)
		for i := range 3 {
			client, cc := dial(t, addr, clientCreds)
			server, ofClient := feature(t, g, client)
			require.Equal(t, i > 0, server.State.DidResume)
			require.Equal(t, i > 0, ofClient.State.DidResume)
			require.Equal(t, []string{"localhost"}, names(server.State.PeerCertificates))
			require.Equal(t, []string{"client"}, names(ofClient.State.PeerCertificates))
			require.NoError(t, cc.Close())
		}
	}
}

func TestServerCredentials_GracefulStop(t *testing.T) {
	s := newSite(t)
	for _, p := range pairings {
		t.Run(p.name, func(t *testing.T) {
			serverCreds, clientCreds := p.mutual(t, s, tls.VersionTLS13)
			_, srv, addr := serve(t, serverCreds)
			client, _ := dial(t, addr, clientCreds)
			stream, err := client.RouteChat(timeout(t))
			require.NoError(t, err)
			say := func() {
				require.NoError(t, stream.Send(&pb.RouteNote{Message: "hello"}))
				note, err := stream.Recv()
				require.NoError(t, err)
				require.Equal(t, "hello", note.Message)
			}
			say()
			stopped := make(chan struct{})
			go func() {
				srv.GracefulStop()
				close(stopped)
			}()
			require.Eventually(t, func() bool { // it has begun
				nc, err := net.Dial("tcp", addr)
				if err == nil {
					nc.Close()
				}
				return err != nil
			}, time.Minute, time.Millisecond)
			say()
			select {
			case <-stopped:
				require.FailNow(t, "GracefulStop does not wait for a stream")
			default:
			}
			require.NoError(t, stream.CloseSend())
			_, err = stream.Recv()
			require.Equal(t, io.EOF, err)
			receive(t, "GracefulStop", stopped)
		})
	}
}

func TestServerCredentials_SilentClientIsBounded(t *testing.T) {
	s := newSite(t)
	_, _, addr := serve(t, sslgrpc.ServerCredentials(s.context(t, libssl.ServerRole)), grpc.ConnectionTimeout(50*time.Millisecond))
	for _, sent := range []string{"", "\x16\x03\x01\x02\x00\x01"} { // nothing, and the beginning of a ClientHello
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer nc.Close()
		_, err = io.WriteString(nc, sent)
		require.NoError(t, err)
		require.NoError(t, nc.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = io.Copy(io.Discard, nc)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

func TestClientCredentials_SilentServerIsBounded(t *testing.T) {
	s := newSite(t)
	nc, server, err := tlstest.SocketPair()
	require.NoError(t, err)
	defer server.Close()
	creds := sslgrpc.ClientCredentials(s.context(t, libssl.ClientRole))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = creds.ClientHandshake(ctx, "localhost", nc)
	require.Equal(t, context.DeadlineExceeded, err)
	_, err = nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

// shake runs both ends of a handshake. The other end is of crypto/tls.
func shake(t *testing.T, ours func(net.Conn) error, theirs func(net.Conn) error) (ourErr, theirErr error) {
	t.Helper()
	a, b, err := tlstest.SocketPair()
	require.NoError(t, err)
	defer a.Close()
	defer b.Close()
	for _, nc := range []net.Conn{a, b} {
		require.NoError(t, nc.SetDeadline(time.Now().Add(time.Minute)))
	}
	done := make(chan error, 1)
	go func() { done <- theirs(b) }()
	ourErr = ours(a)
	return ourErr, receive(t, "the other end", done)
}

func TestServerCredentials_RefuseOtherProtocols(t *testing.T) {
	s := newSite(t)
	both := s.context(t, libssl.ServerRole)
	require.NoError(t, both.SetALPN("other", "h2"))
	none := s.context(t, libssl.ServerRole)
	for _, test := range []struct {
		ctx    *libssl.Context
		client []string
		reason string // "" if they agree
	}{
		{none, []string{"h2"}, ""}, {both, []string{"h2"}, ""},
		{none, nil, `ALPN chose ""`}, {none, []string{"http/1.1"}, `ALPN chose ""`},
		{none, []string{"other"}, "application protocol"},
		{both, []string{"h2", "other"}, `ALPN chose "other"`},
	} {
		creds := sslgrpc.ServerCredentials(test.ctx)
		err, _ := shake(t, func(nc net.Conn) error {
			conn, info, err := creds.ServerHandshake(nc)
			if err == nil {
				assert.Equal(t, "h2", info.(credentials.TLSInfo).State.NegotiatedProtocol)
				return conn.Close()
			}
			_, readErr := nc.Read(make([]byte, 1))
			assert.ErrorIs(t, readErr, net.ErrClosed)
			return err
		}, func(nc net.Conn) error {
			c := tls.Client(nc, &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost", NextProtos: test.client})
			_, err := io.Copy(io.Discard, c)
			return err
		})
		if test.reason == "" {
			require.NoError(t, err, "%v", test.client)
		} else {
			require.ErrorContains(t, err, test.reason, "%v", test.client)
		}
	}
}

func TestServerCredentials_NeedH2(t *testing.T) {
	ctx := newSite(t).context(t, libssl.ServerRole)
	require.NoError(t, ctx.SetALPN("http/1.1"))
	_, _, err := sslgrpc.ServerCredentials(ctx).ServerHandshake(nil)
	require.ErrorContains(t, err, "does not have h2")
	protos, err := ctx.ALPN()
	require.NoError(t, err)
	require.Equal(t, []string{"http/1.1"}, protos, "other listeners may use the Context")
}

// clientError is why a client of ctx refuses a server of crypto/tls.
func (s *site) clientError(t *testing.T, ctx *libssl.Context, authority string, protos ...string) error {
	pair, err := tls.X509KeyPair(s.serverCert[0], s.serverCert[1])
	require.NoError(t, err)
	err, _ = shake(t, func(nc net.Conn) error {
		conn, _, err := sslgrpc.ClientCredentials(ctx).ClientHandshake(t.Context(), authority, nc)
		if err == nil {
			return conn.Close()
		}
		_, readErr := nc.Read(make([]byte, 1))
		assert.ErrorIs(t, readErr, net.ErrClosed)
		return err
	}, func(nc net.Conn) error {
		_, err := io.Copy(io.Discard, tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protos}))
		return err
	})
	return err
}

func TestClientCredentials_RefuseServers(t *testing.T) {
	s := newSite(t)
	ctx := s.context(t, libssl.ClientRole)
	for _, authority := range []string{"localhost", "localhost:443", "127.0.0.1", "127.0.0.1:443"} {
		require.NoError(t, s.clientError(t, ctx, authority, "h2"), authority)
	}
	require.ErrorContains(t, s.clientError(t, ctx, "localhost"), `ALPN chose ""`)
	require.ErrorContains(t, s.clientError(t, ctx, "localhost", "other"), "alert number 120") // no_application_protocol

	var name x509.HostnameError
	require.ErrorAs(t, s.clientError(t, ctx, "other.example:443", "h2"), &name)
	require.Equal(t, "other.example", name.Host)
	require.ErrorAs(t, s.clientError(t, ctx, "[::1]:443", "h2"), &name)
	require.Equal(t, "::1", name.Host)
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, s.clientError(t, newSite(t).context(t, libssl.ClientRole), "localhost", "h2"), &unknown)
}

func TestClientCredentials_ServerNames(t *testing.T) {
	s := newSite(t)
	s.serverCert[0], s.serverCert[1] = s.ca.Leaf(t, "one.example", "two.example")
	g, _, addr := serve(t, sslgrpc.ServerCredentials(s.context(t, libssl.ServerRole)))
	creds := sslgrpc.ClientCredentials(s.context(t, libssl.ClientRole))

	client, _ := dial(t, addr, creds)
	_, err := client.GetFeature(timeout(t), &pb.Point{})
	require.ErrorContains(t, err, "ostname mismatch", "%v", status.Code(err)) // 1.1.1 has a capital

	client, _ = dial(t, addr, creds, grpc.WithAuthority("one.example"))
	_, ofClient := feature(t, g, client, grpc.CallAuthority("two.example"))
	require.Equal(t, "one.example", ofClient.State.ServerName)
	_, err = client.GetFeature(timeout(t), &pb.Point{}, grpc.CallAuthority("three.example"))
	require.ErrorContains(t, err, "three.example")

	clone := creds.Clone()
	require.NoError(t, clone.OverrideServerName("two.example")) //nolint:staticcheck // a method of the interface
	require.Equal(t, credentials.NewTLS(&tls.Config{ServerName: "two.example"}).Info(), clone.Info())
	require.Equal(t, credentials.NewTLS(nil).Info(), creds.Info())
	client, _ = dial(t, addr, clone)
	_, ofClient = feature(t, g, client)
	require.Equal(t, "two.example", ofClient.State.ServerName)
}

func TestCredentials_OfTheWrongRole(t *testing.T) {
	s := newSite(t)
	nc, _ := net.Pipe()
	_, _, err := sslgrpc.ServerCredentials(s.context(t, libssl.ServerRole)).ClientHandshake(t.Context(), "localhost", nc)
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	_, _, err = sslgrpc.ClientCredentials(s.context(t, libssl.ClientRole)).ServerHandshake(nc)
	require.ErrorIs(t, err, libssl.ErrUnsupported)
}

// Each certificate has the SPIFFE ID that gRPC's own credentials find.
func TestServerCredentials_SPIFFEIDs(t *testing.T) {
	s := newSite(t)
	ours, _ := pairings[0].mutual(t, s, tls.VersionTLS13)
	theirs, _ := pairings[2].mutual(t, s, tls.VersionTLS13)
	for uris, valid := range map[string]bool{
		"spiffe://example.org/workload": true, "spiffe://example.org/a/b?q": true,
		"": false, "https://example.org/workload": false, "spiffe:workload": false, "spiffe://user@example.org/workload": false,
		"spiffe://example.org": false, "spiffe:///workload": false, "spiffe://" + strings.Repeat("a", 256) + "/w": false,
		"spiffe://example.org/" + strings.Repeat("a", 2048): false,
		"spiffe://example.org/a spiffe://example.org/b":     false, "https://example.org/ spiffe://example.org/b": false,
	} {
		cert, key := s.ca.LeafWith(t, func(c *x509.Certificate) {
			for _, text := range strings.Fields(uris) {
				uri, err := url.Parse(text)
				require.NoError(t, err)
				c.URIs = append(c.URIs, uri)
			}
		}, "client")
		var ids [2]*url.URL
		for i, creds := range []credentials.TransportCredentials{ours, theirs} {
			err, clientErr := shake(t, func(nc net.Conn) error {
				conn, info, err := creds.ServerHandshake(nc)
				if err != nil {
					return err
				}
				ids[i] = info.(credentials.TLSInfo).SPIFFEID
				return conn.Close()
			}, func(nc net.Conn) error {
				conn, _, err := s.goCreds(t, [2][]byte{cert, key}, nil).ClientHandshake(t.Context(), "localhost", nc)
				if err == nil {
					io.Copy(io.Discard, conn)
				}
				return err
			})
			require.NoError(t, err)
			require.NoError(t, clientErr)
		}
		require.Equal(t, ids[1], ids[0], uris)
		require.Equal(t, valid, ids[0] != nil, uris)
	}
}
