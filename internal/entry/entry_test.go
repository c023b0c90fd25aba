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

func sealWith(h Header, keys *ticket.Ring, id store.ID, der []byte) []byte {
	return Seal(keys, id, &h, append(make([]byte, HeaderSize), der...))
}

func seal(keys *ticket.Ring, id store.ID, made time.Time, der []byte) []byte {
	return sealWith(Header{Made: made, Origin: [16]byte{1, 15: 16}}, keys, id, der)
}

func open(keys *ticket.Ring, id store.ID, data []byte) (der []byte, h Header, err error) {
	h, der, err = Open(keys, id, data, nil)
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
			id := testID(t, 5, 32)
			h := Header{Made: made.Add(time.Second / 2), Origin: [16]byte{1, 15: 16}}
			got, gotHeader, err := open(keys, id, sealWith(h, keys, id, der))
			require.NoError(t, err)
			require.True(t, bytes.Equal(der, got))
			h.Made = made // whole seconds
			require.Equal(t, h, gotHeader)
		}
	})
}

func TestEntry_IsGoodUnderItsOwnIDOnly(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		data := seal(keys, testID(t, 5, 16), time.Now(), []byte("der"))
		for _, other := range []store.ID{testID(t, 6, 16), testID(t, 5, 17), testID(t, 5, 15)} {
			_, _, err := open(keys, other, data)
			require.ErrorIs(t, err, ErrForged, other)
		}
	})
}

func TestEntry_AnyChangeIsNoticed(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		id := testID(t, 5, 32)
		data := seal(keys, id, time.Now(), bytes.Repeat([]byte("der"), 20))
		for n := range data {
			_, _, err := open(keys, id, data[:n])
			require.Error(t, err, "cut to %d bytes", n)
		}
		_, _, err := open(keys, id, append(bytes.Clone(data), 0))
		require.Error(t, err, "a byte more")
		for bit := range 8 * len(data) {
			changed := bytes.Clone(data)
			changed[bit/8] ^= 1 << (bit % 8)
			der, _, err := open(keys, id, changed)
			require.Error(t, err, "bit %d", bit)
			require.Nil(t, der)
		}
	})
}

func TestEntry_TellsUnreadableFromForged(t *testing.T) {
	id := testID(t, 5, 32)
	a, b := testRing(t), testRing(t)
	sealed, plain := seal(a, id, time.Now(), []byte("der")), seal(nil, id, time.Now(), []byte("der"))
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
		_, _, err := open(tt.keys, id, tt.data)
		require.ErrorIs(t, err, tt.want, name)
	}
}

func TestEntry_RefusesPartsOfAHeader(t *testing.T) {
	entryKinds(t, func(t *testing.T, keys *ticket.Ring) {
		id := testID(t, 5, 32)
		sealBody := func(body []byte) []byte {
			if keys != nil {
				return keys.Seal([]byte{formatEntry.sealed}, body, authenticated(formatEntry.sealed, id))
			}
			return append(append([]byte{formatEntry.plaintext}, checksum(authenticated(formatEntry.plaintext, id), body)...), body...)
		}
		for _, n := range []int{0, HeaderSize - 1} {
			_, _, err := Open(keys, id, sealBody(make([]byte, n)), nil)
			require.ErrorIs(t, err, ErrForged, "%d bytes", n)
		}
		_, der, err := Open(keys, id, sealBody(make([]byte, HeaderSize)), nil)
		require.NoError(t, err)
		require.Empty(t, der)
	})
}

func TestEntry_SealedShowsNothing(t *testing.T) {
	der := bytes.Repeat([]byte("secret!!"), 20)
	id := testID(t, 5, 32)
	sealed := seal(testRing(t), id, time.Now(), der)
	require.NotContains(t, string(sealed), "secret!!")
	require.Contains(t, string(seal(nil, id, time.Now(), der)), "secret!!")
}

// goldenEntryKey is a ring's only key.
const goldenEntryKey = "4f1c7a0de2b35896c7d80b19fa623e5d8890abcdef1234567890fedcba012345"

// goldenEntry was sealed under goldenEntryKey for the id of five fives, at 1700000000, with the
// origin of seal, and holds "the session".
const goldenEntry = "03021bbbd30481a682aa914738c80cebd24da74798eb6a879dd2d6a2ee3cfb4170f59b3c0d4386e55fe9c219f04fff925dc8819261ae2395" +
	"ad64e629af5532daf8965e0a162b274ff467afc9af70df420633b091589f270f8b"

func FuzzOpenEntry(f *testing.F) {
	keys, err := ticket.ParseRing([]byte(goldenEntryKey))
	require.NoError(f, err)
	golden, err := hex.DecodeString(goldenEntry)
	require.NoError(f, err)
	goldenHeader := Header{Made: time.Unix(1_700_000_000, 0), Origin: [16]byte{1, 15: 16}}
	name := bytes.Repeat([]byte{5}, 5)
	goldenID, err := store.IDFromBytes(name)
	require.NoError(f, err)
	f.Add(name, golden, false)
	f.Add(name, sealWith(goldenHeader, nil, goldenID, []byte("the session")), false)
	f.Add(name, sealWith(goldenHeader, nil, goldenID, nil), true)
	f.Add(name, []byte{formatEntry.plaintext, 1, 2, 3, 4, 5, 6, 7, 8}, true)
	f.Fuzz(func(t *testing.T, name, data []byte, sum bool) {
		id, err := store.IDFromBytes(name)
		if err != nil {
			return
		}
		if sum && len(data) > checksumSize && data[0] == formatEntry.plaintext { // or the fuzzer never gets past it
			copy(data[1:], checksum(authenticated(formatEntry.plaintext, id), data[1+checksumSize:]))
		}
		before := bytes.Clone(data)

		h, der, err := Open(keys, id, data, nil)
		if bytes.Equal(data, golden) && id == goldenID {
			require.NoError(t, err)
			require.Equal(t, "the session", string(der))
			require.Equal(t, goldenHeader, h)
		} else {
			require.Error(t, err, "forged")
			require.Nil(t, der)
		}

		if h, der, err = Open(nil, id, data, nil); err == nil {
			require.Equal(t, before, sealWith(h, nil, id, der), "there is one entry of one content")
		} else {
			require.Nil(t, der)
		}
		require.Equal(t, before, data, "the entry is the store's")

		// Any session comes back as it was sealed.
		h, der, err = Open(keys, id, sealWith(goldenHeader, keys, id, data), nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, der))
		require.Equal(t, goldenHeader, h)
	})
}
