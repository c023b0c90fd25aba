package memcachestore

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/tests/servertest"
)

// These fail to compile if an interface gets lost.
var (
	_ store.Store   = (*Store)(nil)
	_ store.Swapper = (*Store)(nil)
)

func mustOpen(t *testing.T, addr string, opts Options) *Store {
	t.Helper()
	s, err := Open(addr, opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func record(t testing.TB, id string) store.Record {
	t.Helper()
	parsed, err := store.ParseID(id)
	require.NoError(t, err)
	return store.Record{ID: parsed, Data: []byte("record " + id), Expires: time.Now().Add(time.Hour)}
}

func TestStore(t *testing.T) {
	srv := servertest.Memcached(t)
	openAt := func(t *testing.T, skew time.Duration) store.Store {
		s := mustOpen(t, srv.Addr, Options{})
		s.now = func() time.Time { return time.Now().Add(skew) }
		return s
	}
	storetest.RunServer(t, storetest.Server{
		Open:    func(t *testing.T) store.Store { return openAt(t, 0) },
		OpenAt:  openAt,
		Restart: func(*testing.T) { srv.Restart() },
		Freeze:  func(*testing.T) func() { srv.Freeze(); return srv.Thaw },
		Damage: func(t *testing.T, id store.ID, f func([]byte) []byte) {
			c := memcache.New(srv.Addr)
			defer c.Close()
			item, err := c.Get(DefaultPrefix + id.String())
			require.NoError(t, err)
			item.Value = f(item.Value)
			require.NoError(t, c.Set(item))
		},
	})
}

// A Take from memcached could return a record twice.
func TestStore_IsNoTaker(t *testing.T) {
	var s store.Store = &Store{}
	_, ok := s.(store.Taker)
	assert.False(t, ok)
}

// More than 30 days would be a date in 1970, and the record gone at once.
func TestPut_LongLife(t *testing.T) {
	srv := servertest.Memcached(t)
	s := mustOpen(t, srv.Addr, Options{})
	for _, lives := range []time.Duration{maxLife - time.Second, maxLife, maxLife + time.Second, 100 * 365 * 24 * time.Hour} {
		r := record(t, "01")
		r.Expires = time.Now().Add(lives)
		require.NoError(t, s.Put(t.Context(), r))
		got, err := s.Get(t.Context(), r.ID)
		require.NoError(t, err, "%v", lives)
		assert.True(t, store.Same(r, got))
	}
}

// A record with a life of less than whole seconds is there until it expires.
func TestPut_ShortLife(t *testing.T) {
	srv := servertest.Memcached(t)
	s := mustOpen(t, srv.Addr, Options{})
	r := record(t, "01")
	r.Expires = time.Now().Add(1500 * time.Millisecond)
	require.NoError(t, s.Put(t.Context(), r))
	for time.Until(r.Expires) > 200*time.Millisecond {
		_, err := s.Get(t.Context(), r.ID)
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond)
	}
}

// A restart breaks all idle connections at once: the calls after it must not fail one by one.
func TestStore_RestartFailsNobody(t *testing.T) {
	srv := servertest.Memcached(t)
	s := mustOpen(t, srv.Addr, Options{})
	all := func() {
		var wg sync.WaitGroup
		for i := range maxCalls {
			wg.Go(func() { assert.NoError(t, s.Put(t.Context(), record(t, fmt.Sprintf("%02x", i)))) })
		}
		wg.Wait()
	}
	all()
	srv.Restart()
	for i := range 20 {
		require.NoError(t, s.Put(t.Context(), record(t, fmt.Sprintf("%02x", i))))
	}
	all()
}

func TestPrefix(t *testing.T) {
	srv := servertest.Memcached(t)
	a, b := mustOpen(t, srv.Addr, Options{Prefix: "a:"}), mustOpen(t, srv.Addr, Options{Prefix: "b:"})
	r := record(t, "01")
	require.NoError(t, a.Put(t.Context(), r))
	_, err := b.Get(t.Context(), r.ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
	for _, bad := range []string{"a b", "a\r\n", "\x7f", strings.Repeat("a", 187)} {
		_, err := Open(srv.Addr, Options{Prefix: bad})
		assert.ErrorContains(t, err, "prefix")
	}
	longest := mustOpen(t, srv.Addr, Options{Prefix: strings.Repeat("a", 186)})
	r = record(t, strings.Repeat("0f", store.MaxIDLen))
	require.NoError(t, longest.Put(t.Context(), r))
	_, err = longest.Get(t.Context(), r.ID)
	assert.NoError(t, err)
}

func TestOpen_Refuses(t *testing.T) {
	redis := servertest.Redis(t, "redis-server")
	free := servertest.FreeAddr(t)
	for name, c := range map[string]struct{ addr, says string }{
		"unreachable": {free, "refused"},
		"redis":       {redis.Addr, "ERR unknown command"},
		"no port":     {"h", "no host:port"},
	} {
		_, err := Open(c.addr, Options{})
		if assert.Error(t, err, name) {
			assert.ErrorContains(t, err, c.says, name)
			assert.ErrorContains(t, err, c.addr, name)
			assert.NotContains(t, err.Error(), "\n", name)
		}
	}
}

func TestOpen_StrangeServers(t *testing.T) {
	for name, answer := range map[string]string{"http": "HTTP/1.1 400 Bad Request\r\n\r\n", "hangs up": "", "silent": "."} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			go func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					if answer != "." {
						io.WriteString(nc, answer)
						nc.Close()
					}
				}
			}()
			_, err = Open(l.Addr().String(), Options{})
			assert.ErrorContains(t, err, l.Addr().String())
		})
	}
}

// A server with a small -I refuses long items: that is no failure of the server.
func TestPut_LongerThanTheServerAccepts(t *testing.T) {
	s := mustOpen(t, servertest.Memcached(t, "-I", "16k", "-o", "slab_chunk_max=8").Addr, Options{})
	r := record(t, "01")
	r.Data = make([]byte, 32<<10)
	require.ErrorIs(t, s.Put(t.Context(), r), store.ErrTooLarge)
}
