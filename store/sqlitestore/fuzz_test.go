package sqlitestore

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// With any row that another program has put into the file, the store answers and goes on.
func FuzzRow(f *testing.F) {
	f.Add([]byte("an id"), []byte("data"), int64(math.MaxInt64))
	f.Add([]byte("an id"), []byte{}, int64(0))
	f.Add([]byte{}, []byte("data"), int64(math.MaxInt64))
	f.Add(bytes.Repeat([]byte{1}, 33), []byte("data"), int64(math.MaxInt64))
	f.Add(bytes.Repeat([]byte{0}, 32), bytes.Repeat([]byte{2}, store.MaxData+1), int64(math.MinInt64))
	path := newPath(f)
	s := mustOpen(f, path)
	other := raw(f, path)
	f.Fuzz(func(t *testing.T, key, data []byte, expires int64) {
		if key == nil || data == nil { // nil would be NULL
			key, data = append([]byte{}, key...), append([]byte{}, data...)
		}
		insert := func() {
			_, err := other.Exec("INSERT OR REPLACE INTO records (id, data, expires) VALUES (?, ?, ?)", key, data, expires)
			require.NoError(t, err)
		}
		insert()
		future := expires > time.Now().UnixMilli()+1000
		past := expires < time.Now().UnixMilli()
		id, err := store.IDFromBytes(key)
		if err == nil {
			get, err := s.Get(ctx, id)
			taken, takeErr := s.Take(ctx, id)
			if future {
				require.NoError(t, err)
				require.NoError(t, takeErr)
				require.Equal(t, id, get.ID)
				require.True(t, bytes.Equal(data, get.Data))
				require.True(t, bytes.Equal(data, taken.Data))
				require.Equal(t, expires, get.Expires.UnixMilli())
			} else if past {
				require.ErrorIs(t, err, store.ErrNotFound)
				require.ErrorIs(t, takeErr, store.ErrNotFound)
			}
			_, err = s.Get(ctx, id)
			require.ErrorIs(t, err, store.ErrNotFound)
			insert()
			require.NoError(t, s.Delete(ctx, id))
			_, err = s.Get(ctx, id)
			require.ErrorIs(t, err, store.ErrNotFound)
			insert()
		}
		listed := 0
		listErr := s.List(ctx, func(got store.ID, size int, _ time.Time) error {
			require.Equal(t, id, got)
			require.Len(t, data, size)
			listed++
			return nil
		})
		if future && err == nil {
			require.NoError(t, listErr)
			require.Equal(t, 1, listed)
		}
		_, err = s.Purge(ctx, false)
		require.NoError(t, err)
	})
}

func FuzzKeyFile(f *testing.F) {
	key := hex.EncodeToString(bytes.Repeat([]byte{0x5a}, keySize))
	for _, text := range []string{"", key, key + "\n", " " + key + "\r\n", key[1:], key + key, "zz" + key[2:]} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "key")
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(path, text, 0o600))
		key, err := readKey(path)
		if err != nil {
			require.Nil(t, key)
			return
		}
		require.Len(t, key, keySize)
		require.Equal(t, hex.EncodeToString(key), string(bytes.ToLower(bytes.TrimSpace(text))))
	})
}
