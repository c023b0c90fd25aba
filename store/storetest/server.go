package storetest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Server is a server behind stores, for RunServer. Tests that need a nil function are left out.
type Server struct {
	// Open returns a store of this server, with its own connections like another process, and closes it with t.Cleanup.
	// It must be set.
	Open func(t *testing.T) store.Store

	// OpenAt is like Open, for a host whose clock is ahead by skew. The server's clock stays.
	OpenAt func(t *testing.T, skew time.Duration) store.Store

	// Restart stops and starts the server, which may lose its records.
	Restart func(t *testing.T)

	// Freeze makes the server stop answering, with its connections open, until thaw is called.
	Freeze func(t *testing.T) (thaw func())

	// Damage replaces the value under id in the server by the result of f.
	Damage func(t *testing.T, id store.ID, f func(kept []byte) []byte)
}

// recovers is how long a store may take to work again after its server does.
const recovers = 5 * time.Second

// RunServer calls Run, and tests what hosts that share a server rely on. The server must have room for 200 records and have no
// other user meanwhile.
func RunServer(t *testing.T, s Server) {
	Run(t, s.Open)
	t.Run("Shared", func(t *testing.T) { testShared(t, s) })
	if _, ok := s.Open(t).(store.Swapper); ok {
		t.Run("SharedSwapRace", func(t *testing.T) { testSwapRace(t, s.Open(t), s.Open(t)) })
		if s.OpenAt != nil {
			t.Run("SwapClockAhead", func(t *testing.T) { testSwapClockAhead(t, s) })
		}
	}
	if s.OpenAt != nil {
		t.Run("ClockSkew", func(t *testing.T) { testClockSkew(t, s) })
		t.Run("ClockAhead", func(t *testing.T) { testClockAhead(t, s) })
	}
	if s.Damage != nil {
		t.Run("Damaged", func(t *testing.T) { testDamaged(t, s) })
	}
	if s.Freeze != nil {
		t.Run("Frozen", func(t *testing.T) { testFrozen(t, s) })
	}
	if s.Restart != nil {
		t.Run("Restarted", func(t *testing.T) { testRestarted(t, s) })
	}
}

func testShared(t *testing.T, s Server) {
	a, b := s.Open(t), s.Open(t)
	r := newRecord(t)
	put(t, a, r)
	wantFound(t, b, r)
	r.Data = randomBytes(70)
	put(t, b, r)
	wantFound(t, a, r)
	if err := b.Delete(ctx(t), r.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	wantAbsent(t, a, r.ID)

	if _, ok := a.(store.Taker); !ok {
		return
	}
	for range 20 {
		r := newRecord(t)
		put(t, a, r)
		var mu sync.Mutex
		var wg sync.WaitGroup
		taken := 0
		for _, s := range []store.Store{a, b} {
			wg.Go(func() {
				_, err := s.(store.Taker).Take(ctx(t), r.ID)
				if err == nil {
					mu.Lock()
					taken++
					mu.Unlock()
				} else if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Take: %v", err)
				}
			})
		}
		wg.Wait()
		if taken != 1 {
			t.Errorf("two hosts took a record %d times", taken)
		}
	}
}

// testClockSkew has hosts whose clocks agree with each other and differ from the server's. Records must expire by the hosts'
// clocks.
func testClockSkew(t *testing.T, s Server) {
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		a, b := s.OpenAt(t, skew), s.OpenAt(t, skew)
		now := func() time.Time { return time.Now().Add(skew) }
		long, short := newRecord(t), newRecord(t)
		long.Expires = now().Add(30 * time.Minute)
		put(t, a, long)
		wantFound(t, b, long)
		short.Expires = now().Add(100 * time.Millisecond)
		put(t, a, short)
		time.Sleep(short.Expires.Sub(now())) // no event tells that a record expired
		wantAbsent(t, b, short.ID)
		wantFound(t, b, long)
	}
}

// testClockAhead has one host whose clock is ahead: a record that has expired by this clock stays for the others.
func testClockAhead(t *testing.T, s Server) {
	right, ahead := s.Open(t), s.OpenAt(t, time.Hour)
	r := newRecord(t)
	r.Expires = time.Now().Add(30 * time.Minute)
	put(t, right, r)
	wantAbsent(t, ahead, r.ID)
	wantFound(t, right, r)
}

