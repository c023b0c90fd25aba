// Package records is the part of valkeystore and goredis that does not depend on a client library. It has the key and the value of a
// record, its life in the server, and the commands of each call. Hosts with either package can therefore share a server.
package records

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/libssl-go/libssl/store"
)

// DefaultPrefix begins the keys of a store that is given no other prefix.
const DefaultPrefix = "libssl:"

// Batch is how many keys one page of a Scan should have.
const Batch = 256

// swap is a script, which the server runs as one atomic step. Its arguments are the old value, empty for none, the new value, and
// the new value's life in milliseconds.
const swap = `if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) else redis.call('DEL', KEYS[1]) end return 1`

// Client runs commands with a client library. A missing value is a nil slice, not an error.
type Client interface {
	Get(ctx context.Context, key string) ([]byte, error)
	GetDel(ctx context.Context, key string) ([]byte, error)
	Set(ctx context.Context, key string, value []byte, milliseconds int64) error
	Del(ctx context.Context, key string) error
	Eval(ctx context.Context, script, key string, old, next []byte, milliseconds int64) (int64, error)

	// GetAll returns the value of each key, in their order. Unlink returns how many of the keys it removed.
	GetAll(ctx context.Context, keys []string) ([][]byte, error)
	Unlink(ctx context.Context, keys []string) (int, error)

	// Scan calls f with the keys that match pattern, page by page, of every node that is not a replica.
	Scan(ctx context.Context, pattern string, f func(keys []string) error) error
}

// Store keeps each record under one key, the prefix and the id in hexadecimal.
type Store struct {
	name   string
	client Client
	prefix string
	now    func() time.Time
}

// New returns a store whose errors begin with name. now is the host's clock.
func New(name string, client Client, prefix string, now func() time.Time) *Store {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return &Store{name: name, client: client, prefix: prefix, now: now}
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	value, err := s.client.Get(ctx, s.key(id))
	return s.record(ctx, "get", id, value, err)
}

// Take implements store.Taker.
func (s *Store) Take(ctx context.Context, id store.ID) (store.Record, error) {
	value, err := s.client.GetDel(ctx, s.key(id))
	return s.record(ctx, "take", id, value, err)
}

// record returns the record in a client's answer.
func (s *Store) record(ctx context.Context, op string, id store.ID, value []byte, err error) (store.Record, error) {
	if err != nil {
		return store.Record{}, s.failed(ctx, op, err)
	}
	if value == nil {
		return store.Record{}, store.ErrNotFound
	}
	r, err := store.Decode(id, value)
	if err != nil {
		return store.Record{}, fmt.Errorf("%s: %s: %w", s.name, op, err)
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
	lives := s.lives(r)
	if lives <= 0 { // a record that has expired replaces too
		return s.failed(ctx, "put", s.client.Del(ctx, s.key(r.ID)))
	}
	return s.failed(ctx, "put", s.client.Set(ctx, s.key(r.ID), store.Encode(r), lives))
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error {
	return s.failed(ctx, "delete", s.client.Del(ctx, s.key(id)))
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
	n, err := s.client.Eval(ctx, swap, s.key(next.ID), was, store.Encode(next), s.lives(next))
	return n > 0, s.failed(ctx, "swap", err)
}

// List implements store.Lister. It scans all keys of the server, those of other programs too, and fetches the records for their
// expiry. That takes a while, but no single command keeps the server from its other work.
func (s *Store) List(ctx context.Context, f func(id store.ID, size int, expires time.Time) error) error {
	seen := map[store.ID]bool{} // a scan may return a key twice
	return s.scan(ctx, "list", func(ids []store.ID) error {
		var fresh []store.ID
		var keys []string
		for _, id := range ids {
			if !seen[id] {
				seen[id] = true
				fresh = append(fresh, id)
				keys = append(keys, s.key(id))
			}
		}
		if len(keys) == 0 {
			return nil
		}
		values, err := s.client.GetAll(ctx, keys)
		if err != nil {
			return s.failed(ctx, "list", err)
		}
		for i, value := range values {
			r, err := s.record(ctx, "list", fresh[i], value, nil)
			if err != nil {
				continue // not found: a value that cannot be decoded is none either
			}
			if err := f(r.ID, len(r.Data), r.Expires); err != nil {
				return err
			}
		}
		return nil
	})
}

// Purge implements store.Purger. The server removes expired records by itself.
func (s *Store) Purge(ctx context.Context, expiredOnly bool) (int, error) {
	if expiredOnly {
		return 0, nil
	}
	total := 0
	err := s.scan(ctx, "purge", func(ids []store.ID) error {
		keys := make([]string, len(ids))
		for i, id := range ids {
			keys[i] = s.key(id)
		}
		n, err := s.client.Unlink(ctx, keys)
		total += n
		return s.failed(ctx, "purge", err)
	})
	return total, err
}

// scan calls f with the ids of all records, page by page, some of them more than once.
func (s *Store) scan(ctx context.Context, op string, f func(ids []store.ID) error) error {
	var failed error // of f
	err := s.client.Scan(ctx, globs.Replace(s.prefix)+"*", func(keys []string) error {
		var ids []store.ID
		for _, key := range keys {
			// Another program's keys may begin with the prefix too: only those that s.key makes are records.
			if id, err := store.ParseID(strings.TrimPrefix(key, s.prefix)); err == nil && s.key(id) == key {
				ids = append(ids, id)
			}
		}
		if len(ids) > 0 {
			failed = f(ids)
		}
		return failed
	})
	if failed != nil {
		return failed
	}
	return s.failed(ctx, op, err)
}

var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

func (s *Store) key(id store.ID) string { return s.prefix + id.String() }

// lives is how long the server is to keep r, in milliseconds. A relative time does not depend on the server's clock.
func (s *Store) lives(r store.Record) int64 { return r.Expires.UnixMilli() - s.now().UnixMilli() }

// failed wraps an error of the client. Client libraries have errors of their own for a context that ended: ctx.Err is added.
func (s *Store) failed(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%s: %s: %w: %w", s.name, op, ended, err)
	}
	return fmt.Errorf("%s: %s: %w", s.name, op, err)
}
