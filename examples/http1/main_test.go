package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestHTTP1_ServesAndFetches(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, ca.PEM, 0o600))
	cert, key := ca.LeafFiles(t, "localhost", "127.0.0.1")

	ctx, stop := context.WithCancel(t.Context())
	listening, served := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		served <- serve(ctx, cert, key, "127.0.0.1:0", func(a net.Addr) { listening <- a })
	}()
	select {
	case addr := <-listening:
		_, port, err := net.SplitHostPort(addr.String())
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, get(t.Context(), caFile, "https://localhost:"+port+"/", &out))
		require.Equal(t, "HTTP/1.1 over TLS 1.3 to localhost\n", out.String())
		stop()
		require.NoError(t, <-served)
	case err := <-served:
		stop()
		require.NoError(t, err)
	}
}

func TestHTTP1_TrustsNobodyElse(t *testing.T) {
	ca, other := tlstest.NewCA(t, "ca"), tlstest.NewCA(t, "other ca")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, other.PEM, 0o600))
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	ctx, stop := context.WithCancel(t.Context())
	listening, served := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		served <- serve(ctx, cert, key, "127.0.0.1:0", func(a net.Addr) { listening <- a })
	}()
	var out bytes.Buffer
	err := get(t.Context(), caFile, "https://"+(<-listening).String()+"/", &out)
	require.ErrorContains(t, err, "certificate verify failed")
	require.Empty(t, out.String())
	stop()
	require.NoError(t, <-served)
}
