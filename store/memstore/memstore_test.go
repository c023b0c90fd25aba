package memstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
)

// These fail to compile if an interface gets lost.
var (
	_ store.Store    = (*Store)(nil)
	_ store.Taker    = (*Store)(nil)
	_ store.Swapper  = (*Store)(nil)
	_ store.Embedded = (*Store)(nil)
	_ store.Local    = (*Store)(nil)
	_ store.Lister   = (*Store)(nil)
	_ store.Purger   = (*Store)(nil)
)

var ctx = context.Background()

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(Options{}) })
}

// A store of one shard, with no more room than the suite needs.
func TestStore_Small(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := New(Options{MaxEntries: 100, MaxBytes: 1})
		for i := range 200 {
			require.NoError(t, s.Put(ctx, record(i, 10, time.Now().Add(time.Hour))))
		}
		return s
	})
}

func TestNew_Shards(t *testing.T) {
	for _, c := range []struct {
		opts   Options
		shards int
	}{
		{Options{}, 16},
		{Options{MaxEntries: -1, MaxBytes: -1}, 16},
		{Options{MaxEntries: 1}, 1},
		{Options{MaxEntries: 2047}, 1},
		{Options{MaxEntries: 2048}, 2},
		{Options{MaxEntries: 1 << 30, MaxBytes: 1 << 40}, 16},
		{Options{MaxBytes: 1}, 1},
		{Options{MaxBytes: 4 << 20}, 4},
	} {
		assert.Len(t, New(c.opts).shards, c.shards, "%+v", c.opts)
	}
}

// at returns a store whose clock stands still until it is set.
func at(opts Options) (*Store, *time.Time) {
	s, now := New(opts), time.Unix(1_700_000_000, 0)
	s.now = func() time.Time { return now }
	return s, &now
}

func record(n, size int, expires time.Time) store.Record {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	id, err := store.IDFromBytes(b[:])
	if err != nil {
		panic(err)
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(n) | 1
	}
	return store.Record{ID: id, Data: data, Expires: expires}
}

// held returns which of the records numbered 0 to n-1 the store still has, expired or not.
func held(s *Store, n int) (have []int) {
	for i := range n {
		r := record(i, 0, time.Time{})
		sh := s.lock(r.ID)
		if sh.entries[r.ID] != nil {
			have = append(have, i)
		}
		sh.mu.Unlock()
	}
	return have
}

func TestPut_EvictsOldest(t *testing.T) {
	s, now := at(Options{MaxEntries: 3})
	for i := range 3 {
		require.NoError(t, s.Put(ctx, record(i, 10, now.Add(time.Hour))))
	}
	_, err := s.Get(ctx, record(0, 0, time.Time{}).ID) // reading does not keep it
	require.NoError(t, err)
	require.NoError(t, s.Put(ctx, record(1, 10, now.Add(time.Minute)))) // replacing needs no room and makes it the newest
	assert.Equal(t, []int{0, 1, 2}, held(s, 9))
	for i, want := range [][]int{{1, 2, 3}, {1, 3, 4}, {3, 4, 5}} {
		require.NoError(t, s.Put(ctx, record(3+i, 10, now.Add(time.Hour))))
		assert.Equal(t, want, held(s, 9))
	}
}

func TestPut_EvictsByBytes(t *testing.T) {
	s, now := at(Options{MaxBytes: store.MaxData})
	for i := range 4 {
		require.NoError(t, s.Put(ctx, record(i, store.MaxData/4, now.Add(time.Hour))))
	}
	assert.Equal(t, []int{0, 1, 2, 3}, held(s, 9))
	require.NoError(t, s.Put(ctx, record(4, 1, now.Add(time.Hour))))
	assert.Equal(t, []int{1, 2, 3, 4}, held(s, 9))
	require.NoError(t, s.Put(ctx, record(1, store.MaxData/2, now.Add(time.Hour)))) // larger than it was
	assert.Equal(t, []int{1, 3, 4}, held(s, 9))
	require.NoError(t, s.Put(ctx, record(5, store.MaxData, now.Add(time.Hour))))
	assert.Equal(t, []int{5}, held(s, 9), "the largest record fits alone")
}

func TestPut_EvictsExpiredFirst(t *testing.T) {
	const n = 3 * sweepPerPut
	s, now := at(Options{MaxEntries: 2 * n})
	for i := range n { // evicts the oldest, which have not expired
		require.NoError(t, s.Put(ctx, record(i, 1, now.Add(time.Hour))))
	}
	for i := range n {
		require.NoError(t, s.Put(ctx, record(n+i, 1, now.Add(time.Minute+time.Duration(n-i)))))
	}
	*now = now.Add(time.Minute + n)
	for i := range n {
		require.NoError(t, s.Put(ctx, record(2*n+i, 1, now.Add(time.Hour))))
	}
	have := held(s, 3*n)
	assert.Len(t, have, 2*n)
	assert.Equal(t, n-1, have[n-1], "no live record goes while there are expired ones")
	assert.Equal(t, 2*n, have[n])
}

