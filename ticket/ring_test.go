package ticket

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	keyA = strings.Repeat("a1", KeySize)
	keyB = strings.Repeat("b2", KeySize)
	keyC = strings.Repeat("c3", KeySize)
)

func parse(tb testing.TB, keys ...string) *Ring {
	tb.Helper()
	r, err := ParseRing([]byte(strings.Join(keys, "\n")))
	require.NoError(tb, err)
	return r
}

func text(tb testing.TB, r *Ring) string {
	tb.Helper()
	var b strings.Builder
	_, err := r.WriteTo(&b)
	require.NoError(tb, err)
	return b.String()
}

func TestParseRing(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"one", keyA, keyA},
		{"order kept", keyB + "\n" + keyA + "\n", keyB + keyA},
		{"comments and blanks", "# newest first\n\n" + keyA + "\n  \t\n#" + keyC + "\n" + keyB, keyA + keyB},
		{"spaces and CRLF", "  " + keyA + "\r\n" + keyB + " \r\n", keyA + keyB},
		{"upper case", strings.ToUpper(keyA), keyA},
		{"as many as fit", many(MaxKeys), strings.ReplaceAll(many(MaxKeys), "\n", "")},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ParseRing([]byte(c.in))
			require.NoError(t, err)
			assert.Equal(t, c.want, strings.ReplaceAll(text(t, r), "\n", ""))
			assert.Equal(t, len(c.want)/64, r.Len())
		})
	}
}

func TestParseRing_Refuses(t *testing.T) {
	for _, c := range []struct{ name, in, says string }{
		{"nothing", "", "no key"},
		{"comments only", "# " + keyA + "\n\n", "no key"},
		{"short key", keyA + "\n" + keyB[:62], "line 2"},
		{"odd digits", keyA[:63], "line 1"},
		{"long key", "\n\n" + keyA + "aa", "line 3"},
		{"very long line", strings.Repeat("a", 1<<16), "line 1"},
		{"not hex", "#\n" + keyA[:63] + "x", "line 2"},
		{"two keys on a line", keyA + " " + keyB, "line 1"},
		{"comment behind a key", keyA + " # old", "line 1"},
		{"tab before the time", keyA + "\t2026-01-01T00:00:00Z", "line 1"},
		{"a time that is none", keyA + " tomorrow", "line 1: after the key comes nothing or a time"},
		{"all in the future", keyA + " 2999-01-01T00:00:00Z\n" + keyB + " 2998-01-01T00:00:00Z", "before 2998-01-01T00:00:00Z"},
		{"duplicate", keyA + "\n#\n" + keyB + "\n" + strings.ToUpper(keyA), "line 4 repeats the key of line 1"},
		{"too many", many(MaxKeys + 1), "line 17"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseRing([]byte(c.in))
			require.ErrorContains(t, err, c.says)
			for line := range strings.Lines(c.in) {
				line = strings.TrimSpace(line)
				if line, _, _ = strings.Cut(line, " "); len(line) >= 8 { // the time, if any, is no secret
					assert.NotContains(t, strings.ToLower(err.Error()), strings.ToLower(line[len(line)-8:]), "quotes the file")
				}
			}
			assert.NotContains(t, err.Error(), "'x'", "quotes a digit")
		})
	}
}

var raceEnabled bool // set by race_test.go

// many returns n different keys, one a line.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%064x\n", i+1)
	}
	return b.String()
}

func TestParseRing_KeepsTimes(t *testing.T) {
	in := keyC + " 2999-01-01T00:00:00Z\n" + keyB + " 2020-01-01T01:00:00+01:00\n" + keyA + "\n"
	want := keyC + " 2999-01-01T00:00:00Z\n" + keyB + " 2020-01-01T00:00:00Z\n" + keyA + "\n"
	assert.Equal(t, want, text(t, parse(t, in)))
	assert.Equal(t, want, text(t, parse(t, text(t, parse(t, in)))))
}

