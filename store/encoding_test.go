package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func encodable(t *testing.T, id string, data []byte) Record {
	t.Helper()
	parsed, err := ParseID(id)
	require.NoError(t, err)
	return Record{ID: parsed, Data: data, Expires: time.UnixMilli(1_700_000_000_123)}
}

func TestEncode_RoundTrip(t *testing.T) {
	for _, data := range [][]byte{nil, {0}, []byte("session"), bytes.Repeat([]byte{0xff}, MaxData)} {
		for _, expires := range []time.Time{time.UnixMilli(1_700_000_000_123), time.Unix(0, 0), {}} {
			want := encodable(t, "0102", data)
			want.Expires = expires
			got, err := Decode(want.ID, Encode(want))
			require.NoError(t, err)
			assert.True(t, Same(want, got))
			assert.True(t, bytes.Equal(want.Data, got.Data))
		}
	}
}

func TestEncode_KeepsNoReference(t *testing.T) {
	r := encodable(t, "01", []byte("session"))
	encoded := Encode(r)
	clear(r.Data)
	got, err := Decode(r.ID, encoded)
	require.NoError(t, err)
	assert.Equal(t, "session", string(got.Data))
}

// A fleet shares the encoding: a change needs a new version.
func TestEncode_IsStable(t *testing.T) {
	want := "\x01\x00\x00\x01\x8b\xcf\xe5\x68\x7b" + "\x16\xe8\x80\x52" + "session"
	assert.Equal(t, want, string(Encode(encodable(t, "0102", []byte("session")))))
}

func TestDecode_DamagedIsNotFound(t *testing.T) {
	r := encodable(t, "01", []byte("session"))
	encoded := Encode(r)
	for n := range encoded {
		_, err := Decode(r.ID, bytes.Clone(encoded[:n]))
		assert.ErrorIs(t, err, ErrNotFound, "cut to %d bytes", n)
		flipped := bytes.Clone(encoded)
		flipped[n] ^= 0x40
		_, err = Decode(r.ID, flipped)
		assert.ErrorIs(t, err, ErrNotFound, "byte %d flipped", n)
	}
	_, err := Decode(r.ID, append(bytes.Clone(encoded), 0))
	assert.ErrorIs(t, err, ErrNotFound, "a byte too many")
	_, err = Decode(encodable(t, "0100", nil).ID, encoded)
	assert.ErrorIs(t, err, ErrNotFound, "another id's")
	big := r
	big.Data = make([]byte, MaxData+1)
	_, err = Decode(r.ID, Encode(big))
	assert.ErrorIs(t, err, ErrNotFound, "too long")
}

func TestSame(t *testing.T) {
	r := encodable(t, "01", []byte("session"))
	assert.True(t, Same(r, r))
	other := r
	other.Expires = r.Expires.Add(999 * time.Microsecond)
	assert.True(t, Same(r, other))
	other.Expires = r.Expires.Add(time.Millisecond)
	assert.False(t, Same(r, other))
	other = r
	other.Data = []byte("another")
	assert.False(t, Same(r, other))
	other = r
	other.ID = encodable(t, "02", nil).ID
	assert.False(t, Same(r, other))
}
