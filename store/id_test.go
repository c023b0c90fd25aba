package store

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestIDFromBytes(t *testing.T) {
	long := bytes.Repeat([]byte{0xab}, MaxIDLen+1)
	for n := range long {
		id, err := IDFromBytes(long[:n])
		if n == 0 {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, n, id.Len())
		assert.Equal(t, long[:n], id.Bytes())
		assert.Equal(t, strings.Repeat("ab", n), id.String())
		assert.False(t, id.IsZero())
		back, err := ParseID(id.String())
		require.NoError(t, err)
		assert.True(t, id == back)
	}
	_, err := IDFromBytes(long)
	assert.Error(t, err)
	_, err = IDFromBytes(nil)
	assert.Error(t, err)
}

func TestID_LengthCounts(t *testing.T) {
	seen := map[ID]bool{}
	for n := 1; n <= MaxIDLen; n++ {
		id, err := IDFromBytes(make([]byte, n))
		require.NoError(t, err)
		require.False(t, seen[id], "zero bytes at the end are part of the id")
		seen[id] = true
	}
}

func TestID_DoesNotAlias(t *testing.T) {
	b := []byte{1, 2, 3}
	id, err := IDFromBytes(b)
	require.NoError(t, err)
	b[0] = 9
	id.Bytes()[1] = 9
	assert.Equal(t, "010203", id.String())
}

func TestID_Zero(t *testing.T) {
	var id ID
	assert.True(t, id.IsZero())
	assert.Zero(t, id.Len())
	assert.Empty(t, id.Bytes())
	assert.Empty(t, id.String())
}

func TestParseID(t *testing.T) {
	id, err := ParseID("0aFF")
	require.NoError(t, err)
	assert.Equal(t, []byte{0x0a, 0xff}, id.Bytes())
	for _, s := range []string{"", "0", "xy", "0a ", strings.Repeat("00", MaxIDLen+1)} {
		_, err := ParseID(s)
		assert.Error(t, err, "%q", s)
	}
}

func TestRecord_Validate(t *testing.T) {
	id, _ := ParseID("01")
	assert.NoError(t, Record{ID: id}.Validate())
	assert.NoError(t, Record{ID: id, Data: make([]byte, MaxData), Expires: time.Now()}.Validate())
	assert.ErrorIs(t, Record{ID: id, Data: make([]byte, MaxData+1)}.Validate(), ErrTooLarge)
	assert.ErrorIs(t, Record{Data: []byte("x")}.Validate(), ErrZeroID)
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"", "0", "00", "AbCd", "zz", "0x12", strings.Repeat("7f", MaxIDLen), strings.Repeat("00", MaxIDLen+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			require.True(t, id.IsZero())
			digits := strings.Trim(s, "0123456789abcdefABCDEF") == ""
			require.False(t, digits && len(s)%2 == 0 && len(s) >= 2 && len(s) <= 2*MaxIDLen, "%q is one", s)
			return
		}
		require.Equal(t, strings.ToLower(s), id.String())
		require.Equal(t, len(s)/2, id.Len())
		again, err := IDFromBytes(id.Bytes())
		require.NoError(t, err)
		require.True(t, id == again)
		require.NoError(t, Record{ID: id}.Validate())
	})
}
