package entry

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

func sealWith(h Header, keys *ticket.Ring, id store.ID, idContext, der []byte) []byte {
	return Seal(keys, id, idContext, &h, append(make([]byte, HeaderSize), der...))
}

func seal(keys *ticket.Ring, id store.ID, idContext []byte, made time.Time, der []byte) []byte {
	return sealWith(Header{Made: made, Origin: [16]byte{1, 15: 16}}, keys, id, idContext, der)
}

func open(keys *ticket.Ring, id store.ID, idContext, data []byte) (der []byte, h Header, err error) {
	h, der, err = Open(keys, id, idContext, data, nil)
	return der, h, err
}

func testRing(t testing.TB) *ticket.Ring {
	t.Helper()
	r, err := ticket.NewRing()
	require.NoError(t, err)
	return r
}

func testID(t testing.TB, fill byte, n int) store.ID {
	t.Helper()
	id, err := store.IDFromBytes(bytes.Repeat([]byte{fill}, n))
	require.NoError(t, err)
	return id
}

// entryKinds are the two kinds of entries: sealed and plaintext.
func entryKinds(t *testing.T, f func(t *testing.T, keys *ticket.Ring)) {
	t.Run("sealed", func(t *testing.T) { f(t, testRing(t)) })
	t.Run("plaintext", func(t *testing.T) { f(t, nil) })
}

func TestEntry_ComesBackWhole(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		made := time.Unix(1_700_000_000, 0)
		for _, size := range []int{0, 1, 150, 64 << 10} {
			der := make([]byte, size)
			rand.Read(der)
			for _, sid := range [][]byte{nil, {1}, bytes.Repeat([]byte{7}, 32)} {
				id := testID(t, 5, 32)
				h := Header{Made: made.Add(time.Second / 2), Origin: [16]byte{1, 15: 16}}
				got, gotHeader, err := open(keys, id, sid, sealWith(h, keys, id, sid, der))
				require.NoError(t, err)
				require.True(t, bytes.Equal(der, got))
				h.Made = made // whole seconds
				require.Equal(t, h, gotHeader)
			}
		}
	})
}

func TestEntry_IsGoodUnderItsOwnNameAndContextOnly(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		id, sid := testID(t, 5, 16), bytes.Repeat([]byte{5}, 16)
		data := seal(keys, id, sid, time.Now(), []byte("der"))
		for name, other := range map[string]struct {
			id  store.ID
			sid []byte
		}{
			"other id":           {testID(t, 6, 16), sid},
			"other context":      {id, bytes.Repeat([]byte{6}, 16)},
			"no context":         {id, nil},
			"border moved right": {testID(t, 5, 17), bytes.Repeat([]byte{5}, 15)},
			"border moved left":  {testID(t, 5, 15), bytes.Repeat([]byte{5}, 17)},
		} {
			_, _, err := open(keys, other.id, other.sid, data)
			require.ErrorIs(t, err, ErrForged, name)
		}
	})
}

func TestEntry_AnyChangeIsNoticed(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		id, sid := testID(t, 5, 32), []byte("context")
		data := seal(keys, id, sid, time.Now(), bytes.Repeat([]byte("der"), 20))
		for n := range data {
			_, _, err := open(keys, id, sid, data[:n])
			require.Error(t, err, "cut to %d bytes", n)
		}
		_, _, err := open(keys, id, sid, append(bytes.Clone(data), 0))
		require.Error(t, err, "a byte more")
		for bit := range 8 * len(data) {
			changed := bytes.Clone(data)
			changed[bit/8] ^= 1 << (bit % 8)
			der, _, err := open(keys, id, sid, changed)
			require.Error(t, err, "bit %d", bit)
			require.Nil(t, der)
		}
	})
}

func TestEntry_TellsUnreadableFromForged(t *testing.T) {
	id, sid := testID(t, 5, 32), []byte("context")
	a, b := testRing(t), testRing(t)
	sealed, plain := seal(a, id, sid, time.Now(), []byte("der")), seal(nil, id, sid, time.Now(), []byte("der"))
	newer := bytes.Clone(sealed)
	newer[0] = 5
	for name, tt := range map[string]struct {
		keys *ticket.Ring
		data []byte
		want error
	}{
		"unknown key":                     {b, sealed, ErrUnreadable},
		"sealed, without keys":            {nil, sealed, ErrUnreadable},
		"plaintext, where a seal is due":  {a, plain, ErrUnreadable},
		"format of a later version":       {a, newer, ErrUnreadable},
		"format of a later version plain": {nil, newer, ErrUnreadable},
		"empty":                           {a, nil, ErrForged},
		"empty plain":                     {nil, []byte{}, ErrForged},
		"garbage":                         {a, append([]byte{formatEntry.sealed}, bytes.Repeat([]byte{9}, 100)...), ErrForged},
		"garbage plain":                   {nil, append([]byte{formatEntry.plaintext}, bytes.Repeat([]byte{9}, 100)...), ErrForged},
	} {
		_, _, err := open(tt.keys, id, sid, tt.data)
		require.ErrorIs(t, err, tt.want, name)
	}
}