func TestRingFromEnv(t *testing.T) {
	t.Setenv("RING", keyB+" 2020-01-01T00:00:00Z,"+keyA)
	r, err := RingFromEnv("RING")
	require.NoError(t, err)
	assert.Equal(t, keyB+" 2020-01-01T00:00:00Z\n"+keyA+"\n", text(t, r))

	t.Setenv("RING", keyA+",x")
	_, err = RingFromEnv("RING")
	assert.ErrorContains(t, err, "RING: ticket: line 2")
	_, err = RingFromEnv("NO_RING")
	assert.ErrorContains(t, err, "NO_RING is not set")
}

// The newest key whose time has come seals; every key opens.
func TestSeal_UsesTheKeyWhoseTimeHasCome(t *testing.T) {
	future, past := " 2999-01-01T00:00:00Z", " 2020-01-01T00:00:00Z"
	for _, c := range []struct{ name, ring, sealsUnder string }{
		{"the first waits", keyA + future + "\n" + keyB, keyB},
		{"the first's time has come", keyA + past + "\n" + keyB, keyA},
		{"two wait", keyA + future + "\n" + keyB + future + "\n" + keyC + past, keyC},
	} {
		t.Run(c.name, func(t *testing.T) {
			envelope := parse(t, c.ring).Seal(nil, []byte("x"), nil)
			_, err := parse(t, c.sealsUnder).Open(nil, envelope, nil)
			assert.NoError(t, err)
		})
	}
	_, err := parse(t, keyA+future+"\n"+keyB).Open(nil, parse(t, keyA).Seal(nil, []byte("x"), nil), nil)
	assert.NoError(t, err, "opened before its time")

	r := parse(t, keyA)
	require.NoError(t, r.RotateAt(time.Now().Add(time.Hour)))
	_, err = parse(t, keyA).Open(nil, r.Seal(nil, nil, nil), nil)
	assert.NoError(t, err)
	keys := ringOf([]*key{r.keys()[0]}) // as after a clock was set back
	assert.NotPanics(t, func() { keys.Seal(nil, nil, nil) })
}

func TestRing_TellsOfChanges(t *testing.T) {
	r := parse(t, keyA)
	var first, second int
	stopFirst := r.OnChange(func() { first++ })
	stopSecond := r.OnChange(func() { second++; stopFirst() })
	require.NoError(t, r.Rotate())
	require.NoError(t, r.Replace(parse(t, keyB)))
	assert.Equal(t, keyB+"\n", text(t, r))
	require.Error(t, r.Replace(new(Ring)), "a ring needs a key to seal with")
	require.Error(t, r.Replace(nil))
	assert.Equal(t, keyB+"\n", text(t, r))
	stopSecond()
	stopSecond()
	require.NoError(t, r.Rotate())
	assert.Equal(t, 1, first)
	assert.Equal(t, 2, second)
}

func TestTicketKeys_AreDerived(t *testing.T) {
	r := parse(t, keyB+" 2020-01-01T00:00:00Z", keyA)
	keys, err := r.TicketKeys()
	require.NoError(t, err)
	require.Len(t, keys, 2)
	assert.Equal(t, "2020-01-01T00:00:00Z", keys[0].NotBefore.Format(time.RFC3339))
	assert.Zero(t, keys[1].NotBefore)
	again, err := parse(t, keyA).TicketKeys()
	require.NoError(t, err)
	assert.Equal(t, keys[1], again[0], "on every server the same")
	secret, err := hex.DecodeString(keyA)
	require.NoError(t, err)
	parts := [][]byte{secret[:16], keys[0].Name[:], keys[0].AES[:16], keys[0].HMAC[:16], keys[1].Name[:], keys[1].AES[:16], keys[1].HMAC[:16]}
	for i := range parts {
		for j := range i {
			assert.NotEqual(t, parts[i], parts[j])
		}
	}
}

