// Package valkeystore is a store.Store in Valkey or Redis, from version 6.2 on, which a fleet of hosts shares: one
// server, one behind sentinels, or a cluster.
package valkeystore

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/libssl-go/libssl/store/valkeystore/internal/records"
)

// DefaultPrefix begins the keys of a store whose Options name no other prefix.
const DefaultPrefix = records.DefaultPrefix

// Store keeps each record under one key, the prefix and the id in hexadecimal. It implements store.Store, store.Taker,
// store.Swapper, store.Lister and store.Purger.
//
// Every call on a record is one command. Concurrent calls share a few connections and their round trips. When a connection
// breaks, the client repeats a Get, but never a Take.
//
// Put tells the server how long a record lives, not when it expires, so a wrong clock on the server does no harm. Each host
// decides by its own clock whether a record has expired, and leaves an expired record in the server: by another host's clock it may
// still be valid.
//
// A server that restarts without its data has lost its records. One that runs out of memory evicts or refuses records,
// depending on its configuration; Put returns a refusal as an error. A replica that takes over lacks whatever the old server
// had not yet sent to it. The latest records put may be missing and, which matters to single use, the latest records
// taken may be back. A store must not read from replicas, so a client given to New must not be set up to do so.
type Store struct {
	*kernel
	commands *commands
	close    func() // nil if the caller owns the client
}

// kernel has the calls of package store.
type kernel = records.Store

// New returns a store that uses client, however that is configured: see valkey.ClientOption. With AlwaysPipelining, calls return
// soonest after their context ends. Close leaves the client open. New uses only the Prefix of opts.
//
// Answers that break the protocol end the process in such a client: only the connections of Open are checked.
func New(client valkey.Client, opts Options) *Store { return newStore(&commands{client: client}, opts) }

func newStore(c *commands, opts Options) *Store {
	return &Store{kernel: records.New("valkeystore", c, opts.Prefix, time.Now), commands: c}
}

// Close closes the connections, if the store was opened by Open.
func (s *Store) Close() error {
	if s.close != nil {
		s.close()
	}
	return nil
}

// Prompt reports whether a call that begins now returns when its context ends: package libssl then calls the store without a
// goroutine in between. The client ignores a call's context in two cases: while it waits for another call's attempt to connect, and
// for room among unanswered commands. Prompt is true while neither is near, that is, a few seconds after the last trouble.
// It cannot know about a connection that breaks between its answer and the call. It is always false for a client given to New,
// whose configuration is unknown.
func (s *Store) Prompt() bool {
	c := s.commands
	return c.dialer != nil && c.calls.Load() < promptCalls && c.dialer.settled()
}

// commands implements records.Client.
type commands struct {
	client valkey.Client
	dialer *dialer      // nil if the caller owns the client
	calls  atomic.Int32 // under way
}

// do runs one command and keeps account of it for Prompt.
func (c *commands) do(ctx context.Context, cmd valkey.Completed) valkey.ValkeyResult {
	c.calls.Add(1)
	defer c.calls.Add(-1)
	answer := c.client.Do(ctx, cmd)
	if answer.NonValkeyError() != nil && c.dialer != nil {
		c.dialer.troubled()
	}
	return answer
}

// value returns the value in a server's answer, nil if there is none.
func value(answer valkey.ValkeyResult) ([]byte, error) {
	b, err := answer.AsBytes()
	if valkey.IsValkeyNil(err) {
		return nil, nil
	}
	return b, err
}

func (c *commands) Get(ctx context.Context, key string) ([]byte, error) {
	return value(c.do(ctx, c.client.B().Get().Key(key).Build()))
}

func (c *commands) GetDel(ctx context.Context, key string) ([]byte, error) {
	return value(c.do(ctx, c.client.B().Getdel().Key(key).Build())) // a writing command, which the client does not repeat
}

func (c *commands) Set(ctx context.Context, key string, value []byte, milliseconds int64) error {
	return c.do(ctx, c.client.B().Set().Key(key).Value(valkey.BinaryString(value)).PxMilliseconds(milliseconds).Build()).Error()
}

func (c *commands) Del(ctx context.Context, key string) error {
	return c.do(ctx, c.client.B().Del().Key(key).Build()).Error()
}

func (c *commands) Eval(ctx context.Context, script, key string, old, next []byte, milliseconds int64) (int64, error) {
	return c.do(ctx, c.client.B().Eval().Script(script).Numkeys(1).Key(key).
		Arg(valkey.BinaryString(old), valkey.BinaryString(next), strconv.FormatInt(milliseconds, 10)).Build()).AsInt64()
}

func (c *commands) GetAll(ctx context.Context, keys []string) ([][]byte, error) {
	gets := make([]valkey.Completed, len(keys))
	for i, key := range keys {
		gets[i] = c.client.B().Get().Key(key).Build()
	}
	values := make([][]byte, len(keys))
	for i, answer := range c.client.DoMulti(ctx, gets...) {
		var err error
		if values[i], err = value(answer); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (c *commands) Unlink(ctx context.Context, keys []string) (int, error) {
	unlinks := make([]valkey.Completed, len(keys)) // one a key: in a cluster the keys are on several nodes
	for i, key := range keys {
		unlinks[i] = c.client.B().Unlink().Key(key).Build()
	}
	total := 0
	for _, answer := range c.client.DoMulti(ctx, unlinks...) {
		n, err := answer.AsInt64()
		if err != nil {
			return total, err
		}
		total += int(n)
	}
	return total, nil
}

func (c *commands) Scan(ctx context.Context, pattern string, f func(keys []string) error) error {
	nodes := c.client.Nodes()
	for _, node := range nodes {
		if len(nodes) > 1 { // a cluster, whose replicas hold the same keys
			role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
			if err != nil {
				return err
			}
			if name, _ := role[0].ToString(); name != "master" {
				continue
			}
		}
		for cursor, first := uint64(0), true; first || cursor != 0; first = false {
			page, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(pattern).Count(records.Batch).Build()).AsScanEntry()
			if err != nil {
				return err
			}
			cursor = page.Cursor
			if err := f(page.Elements); err != nil {
				return err
			}
		}
	}
	return nil
}