func TestEntry_RefusesPartsOfAHeader(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		id := testID(t, 5, 32)
		sealBody := func(body []byte) []byte {
			if keys != nil {
				return keys.Seal([]byte{formatEntry.sealed}, body, authenticated(formatEntry.sealed, id, nil))
			}
			return append(append([]byte{formatEntry.plaintext}, checksum(authenticated(formatEntry.plaintext, id, nil), body)...), body...)
		}
		for _, n := range []int{0, HeaderSize - 1} {
			_, _, err := Open(keys, id, nil, sealBody(make([]byte, n)), nil)
			require.ErrorIs(t, err, ErrForged, "%d bytes", n)
		}
		_, der, err := Open(keys, id, nil, sealBody(make([]byte, HeaderSize)), nil)
		require.NoError(t, err)
		require.Empty(t, der)
	})
}

func TestEntry_SealedShowsNothing(t *testing.T) {
	der := bytes.Repeat([]byte("secret!!"), 20)
	id := testID(t, 5, 32)
	sealed := seal(testRing(t), id, nil, time.Now(), der)
	require.NotContains(t, string(sealed), "secret!!")
	require.Contains(t, string(seal(nil, id, nil, time.Now(), der)), "secret!!")
}

// goldenEntryKey is a ring's only key.
const goldenEntryKey = "4f1c7a0de2b35896c7d80b19fa623e5d8890abcdef1234567890fedcba012345"

// goldenEntry was sealed under goldenEntryKey for the id of five fives, the id context "context", at 1700000000, with the
// origin of seal, and holds "the session".
const goldenEntry = "03021bbbd30481a682aac195c349ad9b6ff007d51ade49e2ca47a6042905364b3ead89349dd175b16cf1bf61eb757e113017530eb2f786b3" +
	"f32d1fc774c862c137097a54e3540df0b74fb91ebb3eab5677a8d1529c1f22ec06"

func FuzzOpenEntry(f *testing.F) {
	keys, err := ticket.ParseRing([]byte(goldenEntryKey))
	require.NoError(f, err)
	golden, err := hex.DecodeString(goldenEntry)
	require.NoError(f, err)
	goldenHeader := Header{Made: time.Unix(1_700_000_000, 0), Origin: [16]byte{1, 15: 16}}
	name, sid := bytes.Repeat([]byte{5}, 5), []byte("context")
	goldenID, err := store.IDFromBytes(name)
	require.NoError(f, err)
	f.Add(name, sid, golden, false)
	f.Add(name, sid, sealWith(goldenHeader, nil, goldenID, sid, []byte("the session")), false)
	f.Add(name, sid, sealWith(goldenHeader, nil, goldenID, sid, nil), true)
	f.Add(name, sid, []byte{formatEntry.plaintext, 1, 2, 3, 4, 5, 6, 7, 8}, true)
	f.Fuzz(func(t *testing.T, name, sid, data []byte, sum bool) {
		id, err := store.IDFromBytes(name)
		if err != nil {
			return
		}
		if sum && len(data) > checksumSize && data[0] == formatEntry.plaintext { // or the fuzzer never gets past it
			copy(data[1:], checksum(authenticated(formatEntry.plaintext, id, sid), data[1+checksumSize:]))
		}
		before := bytes.Clone(data)

		h, der, err := Open(keys, id, sid, data, nil)
		if bytes.Equal(data, golden) && id == goldenID && string(sid) == "context" {
			require.NoError(t, err)
			require.Equal(t, "the session", string(der))
			require.Equal(t, goldenHeader, h)
		} else {
			require.Error(t, err, "forged")
			require.Nil(t, der)
		}

		if h, der, err = Open(nil, id, sid, data, nil); err == nil {
			require.Equal(t, before, sealWith(h, nil, id, sid, der), "there is one entry of one content")
		} else {
			require.Nil(t, der)
		}
		require.Equal(t, before, data, "the entry is the store's")

		// Any session comes back as it was sealed.
		h, der, err = Open(keys, id, sid, sealWith(goldenHeader, keys, id, sid, data), nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, der))
		require.Equal(t, goldenHeader, h)
	})
}