func TestWatchRing_FollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	require.NoError(t, parse(t, keyA).Save(path))
	failures := make(chan error, 10)
	r, stop, err := WatchRing(path, time.Millisecond, func(err error) { failures <- err })
	require.NoError(t, err)
	defer stop()
	changes := make(chan struct{}, 10)
	r.OnChange(func() { changes <- struct{}{} })
	require.Equal(t, keyA+"\n", text(t, r))

	require.NoError(t, parse(t, keyB, keyA).Save(path))
	<-changes
	require.Equal(t, keyB+"\n"+keyA+"\n", text(t, r))

	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, <-failures, fs.ErrNotExist)
	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("garbage"), 0o600))
	require.NoError(t, os.Rename(garbage, path)) // in one step: a half-written file would be a second failure
	require.ErrorContains(t, <-failures, "line 1 is not a key")
	require.Equal(t, keyB+"\n"+keyA+"\n", text(t, r), "the keys stay")
	require.NoError(t, parse(t, keyC).Save(path))
	<-changes
	require.Equal(t, keyC+"\n", text(t, r))

	stop()
	stop()
	require.NoError(t, parse(t, keyA).Save(path))
	require.Equal(t, keyC+"\n", text(t, r))
	require.Empty(t, changes)
	require.Empty(t, failures)
}

func TestWatchRing_Refuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	_, _, err := WatchRing(path, time.Second, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, parse(t, keyA).Save(path))
	_, _, err = WatchRing(path, 0, nil)
	require.ErrorContains(t, err, "interval")
}

func TestNewRing_FreshKeys(t *testing.T) {
	a, err := NewRing()
	require.NoError(t, err)
	b, err := NewRing()
	require.NoError(t, err)
	assert.Equal(t, 1, a.Len())
	assert.NotEqual(t, text(t, a), text(t, b))
}

func TestFromKey(t *testing.T) {
	secret, _ := hex.DecodeString(keyA)
	r, err := FromKey(secret)
	require.NoError(t, err)
	clear(secret)
	assert.Equal(t, keyA+"\n", text(t, r), "must not keep the caller's slice")

	for _, n := range []int{0, KeySize - 1, KeySize + 1} {
		_, err := FromKey(make([]byte, n))
		assert.Error(t, err, n)
	}
}

func TestRotate(t *testing.T) {
	r := parse(t, keyA)
	for want := 2; want <= RotatedKeys+2; want++ {
		before := strings.Fields(text(t, r))
		require.NoError(t, r.Rotate())
		after := strings.Fields(text(t, r))
		require.Equal(t, min(want, RotatedKeys), r.Len())
		assert.NotContains(t, before, after[0], "the first key is fresh")
		assert.Equal(t, before[:len(after)-1], after[1:], "the others follow in order")
	}
}

func TestRotate_CutsALongRing(t *testing.T) {
	r := parse(t, many(MaxKeys))
	old := strings.Fields(text(t, r))
	require.NoError(t, r.Rotate())
	assert.Equal(t, old[:RotatedKeys-1], strings.Fields(text(t, r))[1:])
}

// Every one of several concurrent rotations must count, and readers always find a whole ring.
func TestRing_ConcurrentUse(t *testing.T) {
	r := mustRing(t, 1)
	random := make([]byte, TagSize)
	var wg sync.WaitGroup
	for range RotatedKeys - 1 {
		wg.Go(func() { assert.NoError(t, r.Rotate()) })
		wg.Go(func() {
			got, err := r.Open(nil, r.Seal(nil, []byte("secret"), nil), nil)
			assert.NoError(t, err)
			assert.Equal(t, "secret", string(got))
			tag := r.Tag(random)
			assert.True(t, r.CheckTag(random, tag[:]))
			assert.NotContains(t, r.String(), "()")
		})
	}
	wg.Wait()
	assert.Equal(t, RotatedKeys, r.Len())
}

func TestSaveLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ring")
	for range 2 { // the second replaces the first
		r := mustRing(t, 3)
		require.NoError(t, r.Save(path))
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
		back, err := LoadRing(path)
		require.NoError(t, err)
		assert.Equal(t, text(t, r), text(t, back))
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1, "temporary files stay behind")
}

