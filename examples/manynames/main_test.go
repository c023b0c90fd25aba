package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestManyNames_EachHasItsCertificate(t *testing.T) {
	ca, dir := tlstest.NewCA(t, "ca"), t.TempDir()
	place := func(host string) {
		cert, key := ca.Leaf(t, host)
		temporary := filepath.Join(dir, "new")
		require.NoError(t, os.WriteFile(temporary, append(cert, key...), 0o600))
		require.NoError(t, os.Rename(temporary, filepath.Join(dir, host+".pem")))
	}
	place("a.test")
	place("b.test")
	ctx, stop := context.WithCancel(t.Context())
	listening, served := make(chan net.Addr, 1), make(chan error, 1)
	go func() { served <- serve(ctx, dir, "127.0.0.1:0", func(a net.Addr) { listening <- a }) }()
	addr := (<-listening).String()

	get := func(host string) (*x509.Certificate, error) {
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: host},
		}}
		answer, err := client.Get("https://" + addr)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, "this is "+host+"\n", string(text))
		return answer.TLS.PeerCertificates[0], nil
	}
	first, err := get("a.test")
	require.NoError(t, err)
	_, err = get("b.test")
	require.NoError(t, err)
	for _, host := range []string{"c.test", "x/../a.test", ""} {
		_, err = get(host)
		require.Error(t, err)
	}
	place("a.test")
	renewed, err := get("a.test")
	require.NoError(t, err)
	require.NotEqual(t, first.SerialNumber, renewed.SerialNumber)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.test.pem"), []byte("half"), 0o600))
	still, err := get("a.test")
	require.NoError(t, err)
	require.Equal(t, renewed.SerialNumber, still.SerialNumber)
	stop()
	require.NoError(t, <-served)
}