// One large record may need the room of more expired ones than a sweep removes.
func TestPut_EvictsAllExpiredFirst(t *testing.T) {
	const n = 4 * sweepPerPut
	s, now := at(Options{MaxBytes: store.MaxData})
	require.NoError(t, s.Put(ctx, record(0, 1, now.Add(time.Hour))))
	for i := range n {
		require.NoError(t, s.Put(ctx, record(1+i, 1000, now.Add(time.Minute))))
	}
	*now = now.Add(time.Minute)
	require.NoError(t, s.Put(ctx, record(1+n, store.MaxData-1, now.Add(time.Hour))))
	assert.Equal(t, []int{0, 1 + n}, held(s, 2+n))
}

func TestPut_SweepsAFew(t *testing.T) {
	s, now := at(Options{})
	s.shards = s.shards[:1]
	for i := range 3 * sweepPerPut {
		require.NoError(t, s.Put(ctx, record(i, 1, now.Add(time.Minute))))
	}
	*now = now.Add(time.Minute)
	for i, want := range []int{2*sweepPerPut + 1, sweepPerPut + 2, 3, 4} {
		require.NoError(t, s.Put(ctx, record(1000+i, 1, now.Add(time.Hour))))
		assert.Equal(t, want, s.Len())
	}
}

func TestGet_ExpiresOnTheInstant(t *testing.T) {
	s, now := at(Options{})
	r := record(1, 10, now.Add(time.Minute))
	for _, read := range []func(context.Context, store.ID) (store.Record, error){s.Get, s.Take} {
		*now = r.Expires.Add(-time.Minute)
		require.NoError(t, s.Put(ctx, r))
		*now = r.Expires.Add(-1)
		_, err := s.Get(ctx, r.ID)
		require.NoError(t, err)
		*now = r.Expires
		_, err = read(ctx, r.ID)
		assert.ErrorIs(t, err, store.ErrNotFound)
		assert.Zero(t, s.Len(), "removed when it was asked for")
	}
}

// A record that leaves the store, in any way, is wiped.
func TestWiped(t *testing.T) {
	for name, leave := range map[string]func(s *Store, now *time.Time, id store.ID){
		"delete": func(s *Store, _ *time.Time, id store.ID) { s.Delete(ctx, id) },
		"swap": func(s *Store, now *time.Time, _ store.ID) {
			s.Swap(ctx, record(1, 50, now.Add(time.Minute)), record(1, 20, now.Add(time.Hour)))
		},
		"replace": func(s *Store, now *time.Time, id store.ID) { s.Put(ctx, record(1, 20, now.Add(time.Hour))) },
		"replace by expired": func(s *Store, now *time.Time, id store.ID) {
			s.Put(ctx, record(1, 20, *now))
		},
		"evict":         func(s *Store, now *time.Time, _ store.ID) { s.Put(ctx, record(2, 20, now.Add(time.Hour))) },
		"expire at get": func(s *Store, now *time.Time, id store.ID) { *now = now.Add(time.Hour); s.Get(ctx, id) },
		"expire at take": func(s *Store, now *time.Time, id store.ID) {
			*now = now.Add(time.Hour)
			s.Take(ctx, id)
		},
		"purge":         func(s *Store, _ *time.Time, _ store.ID) { s.Purge(ctx, false) },
		"purge expired": func(s *Store, now *time.Time, _ store.ID) { *now = now.Add(time.Hour); s.Purge(ctx, true) },
	} {
		t.Run(name, func(t *testing.T) {
			s, now := at(Options{MaxEntries: 1})
			r := record(1, 50, now.Add(time.Minute))
			require.NoError(t, s.Put(ctx, r))
			inside := s.shards[0].entries[r.ID].data
			require.Equal(t, r.Data, inside)
			leave(s, now, r.ID)
			assert.Equal(t, make([]byte, 50), inside)
		})
	}
}

func TestPurge_Counts(t *testing.T) {
	s, now := at(Options{})
	for i := range 1000 {
		require.NoError(t, s.Put(ctx, record(i, 1, now.Add(time.Duration(1+i%2)*time.Minute))))
	}
	*now = now.Add(time.Minute)
	n, err := s.Purge(ctx, true)
	require.NoError(t, err)
	assert.Equal(t, 500, n)
	n, err = s.Purge(ctx, false)
	require.NoError(t, err)
	assert.Equal(t, 500, n)
	assert.Zero(t, s.Len())
}

func TestSealingKey_PerStore(t *testing.T) {
	a, err := New(Options{}).SealingKey()
	require.NoError(t, err)
	b, err := New(Options{}).SealingKey()
	require.NoError(t, err)
	assert.NotEqual(t, a, b)
}