// Save must not write into the old file: a process that has it open must read the old keys to their end.
func TestSave_ReplacesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	require.NoError(t, parse(t, keyA).Save(path))
	old, err := os.Open(path)
	require.NoError(t, err)
	defer old.Close()
	require.NoError(t, parse(t, keyB).Save(path))
	got := make([]byte, 65)
	_, err = old.Read(got)
	require.NoError(t, err)
	assert.Equal(t, keyA+"\n", string(got))
}

func TestSave_Fails(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(target, 0o700))
	assert.Error(t, parse(t, keyA).Save(target), "a folder is in the way")
	assert.ErrorIs(t, parse(t, keyA).Save(filepath.Join(dir, "absent", "ring")), fs.ErrNotExist)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1, "temporary files stay behind")
}

func TestLoadRing_Refuses(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadRing(filepath.Join(dir, "absent"))
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = LoadRing(dir)
	assert.Error(t, err, "a folder")

	path := filepath.Join(dir, "ring")
	require.NoError(t, os.WriteFile(path, []byte(keyA), 0o600))
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o644} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := LoadRing(path)
		require.ErrorContains(t, err, path)
		assert.ErrorContains(t, err, fmt.Sprintf("%04o", mode))
	}
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := LoadRing(path)
		assert.NoError(t, err)
	}

	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, []byte(keyA+"\nzz"), 0o600))
	_, err = LoadRing(path)
	require.ErrorContains(t, err, path)
	assert.ErrorContains(t, err, "line 2")
}

func TestLoadRing_RefusesWhatOthersMayHavePlanted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ring")
	require.NoError(t, parse(t, keyA).Save(path))
	require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
	_, err := LoadRing(path)
	require.ErrorContains(t, err, dir+": mode 0777 lets other users change it")
	require.Error(t, parse(t, keyB).Save(path))
	require.NoError(t, os.Chmod(dir, 0o755))
	_, err = LoadRing(path)
	require.NoError(t, err)
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(path, 65534, 65534))
		_, err = LoadRing(path)
		require.ErrorContains(t, err, "belongs to user 65534")
	}
}

// No way of printing, logging or encoding may show a key, in any form.
func TestRing_NeverPrinted(t *testing.T) {
	r := parse(t, keyA, keyB)
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3f"} {
		fmt.Fprintf(&out, verb+"\n", r)
		fmt.Fprintf(&out, verb+"\n", struct{ Keys *Ring }{r})
		fmt.Fprintf(&out, verb+"\n", []*Ring{r})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("ring", "ring", r)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("ring", "ring", r)
	require.NoError(t, json.NewEncoder(&out).Encode(r))

	s := strings.ToLower(out.String())
	for _, leak := range []string{"a1a1", "b2b2", "161 161", "178 178", "0xa1", "0xb2", "\\xa1", "oagh"} {
		assert.NotContains(t, s, leak)
	}
	assert.Regexp(t, `^ticket\.Ring\(2 keys: [0-9a-f]{16} [0-9a-f]{16}\)$`, r.String())
	assert.Regexp(t, `^ticket\.Ring\(1 key: [0-9a-f]{16}\)$`, parse(t, keyC).String())
	assert.Equal(t, r.String(), fmt.Sprintf("%#v", r))
}

func TestZeroRing(t *testing.T) {
	var r Ring
	assert.Zero(t, r.Len())
	assert.Equal(t, "ticket.Ring(0 keys: )", r.String())
	assert.False(t, r.CheckTag(make([]byte, TagSize), make([]byte, TagSize)))
	_, err := r.Open(nil, parse(t, keyA).Seal(nil, nil, nil), nil)
	assert.ErrorIs(t, err, ErrUnknownKey)
}

