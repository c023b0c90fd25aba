package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// ---- waiting -------------------------------------------------------------------

func threads(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	n, err := strconv.Atoi(string(regexp.MustCompile(`(?m)^Threads:\s+(\d+)`).FindSubmatch(b)[1]))
	require.NoError(t, err)
	return n
}

func TestStore_ParkedLookupsHoldNoThread(t *testing.T) {
	waiting := 2000
	if testing.Short() {
		waiting = 200
	}
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		var entered atomic.Int64
		release := make(chan struct{})
		st.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			entered.Add(1)
			<-release
			return st.mem.Get(ctx, id)
		}
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), LookupTimeout: 10 * time.Minute})
		sess := f.visit(t, server, nil).next
		before := threads(t)

		failed := make(chan error, waiting)
		for range waiting {
			cn, sn := net.Pipe()
			c, s := f.ends(t, cn, sn, server, sess)
			c.SetDeadline(time.Time{})
			s.SetDeadline(time.Time{})
			go func() {
				// A pipe holds nothing: only one end may write at a time, and a
				// close_notify would wait for a reader.
				go s.Write([]byte{'x'})
				_, err := c.Read(make([]byte, 1))
				if err == nil && !(c.SessionReused() && s.SessionReused()) {
					err = errors.New("not resumed")
				}
				cn.Close()
				sn.Close()
				failed <- err
			}()
		}
		wait(t, "all lookups", func() bool { return int(entered.Load()) == waiting })
		require.Equal(t, waiting, cache.Stats().Parked)
		require.LessOrEqual(t, threads(t)-before, 4*runtime.GOMAXPROCS(0)+32)
		close(release)
		for range waiting {
			require.NoError(t, receive(t, "a handshake", failed))
		}
		require.Zero(t, cache.Stats().Parked)
		require.EqualValues(t, waiting, cache.Stats().Hits)
		require.LessOrEqual(t, threads(t)-before, 4*runtime.GOMAXPROCS(0)+32)
	})
}

// ---- bad answers -----------------------------------------------------------------

// issuance is a session, its id and its entry.
type issuance struct {
	sess *libssl.Session // the client's
	id   store.ID
	sid  []byte // the server's id context
	rec  store.Record
	der  []byte // the server's session
}

// issue makes a full handshake and opens the entry that the store got.
func (f *fleet) issue(t testing.TB, server *libssl.Context, st *spy, seal *ticket.Ring) issuance {
	t.Helper()
	v := f.visit(t, server, nil)
	i := issuance{sess: v.next, id: storeID(t, v.next), sid: v.idContext}
	i.rec = st.record(t, i.id)
	der, _, err := libssl.OpenEntry(seal, i.id, i.rec.Data)
	require.NoError(t, err)
	i.der = der
	return i
}

type count uint8

const (
	countMiss count = iota
	countRejected
	countUndecodable
)

// badAnswer holds answer, to the question for i, against a node: the handshake
// must be full, and counted as want.
func badAnswer(t *testing.T, f *fleet, opt libssl.StoreOptions, i issuance, want count,
	answer func() (store.Record, error)) {
	t.Helper()
	st := newSpy()
	st.OnGet = func(context.Context, store.ID) (store.Record, error) { return answer() }
	var errs heard
	opt.OnError = errs.hear
	server, cache := f.node(t, st, &opt)
	v := f.visit(t, server, i.sess)
	require.False(t, v.resumed)
	require.Equal(t, i.sid, v.idContext)
	require.Equal(t, []store.ID{i.id}, st.asked(&st.gets))
	require.Empty(t, st.asked(&st.deletes), "an entry that others may read stays where it is")
	require.NoError(t, errs.all())
	stats := cache.Stats()
	require.Equal(t, map[count]uint64{countMiss: 0, countRejected: 0, countUndecodable: 0, want: 1},
		map[count]uint64{countMiss: stats.Misses, countRejected: stats.Rejected, countUndecodable: stats.Undecodable},
		"misses, rejected, undecodable")
	require.Zero(t, stats.Hits+stats.Errors+stats.Timeouts+stats.Untagged)
	require.False(t, stats.Open)
}

