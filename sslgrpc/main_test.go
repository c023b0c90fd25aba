package sslgrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/examples/route_guide/routeguide"
	"google.golang.org/grpc/peer"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslgrpc"
	"github.com/libssl-go/libssl/tests/tlstest"
)

// TestMain fails a run that leaves a connection, a session or a Context behind.
func TestMain(m *testing.M) {
	code := m.Run()
	var live libssl.Resources
	for range 500 { // connections may still be ending
		if live = libssl.LiveResources(); live == (libssl.Resources{}) {
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "FAIL: resources left behind: %+v\n", live)
	os.Exit(1)
}

// site has the certificates of a server and of its clients.
type site struct {
	ca                     *tlstest.CA
	serverCert, clientCert [2][]byte // each with its key
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{ca: tlstest.NewCA(t, "ca")}
	s.serverCert[0], s.serverCert[1] = s.ca.Leaf(t, "localhost", "127.0.0.1")
	s.clientCert[0], s.clientCert[1] = s.ca.Leaf(t, "client")
	return s
}

func (s *site) context(t testing.TB, r libssl.Role) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(r)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, ctx.Close()) })
	if r == libssl.ClientRole {
		require.NoError(t, ctx.AddRootCAsPEM(s.ca.PEM))
	} else {
		require.NoError(t, ctx.UseCertificatePEM(s.serverCert[0], s.serverCert[1]))
	}
	return ctx
}

// goCreds are gRPC's own credentials, for both ends.
func (s *site) goCreds(t testing.TB, cert [2][]byte, edit func(*tls.Config)) credentials.TransportCredentials {
	t.Helper()
	pair, err := tls.X509KeyPair(cert[0], cert[1])
	require.NoError(t, err)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: s.ca.Pool(), ClientCAs: s.ca.Pool()}
	if edit != nil {
		edit(config)
	}
	return credentials.NewTLS(config)
}

// pairing is who has the credentials of this package.
type pairing struct {
	name           string
	server, client bool
}

var pairings = []pairing{{"both", true, true}, {"server", true, false}, {"client", false, true}}

// mutual makes credentials for both ends, which ask for each other's certificates.
func (p pairing) mutual(t testing.TB, s *site, version uint16) (server, client credentials.TransportCredentials) {
	t.Helper()
	serverCtx, clientCtx := s.context(t, libssl.ServerRole), s.context(t, libssl.ClientRole)
	require.NoError(t, serverCtx.AddClientCAsPEM(s.ca.PEM))
	require.NoError(t, serverCtx.SetVerify(libssl.VerifyRequirePeer))
	require.NoError(t, serverCtx.SetSessionIDContext([]byte("sslgrpc")))
	require.NoError(t, clientCtx.UseCertificatePEM(s.clientCert[0], s.clientCert[1]))
	for _, ctx := range []*libssl.Context{serverCtx, clientCtx} {
		require.NoError(t, ctx.SetVersions(version, version))
	}
	server, client = sslgrpc.ServerCredentials(serverCtx), sslgrpc.ClientCredentials(clientCtx)
	if !p.server {
		server = s.goCreds(t, s.serverCert, func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert })
	}
	if !p.client {
		client = s.goCreds(t, s.clientCert, nil)
	}
	return server, client
}

// guide serves the route guide of grpc-go's examples.
type guide struct {
	pb.UnimplementedRouteGuideServer
	peers  chan credentials.TLSInfo // of GetFeature
	arrive func()                   // in GetFeature, if set
}

func (g *guide) GetFeature(ctx context.Context, p *pb.Point) (*pb.Feature, error) {
	from, _ := peer.FromContext(ctx)
	g.peers <- from.AuthInfo.(credentials.TLSInfo)
	if g.arrive != nil {
		g.arrive()
	}
	return &pb.Feature{Name: fmt.Sprint("feature ", p.Latitude), Location: p}, nil
}

// ListFeatures sends the two corners.
func (g *guide) ListFeatures(r *pb.Rectangle, stream pb.RouteGuide_ListFeaturesServer) error {
	return errors.Join(stream.Send(&pb.Feature{Name: "lo", Location: r.Lo}), stream.Send(&pb.Feature{Name: "hi", Location: r.Hi}))
}

// RecordRoute counts.
func (g *guide) RecordRoute(stream pb.RouteGuide_RecordRouteServer) error {
	for n := int32(0); ; n++ {
		if _, err := stream.Recv(); err == io.EOF {
			return stream.SendAndClose(&pb.RouteSummary{PointCount: n})
		} else if err != nil {
			return err
		}
	}
}

// RouteChat echoes.
func (g *guide) RouteChat(stream pb.RouteGuide_RouteChatServer) error {
	for {
		note, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client has ended, one way or the other
		}
		if err := stream.Send(note); err != nil {
			return err
		}
	}
}

// serve serves until the test ends.
func serve(t testing.TB, creds credentials.TransportCredentials, opts ...grpc.ServerOption) (*guide, *grpc.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g, srv := &guide{peers: make(chan credentials.TLSInfo, 1000)}, grpc.NewServer(append(opts, grpc.Creds(creds))...)
	pb.RegisterRouteGuideServer(srv, g)
	var served sync.WaitGroup
	served.Go(func() { assert.NoError(t, srv.Serve(l)) })
	t.Cleanup(func() {
		srv.Stop()
		served.Wait()
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return g, srv, net.JoinHostPort("localhost", port)
}

// dial returns a client of its own channel, which the test's end closes, and that channel.
func dial(t testing.TB, addr string, creds credentials.TransportCredentials, opts ...grpc.DialOption) (pb.RouteGuideClient, *grpc.ClientConn) {
	t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return pb.NewRouteGuideClient(cc), cc
}

// feature makes one call, and returns what both sides know of each other.
func feature(t testing.TB, g *guide, client pb.RouteGuideClient, opts ...grpc.CallOption) (server, ofClient credentials.TLSInfo) {
	t.Helper()
	var to peer.Peer
	f, err := client.GetFeature(timeout(t), &pb.Point{Latitude: 7}, append(opts, grpc.Peer(&to))...)
	require.NoError(t, err)
	require.Equal(t, "feature 7", f.Name)
	return to.AuthInfo.(credentials.TLSInfo), receive(t, "the call", g.peers)
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		require.FailNow(t, "waited in vain", what)
	}
	return v
}

// names are the common names of a chain.
func names(certs []*x509.Certificate) (all []string) {
	for _, c := range certs {
		all = append(all, c.Subject.CommonName)
	}
	return all
}
