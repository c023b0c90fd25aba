package entry

import (
	"testing"

	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

func TestTombstone(t *testing.T) {
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	id := TombstoneID(Name([16]byte{1}))
	require.Equal(t, id, TombstoneID(Name([16]byte{1, 15: 1})), "only the name decides")
	require.NotEqual(t, id, TombstoneID(Name([16]byte{2})))
	require.Equal(t, tombstoneIDLen, id.Len())
	for name, keys := range map[string]*ticket.Ring{"sealed": ring, "plaintext": nil} {
		t.Run(name, func(t *testing.T) {
			data := SealTombstone(keys, id)
			require.NoError(t, OpenTombstone(keys, id, data))
			require.ErrorIs(t, OpenTombstone(keys, TombstoneID(Name([16]byte{2})), data), ErrForged)
			_, _, err := Open(keys, id, data, nil)
			require.ErrorIs(t, err, ErrUnreadable, "a tombstone is no session")
			h := Header{}
			require.ErrorIs(t, OpenTombstone(keys, id, Seal(keys, id, &h, make([]byte, HeaderSize))), ErrUnreadable, "nor a session a tombstone")
			for i := range data {
				data[i] ^= 1
				require.Error(t, OpenTombstone(keys, id, data))
				data[i] ^= 1
			}
			require.ErrorIs(t, OpenTombstone(keys, id, nil), ErrForged)
		})
	}
	require.ErrorIs(t, OpenTombstone(nil, id, SealTombstone(ring, id)), ErrUnreadable)
	require.ErrorIs(t, OpenTombstone(ring, id, SealTombstone(nil, id)), ErrUnreadable)
}
