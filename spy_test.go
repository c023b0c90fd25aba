package libssl_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/stretchr/testify/require"
)

// spy is a memstore that records its calls and can be made to fail. It is neither
// store.Local nor store.Embedded.
type spy struct {
	storetest.Faulty
	mem *memstore.Store

	mu                         sync.Mutex
	gets, puts, deletes, takes []store.ID
}

// newSpy returns a spy without hooks. Hooks are set before its first use, and reach
// the records through s.mem.
func newSpy() *spy {
	mem := memstore.New(memstore.Options{})
	return &spy{mem: mem, Faulty: storetest.Faulty{Store: mem}}
}

// holdPuts makes each Put report that it has begun and wait for release.
func (s *spy) holdPuts() (entered chan struct{}, release chan struct{}) {
	entered, release = make(chan struct{}, 8), make(chan struct{})
	s.OnPut = func(ctx context.Context, r store.Record) error {
		entered <- struct{}{}
		<-release
		return s.mem.Put(ctx, r)
	}
	return entered, release
}

func (s *spy) note(list *[]store.ID, id store.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, id)
}

func (s *spy) Get(ctx context.Context, id store.ID) (store.Record, error) {
	s.note(&s.gets, id)
	return s.Faulty.Get(ctx, id)
}

func (s *spy) Put(ctx context.Context, r store.Record) error {
	s.note(&s.puts, r.ID)
	return s.Faulty.Put(ctx, r)
}

func (s *spy) Delete(ctx context.Context, id store.ID) error {
	s.note(&s.deletes, id)
	return s.Faulty.Delete(ctx, id)
}

func (s *spy) Take(ctx context.Context, id store.ID) (store.Record, error) {
	s.note(&s.takes, id)
	return s.Faulty.Take(ctx, id)
}

func (s *spy) asked(list *[]store.ID) []store.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]store.ID{}, *list...)
}

// ids returns the ids of the stored records.
func (s *spy) ids(t testing.TB) (all []store.ID) {
	t.Helper()
	require.NoError(t, s.mem.List(t.Context(), func(id store.ID, _ int, _ time.Time) error {
		all = append(all, id)
		return nil
	}))
	return all
}

func (s *spy) record(t testing.TB, id store.ID) store.Record {
	t.Helper()
	r, err := s.mem.Get(t.Context(), id)
	require.NoError(t, err)
	return r
}

// tap records every Write.
type tap struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.writes = append(p.writes, bytes.Clone(b))
	p.mu.Unlock()
	return p.Conn.Write(b)
}

func (p *tap) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.writes)
}

// hellos counts the ClientHellos in a client's stream: handshake records, in the
// clear, of message type 1.
func (p *tap) hellos() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for stream := bytes.Join(p.writes, nil); len(stream) > 5; {
		size := 5 + int(stream[3])<<8 + int(stream[4])
		if stream[0] == 22 && stream[5] == 1 {
			n++
		}
		stream = stream[min(size, len(stream)):]
	}
	return n
}

// heard collects the errors that OnError gets.
type heard struct {
	mu   sync.Mutex
	errs []error
}

func (h *heard) hear(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = append(h.errs, err)
}

func (h *heard) all() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.errs...)
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.errs)
}

// wait waits for an event on another goroutine.
func wait(t testing.TB, what string, happened func() bool) {
	t.Helper()
	require.Eventually(t, happened, time.Minute, time.Millisecond, what)
}

// collect runs the garbage collector until done.
func collect(t testing.TB, done func() bool) {
	t.Helper()
	wait(t, "the collector", func() bool {
		runtime.GC()
		return done()
	})
}

func receive[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		require.FailNow(t, "timeout", "waiting for %s", what)
	}
	return v
}
