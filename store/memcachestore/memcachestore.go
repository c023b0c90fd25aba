// Package memcachestore is a store.Store in memcached, which a fleet of hosts shares.
package memcachestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/libssl-go/libssl/store"
)

// DefaultPrefix begins the keys of a store whose Options name no other prefix.
const DefaultPrefix = "libssl:"

const (
	maxKey = 250 // memcached's limit

	// maxLife is memcached's limit for a relative expiry: it takes more seconds for a date, by the server's clock.
	maxLife = 30 * 24 * time.Hour

	// maxCalls is how many calls run at once, each on its own connection. Idle connections are kept.
	maxCalls = 64

	// answerTimeout is how long a connection may owe an answer before it counts as broken. A call whose context has ended may
	// hold its connection for as long.
	answerTimeout = time.Second
)

// Store keeps each record under one key, the prefix and the id in hexadecimal. It implements store.Store
// and store.Swapper.
//
// It is no store.Taker, because memcached has no command that reads and deletes: hosts that asked at the same time would all get
// the record. Single use and early data are therefore impossible. So are List and Purge: memcached does not list its keys.
//
// Put tells the server how long a record lives, in seconds rounded up, so the server's clock does not matter. The exact expiry
// is kept with the record and checked here. A record lives for 30 days at most. The server evicts records when it is full, and loses
// all of them when it restarts. Its slab pages must hold items of 64 KiB, as they do by default.
//
// The client library takes no context. Calls end with their context all the same, but a command that was already sent runs on
// for up to a second, and may take effect.
type Store struct {
	client *memcache.Client
	slots  chan struct{} // a token for each call under way
	prefix string
	now    func() time.Time
}

// Options of a store, besides its address.
type Options struct {
	// Prefix begins every key; DefaultPrefix if empty. Fleets that share a server need different prefixes. It must not
	// contain spaces or control characters.
	Prefix string
}

// Open connects to the server at addr, host:port, and checks that it is a memcached. It resolves the host once: open a new store
// if its address changes.
func Open(addr string, opts Options) (*Store, error) {
	s, err := open(addr, opts)
	if err != nil {
		return nil, fmt.Errorf("memcachestore: %s: %w", addr, err)
	}
	return s, nil
}

func open(addr string, opts Options) (*Store, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, errors.New("the address is no host:port")
	}
	prefix := opts.Prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if len(prefix) > maxKey-2*store.MaxIDLen || strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, errors.New("the prefix is too long, or has spaces or control characters")
	}
	servers := new(memcache.ServerList)
	if err := servers.SetServers(addr); err != nil {
		return nil, err
	}
	client := memcache.NewFromSelector(servers)
	client.Timeout, client.MaxIdleConns, client.DialContext = answerTimeout, maxCalls, dial
	// A Get, unlike a Ping, also shows whether the client may read.
	if _, err := client.Get(prefix + "check"); err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
		client.Close()
		return nil, err
	}
	return &Store{client: client, slots: make(chan struct{}, maxCalls), prefix: prefix, now: time.Now}, nil
}

// Close closes the idle connections.
func (s *Store) Close() error { return s.client.Close() }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	item, err := do(ctx, s, "get", func() (*memcache.Item, error) { return s.client.Get(s.key(id)) })
	if err != nil {
		return store.Record{}, err
	}
	if item == nil {
		return store.Record{}, store.ErrNotFound
	}
	r, err := store.Decode(id, item.Value)
	if err != nil {
		return store.Record{}, fmt.Errorf("memcachestore: get: %w", err)
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
	lives := r.Expires.Sub(s.now().Round(0))
	if lives <= 0 {
		return s.del(ctx, "put", r.ID) // a record that has expired replaces too
	}
	item := &memcache.Item{Key: s.key(r.ID), Value: store.Encode(r), Expiration: expiration(lives)}
	_, err := do(ctx, s, "put", func() (*memcache.Item, error) { return nil, tooLarge(s.client.Set(item)) })
	return err
}

// tooLarge makes store.ErrTooLarge of the answer to an item that is longer than a server with a small -I accepts. The client
// library has no error for it.
func tooLarge(err error) error {
	if err != nil && strings.Contains(err.Error(), "SERVER_ERROR object too large") {
		return store.ErrTooLarge
	}
	return err
}

// expiration returns a record's life in memcached's seconds; a negative value deletes the record at once.
func expiration(lives time.Duration) int32 {
	if lives <= 0 {
		return -1
	}
	// The server counts whole seconds, which begin at any moment: one more, or the record would be gone too early.
	return int32(min(math.Ceil(lives.Seconds())+1, maxLife.Seconds()))
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error { return s.del(ctx, "delete", id) }

func (s *Store) del(ctx context.Context, op string, id store.ID) error {
	_, err := do(ctx, s, op, func() (*memcache.Item, error) { return nil, s.client.Delete(s.key(id)) })
	return err
}

// Swap implements store.Swapper with memcached's add and cas. It takes one round trip for the zero old, otherwise two.
func (s *Store) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	if err := next.Validate(); err != nil {
		return false, err
	}
	value, expires := store.Encode(next), expiration(next.Expires.Sub(s.now().Round(0)))
	item, err := do(ctx, s, "swap", func() (*memcache.Item, error) {
		if old.ID.IsZero() {
			item := &memcache.Item{Key: s.key(next.ID), Value: value, Expiration: expires}
			return stored(item, s.client.Add(item))
		}
		item, err := s.client.Get(s.key(next.ID))
		if err != nil || string(item.Value) != string(store.Encode(old)) {
			return nil, err
		}
		item.Value, item.Expiration = value, expires
		return stored(item, s.client.CompareAndSwap(item))
	})
	return item != nil, err
}

// stored returns item, or nil if err says that the record on the server was another.
func stored(item *memcache.Item, err error) (*memcache.Item, error) {
	switch {
	case err == nil:
		return item, nil
	case errors.Is(err, memcache.ErrCASConflict) || errors.Is(err, memcache.ErrNotStored):
		return nil, nil
	}
	return nil, err
}

// do waits for a slot and runs f, which sends commands to the server. All waiting ends with ctx. A miss is a nil item.
//
// If a connection is broken, the server has probably restarted, and the idle connections are broken too: do closes them and
// runs f once more. f must be correct when it runs twice.
func do(ctx context.Context, s *Store, op string, f func() (*memcache.Item, error)) (*memcache.Item, error) {
	type result struct {
		item *memcache.Item
		err  error
	}
	results := make(chan result, 1)
	err := ctx.Err()
	if err == nil {
		select {
		case s.slots <- struct{}{}:
			go func() {
				defer func() { <-s.slots }()
				item, err := f()
				if broken(err) {
					s.client.Close()
					item, err = f()
				}
				results <- result{item, err}
			}()
			select {
			case r := <-results:
				if r.err == nil || errors.Is(r.err, memcache.ErrCacheMiss) {
					return r.item, nil
				}
				err = r.err
			case <-ctx.Done():
				err = ctx.Err()
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return nil, fmt.Errorf("memcachestore: %s: %w", op, err)
}

// broken reports whether err means that an open connection broke. A failure to connect, a timeout and an error answer are other
// errors.
func broken(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &op) && op.Op != "dial" && !op.Timeout()
}

func (s *Store) key(id store.ID) string { return s.prefix + id.String() }
