package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var keyLine = regexp.MustCompile(`(?m)^[0-9a-f]{64}$`)

func readKeys(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	return keyLine.FindAllString(string(text), -1)
}

func TestKeyring_NewPrintsOrWrites(t *testing.T) {
	t.Parallel()
	r := sslsess(t, "keyring", "new")
	requireOK(t, r)
	require.Len(t, keyLine.FindAllString(r.stdout, -1), 1)

	path := filepath.Join(t.TempDir(), "ring")
	r = sslsess(t, "keyring", "new", path)
	requireOK(t, r)
	keys := readKeys(t, path)
	require.Len(t, keys, 1)
	assert.NotContains(t, r.stdout+r.stderr, keys[0], "the key is shown")
}

func TestKeyring_NewLeavesAFileAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ring")
	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	requireFailure(t, sslsess(t, "keyring", "new", path), 1, "exists")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "precious", string(text))
}

func TestKeyring_RotatePutsAFreshKeyInFront(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", path))
	before := readKeys(t, path)
	for range 5 {
		requireOK(t, sslsess(t, "keyring", "rotate", path))
		after := readKeys(t, path)
		require.NotEqual(t, before[0], after[0])
		require.Equal(t, before[0], after[1])
		before = after
	}
	assert.Len(t, before, 4)
}

func TestKeyring_RotateKeepsOwnerAndMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "ring")
	requireOK(t, sslsess(t, "keyring", "new", path))
	require.NoError(t, os.Chmod(path, 0o400))
	if os.Geteuid() == 0 {
		for _, p := range []string{path, dir} {
			require.NoError(t, os.Chown(p, 65534, 7))
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	before, err := os.Stat(path)
	require.NoError(t, err)
	for _, p := range []string{path, link} {
		requireOK(t, sslsess(t, "keyring", "rotate", p))
		after, err := os.Lstat(path)
		require.NoError(t, err)
		assert.Equal(t, before.Mode(), after.Mode())
		was, is := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
		assert.Equal(t, []uint32{was.Uid, was.Gid}, []uint32{is.Uid, is.Gid})
	}
	info, err := os.Lstat(link)
	require.NoError(t, err)
	assert.NotZero(t, info.Mode()&os.ModeSymlink, "the link stays one")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, 3, bytes.Count(text, []byte("\n")))
}

func TestKeyring_RotateAfterGivesTheKeyATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", path))
	before := readKeys(t, path)
	start := time.Now()
	requireOK(t, sslsess(t, "keyring", "rotate", "-after", "1h", path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	_, when, _ := strings.Cut(strings.SplitN(string(text), "\n", 2)[0], " ")
	at, err := time.Parse(time.RFC3339, when)
	require.NoError(t, err)
	assert.WithinRange(t, at, start.Add(time.Hour-time.Second), time.Now().Add(time.Hour))
	assert.Equal(t, before, readKeys(t, path), "the old key must have no time")
	requireFailure(t, sslsess(t, "keyring", "rotate", "-after", "-1s", path), 2, "negative")
}

func TestKeyring_RotationsTogetherLoseNoKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", path))
	first := readKeys(t, path)[0]
	var together sync.WaitGroup
	for range 3 {
		together.Go(func() { assert.Zero(t, sslsess(t, "keyring", "rotate", path).status) })
	}
	together.Wait()
	keys := readKeys(t, path)
	require.Len(t, keys, 4, "each has added one")
	require.Equal(t, first, keys[3])
}

func TestKeyring_RotateRefusesWhatIsNoRing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	requireFailure(t, sslsess(t, "keyring", "rotate", filepath.Join(dir, "none")), 1, "no such file")

	secret := strings.Repeat("zz", 32)
	path := filepath.Join(dir, "bad")
	require.NoError(t, os.WriteFile(path, []byte(secret), 0o600))
	r := sslsess(t, "keyring", "rotate", path)
	requireFailure(t, r, 1, "line 1")
	assert.NotContains(t, r.stderr, secret)

	open := filepath.Join(dir, "open")
	requireOK(t, sslsess(t, "keyring", "new", open))
	require.NoError(t, os.Chmod(open, 0o644))
	requireFailure(t, sslsess(t, "keyring", "rotate", open), 1, "0600")
}
