package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServe_LoadsTheCertificateAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve()
	client := f.client("any")
	renew := func() (served func() bool) {
		cert, key := f.ca.Leaf(t, "localhost")
		block, _ := pem.Decode(cert)
		leaf, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(f.cert, cert, 0o600))
		require.NoError(t, os.WriteFile(f.key, key, 0o600))
		return func() bool {
			c := f.dial(client, n.addr)
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0].Equal(leaf)
		}
	}
	served := renew()
	eventually(t, "the renewed certificate", served)

	served = renew()
	require.NoError(t, n.cmd.Process.Signal(syscall.SIGHUP))
	n.says("SIGHUP: loaded " + f.cert)
	eventually(t, "the certificate of the SIGHUP", served) // at once, unless the watcher is loading too

	require.NoError(t, os.WriteFile(f.cert, []byte("half a file"), 0o600))
	require.NoError(t, n.cmd.Process.Signal(syscall.SIGHUP))
	require.Contains(t, n.says("SIGHUP: the old certificate stays:"), f.cert)
	require.True(t, served())
}

func TestServe_OutlivesSIGHUPWithoutACertificate(t *testing.T) {
	t.Parallel()
	n := serveOn(t)
	require.NoError(t, n.cmd.Process.Signal(syscall.SIGHUP))
	n.says("SIGHUP: no -cert")
	require.Equal(t, 0, n.end(syscall.SIGTERM))
}
