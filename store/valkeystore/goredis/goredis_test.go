package goredis

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/tests/servertest"
)

// These fail to compile if an interface gets lost.
var (
	_ store.Store   = (*Store)(nil)
	_ store.Taker   = (*Store)(nil)
	_ store.Swapper = (*Store)(nil)
	_ store.Lister  = (*Store)(nil)
	_ store.Purger  = (*Store)(nil)
)

func mustConnect(t *testing.T, addrs ...string) redis.UniversalClient {
	t.Helper()
	client := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: addrs, ContextTimeoutEnabled: true})
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	return client
}

func TestStore(t *testing.T) {
	for _, program := range servertest.Redises() {
		t.Run(program, func(t *testing.T) {
			srv := servertest.Redis(t, program)
			openAt := func(t *testing.T, skew time.Duration) store.Store {
				return newStore(mustConnect(t, srv.Addr), "", func() time.Time { return time.Now().Add(skew) })
			}
			storetest.RunServer(t, storetest.Server{
				Open:    func(t *testing.T) store.Store { return openAt(t, 0) },
				OpenAt:  openAt,
				Restart: func(*testing.T) { srv.Restart() },
				Freeze:  func(*testing.T) func() { srv.Freeze(); return srv.Thaw },
				Damage: func(t *testing.T, id store.ID, f func([]byte) []byte) {
					key := DefaultPrefix + id.String()
					srv.Command("SET", key, string(f([]byte(srv.Command("GET", key)))))
				},
			})
		})
	}
}

func TestStore_Cluster(t *testing.T) {
	var addrs []string
	for _, n := range servertest.Cluster(t, "redis-server") {
		addrs = append(addrs, n.Addr)
	}
	storetest.Run(t, func(t *testing.T) store.Store { return New(mustConnect(t, addrs...), "") })
}

func TestStore_Sentinel(t *testing.T) {
	sentinel := servertest.Sentinel(t, "redis-server", servertest.Redis(t, "redis-server"))
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel.Addr}, ContextTimeoutEnabled: true})
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	storetest.Run(t, func(t *testing.T) store.Store { return New(client, "") })
}

// One fleet may have hosts with either client.
func TestStore_SharesWithValkeystore(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	ours := New(mustConnect(t, srv.Addr), "")
	theirs, err := valkeystore.Open("redis://"+srv.Addr, valkeystore.Options{})
	require.NoError(t, err)
	defer theirs.Close()
	id, err := store.ParseID("01")
	require.NoError(t, err)
	want := store.Record{ID: id, Data: []byte("session"), Expires: time.Now().Add(time.Hour)}
	require.NoError(t, ours.Put(t.Context(), want))
	got, err := theirs.Take(t.Context(), id)
	require.NoError(t, err)
	assert.True(t, store.Same(want, got))
	require.NoError(t, theirs.Put(t.Context(), want))
	got, err = ours.Take(t.Context(), id)
	require.NoError(t, err)
	assert.True(t, store.Same(want, got))
}
