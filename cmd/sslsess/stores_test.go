package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/internal/storeurl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/servertest"
)

// Two servers share a store of several hosts: one issues a session, the other resumes it.
func TestServe_StoresOfSeveralHosts(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	redis := servertest.Redis(t, "redis-server", "--requirepass", "p@ss/word")
	memcached := servertest.Memcached(t)
	for _, url := range []string{"valkey://:p%40ss%2Fword@" + redis.Addr + "/3", "memcached://" + memcached.Addr, "tiered:memcached://" + memcached.Addr} {
		for _, version := range []string{"1.2", "1.3"} {
			a, b := f.serve("-store", url, "-keyring", ring), f.serve("-store", url, "-keyring", ring)
			full, _ := f.resumed(f.client(version), a, b)
			require.False(t, full.Resumed)
		}
		requireFailure(t, sslsess(t, "serve", "-listen", "127.0.0.1:0", "-cert", f.cert, "-key", f.key, "-store", url), 2, "-keyring, or -plaintext")
	}
}

// While a store is down handshakes are full, but none fails. When it is back, sessions resume again.
func TestServe_StoreGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	redis, memcached := servertest.Redis(t, "redis-server"), servertest.Memcached(t)
	for url, srv := range map[string]*servertest.Server{"redis://" + redis.Addr: redis, "memcached://" + memcached.Addr: memcached} {
		n, client := f.serve("-store", url, "-keyring", ring), f.client("1.3")
		v, _ := f.resumed(client, n, n)
		srv.Stop()
		for range 8 { // more failures than open the breaker
			require.False(t, f.call(client, n.addr, v.Session).Resumed)
		}
		srv.Start()
		f.resumed(client, n, n)
		assert.Equal(t, 0, n.end(syscall.SIGTERM))
	}
}

// A tiered store resumes its own sessions while the server behind it is away.
func TestServe_TieredStoreAnswersWithoutItsServer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	redis := servertest.Redis(t, "redis-server")
	n, client := f.serve("-store", "tiered:redis://"+redis.Addr, "-keyring", ring), f.client("1.2")
	eventually(t, "a session is resumed without the server", func() bool { // a busy machine may be too slow for the Put, or the ten seconds
		full := f.call(client, n.addr, nil)
		redis.Stop()
		resumed := f.call(client, n.addr, full.Session).Resumed
		redis.Start()
		return resumed
	})
	assert.Equal(t, 0, n.end(syscall.SIGTERM))
}

func TestStore_OfValkey(t *testing.T) {
	t.Parallel()
	srv := servertest.Redis(t, "redis-server")
	url := "valkey://" + srv.Addr + "/0"
	st, closeStore, err := storeurl.Open(url, true)
	require.NoError(t, err)
	defer closeStore()
	fill(t, st)
	require.Len(t, listed(t, url), 2)
	r := sslsess(t, "store", "stat", url)
	requireOK(t, r)
	assert.Regexp(t, `(?m)^sessions +2$`, r.stdout)
	requireOK(t, sslsess(t, "store", "rm", url, "01"))
	require.Len(t, listed(t, url), 1)
	r = sslsess(t, "store", "purge", url)
	requireOK(t, r)
	assert.Equal(t, "removed 1\n", r.stdout)
	assert.Empty(t, listed(t, url))
}

func TestStore_OfMemcached(t *testing.T) {
	t.Parallel()
	srv := servertest.Memcached(t)
	url := "memcached://" + srv.Addr
	st, closeStore, err := storeurl.Open(url, true)
	require.NoError(t, err)
	defer closeStore()
	fill(t, st)
	requireFailure(t, sslsess(t, "store", "ls", url), 1, "cannot list")
	requireFailure(t, sslsess(t, "store", "stat", url), 1, "cannot list")
	requireFailure(t, sslsess(t, "store", "purge", url), 1, "cannot be purged")
	requireOK(t, sslsess(t, "store", "rm", url, "01"))
	requireFailure(t, sslsess(t, "store", "rm", url, "01"), 1, "no session 01")
}