// Random operations, compared with a simple model. Each step checks the structures of every shard.
func TestStore_Invariants(t *testing.T) {
	for _, opts := range []Options{{MaxEntries: 20}, {MaxBytes: store.MaxData}, {}} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			s, now := at(opts)
			rng := rand.New(rand.NewPCG(1, 2))
			model := map[store.ID]store.Record{}
			for range 2000 {
				r := record(rng.IntN(60), rng.IntN(3000), now.Add(time.Duration(rng.IntN(100)-2)))
				switch rng.IntN(6) {
				case 0:
					require.NoError(t, s.Delete(ctx, r.ID))
					delete(model, r.ID)
				case 1, 2:
					read, taken := s.Get, false
					if rng.IntN(2) == 0 {
						read, taken = s.Take, true
					}
					got, err := read(ctx, r.ID)
					want, ok := model[r.ID]
					live := ok && now.Before(want.Expires)
					switch {
					case err == nil:
						require.True(t, live)
						require.Equal(t, want.Data, got.Data)
						require.True(t, want.Expires.Equal(got.Expires))
					case opts == Options{}: // has room for all
						require.False(t, live)
					}
					if taken {
						delete(model, r.ID)
					}
				case 3:
					*now = now.Add(time.Duration(rng.IntN(5)))
				default:
					require.NoError(t, s.Put(ctx, r))
					model[r.ID] = r
				}
				check(t, s)
			}
		})
	}
}

func check(t *testing.T, s *Store) {
	t.Helper()
	for i := range s.shards {
		sh := &s.shards[i]
		require.LessOrEqual(t, len(sh.entries), s.maxEntries)
		require.LessOrEqual(t, sh.bytes, s.maxBytes)
		require.Len(t, sh.byEnd, len(sh.entries))
		var bytes int64
		listed := 0
		for e := sh.byAge.next; e != &sh.byAge; e = e.next {
			require.Same(t, e, sh.entries[e.id])
			require.Same(t, e, sh.byEnd[e.heapIndex])
			require.Same(t, e, e.next.prev)
			bytes += int64(len(e.data))
			listed++
		}
		require.Equal(t, len(sh.entries), listed)
		require.Equal(t, bytes, sh.bytes)
	}
}

func BenchmarkPutTake(b *testing.B) {
	s := New(Options{})
	r := record(1, 600, time.Now().Add(time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		s.Put(ctx, r)
		if _, err := s.Take(ctx, r.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, full := range []bool{false, true} {
		b.Run(fmt.Sprintf("full=%v", full), func(b *testing.B) {
			opts := Options{MaxEntries: 1 << 30, MaxBytes: 1 << 40}
			if full {
				opts = Options{MaxEntries: 50_000}
			}
			s, expires := New(opts), time.Now().Add(time.Hour)
			for i := range 50_000 {
				s.Put(ctx, record(i, 130, expires))
			}
			r := record(0, 130, expires)
			var n uint64
			b.ReportAllocs()
			for b.Loop() {
				n++
				var id [8]byte
				binary.BigEndian.PutUint64(id[:], 50_000+n%100_000)
				r.ID, _ = store.IDFromBytes(id[:])
				s.Put(ctx, r)
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s, expires := New(Options{}), time.Now().Add(time.Hour)
	var ids []store.ID
	for i := range 10_000 {
		r := record(i, 600, expires)
		ids = append(ids, r.ID)
		s.Put(ctx, r)
	}
	miss := record(20_000, 0, expires).ID
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := rand.IntN(len(ids)); pb.Next(); i++ {
				if _, err := s.Get(ctx, ids[i%len(ids)]); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(ctx, miss); err != store.ErrNotFound {
				b.Fatal(err)
			}
		}
	})
}

// Other calls get their turn while a large store is purged.
func TestPurge_InBatches(t *testing.T) {
	for _, expiredOnly := range []bool{false, true} {
		s := New(Options{MaxEntries: 2*minShardEntries - 1})
		require.Len(t, s.shards, 1)
		const n = 3*purgeBatch + 1
		between := func() (seen bool) {
			now := time.Now()
			s.now = func() time.Time { return now }
			for i := range n {
				require.NoError(t, s.Put(ctx, record(i, 10, now.Add(time.Minute))))
			}
			if expiredOnly {
				s.now = func() time.Time { return now.Add(time.Hour) }
			}
			looked := make(chan bool)
			go func() {
				var seen bool
				for left := n; left > 0; left = s.Len() {
					seen = seen || left < n
				}
				looked <- seen
			}()
			purged, err := s.Purge(ctx, expiredOnly)
			require.NoError(t, err)
			require.Equal(t, n, purged)
			return <-looked
		}
		for began := time.Now(); !between(); {
			require.Less(t, time.Since(began), 20*time.Second, "no other call gets its turn, expired only: %v", expiredOnly)
		}
	}
}
