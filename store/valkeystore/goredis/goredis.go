// Package goredis is valkeystore for programs that already have a go-redis client. It has the same keys and values, so
// hosts with either package can share a server. It is a module of its own, so that only its users depend on go-redis.
package goredis

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/libssl-go/libssl/store/valkeystore/internal/records"
)

// DefaultPrefix begins the keys of a store that New is given no other prefix for. It is valkeystore's.
const DefaultPrefix = records.DefaultPrefix

// Store implements store.Store, store.Taker, store.Swapper, store.Lister and store.Purger. The documentation of
// valkeystore.Store holds here too, except for the client. go-redis has a connection for each command under way instead of
// sharing a few, and by default it repeats a command, even a Take, when its connection breaks. A repeated Take never returns a
// record twice, but finds nothing, so that a record may be lost. A repeated Swap may report false although its first attempt
// succeeded.
type Store struct{ *kernel }

// kernel has the calls of package store.
type kernel = records.Store

// New returns a store that uses client: a redis.Client, of one server or one behind sentinels, or a redis.ClusterClient. The
// client must not read from replicas. It should have ContextTimeoutEnabled: otherwise a command whose call has ended keeps its
// connection until the client's own timeout. prefix begins every key; DefaultPrefix if empty. The caller closes the client.
func New(client redis.UniversalClient, prefix string) *Store {
	return newStore(client, prefix, time.Now)
}

func newStore(client redis.UniversalClient, prefix string, now func() time.Time) *Store {
	return &Store{records.New("goredis", commands{client}, prefix, now)}
}

// commands implements records.Client.
type commands struct{ client redis.UniversalClient }

// do runs a command and returns when ctx ends: the client goes by the deadline of a context only, not by its cancellation.
func do[T any](ctx context.Context, command func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	go func() {
		value, err := command()
		results <- result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// value returns the value in a server's answer, nil if there is none.
func value(b []byte, err error) ([]byte, error) {
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return b, err
}

func (c commands) Get(ctx context.Context, key string) ([]byte, error) {
	return value(do(ctx, func() ([]byte, error) { return c.client.Get(ctx, key).Bytes() }))
}

func (c commands) GetDel(ctx context.Context, key string) ([]byte, error) {
	return value(do(ctx, func() ([]byte, error) { return c.client.GetDel(ctx, key).Bytes() }))
}

func (c commands) Set(ctx context.Context, key string, value []byte, milliseconds int64) error {
	_, err := do(ctx, func() (any, error) { // the client's Set takes no more than 292 years
		return c.client.Do(ctx, "SET", key, value, "PX", milliseconds).Result()
	})
	return err
}

func (c commands) Del(ctx context.Context, key string) error {
	_, err := do(ctx, func() (int64, error) { return c.client.Del(ctx, key).Result() })
	return err
}

func (c commands) Eval(ctx context.Context, script, key string, old, next []byte, milliseconds int64) (int64, error) {
	return do(ctx, func() (int64, error) {
		return c.client.Eval(ctx, script, []string{key}, old, next, milliseconds).Int64()
	})
}

func (c commands) GetAll(ctx context.Context, keys []string) ([][]byte, error) {
	values := make([][]byte, len(keys))
	for i, key := range keys {
		var err error
		if values[i], err = c.Get(ctx, key); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (c commands) Unlink(ctx context.Context, keys []string) (int, error) {
	total := 0
	for _, key := range keys { // one by one: in a cluster the keys are on several nodes
		n, err := do(ctx, func() (int64, error) { return c.client.Unlink(ctx, key).Result() })
		if err != nil {
			return total, err
		}
		total += int(n)
	}
	return total, nil
}

func (c commands) Scan(ctx context.Context, pattern string, f func(keys []string) error) error {
	cluster, ok := c.client.(*redis.ClusterClient)
	if !ok {
		return scanNode(ctx, c.client, pattern, f)
	}
	var mu sync.Mutex // ForEachMaster calls its function on several goroutines
	var masters []*redis.Client
	err := cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		masters = append(masters, node)
		return nil
	})
	if err != nil {
		return err
	}
	for _, node := range masters {
		if err := scanNode(ctx, node, pattern, f); err != nil {
			return err
		}
	}
	return nil
}

func scanNode(ctx context.Context, node redis.Cmdable, pattern string, f func(keys []string) error) error {
	type page struct {
		keys []string
		next uint64
	}
	for cursor, first := uint64(0), true; first || cursor != 0; first = false {
		p, err := do(ctx, func() (p page, err error) {
			p.keys, p.next, err = node.Scan(ctx, cursor, pattern, records.Batch).Result()
			return p, err
		})
		if err != nil {
			return err
		}
		cursor = p.next
		if err := f(p.keys); err != nil {
			return err
		}
	}
	return nil
}