func TestSealOpen(t *testing.T) {
	r := parse(t, keyA)
	for _, size := range []int{0, 1, 130, 600, 64 << 10} {
		plaintext := make([]byte, size)
		rand.Read(plaintext)
		envelope := r.Seal([]byte("head"), plaintext, []byte("id"))
		require.True(t, bytes.HasPrefix(envelope, []byte("head")), "Seal appends")
		envelope = envelope[4:]
		assert.Len(t, envelope, size+Overhead)
		got, err := r.Open([]byte("pre"), envelope, []byte("id"))
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(got, []byte("pre")), "Open appends")
		assert.Equal(t, plaintext, got[3:])
	}
	assert.NotEqual(t, r.Seal(nil, nil, nil), r.Seal(nil, nil, nil), "nonces differ")
}

// The format is documented and must stay readable by other versions of this package.
func TestSeal_Format(t *testing.T) {
	r := parse(t, keyA)
	e := r.Seal(nil, []byte("session"), []byte("id"))
	assert.Equal(t, byte(2), e[0])
	assert.Contains(t, r.String(), hex.EncodeToString(e[1:9]))

	golden, err := hex.DecodeString(goldenEnvelope)
	require.NoError(t, err)
	got, err := r.Open(nil, golden, []byte("id"))
	require.NoError(t, err)
	assert.Equal(t, "session", string(got))
}

// goldenEnvelope is "session" sealed by keyA with additional data "id".
const goldenEnvelope = "02e3d60cf507f6b9f6ccd45253574f95e8818eb374f2388bddaecf50360119ca2da855d1d203f219fe882c3092ef2cd7e42006c66be68252f2123acf"

func TestOpen_AfterRotation(t *testing.T) {
	r := parse(t, keyA)
	first := r.Seal(nil, []byte("old"), nil)
	for range RotatedKeys - 1 {
		require.NoError(t, r.Rotate())
		got, err := r.Open(nil, first, nil)
		require.NoError(t, err)
		assert.Equal(t, "old", string(got))
		assert.NotEqual(t, first[1:9], r.Seal(nil, nil, nil)[1:9], "the newest key seals")
	}
	require.NoError(t, r.Rotate())
	_, err := r.Open(nil, first, nil)
	assert.ErrorIs(t, err, ErrUnknownKey)
}

func TestOpen_Refuses(t *testing.T) {
	r := parse(t, keyA, keyB)
	e := r.Seal(nil, []byte("session"), []byte("id"))

	for n := range e {
		_, err := r.Open(nil, e[:n], []byte("id"))
		if n < Overhead {
			require.ErrorIs(t, err, ErrMalformed, n)
		} else {
			require.ErrorIs(t, err, ErrForged, n)
		}
	}
	for i := range e {
		for bit := range 8 {
			bad := bytes.Clone(e)
			bad[i] ^= 1 << bit
			want := ErrForged
			switch {
			case i == 0:
				want = ErrMalformed
			case i < 1+keyIDSize:
				want = ErrUnknownKey
			}
			_, err := r.Open(nil, bad, []byte("id"))
			require.ErrorIs(t, err, want, "byte %d", i)
		}
	}

	other := bytes.Clone(e)
	copy(other[1:9], parse(t, keyB).Seal(nil, nil, nil)[1:9])
	_, err := r.Open(nil, other, []byte("id"))
	assert.ErrorIs(t, err, ErrForged, "the other key of the ring named")

	for _, additional := range []string{"", "i", "ie", "id "} {
		_, err := r.Open(nil, e, []byte(additional))
		assert.ErrorIs(t, err, ErrForged, additional)
	}
	_, err = r.Open(nil, append(bytes.Clone(e), 0), []byte("id"))
	assert.ErrorIs(t, err, ErrForged, "a byte too many")
	_, err = parse(t, keyC).Open(nil, e, []byte("id"))
	assert.ErrorIs(t, err, ErrUnknownKey)
}

