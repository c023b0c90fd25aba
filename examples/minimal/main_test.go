package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/tlstest"
)

func TestMinimal_ResumesTheSecondVisit(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	l, err := listen("127.0.0.1:0", cert, key)
	require.NoError(t, err)
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(serve))

	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)},
	}}
	for _, want := range []string{"resumed: false\n", "resumed: true\n"} {
		resp, err := client.Get("https://" + l.Addr().String() + "/")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		require.Equal(t, want, string(body))
	}
}

func TestMinimal_SaysWhatIsWrong(t *testing.T) {
	cert, key := tlstest.NewCA(t, "ca").LeafFiles(t, "127.0.0.1")
	_, err := listen("127.0.0.1:0", key, cert)
	require.ErrorContains(t, err, cert)
	_, err = listen("127.0.0.1:0", "absent.pem", key)
	require.ErrorContains(t, err, "absent.pem")
}
