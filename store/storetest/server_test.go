package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
)

// server has encoded records with expiries. Connections of its clients break at a restart.
type server struct {
	mu     sync.Mutex
	kept   map[store.ID]value
	start  int           // how often it was started
	frozen chan struct{} // closed when the server answers again; nil while it does
}

type value struct {
	encoded []byte
	end     time.Time
}

// client is a store of a server. brokenServers set its faults.
type client struct {
	*server
	skew      time.Duration
	connected *int

	absolute, gullible, forlorn, eager, rash, deaf bool
}

func (c *client) now() time.Time { return time.Now().Add(c.skew) }

// lock connects, checks the context, removes expired records, and locks the server.
func (c *client) lock(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	if frozen := c.frozen; frozen != nil {
		c.mu.Unlock()
		if c.deaf {
			ctx = context.Background()
		}
		select {
		case <-frozen:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.mu.Lock()
	}
	if *c.connected != c.start {
		if !c.forlorn {
			*c.connected = c.start
		}
		c.mu.Unlock()
		return errors.New("connection lost")
	}
	for id, v := range c.kept {
		if !time.Now().Before(v.end) {
			delete(c.kept, id)
		}
	}
	return nil
}

func (c *client) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if err := c.lock(ctx); err != nil {
		return store.Record{}, err
	}
	defer c.mu.Unlock()
	v, ok := c.kept[id]
	if !ok {
		return store.Record{}, store.ErrNotFound
	}
	r, err := store.Decode(id, bytes.Clone(v.encoded))
	if err != nil && c.gullible {
		return store.Record{ID: id, Data: bytes.Clone(v.encoded)}, nil
	}
	if err == nil && !c.now().Before(r.Expires) {
		if c.eager {
			delete(c.kept, id)
		}
		return store.Record{}, store.ErrNotFound
	}
	return r, err
}

func (c *client) Put(ctx context.Context, r store.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	end := time.Now().Add(r.Expires.Sub(c.now()))
	if c.absolute {
		end = r.Expires
	}
	c.kept[r.ID] = value{store.Encode(r), end}
	return nil
}

func (c *client) Delete(ctx context.Context, id store.ID) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	delete(c.kept, id)
	return nil
}

func (c *client) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	if err := next.Validate(); err != nil {
		return false, err
	}
	if err := c.lock(ctx); err != nil {
		return false, err
	}
	kept, there := c.kept[next.ID]
	if c.rash { // unlocks between comparing and storing
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if r, err := store.Decode(next.ID, bytes.Clone(kept.encoded)); c.eager && err == nil && !c.now().Before(r.Expires) {
		there = false
	}
	if there != !old.ID.IsZero() || there && !bytes.Equal(kept.encoded, store.Encode(old)) {
		return false, nil
	}
	c.kept[next.ID] = value{store.Encode(next), time.Now().Add(next.Expires.Sub(c.now()))}
	return true, nil
}

// served makes a server whose clients have the faults that spoil sets.
func served(spoil func(*client)) storetest.Server {
	srv := &server{kept: map[store.ID]value{}}
	openAt := func(_ *testing.T, skew time.Duration) store.Store {
		connected := srv.start
		c := &client{server: srv, skew: skew, connected: &connected}
		spoil(c)
		return c
	}
	return storetest.Server{
		Open:   func(t *testing.T) store.Store { return openAt(t, 0) },
		OpenAt: openAt,
		Restart: func(*testing.T) {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			srv.start++
			clear(srv.kept)
		},
		Freeze: func(*testing.T) func() {
			frozen := make(chan struct{})
			set := func(f chan struct{}) {
				srv.mu.Lock()
				defer srv.mu.Unlock()
				srv.frozen = f
			}
			set(frozen)
			return func() {
				set(nil)
				close(frozen)
			}
		},
		Damage: func(_ *testing.T, id store.ID, f func([]byte) []byte) {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			v := srv.kept[id]
			v.encoded = f(bytes.Clone(v.encoded))
			srv.kept[id] = v
		},
	}
}

// brokenServers have one fault each. The key is the subtest that must find it.
var brokenServers = map[string]func() storetest.Server{
	"Shared": func() storetest.Server { // each store has its own server
		s := served(func(*client) {})
		s.Open = func(t *testing.T) store.Store { return served(func(*client) {}).Open(t) }
		return s
	},
	"ClockSkew":      func() storetest.Server { return served(func(c *client) { c.absolute = true }) },
	"Damaged":        func() storetest.Server { return served(func(c *client) { c.gullible = true }) },
	"Restarted":      func() storetest.Server { return served(func(c *client) { c.forlorn = true }) },
	"Frozen":         func() storetest.Server { return served(func(c *client) { c.deaf = true }) },
	"SharedSwapRace": func() storetest.Server { return served(func(c *client) { c.rash = true }) },
	"SwapClockAhead": func() storetest.Server { return served(func(c *client) { c.eager = true }) },
	"ClockAhead":     func() storetest.Server { return served(func(c *client) { c.eager = true }) },
}

func TestRunServer(t *testing.T) { storetest.RunServer(t, served(func(*client) {})) }

// RunServer leaves out the tests that need a nil function.
func TestRunServer_Minimal(t *testing.T) {
	storetest.RunServer(t, storetest.Server{Open: served(func(*client) {}).Open})
}
