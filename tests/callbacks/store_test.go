package callbacks_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

func storeModes() (all []mode) {
	for _, m := range modes {
		if m.asks {
			all = append(all, m)
		}
	}
	return all
}

func useStore(t testing.TB, ctx *libssl.Context, st store.Store, opt *libssl.StoreOptions) *libssl.SessionCache {
	t.Helper()
	sc, err := ctx.UseStore(st, opt)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(t.Context()) })
	return sc
}

// visit links, closes, and says whether the link resumed; the session is the
// next one's to offer.
func visit(t testing.TB, e engine, client, server *libssl.Context, offer *libssl.Session) (bool, *libssl.Session) {
	t.Helper()
	l := e.link(t, client, server, offer)
	t.Cleanup(l.session.Release)
	l.close(true)
	return l.reused, l.session
}

func TestStore_ServesSSLsOfC(t *testing.T) {
	for _, m := range storeModes() {
		for _, from := range engines {
			for _, to := range engines {
				t.Run(m.name+" "+from.name+" to "+to.name, func(t *testing.T) {
					mem, client := memstore.New(memstore.Options{}), newClient(t)
					a, b := m.server(t), m.server(t)
					useStore(t, a, mem, nil)
					cache := useStore(t, b, mem, nil)
					_, sess := visit(t, from, client, a, nil)
					require.Equal(t, 1, mem.Len())
					resumed, _ := visit(t, to, client, b, sess)
					require.True(t, resumed)
					require.EqualValues(t, 1, cache.Stats().Hits)
				})
			}
		}
	}
}

// C may set any lifetime. A store resumes where OpenSSL's own cache does.
// C may attach any SSL_CTX, but only that of a TLS server serves from a store.
func TestStore_RefusesOtherMethods(t *testing.T) {
	for says, p := range map[string]unsafe.Pointer{"DTLS": cref.NewDTLSContext(), "clients": cref.NewContext(true)} {
		ctx, err := libssl.AttachContext(p)
		require.NoError(t, err)
		cref.FreeContext(p)
		_, err = ctx.UseStore(memstore.New(memstore.Options{}), nil)
		require.ErrorIs(t, err, libssl.ErrUnsupported)
		require.ErrorContains(t, err, says)
		require.NoError(t, ctx.Close())
	}
}

func TestStore_TakesAnyLifetime(t *testing.T) {
	for _, m := range storeModes() {
		for _, seconds := range []int64{-1, math.MinInt64, 0, 300, 1 << 40, math.MaxInt64 - 1, math.MaxInt64} {
			t.Run(fmt.Sprintf("%s %d", m.name, seconds), func(t *testing.T) {
				client, plain, stored := newClient(t), m.server(t), m.server(t)
				cref.SetTimeout(plain.Pointer(), seconds)
				cref.SetTimeout(stored.Pointer(), seconds)
				useStore(t, stored, memstore.New(memstore.Options{}), nil)
				_, sess := visit(t, engines[0], client, plain, nil)
				alone, _ := visit(t, engines[0], client, plain, sess)
				_, sess = visit(t, engines[0], client, stored, nil)
				resumed, _ := visit(t, engines[0], client, stored, sess)
				require.Equal(t, alone, resumed)
				if seconds > 0 {
					require.True(t, resumed)
				}
			})
		}
	}
}

func TestStore_SingleUseOfSSLsOfC(t *testing.T) {
	m := modes[3]
	require.True(t, m.asks)
	mem, client := memstore.New(memstore.Options{}), newClient(t)
	older, err := ticket.NewRing()
	require.NoError(t, err)
	var text bytes.Buffer
	older.WriteTo(&text)
	newer, err := ticket.ParseRing(text.Bytes())
	require.NoError(t, err)
	require.NoError(t, newer.Rotate())
	a, b := m.server(t), m.server(t)
	useStore(t, a, mem, &libssl.StoreOptions{Keys: newer, SingleUse: true})
	cache := useStore(t, b, mem, &libssl.StoreOptions{Keys: older, SingleUse: true})

	_, sess := visit(t, engines[0], client, a, nil)
	resumed, _ := visit(t, engines[0], client, b, sess)
	require.False(t, resumed, "b lacks the key")
	require.EqualValues(t, 1, cache.Stats().Undecodable)
	require.EqualValues(t, 1, cache.Stats().PutBack)
	resumed, _ = visit(t, engines[0], client, a, sess)
	require.True(t, resumed)
	resumed, _ = visit(t, engines[0], client, a, sess)
	require.False(t, resumed)
}

func TestStore_LeavesTheSwitchOfCsInPlace(t *testing.T) {
	for _, m := range storeModes() {
		t.Run(m.name, func(t *testing.T) {
			p := cref.NewContext(false)
			defer cref.FreeContext(p)
			ctx, err := libssl.AttachContext(p)
			require.NoError(t, err)
			defer ctx.Close()
			m.prepare(t, ctx)
			other, client := m.server(t), newClient(t)
			cref.SwitchOnName(p, other.Pointer())
			useStore(t, ctx, memstore.New(memstore.Options{}), nil)
			pair, err := cref.NewPair(client.Pointer(), p, name, nil)
			require.NoError(t, err)
			defer pair.Free(true)
			require.True(t, pair.Run())
			require.Equal(t, other.Pointer(), cref.CurrentContext(pair.Server()))
		})
	}
}
