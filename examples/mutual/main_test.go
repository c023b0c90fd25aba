package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestMutual_RevokedMeanwhile(t *testing.T) {
	servers, clients, strangers := tlstest.NewCA(t, "servers"), tlstest.NewCA(t, "clients"), tlstest.NewCA(t, "strangers")
	var f files
	f.cert, f.key = servers.LeafFiles(t, "a.test")
	dir := t.TempDir()
	f.ca, f.crl = filepath.Join(dir, "clients.pem"), filepath.Join(dir, "revoked.pem")
	require.NoError(t, os.WriteFile(f.ca, clients.PEM, 0o600))
	require.NoError(t, os.WriteFile(f.crl, clients.CRL(t), 0o600))

	ctx, stop := context.WithCancel(t.Context())
	listening, served, reload := make(chan net.Addr, 1), make(chan error, 1), make(chan os.Signal)
	go func() { served <- serve(ctx, f, "127.0.0.1:0", reload, func(a net.Addr) { listening <- a }) }()
	addr := (<-listening).String()
	client := func(cert, key []byte) *tls.Config {
		config := &tls.Config{RootCAs: servers.Pool(), ServerName: "a.test", ClientSessionCache: tls.NewLRUClientSessionCache(0)}
		if cert != nil {
			pair, err := tls.X509KeyPair(cert, key)
			require.NoError(t, err)
			config.Certificates = []tls.Certificate{pair}
		}
		return config
	}
	get := func(config *tls.Config) (text string, resumed bool, err error) {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
		answer, err := c.Get("https://" + addr)
		if err != nil {
			return "", false, err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return string(body), answer.TLS.DidResume, err
	}
	cert, key := clients.Leaf(t, "alice")
	otherCert, otherKey := clients.Leaf(t, "bob")
	strangerCert, strangerKey := strangers.Leaf(t, "mallory")
	alice, bob := client(cert, key), client(otherCert, otherKey)
	for i := range 2 {
		text, resumed, err := get(alice)
		require.NoError(t, err)
		require.Equal(t, "welcome, alice\n", text)
		require.Equal(t, i > 0, resumed)
		_, _, err = get(bob)
		require.NoError(t, err)
	}
	for _, config := range []*tls.Config{client(nil, nil), client(strangerCert, strangerKey)} {
		_, _, err := get(config)
		require.Error(t, err)
	}

	require.NoError(t, os.WriteFile(f.crl, clients.NewerCRL(t, cert), 0o600))
	reload <- syscall.SIGHUP
	require.Eventually(t, func() bool { // the lists are being read
		_, _, err := get(alice)
		return err != nil
	}, time.Minute, time.Millisecond)
	_, resumed, err := get(bob)
	require.NoError(t, err)
	require.True(t, resumed)
	stop()
	require.NoError(t, <-served)
}
