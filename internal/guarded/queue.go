package guarded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/libssl-go/libssl/store"
)

const (
	queueLimit  = 1 << 16
	queueShards = 4
)

var errQueueFull = errors.New("libssl: the store does not keep up")

// queue holds the operations that no handshake waits for. The operations of one id stay in order, and one slow call does not
// hold up the other shards.
type queue struct {
	shards   [queueShards]shard
	drained  sync.WaitGroup
	stop     context.Context // done: what is still queued is lost
	cancel   context.CancelFunc
	putBacks atomic.Bool           // PutBack queues
	loss     atomic.Pointer[error] // why the last operation was lost
}

// shard has a goroutine only while it has jobs, so that a queue that is forgotten can be collected.
type shard struct {
	mu       sync.Mutex
	jobs     []request
	draining bool
	closed   bool
	full     bool // a job found no room since the jobs were last taken up
}

func (s *shard) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// PutLater queues a Put.
func (s *Store) PutLater(rec *store.Record) { s.enqueueOrLose(putOf(rec)) }

// DeleteLater queues a Delete.
func (s *Store) DeleteLater(id store.ID) { s.enqueueOrLose(request{op: opDelete, id: id}) }

// QueuePutBacks makes PutBack use the queue from now on: its caller is an event loop.
func (s *Store) QueuePutBacks() { s.queue.putBacks.Store(true) }

func (s *Store) enqueueOrLose(r request) {
	if err := s.enqueue(r); err != nil {
		s.lose(err)
	}
}

func (s *Store) enqueue(r request) error {
	b := r.id.Bytes()
	sh := &s.queue.shards[b[0]%queueShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case sh.closed:
		return net.ErrClosed
	case len(sh.jobs) >= queueLimit/queueShards:
		if !sh.full {
			sh.full = true
			// On a goroutine of its own: OpenSSL may hold its lock here.
			s.queue.drained.Go(func() { s.log(slog.LevelWarn, "queue full", slog.Any("error", errQueueFull)) })
		}
		return errQueueFull
	}
	sh.jobs = append(sh.jobs, r)
	s.Stats.Queue.Add(1)
	if !sh.draining {
		sh.draining = true
		s.queue.drained.Go(func() { s.drain(sh) })
	}
	return nil
}

// Go runs f on a goroutine that Close waits for. After Close it does not run f and reports false.
func (s *Store) Go(f func()) bool {
	sh := &s.queue.shards[0] // any shard will do: Close closes all before it waits
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !sh.closed {
		s.queue.drained.Go(f)
	}
	return !sh.closed
}

func (s *Store) drain(sh *shard) {
	for {
		sh.mu.Lock()
		jobs := sh.jobs
		sh.jobs, sh.full = nil, false
		sh.draining = len(jobs) > 0
		sh.mu.Unlock()
		if len(jobs) == 0 {
			return
		}
		for _, r := range jobs {
			s.work(r)
			s.Stats.Queue.Add(-1)
		}
	}
}

func (s *Store) work(r request) {
	stop := s.queue.stop
	err := stop.Err()
	switch {
	case err != nil:
	case r.op == opPut:
		err = s.putNow(stop, r)
	default:
		if err = s.call(stop, s.opt.PutTimeout, r).err; err == nil {
			s.Stats.Removed.Add(1)
		}
	}
	if err != nil && !errors.Is(err, store.ErrTooLarge) { // which is counted
		s.lose(err)
	}
}

func (s *Store) lose(err error) {
	s.queue.loss.Store(&err)
	s.Stats.Lost.Add(1)
}

// Close waits until the queued operations have reached the store, or until ctx is done; the error says how many were lost.
// The store itself stays open, and calls that do not use the queue go on.
func (s *Store) Close(ctx context.Context) error {
	lostBefore := s.Stats.Lost.Load()
	for i := range s.queue.shards {
		s.queue.shards[i].close()
	}
	stop := context.AfterFunc(ctx, s.queue.cancel)
	s.queue.drained.Wait()
	stop()
	s.queue.cancel()
	n := s.Stats.Lost.Load() - lostBefore
	if n == 0 {
		return nil
	}
	err := context.Cause(ctx)
	if err == nil { // there was time enough, but the store failed
		err = *s.queue.loss.Load()
	}
	return fmt.Errorf("libssl: close session cache: %d queued operations were lost: %w", n, err)
}