// Header and additional data are authenticated together: a changed key id must fail even if the subkey is the same.
func TestSeal_AuthenticatesHeader(t *testing.T) {
	r := parse(t, keyA)
	e := r.Seal(nil, []byte("session"), []byte("id"))
	aead := r.keys()[0].aead([saltSize]byte(e[1+keyIDSize : headerSize]))
	_, err := aead.Open(nil, nil, e[headerSize:], []byte("id"))
	assert.Error(t, err)
	_, err = aead.Open(nil, nil, e[headerSize:], append(bytes.Clone(e[:headerSize]), "id"...))
	assert.NoError(t, err)
}

func TestTag_IsHMAC(t *testing.T) {
	r := parse(t, keyB, keyA)
	random := make([]byte, TagSize)
	rand.Read(random)

	subkey, err := r.keys()[1].derive("libssl ticket 1 tag", sha256.Size)
	require.NoError(t, err)
	mac := hmac.New(sha256.New, subkey)
	mac.Write(random)
	tag := r.Tag(random)
	assert.Equal(t, mac.Sum(nil)[:TagSize], tag[:], "HMAC-SHA256 under the oldest key")
}

func TestCheckTag(t *testing.T) {
	r := parse(t, keyA)
	random := bytes.Repeat([]byte{7}, TagSize)
	tag := r.Tag(random)
	require.True(t, r.CheckTag(random, tag[:]))
	for i := range tag {
		bad := tag
		bad[i] ^= 1
		require.False(t, r.CheckTag(random, bad[:]), "tag changed")
		other := bytes.Clone(random)
		other[i] ^= 1
		require.False(t, r.CheckTag(other, tag[:]), "random changed")
	}
	assert.False(t, r.CheckTag(random, tag[:15]))
	assert.False(t, r.CheckTag(random, append(tag[:], 0)))
	assert.False(t, r.CheckTag(random[:15], tag[:]))
	assert.False(t, r.CheckTag(nil, nil))
	assert.Panics(t, func() { r.Tag(random[:15]) })

	// A server with the rotated ring and one with the old ring accept each other's tags.
	rotated := parse(t, keyA)
	require.NoError(t, rotated.Rotate())
	tag = rotated.Tag(random)
	assert.True(t, r.CheckTag(random, tag[:]))

	// Every key checks, in any position.
	long := parse(t, keyC, keyB, keyA)
	for _, key := range []string{keyA, keyB, keyC} {
		tag := parse(t, key).Tag(random)
		assert.True(t, long.CheckTag(random, tag[:]))
	}
	tag = parse(t, keyC).Tag(random)
	assert.False(t, r.CheckTag(random, tag[:]))
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	r := parse(t, keyA)
	plaintext, additional, random := make([]byte, 600), make([]byte, 64), make([]byte, TagSize)
	sealed, opened := make([]byte, 0, 1000), make([]byte, 0, 1000)
	tag := r.Tag(random)
	foreign := parse(t, keyA).Seal(nil, plaintext, additional)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for _, e := range [][]byte{r.Seal(sealed, plaintext, additional), foreign} {
			if _, err := r.Open(opened, e, additional); err != nil {
				panic(err)
			}
		}
		r.Tag(random)
		r.CheckTag(random, tag[:])
	}))
}

func saltOf(e []byte) [saltSize]byte { return [saltSize]byte(e[1+keyIDSize : headerSize]) }

// Random nonces are safe for 2^32 envelopes under one AES key, so each process seals under salts of its own, and not for ever
// under one.
func TestSeal_TakesANewSaltInTime(t *testing.T) {
	r, other := parse(t, keyA), parse(t, keyA)
	seal := func(r *Ring) []byte { return r.Seal(nil, []byte("session"), nil) }
	first := seal(r)
	require.Equal(t, saltOf(first), saltOf(seal(r)))
	require.NotEqual(t, saltOf(first), saltOf(seal(other)))
	r.keys()[0].own.Load().seals.Store(sealsPerSalt - 1)
	require.Equal(t, saltOf(first), saltOf(seal(r)))
	second := seal(r)
	require.NotEqual(t, saltOf(first), saltOf(second))
	for _, e := range [][]byte{first, second, seal(other)} {
		for _, r := range []*Ring{r, other} {
			opened, err := r.Open(nil, e, nil)
			require.NoError(t, err)
			require.Equal(t, "session", string(opened))
		}
	}
	_, err := r.keys()[0].aead(saltOf(second)).Open(nil, nil, first[headerSize:], first[:headerSize])
	require.Error(t, err, "the key of another salt")
}

