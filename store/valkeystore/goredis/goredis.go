// Package goredis is valkeystore for programs that have a go-redis client already: the same keys and values, so that
// hosts with either share a server. It is a module of its own, whose client only those get who ask for it.
package goredis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/libssl-go/libssl/store"
)

// DefaultPrefix begins the keys of a store that New is given no other prefix for. It is valkeystore's.
const DefaultPrefix = "libssl:"

// batch is how many keys one step of List or Purge asks for.
const batch = 256

// deleteIf runs in the server, where nothing comes between its two steps.
const deleteIf = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`

// swap is likewise for two values, of which the first may be empty for none, and the second's life.
const swap = `if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) else redis.call('DEL', KEYS[1]) end return 1`

// Store is what valkeystore.Store is, of which the documentation holds here too, but for what the client does: go-redis has a
// connection for each command under way instead of sharing a few, and by default it tries a command again
// when its connection broke, a Take too. That never answers twice: the second try finds nothing, and a record may so be lost.
// Nor does Swap: it may report false for what its first try has done.
type Store struct {
	client redis.UniversalClient
	prefix string
	now    func() time.Time
}

// New returns a store that uses client: a redis.Client, of one server or one behind sentinels, or a redis.ClusterClient. It must not send
// reads to replicas, and should have ContextTimeoutEnabled, without which calls end with the client's own timeouts and
// not with their context. prefix begins every key; DefaultPrefix if empty. The client stays the caller's to close.
func New(client redis.UniversalClient, prefix string) *Store {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return &Store{client: client, prefix: prefix, now: time.Now}
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	return s.record(ctx, "get", id, s.client.Get)
}

// Take implements store.Taker.
func (s *Store) Take(ctx context.Context, id store.ID) (store.Record, error) {
	return s.record(ctx, "take", id, s.client.GetDel)
}

func (s *Store) record(ctx context.Context, op string, id store.ID, read func(context.Context, string) *redis.StringCmd) (store.Record, error) {
	encoded, err := read(ctx, s.key(id)).Bytes()
	if errors.Is(err, redis.Nil) {
		return store.Record{}, store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, failed(ctx, op, err)
	}
	r, err := store.Decode(id, encoded)
	if err != nil {
		return store.Record{}, fmt.Errorf("goredis: %s: %w", op, err)
	}
	if !s.now().Before(r.Expires) {
		return store.Record{}, store.ErrNotFound
	}
	return r, nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, r store.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	lives := r.Expires.UnixMilli() - s.now().UnixMilli()
	if lives <= 0 {
		return s.del(ctx, "put", r.ID) // a record that has ended replaces too
	}
	if err := s.client.Do(ctx, "SET", s.key(r.ID), store.Encode(r), "PX", lives).Err(); err != nil {
		return failed(ctx, "put", err)
	}
	return nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error { return s.del(ctx, "delete", id) }

func (s *Store) del(ctx context.Context, op string, id store.ID) error {
	if err := s.client.Del(ctx, s.key(id)).Err(); err != nil {
		return failed(ctx, op, err)
	}
	return nil
}

// DeleteIf implements store.ConditionalDeleter.
func (s *Store) DeleteIf(ctx context.Context, r store.Record) (bool, error) {
	n, err := s.client.Eval(ctx, deleteIf, []string{s.key(r.ID)}, store.Encode(r)).Int64()
	if err != nil {
		return false, failed(ctx, "delete", err)
	}
	return n > 0, nil
}

// Swap implements store.Swapper.
func (s *Store) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	if err := next.Validate(); err != nil {
		return false, err
	}
	var was []byte
	if !old.ID.IsZero() {
		was = store.Encode(old)
	}
	lives := next.Expires.UnixMilli() - s.now().UnixMilli()
	n, err := s.client.Eval(ctx, swap, []string{s.key(next.ID)}, was, store.Encode(next), lives).Int64()
	if err != nil {
		return false, failed(ctx, "swap", err)
	}
	return n > 0, nil
}

// List implements store.Lister. It fetches the records to tell their expiry.
func (s *Store) List(ctx context.Context, f func(id store.ID, size int, expires time.Time) error) error {
	seen := map[store.ID]bool{} // a scan may come by a key twice
	return s.scan(ctx, "list", func(ids []store.ID) error {
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			r, err := s.record(ctx, "list", id, s.client.Get)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if err := f(r.ID, len(r.Data), r.Expires); err != nil {
				return err
			}
		}
		return nil
	})
}

// Purge implements store.Purger. Expired records are gone without its help.
func (s *Store) Purge(ctx context.Context, expiredOnly bool) (int, error) {
	if expiredOnly {
		return 0, nil
	}
	total := 0
	err := s.scan(ctx, "purge", func(ids []store.ID) error {
		for _, id := range ids {
			n, err := s.client.Unlink(ctx, s.key(id)).Result()
			if err != nil {
				return failed(ctx, "purge", err)
			}
			total += int(n)
		}
		return nil
	})
	return total, err
}

// scan calls f with the ids of all keys that may be ours, some at a time and some more than once.
func (s *Store) scan(ctx context.Context, op string, f func(ids []store.ID) error) error {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return s.scanNode(ctx, op, s.client, f)
	}
	var mu sync.Mutex // the client runs through its masters all at once, and f is for one at a time
	var masters []*redis.Client
	err := cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		masters = append(masters, node)
		return nil
	})
	if err != nil {
		return failed(ctx, op, err)
	}
	for _, node := range masters {
		if err := s.scanNode(ctx, op, node, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) scanNode(ctx context.Context, op string, node redis.Cmdable, f func(ids []store.ID) error) error {
	pattern := globs.Replace(s.prefix) + "*"
	for cursor, first := uint64(0), true; first || cursor != 0; first = false {
		keys, next, err := node.Scan(ctx, cursor, pattern, batch).Result()
		if err != nil {
			return failed(ctx, op, err)
		}
		cursor = next
		var ids []store.ID
		for _, key := range keys {
			// Only what key can have made: others may use longer keys with the same beginning.
			if id, err := store.ParseID(strings.TrimPrefix(key, s.prefix)); err == nil && s.key(id) == key {
				ids = append(ids, id)
			}
		}
		if err := f(ids); err != nil {
			return err
		}
	}
	return nil
}

var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

func (s *Store) key(id store.ID) string { return s.prefix + id.String() }

// failed wraps the client's error, which names a context that ended in ways of its own.
func failed(ctx context.Context, op string, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("goredis: %s: %w: %w", op, ended, err)
	}
	return fmt.Errorf("goredis: %s: %w", op, err)
}
