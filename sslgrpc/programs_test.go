package sslgrpc_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/examples/route_guide/routeguide"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslgrpc"
	"github.com/libssl-go/libssl/tests/servertest"
)

// goFlags are those that the tests are built with, so that nothing is compiled twice.
var goFlags []string

// program builds one of the two programs of grpc-go's route guide, which use crypto/tls.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", append(append([]string{"build", "-o", bin}, goFlags...), "google.golang.org/grpc/examples/route_guide/"+name)...)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return exec.CommandContext(t.Context(), bin, append([]string{"-tls"}, args...)...)
}

// file is PEM, for a program.
func (s *site) file(t *testing.T, pem []byte) string {
	name := filepath.Join(t.TempDir(), "pem")
	require.NoError(t, os.WriteFile(name, pem, 0o600))
	return name
}

func TestClientCredentials_WithTheServerOfTheRouteGuide(t *testing.T) {
	s := newSite(t)
	_, port, err := net.SplitHostPort(servertest.FreeAddr(t))
	require.NoError(t, err)
	server := program(t, "server", "-port", port, "-cert_file", s.file(t, s.serverCert[0]), "-key_file", s.file(t, s.serverCert[1]))
	require.NoError(t, server.Start())
	defer server.Wait()
	defer server.Process.Kill()

	client, _ := dial(t, net.JoinHostPort("localhost", port), sslgrpc.ClientCredentials(s.context(t, libssl.ClientRole)),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	f, err := client.GetFeature(timeout(t), &pb.Point{Latitude: 407838351, Longitude: -746143763})
	require.NoError(t, err)
	require.Contains(t, f.Name, "Patriots Path")
	features, err := client.ListFeatures(timeout(t), &pb.Rectangle{Lo: &pb.Point{}, Hi: f.Location})
	require.NoError(t, err)
	for n := 0; ; n++ {
		if _, err := features.Recv(); err == io.EOF {
			require.Greater(t, n, 10)
			break
		}
		require.NoError(t, err)
	}
	route, err := client.RecordRoute(timeout(t))
	require.NoError(t, err)
	for range 50 {
		require.NoError(t, route.Send(f.Location))
	}
	summary, err := route.CloseAndRecv()
	require.NoError(t, err)
	require.EqualValues(t, 50, summary.FeatureCount)
	chat(t, client)
}

func TestServerCredentials_WithTheClientOfTheRouteGuide(t *testing.T) {
	s := newSite(t)
	_, _, addr := serve(t, sslgrpc.ServerCredentials(s.context(t, libssl.ServerRole)))
	out, err := program(t, "client", "-addr", addr, "-ca_file", s.file(t, s.ca.PEM), "-server_host_override", "localhost").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "feature 409146138")
	require.Contains(t, string(out), "point_count:")
}
