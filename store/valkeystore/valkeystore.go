// Package valkeystore is a store.Store in Valkey or Redis, from version 6.2 on, which a fleet of hosts shares: one
// server, one behind sentinels, or a cluster.
package valkeystore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/libssl-go/libssl/store"
)

// DefaultPrefix begins the keys of a store whose Options name no other prefix.
const DefaultPrefix = "libssl:"

// batch is how many keys one step of List or Purge asks for.
const batch = 256

// deleteIf runs in the server, where nothing comes between its two steps.
const deleteIf = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`

// swap is likewise for two values, of which the first may be empty for none, and the second's life.
const swap = `if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) else redis.call('DEL', KEYS[1]) end return 1`

// Store keeps each record under one key, the prefix and the id in hexadecimal. It implements store.Store, store.Taker,
// store.ConditionalDeleter, store.Swapper, store.Prompt, store.Lister and store.Purger.
//
// Every call on a record is one command, and commands of concurrent calls share a few connections and their round
// trips. Only Get is tried again where a connection broke; a Take never is.
//
// The server is told how long a record lives and not when it ends, so that it goes by its own clock and a wrong
// one does no harm. Each host goes by its own clock too: a record that has ended by it is not found here, and left to the others.
//
// A server that restarts without its data has lost its records, and one that runs out of memory evicts or refuses them, as
// it is configured: a refusal is Put's error. Where a replica takes over, what the old server had not yet passed on is
// lost: records put last may be gone, and, which matters to single use, records taken last may be back.
// No reads go to replicas, unless a client given to New is set up to send them there, which a store must not.
type Store struct {
	client valkey.Client
	close  func()  // nil where the client is somebody else's
	dialer *dialer // likewise
	calls  atomic.Int32
	prefix string
	now    func() time.Time
}

// New returns a store that uses client, however that is configured: see valkey.ClientOption. Lookups end with their context soonest if
// it has AlwaysPipelining. Closing the store leaves the client open. Of opts only the Prefix counts.
func New(client valkey.Client, opts Options) *Store {
	prefix := opts.Prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return &Store{client: client, prefix: prefix, now: time.Now}
}

// Close closes the connections, if the store was opened by Open.
func (s *Store) Close() error {
	if s.close != nil {
		s.close()
	}
	return nil
}

// Prompt implements store.Prompt. The client can let a call wait, without regard to its context, for another call's attempt to connect,
// or for room among commands that were not answered: the store is prompt while neither is near, a few seconds after the last
// trouble. It cannot know what breaks between its answer and the call. With a client of somebody else's, who can have set that up
// in any way, it never is.
func (s *Store) Prompt() bool {
	return s.dialer != nil && s.calls.Load() < promptCalls && s.dialer.settled()
}

// do makes one command's call and keeps account of it for Prompt.
func (s *Store) do(ctx context.Context, cmd valkey.Completed) valkey.ValkeyResult {
	s.calls.Add(1)
	defer s.calls.Add(-1)
	answer := s.client.Do(ctx, cmd)
	if answer.NonValkeyError() != nil && s.dialer != nil {
		s.dialer.troubled()
	}
	return answer
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	return s.record(ctx, "get", id, s.client.B().Get().Key(s.key(id)).Build())
}

// Take implements store.Taker.
func (s *Store) Take(ctx context.Context, id store.ID) (store.Record, error) {
	return s.record(ctx, "take", id, s.client.B().Getdel().Key(s.key(id)).Build()) // a writing command: the client does not repeat it
}

func (s *Store) record(ctx context.Context, op string, id store.ID, cmd valkey.Completed) (store.Record, error) {
	encoded, err := s.do(ctx, cmd).AsBytes()
	if valkey.IsValkeyNil(err) {
		return store.Record{}, store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, failed(ctx, op, err)
	}
	r, err := store.Decode(id, encoded)
	if err != nil {
		return store.Record{}, fmt.Errorf("valkeystore: %s: %w", op, err)
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
	cmd := s.client.B().Set().Key(s.key(r.ID)).Value(valkey.BinaryString(store.Encode(r))).PxMilliseconds(lives).Build()
	if err := s.do(ctx, cmd).Error(); err != nil {
		return failed(ctx, "put", err)
	}
	return nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error { return s.del(ctx, "delete", id) }

func (s *Store) del(ctx context.Context, op string, id store.ID) error {
	if err := s.do(ctx, s.client.B().Del().Key(s.key(id)).Build()).Error(); err != nil {
		return failed(ctx, op, err)
	}
	return nil
}

// DeleteIf implements store.ConditionalDeleter.
func (s *Store) DeleteIf(ctx context.Context, r store.Record) (bool, error) {
	cmd := s.client.B().Eval().Script(deleteIf).Numkeys(1).Key(s.key(r.ID)).Arg(valkey.BinaryString(store.Encode(r))).Build()
	n, err := s.do(ctx, cmd).AsInt64()
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
	was := ""
	if !old.ID.IsZero() {
		was = valkey.BinaryString(store.Encode(old))
	}
	lives := next.Expires.UnixMilli() - s.now().UnixMilli()
	cmd := s.client.B().Eval().Script(swap).Numkeys(1).Key(s.key(next.ID)).
		Arg(was, valkey.BinaryString(store.Encode(next)), strconv.FormatInt(lives, 10)).Build()
	n, err := s.do(ctx, cmd).AsInt64()
	if err != nil {
		return false, failed(ctx, "swap", err)
	}
	return n > 0, nil
}

// List implements store.Lister. It goes through all keys of the server, whosever they are, and fetches the records to tell their
// expiry: it takes its time, but never the server's.
func (s *Store) List(ctx context.Context, f func(id store.ID, size int, expires time.Time) error) error {
	seen := map[store.ID]bool{} // a scan may come by a key twice
	return s.scan(ctx, "list", func(ids []store.ID) error {
		var fresh []store.ID
		var gets []valkey.Completed
		for _, id := range ids {
			if !seen[id] {
				seen[id] = true
				fresh = append(fresh, id)
				gets = append(gets, s.client.B().Get().Key(s.key(id)).Build())
			}
		}
		if len(gets) == 0 {
			return nil
		}
		for i, answer := range s.client.DoMulti(ctx, gets...) {
			encoded, err := answer.AsBytes()
			if valkey.IsValkeyNil(err) {
				continue
			}
			if err != nil {
				return failed(ctx, "list", err)
			}
			r, err := store.Decode(fresh[i], encoded)
			if err != nil || !s.now().Before(r.Expires) {
				continue
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
		unlinks := make([]valkey.Completed, len(ids))
		for i, id := range ids {
			unlinks[i] = s.client.B().Unlink().Key(s.key(id)).Build()
		}
		for _, answer := range s.client.DoMulti(ctx, unlinks...) {
			n, err := answer.AsInt64()
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
	pattern := escapeGlob(s.prefix) + "*"
	nodes := s.client.Nodes()
	for _, node := range nodes {
		if len(nodes) > 1 { // a cluster, whose replicas hold the same again
			role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
			if err != nil {
				return failed(ctx, op, err)
			}
			if name, _ := role[0].ToString(); name != "master" {
				continue
			}
		}
		for cursor, first := uint64(0), true; first || cursor != 0; first = false {
			page, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(pattern).Count(batch).Build()).AsScanEntry()
			if err != nil {
				return failed(ctx, op, err)
			}
			cursor = page.Cursor
			var ids []store.ID
			for _, key := range page.Elements {
				// Only what key can have made: others may use longer keys with the same beginning.
				if id, err := store.ParseID(strings.TrimPrefix(key, s.prefix)); err == nil && s.key(id) == key {
					ids = append(ids, id)
				}
			}
			if len(ids) == 0 {
				continue
			}
			if err := f(ids); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) key(id store.ID) string { return s.prefix + id.String() }

var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

func escapeGlob(s string) string { return globs.Replace(s) }

// failed wraps the client's error, which names a context that ended in ways of its own.
func failed(ctx context.Context, op string, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("valkeystore: %s: %w: %w", op, ended, err)
	}
	return fmt.Errorf("valkeystore: %s: %w", op, err)
}
