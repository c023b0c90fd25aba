package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/tlstest"
)

// running serves until the end of the test. It returns the CA, its file and the
// URL of the server.
func running(t *testing.T) (ca *tlstest.CA, caFile, url string) {
	ca = tlstest.NewCA(t, "ca")
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, ca.PEM, 0o600))
	cert, key := ca.LeafFiles(t, "localhost", "127.0.0.1")
	ctx, stop := context.WithCancel(context.Background())
	listening, served := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		served <- serve(ctx, cert, key, "127.0.0.1:0", func(a net.Addr) { listening <- a })
	}()
	select {
	case addr := <-listening:
		t.Cleanup(func() {
			stop()
			require.NoError(t, <-served)
		})
		_, port, err := net.SplitHostPort(addr.String())
		require.NoError(t, err)
		return ca, caFile, "https://localhost:" + port + "/"
	case err := <-served:
		stop()
		require.NoError(t, err)
		panic("served without listening")
	}
}

func TestHTTP2_ServesAndFetches(t *testing.T) {
	_, caFile, url := running(t)
	var out bytes.Buffer
	require.NoError(t, get(t.Context(), caFile, url, &out))
	require.Equal(t, "HTTP/2.0 over TLS 1.3 to localhost\n", out.String())
}

func TestHTTP2_StreamsOfOneConnection(t *testing.T) {
	_, caFile, url := running(t)
	c, done, err := client(caFile)
	require.NoError(t, err)
	defer done()
	var busy sync.WaitGroup
	for range 50 {
		busy.Go(func() {
			resp, err := c.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "HTTP/2.0 over TLS 1.3 to localhost\n" {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
	busy.Wait()
}

// A net/http client on crypto/tls gets either protocol.
func TestHTTP2_NetHTTPClient(t *testing.T) {
	ca, _, url := running(t)
	for proto, h2 := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		transport := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}}
		resp, err := (&http.Client{Transport: transport}).Get(url)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, proto+" over TLS 1.3 to localhost\n", string(body))
		transport.CloseIdleConnections()
	}
}