// testDamaged has values in the server that another program, or a write that was cut short, may have left: they are absent
// records, not failures of the store, and can be replaced.
func testDamaged(t *testing.T, s Server) {
	st := s.Open(t)
	for what, f := range map[string]func([]byte) []byte{
		"half":       func(kept []byte) []byte { return kept[:len(kept)/2] },
		"a byte off": func(kept []byte) []byte { return kept[:len(kept)-1] },
		"a bit":      func(kept []byte) []byte { kept[len(kept)-1] ^= 1; return kept },
		"nothing":    func([]byte) []byte { return nil },
		"other":      func([]byte) []byte { return []byte("another program's") },
		"longer":     func(kept []byte) []byte { return append(kept, kept...) },
		"too long":   func([]byte) []byte { return bytes.Repeat([]byte("x"), 100_000) },
	} {
		r := newRecord(t)
		damage := func() {
			put(t, st, r)
			s.Damage(t, r.ID, f)
		}
		damage()
		if got, err := st.Get(ctx(t), r.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Get = %d bytes, %v, want ErrNotFound", what, len(got.Data), err)
		}
		if lister, ok := st.(store.Lister); ok {
			err := lister.List(ctx(t), func(id store.ID, _ int, _ time.Time) error {
				if id == r.ID {
					t.Errorf("%s: List shows it", what)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s: List: %v", what, err)
			}
		}
		if taker, ok := st.(store.Taker); ok {
			if _, err := taker.Take(ctx(t), r.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: Take: %v, want ErrNotFound", what, err)
			}
			damage()
		}
		put(t, st, r)
		wantFound(t, st, r)
		s.Damage(t, r.ID, f)
		if err := st.Delete(ctx(t), r.ID); err != nil {
			t.Errorf("%s: Delete: %v", what, err)
		}
		wantAbsent(t, st, r.ID)
	}
}

// testFrozen makes more calls than a store has connections while the server does not answer. Each must end soon after its
// context, and later calls must not get an answer to an earlier one.
func testFrozen(t *testing.T, s Server) {
	st := s.Open(t)
	records := make([]store.Record, 200)
	for i := range records {
		records[i] = newRecord(t)
		put(t, st, records[i])
	}
	thaw := s.Freeze(t)
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	cancelled, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	var wg sync.WaitGroup
	for i, r := range records {
		ctx := []context.Context{short, cancelled}[i%2]
		wg.Go(func() {
			if _, err := st.Get(ctx, r.ID); err == nil || !errors.Is(err, ctx.Err()) {
				t.Errorf("Get from a frozen server: %v, want %v", err, ctx.Err())
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Second):
		t.Error("calls go on a second after their contexts ended")
	}
	thaw()
	<-ended
	for _, r := range records {
		wantFound(t, st, r)
	}
}

// testRestarted restarts the server under a store with open connections, which must reconnect by itself.
func testRestarted(t *testing.T, s Server) {
	st := s.Open(t)
	var wg sync.WaitGroup
	for range 8 { // opens all connections
		r := newRecord(t)
		wg.Go(func() {
			if err := st.Put(ctx(t), r); err != nil {
				t.Errorf("Put: %v", err)
			}
		})
	}
	wg.Wait()
	s.Restart(t)

	r := newRecord(t)
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := st.Put(ctx(t), r)
		if err == nil {
			break
		}
		if time.Since(began) > recovers {
			t.Fatalf("Put %v after the server is back: %v", recovers, err)
		}
	}
	wantFound(t, st, r)
	for range 8 {
		wg.Go(func() {
			r := newRecord(t)
			if err := st.Put(ctx(t), r); err != nil {
				t.Errorf("Put: %v", err)
			}
			if got, err := st.Get(ctx(t), r.ID); err != nil || !bytes.Equal(got.Data, r.Data) {
				t.Errorf("Get: %v", err)
			}
		})
	}
	wg.Wait()
}