// Salts are kept up to a bound, and only those of authentic envelopes.
func TestOpen_KeepsFewSalts(t *testing.T) {
	r, other := parse(t, keyA), parse(t, keyA)
	k := r.keys()[0]
	for i := range 2*maxSalts + 10 {
		other.keys()[0].own.Store(nil)
		e := other.Seal(nil, []byte("session"), nil)
		_, err := r.Open(nil, e, nil)
		require.NoError(t, err)
		forged := bytes.Clone(e)
		forged[1+keyIDSize]++
		_, err = r.Open(nil, forged, nil)
		require.ErrorIs(t, err, ErrForged)
		require.Len(t, k.others, 1+i%maxSalts)
	}
}

func FuzzParseRing(f *testing.F) {
	for _, s := range []string{"", keyA, keyA + "\n" + keyB, "# x\n\n" + keyA, keyA + "\r\n" + keyA, "zz", many(MaxKeys + 1)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ParseRing(in)
		if err != nil {
			return
		}
		require.LessOrEqual(t, r.Len(), MaxKeys)
		out := text(t, r)
		again, err := ParseRing([]byte(out))
		require.NoError(t, err)
		require.Equal(t, out, text(t, again))
	})
}

func FuzzOpen(f *testing.F) {
	r := parse(f, keyA, keyB)
	sealed, err := hex.DecodeString(goldenEnvelope) // the same in every process of the fuzzer
	require.NoError(f, err)
	f.Add(sealed, []byte("id"))
	f.Add(sealed[:Overhead], []byte("id"))
	f.Add(sealed[:headerSize], []byte{})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, envelope, additional []byte) {
		in := bytes.Clone(envelope)
		got, err := r.Open(nil, envelope, additional)
		require.Equal(t, in, envelope, "Open must not write to its input")
		if bytes.Equal(envelope, sealed) && string(additional) == "id" {
			require.NoError(t, err)
			require.Equal(t, "session", string(got))
			return
		}
		require.Error(t, err, "forged")
		require.Nil(t, got)
	})
}

// Every holder of the ring finds the name in an id, under any of its keys, and ids of one name have nothing in common.
func TestNameID(t *testing.T) {
	name := [NameSize]byte{1, 2, 3}
	ids := map[[2 * TagSize]byte]bool{}
	halves := map[[NameSize]byte]bool{}
	for range 100 {
		r := mustRing(t, 2)
		var id [2 * TagSize]byte
		rand.Read(id[:])
		r.NameID(id[:], name)
		ids[id], halves[[NameSize]byte(id[:])] = true, true
		require.True(t, r.CheckTag(id[:TagSize], id[TagSize:]))
		got, ok := r.NameIn(id[:])
		require.True(t, ok)
		require.Equal(t, name, got)
		require.NoError(t, r.Rotate())
		got, ok = r.NameIn(id[:])
		require.True(t, ok, "the ring was rotated")
		require.Equal(t, name, got)
		for _, other := range []*Ring{mustRing(t, 3), new(Ring)} {
			_, ok = other.NameIn(id[:])
			require.False(t, ok)
		}
		for _, i := range []int{0, TagSize - 1, TagSize, 2*TagSize - 1} {
			forged := id
			forged[i] ^= 1
			_, ok = r.NameIn(forged[:])
			require.False(t, ok)
		}
	}
	require.Len(t, ids, 100)
	require.Len(t, halves, 100)
	r := mustRing(t, 1)
	_, ok := r.NameIn(make([]byte, TagSize))
	require.False(t, ok)
	require.Panics(t, func() { r.NameID(make([]byte, TagSize), name) })
}