func TestStore_BadAnswersAreMisses(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(map[bool]string{false: "sealed", true: "plaintext"}[plain], func(t *testing.T) {
			eachVersion(t, func(t *testing.T, f *fleet) {
				opt := libssl.StoreOptions{Keys: newRing(t), Plaintext: plain}
				seal, otherSeal := opt.Keys, newRing(t)
				if plain {
					seal, otherSeal = nil, nil
				}
				st := newSpy()
				server, _ := f.node(t, st, &opt)
				i, other := f.issue(t, server, st, seal), f.issue(t, server, st, seal)
				require.Equal(t, i.sid, other.sid)
				now := time.Now()

				// with answers under the right name with these bytes, craft with a
				// good entry around this session.
				with := func(data []byte) func() (store.Record, error) {
					return func() (store.Record, error) {
						return store.Record{ID: i.id, Data: bytes.Clone(data), Expires: now.Add(time.Hour)}, nil
					}
				}
				craft := func(der []byte) func() (store.Record, error) {
					return with(libssl.SealEntry(seal, i.id, now, der))
				}
				edited := func(field int) []byte {
					der := bytes.Clone(i.der)
					b := sessionField(t, der, field)
					b[len(b)-1] ^= 1
					return der
				}
				stale := func() []byte {
					s, err := libssl.ParseSession(i.der)
					require.NoError(t, err)
					defer s.Release()
					require.NoError(t, s.SetTime(now.Add(-48*time.Hour)))
					return derOf(t, s)
				}
				otherVersion := newFleet(t, tls.VersionTLS12+tls.VersionTLS13-f.version)
				otherVersion.ca, otherVersion.cert, otherVersion.key = f.ca, f.cert, f.key
				otherVersion.client = f.client
				stOther := newSpy()
				serverOther, _ := otherVersion.node(t, stOther, &opt)
				iOther := otherVersion.issue(t, serverOther, stOther, seal)
				require.Equal(t, i.sid, iOther.sid)
				copy(sessionField(t, iOther.der, fieldID), i.id.Bytes()) // so that nothing else is wrong with it

				kind := i.rec.Data[0]
				for name, tt := range map[string]struct {
					answer func() (store.Record, error)
					want   count
				}{
					"absent":                  {func() (store.Record, error) { return store.Record{}, store.ErrNotFound }, countMiss},
					"absent, wrapped":         {func() (store.Record, error) { return store.Record{}, fmt.Errorf("x: %w", store.ErrNotFound) }, countMiss},
					"nothing":                 {func() (store.Record, error) { return store.Record{}, nil }, countRejected},
					"empty":                   {with(nil), countRejected},
					"garbage":                 {with(append([]byte{kind}, bytes.Repeat([]byte{0x5a}, 300)...)), countRejected},
					"garbage of another kind": {with(bytes.Repeat([]byte{0x5a}, 300)), countUndecodable},
					"a byte more":             {with(append(bytes.Clone(i.rec.Data), 0)), countRejected},
					"another's entry":         {with(other.rec.Data), countRejected},
					"another's record":        {func() (store.Record, error) { return other.rec, nil }, countRejected},
					"another's session":       {craft(other.der), countRejected},
					"another version's":       {craft(iOther.der), countRejected},
					"another context within":  {craft(edited(fieldIDContext)), countRejected},
					"another id within":       {craft(edited(fieldID)), countRejected},
					"expired":                 {craft(stale()), countRejected},
					"beyond its lifetime":     {with(libssl.SealEntry(seal, i.id, now.Add(-25*time.Hour), i.der)), countRejected},
					"no session":              {craft(nil), countUndecodable},
					"not DER":                 {craft(bytes.Repeat([]byte{0x5a}, 200)), countUndecodable},
					"bytes after the session": {craft(append(bytes.Clone(i.der), 0)), countUndecodable},
					"plaintext for sealed":    {with(libssl.SealEntry(otherSealed(seal, newRing(t)), i.id, now, i.der)), countUndecodable},
					"1 MB of garbage":         {with(append([]byte{kind}, make([]byte, 1<<20)...)), countRejected},
					"1 MB of another kind":    {with(make([]byte, 1<<20)), countRejected},
					"1 MB around the session": {craft(append(bytes.Clone(i.der), make([]byte, 1<<20)...)), countRejected},
					"an unknown cipher":       {craft(bytes.Replace(i.der, cipherField(t, i.der), []byte{4, 2, 0xfe, 0xfe}, 1)), countUndecodable},
				} {
					t.Run(name, func(t *testing.T) { badAnswer(t, f, opt, i, tt.want, tt.answer) })
				}
				if !plain {
					t.Run("unknown key", func(t *testing.T) {
						badAnswer(t, f, opt, i, countUndecodable, with(libssl.SealEntry(otherSeal, i.id, now, i.der)))
					})
				}
				t.Run("the good one", func(t *testing.T) { // the others fail for their own reasons only if this one resumes
					good := newSpy()
					good.OnGet = func(context.Context, store.ID) (store.Record, error) { return craft(i.der)() }
					server, _ := f.node(t, good, &opt)
					require.True(t, f.visit(t, server, i.sess).resumed)
				})
			})
		})
	}
}

