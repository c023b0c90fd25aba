package main

import (
	"context"
	"crypto/tls"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestRenewal_SessionsGoOn(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	certFile, keyFile := ca.LeafFiles(t, "a.test")
	ctx, stop := context.WithCancel(t.Context())
	listening, served := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		served <- serve(ctx, certFile, keyFile, "127.0.0.1:0", time.Millisecond, func(a net.Addr) { listening <- a })
	}()
	addr := (<-listening).String()
	get := func(sessions tls.ClientSessionCache) (text string, serial *big.Int) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			RootCAs: ca.Pool(), ServerName: "a.test", ClientSessionCache: sessions}}}
		answer, err := client.Get("https://" + addr)
		require.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return string(body), answer.TLS.PeerCertificates[0].SerialNumber
	}
	sessions := tls.NewLRUClientSessionCache(0)
	text, first := get(sessions)
	require.Equal(t, "resumed: false\n", text)

	cert, key := ca.Leaf(t, "a.test")
	for file, content := range map[string][]byte{certFile: cert, keyFile: key} {
		temporary := filepath.Join(filepath.Dir(file), "new")
		require.NoError(t, os.WriteFile(temporary, content, 0o600))
		require.NoError(t, os.Rename(temporary, file))
	}
	require.Eventually(t, func() bool {
		_, now := get(nil)
		return now.Cmp(first) != 0
	}, time.Minute, time.Millisecond)
	text, _ = get(sessions)
	require.Equal(t, "resumed: true\n", text)
	stop()
	require.NoError(t, <-served)
}
