package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// filledStore returns a store with two valid sessions and an expired one.
func filledStore(t *testing.T) (url, first, second string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sessions.db")
	st, err := sqlitestore.Open(path)
	require.NoError(t, err)
	defer st.Close()
	fill(t, st)
	return "sqlite:" + path, "01", "02"
}

func fill(t *testing.T, st store.Store) {
	t.Helper()
	for i, expires := range []time.Duration{time.Hour, 2 * time.Hour, 50 * time.Millisecond} {
		id, err := store.IDFromBytes([]byte{byte(i + 1)})
		require.NoError(t, err)
		r := store.Record{ID: id, Data: make([]byte, 10*(i+1)), Expires: time.Now().Add(expires)}
		require.NoError(t, st.Put(t.Context(), r))
		if i == 2 {
			eventually(t, "the record expires", func() bool { return time.Now().After(r.Expires) })
		}
	}
}

func listed(t *testing.T, url string) []storeEntry {
	t.Helper()
	r := sslsess(t, "store", "ls", "-json", url)
	requireOK(t, r)
	var entries []storeEntry
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &entries))
	require.NotNil(t, entries, "null instead of an empty list")
	return entries
}

func TestStore_LsAndStat(t *testing.T) {
	t.Parallel()
	url, first, second := filledStore(t)
	entries := listed(t, url)
	require.Len(t, entries, 2)
	assert.Equal(t, first, entries[0].ID)
	assert.Equal(t, second, entries[1].ID)
	assert.Equal(t, 20, entries[1].Size)

	r := sslsess(t, "store", "ls", url)
	requireOK(t, r)
	assert.Equal(t, first+"  "+entries[0].Expires.Format(time.RFC3339)+"  10", strings.Split(r.stdout, "\n")[0])

	r = sslsess(t, "store", "stat", "-json", url)
	requireOK(t, r)
	var s storeStats
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &s))
	assert.Equal(t, storeStats{2, 30, &entries[0].Expires, &entries[1].Expires}, s)
	r = sslsess(t, "store", "stat", url)
	requireOK(t, r)
	assert.Regexp(t, `(?m)^sessions +2$`, r.stdout)
}

func TestStore_RmRemovesWhatIsNamed(t *testing.T) {
	t.Parallel()
	url, first, second := filledStore(t)
	r := sslsess(t, "store", "rm", url, first, "77")
	requireFailure(t, r, 1, "no session 77")
	assert.Equal(t, "removed "+first+"\n", r.stdout)
	require.Len(t, listed(t, url), 1)

	r = sslsess(t, "store", "rm", "-json", url, second)
	requireOK(t, r)
	assert.JSONEq(t, `{"removed":["`+second+`"]}`, r.stdout)
	assert.Empty(t, listed(t, url))
}

func TestStore_PurgeTakesAllOrTheExpired(t *testing.T) {
	t.Parallel()
	url, _, _ := filledStore(t)
	r := sslsess(t, "store", "purge", "-expired", url)
	requireOK(t, r)
	assert.Equal(t, "removed 1\n", r.stdout)
	require.Len(t, listed(t, url), 2)

	r = sslsess(t, "store", "purge", "-json", url)
	requireOK(t, r)
	assert.JSONEq(t, `{"removed":2}`, r.stdout)
	assert.Empty(t, listed(t, url))
}

func TestStore_MakesNoStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.db")
	for verb, more := range map[string][]string{"ls": nil, "stat": nil, "purge": nil, "rm": {"01"}} {
		args := append([]string{"store", verb, "sqlite:" + path}, more...)
		requireFailure(t, sslsess(t, args...), 1, "no such file")
		assert.NoFileExists(t, path)
	}
}

func TestStore_RefusesMemoryAndGarbage(t *testing.T) {
	t.Parallel()
	requireFailure(t, sslsess(t, "store", "ls", "memory:"), 1, "lives in the process that serves")
	path := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600))
	requireFailure(t, sslsess(t, "store", "ls", "sqlite:"+path), 1, path)
}

// A removed session cannot be resumed: a store makes revocation possible.
func TestStore_RmRevokes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	n, client := f.serve("-store", url), f.client("1.2")
	v, _ := f.resumed(client, n, n)
	requireOK(t, sslsess(t, "store", "rm", url, v.Answer.SessionID))
	require.False(t, f.call(client, n.addr, v.Session).Resumed)
}

// Revoking the origin in an answer ends what rm leaves: the other tickets, and the renewals. Over every kind of store.
func TestStore_RevokeEndsAllOfAnOrigin(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	redis, memcached := servertest.Redis(t, "redis-server"), servertest.Memcached(t)
	for name, c := range map[string]struct {
		url  string
		keys []string
	}{
		"sqlite":    {"sqlite:" + filepath.Join(t.TempDir(), "sealed.db"), nil},
		"plaintext": {"sqlite:" + filepath.Join(t.TempDir(), "plain.db"), []string{"-plaintext"}},
		"valkey":    {"valkey://" + redis.Addr, []string{"-keyring", ring}},
		"shared":    {"valkey://" + redis.Addr + "/1", []string{"-keyring", "store:" + ring}},
		"memcached": {"memcached://" + memcached.Addr, []string{"-keyring", ring}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-store", c.url, "-revocable"}, c.keys...)
			a, b := f.serve(args...), f.serve(args...)
			for _, version := range []string{"1.2", "1.3"} {
				client := f.client(version)
				full, renewed := f.resumed(client, a, b)
				require.Regexp(t, "^[0-9a-f]{32}$", full.Answer.Origin)
				require.Equal(t, full.Answer.Origin, renewed.Answer.Origin)
				other, _ := f.resumed(client, b, a)
				r := sslsess(t, append(append([]string{"store", "revoke"}, c.keys...), c.url, full.Answer.Origin)...)
				requireOK(t, r)
				require.Equal(t, "revoked "+full.Answer.Origin+"\n", r.stdout)
				for _, v := range []visit{full, renewed} {
					got := f.call(client, a.addr, v.Session)
					require.False(t, got.Resumed)
					require.NotEqual(t, full.Answer.Origin, got.Answer.Origin)
				}
				require.True(t, f.call(client, a.addr, other.Session).Resumed)
			}
		})
	}
}

func TestStore_RevokeRefuses(t *testing.T) {
	t.Parallel()
	memcached := "memcached://" + servertest.Memcached(t).Addr
	origin := strings.Repeat("0a", 16)
	for says, args := range map[string][]string{
		"is no origin": {memcached, "0a"}, `"x" is no origin`: {memcached, "x"}, "needs -keyring": {memcached, origin},
		"exclude each other": {"-keyring", "ring", "-plaintext", memcached, origin},
		"-lifetime must":     {"-lifetime", "0s", memcached, origin},
	} {
		requireFailure(t, sslsess(t, append([]string{"store", "revoke"}, args...)...), 2, says)
	}
	requireFailure(t, sslsess(t, "serve", "-listen", "127.0.0.1:0", "-revocable", "-tickets", "stateless"), 2, "-revocable and -tickets stateless")
	r := sslsess(t, "store", "revoke", "-json", "-plaintext", memcached, origin)
	requireOK(t, r)
	assert.JSONEq(t, `{"revoked":["`+origin+`"]}`, r.stdout)
}
