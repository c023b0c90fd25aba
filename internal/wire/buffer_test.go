package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuffer_IsFilledAndEmptied(t *testing.T) {
	b := Get(Record)
	defer Put(b)
	require.True(t, b.Empty())
	require.Len(t, b.Room(), Record.Bytes())
	b.Filled(copy(b.Room(), "hello"))
	b.Filled(copy(b.Room(), " you"))
	require.False(t, b.Empty())
	require.Equal(t, "hello you", string(b.Data()))
	require.Len(t, b.Room(), Record.Bytes()-9)
	b.Taken(6)
	require.Equal(t, "you", string(b.Data()))
	require.Len(t, b.Room(), Record.Bytes()-9, "only the end is filled")
	b.Taken(3)
	require.True(t, b.Empty())
}

func TestGet_ReturnsEmptyBuffersOfTheSize(t *testing.T) {
	for size := range sizes {
		for range 100 { // the pool drops some
			b := Get(size)
			require.True(t, b.Empty())
			require.Empty(t, b.Data())
			require.Len(t, b.Room(), size.Bytes())
			b.Filled(size.Bytes())
			b.Taken(1)
			Put(b)
		}
	}
	require.Less(t, Small.Bytes(), Record.Bytes())
	require.Less(t, Record.Bytes(), Bulk.Bytes())
	Put(nil)
}