// A store that cannot be used is reported at the start, on one line, without the password.
func TestStore_ServersThatCannotServe(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	locked, memcached, free := servertest.Redis(t, "redis-server", "--requirepass", "another"), servertest.Memcached(t), servertest.FreeAddr(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() }) // runs after the parallel subtests
	for name, c := range map[string]struct{ url, says string }{
		"valkey unreachable":    {"valkey://:" + secret + "@" + free + "/0", "refused"},
		"valkey wrong password": {"redis://u:" + secret + "@" + locked.Addr, "WRONGPASS"},
		"valkey no password":    {"redis://" + locked.Addr, "NOAUTH"},
		"valkey is memcached":   {"valkey://:" + secret + "@" + memcached.Addr, "another protocol"},
		"valkey is silent":      {"valkey://:" + secret + "@" + silent.Addr().String(), "no answer"},
		"memcached unreachable": {"memcached://" + free, "refused"},
		"memcached is redis":    {"memcached://" + locked.Addr, "unexpected line"},
		"memcached is silent":   {"memcached://" + silent.Addr().String(), "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"store", "ls", c.url}, {"serve", "-listen", "127.0.0.1:0", "-plaintext", "-store", c.url}} {
				r := sslsess(t, args...)
				requireFailure(t, r, 1, c.says)
				assert.NotContains(t, r.stderr, secret)
				assert.Empty(t, r.stdout)
				assert.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
			}
		})
	}
}

// memcached could give one entry to several hosts that take it at the same time.
func TestStore_MemcachedRefusesSingleUse(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	st, closeStore, err := storeurl.Open("memcached://"+servertest.Memcached(t).Addr, true)
	require.NoError(t, err)
	defer closeStore()
	for name, early := range map[string]uint32{"single use": 0, "early data": 1000} {
		ctx, err := libssl.NewServerContext(f.cert, f.key)
		require.NoError(t, err)
		defer ctx.Close()
		require.NoError(t, ctx.SetMaxEarlyData(early))
		_, err = ctx.UseStore(st, &libssl.StoreOptions{Plaintext: true, SingleUse: early == 0})
		require.ErrorIs(t, err, libssl.ErrUnsupported, name)
		assert.ErrorContains(t, err, "take entries atomically, and *memcachestore.Store is no store.Taker", name)
		cache, err := ctx.UseStore(memstore.New(memstore.Options{}), &libssl.StoreOptions{SingleUse: true})
		require.NoError(t, err, "the refused store left something on the Context")
		require.NoError(t, cache.Close(t.Context()))
	}
}

// When the disk fills up, handshakes are full and the errors are counted. A full disk at the start is an error. The test
// limits the file size of the process, which has the same effect as a full disk.
func TestServe_DiskIsFull(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	store := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	n, client := f.serve("-store", store, "-http", "127.0.0.1:0"), f.client("1.3")
	stats := "http://" + n.says("http on ") + "/stats"
	bound := func(size string) {
		out, err := exec.Command("prlimit", "--pid", fmt.Sprint(n.cmd.Process.Pid), "--fsize="+size+":unlimited").CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	f.resumed(client, n, n)

	bound("0")
	eventually(t, "the server says so", func() bool { // the log is rate-limited: a line less than a second before drops this one
		v := f.call(client, n.addr, nil)
		require.NoError(t, v.NoAnswer)
		require.False(t, f.call(client, n.addr, v.Session).Resumed)
		return strings.Contains(n.errors(), "sqlitestore: put: disk I/O error: file too large")
	})
	resp, err := http.Get(stats)
	require.NoError(t, err)
	defer resp.Body.Close()
	var s struct{ Cache libssl.CacheStats }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&s))
	assert.Positive(t, s.Cache.Errors)
	assert.Positive(t, s.Cache.Misses)

	out, err := exec.Command("prlimit", "--fsize=0", os.Args[0], "serve", "-listen", "127.0.0.1:0", "-store", store).CombinedOutput()
	require.Error(t, err)
	assert.Regexp(t, `\Asslsess[^\n]*sessions.db: disk I/O error: file too large\n\z`, string(out))

	bound("unlimited")
	f.resumed(client, n, n)
	assert.Equal(t, 0, n.end(syscall.SIGTERM))
}
