package cgo_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/libssl-go/libssl/cgo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRegistry_FindsWhatWasPut(t *testing.T) {
	var r cgo.Registry[int]
	require.Nil(t, r.Get(1<<32), "empty")
	values := make([]int, 1000) // more than one chunk
	handles := make([]cgo.Handle, len(values))
	for i := range values {
		handles[i] = r.Put(&values[i])
		require.NotZero(t, handles[i])
	}
	require.Equal(t, len(values), r.Len())
	seen := map[cgo.Handle]bool{}
	for i, h := range handles {
		require.Same(t, &values[i], r.Get(h))
		require.False(t, seen[h])
		seen[h] = true
	}
	for _, h := range handles {
		r.Delete(h)
		require.Nil(t, r.Get(h))
	}
	require.Zero(t, r.Len())
}

func TestRegistry_UnknownHandlesFindNothing(t *testing.T) {
	var r cgo.Registry[int]
	v := 7
	h := r.Put(&v)
	for _, unknown := range []cgo.Handle{0, 1, h + 1, h + 1<<32, h | 1<<63, h | 0xffff_ffff, ^cgo.Handle(0), 300 + 1<<32} {
		require.Nil(t, r.Get(unknown), "%#x", uint64(unknown))
		r.Set(unknown, new(int))
		r.Delete(unknown)
	}
	require.Equal(t, 1, r.Len())
	require.Same(t, &v, r.Get(h))
}

// A slot that is used again has a new generation.
func TestRegistry_OldHandlesStayDead(t *testing.T) {
	var r cgo.Registry[int]
	var old []cgo.Handle
	for i := range 1000 {
		v := i
		h := r.Put(&v)
		require.Same(t, &v, r.Get(h))
		for _, dead := range old {
			require.NotEqual(t, dead, h)
			require.Nil(t, r.Get(dead))
			r.Set(dead, new(int))
			r.Delete(dead)
		}
		require.Same(t, &v, r.Get(h), "an old handle must not change it")
		r.Delete(h)
		r.Delete(h)
		require.Zero(t, r.Len())
		if i < 10 {
			old = append(old, h)
		}
	}
}

func TestRegistry_SlotsAreUsedAgain(t *testing.T) {
	var r cgo.Registry[int]
	for range 100_000 {
		h := r.Put(new(int))
		require.Less(t, uint32(h), uint32(256), "no second chunk")
		r.Delete(h)
	}
}

func TestRegistry_SetChangesALiveHandle(t *testing.T) {
	var r cgo.Registry[int]
	h := r.Put(nil)
	require.Nil(t, r.Get(h))
	require.Equal(t, 1, r.Len())
	v := 7
	r.Set(h, &v)
	require.Same(t, &v, r.Get(h))
	r.Set(h, nil)
	require.Nil(t, r.Get(h))
	r.Delete(h)
	r.Set(h, &v)
	require.Nil(t, r.Get(h))
}

func TestRegistry_PutGetDeleteTogether(t *testing.T) {
	var r cgo.Registry[[2]int]
	var shared sync.Map // handles for the other goroutines to look up, live or deleted
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				v := &[2]int{g, i}
				h := r.Put(v)
				shared.Store(g, h)
				assert.Same(t, v, r.Get(h))
				if other, ok := shared.Load((g + 1) % 8); ok {
					if v := r.Get(other.(cgo.Handle)); v != nil {
						assert.Equal(t, (g+1)%8, v[0], "the value belongs to another handle")
					}
				}
				r.Delete(h)
				assert.Nil(t, r.Get(h))
			}
		})
	}
	wg.Wait()
	require.Zero(t, r.Len())
}

func TestVersion_IsOneThatIsSupported(t *testing.T) {
	require.True(t, strings.HasPrefix(cgo.Version(), "OpenSSL "), cgo.Version())
	require.GreaterOrEqual(t, cgo.VersionNumber(), uint64(0x1010100f))
}

func TestErrorText_NamesLibraryAndReason(t *testing.T) {
	// Code 0 has no reason text.
	_, reason := cgo.ErrorText(0)
	require.Empty(t, reason)
	// ERR_PACK(ERR_LIB_SSL, SSL_R_NO_SHARED_CIPHER): 20 and 193.
	code := uint64(20<<23 | 193)
	if cgo.VersionNumber() < 0x30000000 {
		code = 20<<24 | 193
	}
	library, reason := cgo.ErrorText(code)
	require.Equal(t, "SSL routines", library)
	require.Equal(t, "no shared cipher", reason)
}