// otherSealed returns the key of the other kind of entry: ring if seal is nil, and
// the reverse.
func otherSealed(seal, ring *ticket.Ring) *ticket.Ring {
	if seal == nil {
		return ring
	}
	return nil
}

// cipherField is the cipher suite's field, header included.
func cipherField(t testing.TB, der []byte) []byte {
	b := sessionField(t, der, 2)
	require.Len(t, b, 2)
	return append([]byte{4, 2}, b...)
}

func TestStore_TruncatedAndFlippedAnswers(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		for name, plain := range map[string]bool{"sealed": false, "plaintext": true} {
			t.Run(name, func(t *testing.T) {
				opt := &libssl.StoreOptions{Keys: ring, Plaintext: plain}
				seal := ring
				if plain {
					seal = nil
				}
				st := newSpy()
				server, cache := f.node(t, st, opt)
				i := f.issue(t, server, st, seal)
				var data []byte
				answering := newSpy()
				answering.OnGet = func(context.Context, store.ID) (store.Record, error) {
					return store.Record{ID: i.id, Data: bytes.Clone(data), Expires: time.Now().Add(time.Hour)}, nil
				}
				server, cache = f.node(t, answering, opt)
				full := func(what string, n int) {
					require.False(t, f.visit(t, server, i.sess).resumed, what, n)
				}
				step := 1
				if testing.Short() {
					step = 13
				}
				// A sample: internal/entry's tests cut and flip everywhere.
				for n := 0; n < len(i.rec.Data); n += 13 {
					data = i.rec.Data[:n]
					full("cut to %d bytes", n)
				}
				for bit := 0; bit < 8*len(i.rec.Data); bit += 8*13 + 1 {
					data = bytes.Clone(i.rec.Data)
					data[bit/8] ^= 1 << (bit % 8)
					full("bit %d changed", bit)
				}
				stats := cache.Stats()
				require.Zero(t, stats.Hits+stats.Errors)
				for n := 0; n < len(i.der); n += step { // cut before it was sealed
					data = libssl.SealEntry(seal, i.id, time.Now(), i.der[:n])
					full("session cut to %d bytes", n)
				}
				require.Zero(t, cache.Stats().Hits)
				// A session changed before it was sealed, by a host that has the key, may
				// fail the handshake, but must do no more.
				for bit := 0; bit < 8*len(i.der); bit += 5 * step {
					der := bytes.Clone(i.der)
					der[bit/8] ^= 1 << (bit % 8)
					data = libssl.SealEntry(seal, i.id, time.Now(), der)
					cn, sn := tcpPipe(t)
					c, s := f.ends(t, cn, sn, server, i.sess)
					failed := make(chan error, 1)
					go func() {
						_, err := s.Write([]byte{'x'})
						if err != nil {
							s.NetConn().Close()
						}
						failed <- err
					}()
					if _, err := c.Read(make([]byte, 1)); err != nil {
						c.NetConn().Close()
					}
					<-failed
					closeBoth(c, s)
				}
			})
		}
	})
}

func TestStore_LeavesWhatItCannotReadToOthers(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, single := range []bool{false, true} {
			older := newRing(t)
			var text bytes.Buffer
			older.WriteTo(&text)
			newer, err := ticket.ParseRing(text.Bytes())
			require.NoError(t, err)
			require.NoError(t, newer.Rotate()) // seals with a key that the older one lacks
			st := newSpy()
			a, _ := f.node(t, st, &libssl.StoreOptions{Keys: newer, SingleUse: single})
			b, cacheB := f.node(t, st, &libssl.StoreOptions{Keys: older, SingleUse: single})
			i := f.issue(t, a, st, newer)
			require.False(t, f.visit(t, b, i.sess).resumed)
			require.EqualValues(t, 1, cacheB.Stats().Undecodable)
			require.Empty(t, st.asked(&st.deletes))
			require.Equal(t, i.rec, st.record(t, i.id))
			require.True(t, f.visit(t, a, i.sess).resumed)
		}
	})
}
