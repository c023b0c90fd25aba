package cabitest_test

import (
	"crypto/tls"
	"path/filepath"
	"testing"
	"time"

	"github.com/libssl-go/libssl/tests/cabitest"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// examples are servers that are written in C. They are built here and clients resume across them.
const examples = "../../examples/c"

var versions = map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}

func keyring(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ring")
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	require.NoError(t, ring.Save(file))
	return file
}

// Two processes of each server share a store, either of one host or of several. A session that one issues resumes on the other.
func TestServers_ResumeAcrossProcesses(t *testing.T) {
	lib := cabitest.Build(t)
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	redis := servertest.Redis(t, "redis-server")
	for _, kind := range []string{"threaded", "epoll"} {
		server := lib.Compile(t, "gcc", filepath.Join(examples, kind, "server.c"), lib.Shared(t)...)
		for name, where := range map[string][]string{
			"sqlite": {"sqlite:" + filepath.Join(t.TempDir(), "sessions.db")},
			"redis":  {"redis://" + redis.Addr, keyring(t)},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				args := append([]string{"0", cert, key}, where...)
				a, b := cabitest.Start(t, server, args...), cabitest.Start(t, server, args...)
				for name, version := range versions {
					client := cabitest.Client(t, version, ca.PEM)
					heard, resumed, sess := cabitest.Visit(t, client, a.Addr, "", nil)
					require.False(t, resumed)
					require.Equal(t, name+" resumed: no\n", heard)
					for range 3 {
						// LSSL_PARK stores behind: until the session is stored, a handshake is full.
						require.Eventually(t, func() bool {
							heard, resumed, sess = cabitest.Visit(t, client, b.Addr, "", sess)
							return resumed
						}, 20*time.Second, time.Millisecond)
						require.Equal(t, name+" resumed: yes\n", heard)
						a, b = b, a
					}
				}
				said := a.End() + b.End()
				require.Regexp(t, `hits [1-9]`, said)
				if kind == "epoll" {
					require.Regexp(t, `parked [1-9]`, said)
				}
			})
		}
	}
}

// When its store hangs, an event loop serves on. A client with a lookup waits for the timeout and gets a full handshake.
func TestEpoll_ServesOnWhenItsStoreHangs(t *testing.T) {
	lib := cabitest.Build(t)
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	redis := servertest.Redis(t, "redis-server")
	server := lib.Compile(t, "gcc", filepath.Join(examples, "epoll", "server.c"), lib.Shared(t)...)
	a := cabitest.Start(t, server, "0", cert, key, "redis://"+redis.Addr, keyring(t))
	client := cabitest.Client(t, tls.VersionTLS13, ca.PEM)
	_, _, sess := cabitest.Visit(t, client, a.Addr, "", nil)
	redis.Freeze()
	for range 20 {
		heard, _, _ := cabitest.Visit(t, client, a.Addr, "", sess)
		require.Equal(t, "TLSv1.3 resumed: no\n", heard)
		heard, _, _ = cabitest.Visit(t, client, a.Addr, "", nil)
		require.Equal(t, "TLSv1.3 resumed: no\n", heard)
	}
	redis.Thaw()
	require.Eventually(t, func() bool {
		var resumed bool
		_, resumed, sess = cabitest.Visit(t, client, a.Addr, "", sess)
		return resumed
	}, 20*time.Second, 10*time.Millisecond)
	a.End()
}

// Debian's nginx can share sessions between the workers of one instance, but not between two instances.
func TestPreload_TwoNginxesShareSessions(t *testing.T) {
	lib := cabitest.Build(t)
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	preload := lib.Compile(t, "gcc", filepath.Join(examples, "preload", "preload.c"), append([]string{"-shared", "-fPIC"}, lib.Headers(t)...)...)
	redis, ring := servertest.Redis(t, "redis-server"), keyring(t)
	with, err := cabitest.Preload(preload)
	require.NoError(t, err)
	with = append(with, "LSSL_STORE=redis://"+redis.Addr, "LSSL_KEYRING="+ring,
		"LSSL_LIBRARY="+filepath.Join(lib.Dir, "lib", "liblssl.so.1"))
	if foreign(t) {
		n := nginx(t, cert, key, with)
		heard, _, _ := get(t, cabitest.Client(t, tls.VersionTLS13, ca.PEM), n, nil)
		require.Contains(t, heard, "reused .\n")
		require.Contains(t, n.said(t), "lssl-preload[")
		return
	}
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			client := cabitest.Client(t, version, ca.PEM)
			a, b := nginx(t, cert, key, with), nginx(t, cert, key, with)
			_, resumed, sess := get(t, client, a, nil)
			require.False(t, resumed)
			for range 6 { // each instance has two workers
				var heard string
				heard, resumed, sess = get(t, client, b, sess)
				require.True(t, resumed)
				require.Contains(t, heard, "reused r\n", "nginx knows")
				a, b = b, a
			}

			c, d := nginx(t, cert, key, nil), nginx(t, cert, key, nil)
			_, _, sess = get(t, client, c, nil)
			_, resumed, _ = get(t, client, d, sess)
			require.False(t, resumed, "without")
		})
	}
}

// nginx reports a store that cannot be opened, and serves without it.
func TestPreload_ServesWithoutItsStore(t *testing.T) {
	lib := cabitest.Build(t)
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	preload := lib.Compile(t, "gcc", filepath.Join(examples, "preload", "preload.c"), append([]string{"-shared", "-fPIC"}, lib.Headers(t)...)...)
	good := filepath.Join(lib.Dir, "lib", "liblssl.so.1")
	client := cabitest.Client(t, tls.VersionTLS13, ca.PEM)
	for says, env := range map[string][]string{
		"cannot open shared object file": {"LSSL_STORE=memory:", "LSSL_LIBRARY=/absent/liblssl.so.1"},
		"unknown store scheme":           {"LSSL_STORE=file:x", "LSSL_LIBRARY=" + good},
		"needs a keyring":                {"LSSL_STORE=memcached://" + servertest.Memcached(t).Addr, "LSSL_LIBRARY=" + good},
	} {
		with, err := cabitest.Preload(preload)
		require.NoError(t, err)
		n := nginx(t, cert, key, append(env, with...))
		heard, _, _ := get(t, client, n, nil)
		require.Contains(t, heard, "reused .\n")
		if foreign(t) {
			says = "lssl-preload["
		}
		assert.Contains(t, n.said(t), says)
	}
}
