package sharedring

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memcachestore"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/libssl-go/libssl/ticket"
)

// patience is how long a condition may take on a busy machine.
const patience = 60 * time.Second

// closable is a store with its own connections.
type closable interface {
	store.Store
	Close() error
}

// member is a host of a fleet on a real server, and its ring.
type member struct {
	ring *ticket.Ring
	stop func()
}

func join(t *testing.T, dial func() (closable, error), opts Options) member {
	st, err := dial()
	if !assert.NoError(t, err) {
		return member{new(ticket.Ring), func() {}}
	}
	ring, stop, err := Open(t.Context(), st, opts)
	if !assert.NoError(t, err) {
		ring, stop = new(ticket.Ring), func() {}
	}
	t.Cleanup(func() {
		stop()
		assert.NoError(t, st.Close())
	})
	return member{ring, stop}
}

func joinAll(t *testing.T, n int, dial func() (closable, error), opts Options) []member {
	all := make([]member, n)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = join(t, dial, opts) })
	}
	wg.Wait()
	require.False(t, t.Failed())
	return all
}

// awaitAgreement waits until all members have one ring, for which ok returns true.
func awaitAgreement(t *testing.T, all []member, what string, ok func(*ticket.Ring) bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, m := range all {
			if m.ring.String() != all[0].ring.String() {
				return false
			}
		}
		return ok(all[0].ring)
	}, patience, 10*time.Millisecond, what)
}

func has(r *ticket.Ring, key string) bool {
	for _, k := range r.Keys() {
		if k.String() == key {
			return true
		}
	}
	return false
}

// On a real server, hosts have one ring and keep its keys. They start at once, rotate, lose the record, lose the server,
// and meet a host that starts on an empty server.
func TestServers(t *testing.T) {
	redis, memcached := servertest.Redis(t, "redis-server"), servertest.Memcached(t)
	sqlite := filepath.Join(t.TempDir(), "sessions.db")
	for name, c := range map[string]struct {
		dial   func() (closable, error)
		server *servertest.Server // nil if there is none to kill
	}{
		"valkeystore":   {func() (closable, error) { return valkeystore.Open("redis://"+redis.Addr, valkeystore.Options{}) }, redis},
		"memcachestore": {func() (closable, error) { return memcachestore.Open(memcached.Addr, memcachestore.Options{}) }, memcached},
		"sqlitestore":   {func() (closable, error) { return sqlitestore.Open(sqlite) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each mostly waits for rotations
			opts := options(t)
			opts.Poll, opts.Rotate, opts.Lifetime = 20*time.Millisecond, 3*time.Second, 24*time.Second
			var mu sync.Mutex
			var outages []error
			opts.OnError = func(err error) {
				mu.Lock()
				defer mu.Unlock()
				outages = append(outages, err)
			}
			all := joinAll(t, 6, c.dial, opts)
			awaitAgreement(t, all, "made once", func(*ticket.Ring) bool { return true })
			first := all[0].ring.Keys()[0].String()
			awaitAgreement(t, all, "rotated", func(r *ticket.Ring) bool { return r.Len() >= 3 && has(r, first) })

			st, err := c.dial()
			require.NoError(t, err)
			defer st.Close()
			newest := func() string { return all[0].ring.Keys()[0].String() }
			before := newest()
			require.NoError(t, st.Delete(t.Context(), recordID))
			all = append(all, joinAll(t, 2, c.dial, opts)...)
			awaitAgreement(t, all, "converged after an eviction", func(r *ticket.Ring) bool { return has(r, before) })
			if c.server == nil {
				mu.Lock()
				defer mu.Unlock()
				assert.Empty(t, outages)
				return
			}

			c.server.Stop()
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(outages) >= len(all)
			}, patience, 10*time.Millisecond)
			for _, m := range all {
				_, err := all[0].ring.Open(nil, m.ring.Seal(nil, []byte("x"), nil), nil)
				require.NoError(t, err)
			}
			before = newest()
			c.server.Start() // without its records
			all = append(all, joinAll(t, 2, c.dial, opts)...)
			awaitAgreement(t, all, "converged after a restart", func(r *ticket.Ring) bool { return has(r, before) })
			require.Eventually(t, func() bool {
				_, err := st.Get(t.Context(), recordID)
				return !errors.Is(err, store.ErrNotFound)
			}, patience, 10*time.Millisecond)
		})
	}
}
