package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/internal/storeurl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/sharedring"
	"github.com/libssl-go/libssl/tests/servertest"
)

// Not parallel: it changes the environment, which the servers inherit.
func TestServe_KeyRingFromTheEnvironment(t *testing.T) {
	f := newFleet(t)
	url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	const name = "LIBSSL_TEST_RING"
	t.Setenv(name, fmt.Sprintf("%064x 2999-01-01T00:00:00Z,%064x", 2, 1))
	a, b := f.serve("-store", url, "-keyring", "env:"+name), f.serve("-store", url, "-keyring", "env:"+name)
	client := f.client("any")
	full := f.call(client, a.addr, nil)
	require.True(t, f.call(client, b.addr, full.Session).Resumed)
	t.Setenv(name, fmt.Sprintf("%064x", 3))
	require.False(t, f.call(client, f.serve("-store", url, "-keyring", "env:"+name).addr, full.Session).Resumed)

	for ring, says := range map[string]string{
		"":                               name + ": ticket: no key in the ring",
		fmt.Sprintf("%064x,garbage", 1):  name + ": ticket: line 2 is not a key",
		fmt.Sprintf("%064x tomorrow", 1): name + ": ticket: line 1: after the key",
		fmt.Sprintf("%064x 2999-01-01T00:00:00Z", 1): name + ": ticket: no key of the ring seals before 2999",
	} {
		t.Setenv(name, ring)
		startFails(t, f, says, "-store", url, "-keyring", "env:"+name)
	}
}

// startFails runs a server that must not start and must report the reason on one line.
func startFails(t *testing.T, f *testFleet, says string, args ...string) {
	t.Helper()
	r := sslsess(t, append([]string{"serve", "-listen", "127.0.0.1:0", "-cert", f.cert, "-key", f.key}, args...)...)
	requireFailure(t, r, 1, says)
	assert.Empty(t, r.stdout)
	assert.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
}

func secretFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	requireOK(t, sslsess(t, "keyring", "new", path))
	return path
}

// Servers that start at the same time make a single ring in their store, and resume each other's sessions and tickets.
func TestServe_KeyRingInTheStore(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	redis, memcached := servertest.Redis(t, "redis-server"), servertest.Memcached(t)
	for name, url := range map[string]string{
		"valkey":    "valkey://" + redis.Addr,
		"memcached": "memcached://" + memcached.Addr,
		"sqlite":    "sqlite:" + filepath.Join(t.TempDir(), "sessions.db"),
	} {
		t.Run(name, func(t *testing.T) {
			ring := "store:" + secretFile(t)
			var processes []*process
			for _, tickets := range []string{"stateful", "stateful", "stateless", "stateless"} {
				processes = append(processes, start(t, "serve", "-listen", "127.0.0.1:0", "-cert", f.cert, "-key", f.key,
					"-store", url, "-keyring", ring, "-tickets", tickets))
			}
			var addrs []string
			for _, p := range processes {
				addr, ok := strings.CutPrefix(p.line(), "listening on ")
				require.True(t, ok)
				addrs = append(addrs, addr)
			}
			for _, version := range []string{"1.2", "1.3"} {
				client := f.client(version)
				for _, pair := range [][]string{addrs[:2], addrs[2:]} {
					eventually(t, "resumed in "+version, func() bool { // a busy machine may be too slow for a lookup
						full := f.call(client, pair[0], nil)
						return f.call(client, pair[1], full.Session).Resumed
					})
				}
			}
			// The ring in the store opens only with the secret.
			startFails(t, f, "sealed under another secret", "-store", url, "-keyring", "store:"+secretFile(t))
			assert.Equal(t, 0, processes[0].end(syscall.SIGTERM))
		})
	}
}

// A server replaces a damaged ring in the store. Any other ring that it cannot use it reports, and does not change it.
func TestServe_BadKeyRingInTheStore(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	secret := secretFile(t)
	args := []string{"-store", url, "-keyring", "store:" + secret}
	f.serve(args...).end(syscall.SIGTERM)

	st, closeStore, err := storeurl.Open(url, false)
	require.NoError(t, err)
	defer closeStore()
	ids := listed(t, url)
	require.Len(t, ids, 1)
	assert.Contains(t, sslsess(t, "help", "store").stdout, ids[0].ID)
	id, err := store.ParseID(ids[0].ID)
	require.NoError(t, err)
	kept, err := st.Get(t.Context(), id)
	require.NoError(t, err)

	bad := kept
	bad.Data = []byte("garbage")
	require.NoError(t, st.Put(t.Context(), bad))
	f.serve(args...).end(syscall.SIGTERM)
	got, err := st.Get(t.Context(), id)
	require.NoError(t, err)
	assert.False(t, store.Same(bad, got))

	require.NoError(t, st.Delete(t.Context(), id))
	_, stop, err := sharedring.Open(t.Context(), st, sharedring.Options{Plaintext: true})
	require.NoError(t, err)
	stop()
	startFails(t, f, "it is not sealed", args...)

	require.NoError(t, st.Put(t.Context(), kept))
	require.NoError(t, os.WriteFile(secret, fmt.Appendf(nil, "%064x 2999-01-01T00:00:00Z", 1), 0o600))
	startFails(t, f, "before 2999-01-01T00:00:00Z: is the clock right?", args...)
}
