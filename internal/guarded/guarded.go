// Package guarded calls a store so that the store cannot harm its caller. Each call ends within a time limit, a panic
// becomes an error, and a failing store is left alone for a while. Calls that need not be waited for are queued. Everything
// is counted.
package guarded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Options configure a Store.
type Options struct {
	// LookupTimeout bounds Get and Take, PutTimeout bounds Put and Delete. Both must be positive.
	LookupTimeout, PutTimeout time.Duration

	// WriteBehind queues every Put.
	WriteBehind bool

	// OnError is told of every failure, Logger of the state of the store; both may be nil. They run on the goroutine that met
	// the failure.
	OnError func(error)
	Logger  *slog.Logger
}

// Store is a store.Store behind time limits, two circuit breakers and a queue. It is safe for concurrent use.
type Store struct {
	Stats Counters

	st     store.Store
	taker  store.Taker   // nil if st is none
	batch  store.Batcher // nil if st is none
	prompt prompt        // nil if st is none
	local  bool
	opt    Options

	lookups, writes side
	left            atomic.Int32 // calls that did not return in time and are still in the store
	queue           queue
}

// prompt is implemented by stores whose calls return when their context ends. Such a store is called on the goroutine of
// the handshake, without a second goroutine that could be left behind.
type prompt interface {
	// Prompt reports whether a call that begins now will return when its context ends.
	Prompt() bool
}

var (
	errTimeout     = errors.New("libssl: the store was too slow")
	errExited      = errors.New("libssl: the store called runtime.Goexit")
	errBreakerOpen = errors.New("libssl: the store is left alone after failures")
	errStuck       = errors.New("libssl: the store is left alone until calls return")
)

// maxLeft is how many calls may be left behind in a store. Each holds a goroutine, so a store that never returns could otherwise take
// more and more of them.
const maxLeft = 256

type storePanic struct {
	value any
	stack []byte
}

func (p *storePanic) Error() string { return fmt.Sprintf("libssl: the store panicked: %v", p.value) }

// New guards st.
func New(st store.Store, opt Options) *Store {
	s := &Store{st: st, opt: opt, lookups: side{name: "lookups"}, writes: side{name: "writes"}}
	s.taker, _ = st.(store.Taker)
	s.batch, _ = st.(store.Batcher)
	s.prompt, _ = st.(prompt)
	_, s.local = st.(store.Local)
	s.queue.stop, s.queue.cancel = context.WithCancel(context.Background())
	return s
}

// Local reports whether the store is answered from the memory of this process.
func (s *Store) Local() bool { return s.local }

// String is the type of the store.
func (s *Store) String() string { return fmt.Sprintf("%T", s.st) }

// CanTake reports whether the store is a store.Taker.
func (s *Store) CanTake() bool { return s.taker != nil }

// Open reports whether a breaker is open, so that the store gets no lookups or no writes.
func (s *Store) Open() bool { return s.lookups.breaker.isOpen() || s.writes.breaker.isOpen() }

// SetClock sets the clock of the breakers. Like SetTimeouts it is for tests, while no call is under way.
func (s *Store) SetClock(now func() time.Time) {
	s.lookups.breaker.now, s.writes.breaker.now = now, now
}

// SetTimeouts changes the time limits.
func (s *Store) SetTimeouts(lookup, put time.Duration) {
	s.opt.LookupTimeout, s.opt.PutTimeout = lookup, put
}

// request is one store operation. A struct, not a closure, to save an allocation.
type request struct {
	op  operation
	id  store.ID
	rec *store.Record  // of opPut
	all []store.Record // of opPutAll
}

type operation uint8

const (
	opGet operation = iota
	opTake
	opPut
	opPutAll
	opDelete
)

func (op operation) isLookup() bool { return op == opGet || op == opTake }

func (op operation) String() string { return [...]string{"get", "take", "put", "put", "delete"}[op] }

// answeredBy reports whether rec can be the record that r asks for.
func (r request) answeredBy(rec store.Record) bool {
	return rec.ID == r.id && len(rec.Data) <= store.MaxData
}

func putOf(rec *store.Record) request { return request{op: opPut, id: rec.ID, rec: rec} }

// Get returns the record called id, or store.ErrNotFound. An answer under another id, or longer than a record may be, is
// ErrForged.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	return s.lookUp(ctx, request{op: opGet, id: id})
}

// Take is Get that removes the record. The store must be a store.Taker.
func (s *Store) Take(ctx context.Context, id store.ID) (store.Record, error) {
	rec, err := s.lookUp(ctx, request{op: opTake, id: id})
	if err == nil {
		s.Stats.Taken.Add(1)
	}
	return rec, err
}

// ErrForged is the answer of Get and Take to a record that cannot be the one that was put.
var ErrForged = errors.New("libssl: the store answered with another record")

func (s *Store) lookUp(ctx context.Context, r request) (store.Record, error) {
	rec, err := s.ask(ctx, r)
	if errors.Is(err, store.ErrNotFound) {
		s.Stats.Misses.Add(1)
	} else {
		s.CountFailure(ctx, err)
	}
	return rec, err
}

// ask is lookUp without counting the outcome of the lookup.
func (s *Store) ask(ctx context.Context, r request) (store.Record, error) {
	res := s.call(ctx, s.opt.LookupTimeout, r)
	if res.err == nil && !r.answeredBy(res.rec) {
		return store.Record{}, ErrForged // and not to be put back
	}
	return res.rec, res.err
}

// Check is Get for a record that decides about the use of another. The lookup of that one is counted, so this is not; the
// caller counts it with CountFailure where it fails the lookup.
func (s *Store) Check(ctx context.Context, id store.ID) (store.Record, error) {
	return s.ask(ctx, request{op: opGet, id: id})
}

// CountFailure counts a lookup that the store's error ended.
func (s *Store) CountFailure(ctx context.Context, err error) {
	switch {
	case err == nil || err == ErrForged:
	case err == errTimeout:
		s.Stats.LookupTimeouts.Add(1)
	case err == errBreakerOpen || err == errStuck:
		s.Stats.LookupsSkipped.Add(1)
	case ctx.Err() == nil: // else the handshake was given up
		s.Stats.LookupErrors.Add(1)
	}
}

// Put writes rec, within the PutTimeout or, with WriteBehind, later. A failure is counted and reported. rec must not change
// afterwards: the queue may hold it.
func (s *Store) Put(ctx context.Context, rec *store.Record) {
	if s.opt.WriteBehind {
		s.PutLater(rec)
	} else {
		s.putNow(ctx, putOf(rec))
	}
}

// PutAll writes all records at once: they share one time limit and, on the way to a server, one round trip. They are one
// call of a store.Batcher.
func (s *Store) PutAll(ctx context.Context, recs []store.Record) {
	if len(recs) == 1 || s.local {
		for i := range recs {
			s.Put(ctx, &recs[i])
		}
		return
	}
	if s.batch != nil && !s.opt.WriteBehind {
		s.putNow(ctx, request{op: opPutAll, all: recs})
		return
	}
	var all sync.WaitGroup
	for i := range recs {
		all.Go(func() { s.Put(ctx, &recs[i]) })
	}
	all.Wait()
}

// PutBack returns a taken record that was not used. It does without the queue where that is closed or full.
func (s *Store) PutBack(ctx context.Context, rec *store.Record) {
	s.Stats.PutBack.Add(1)
	if !(s.opt.WriteBehind || s.queue.putBacks.Load()) || s.enqueue(putOf(rec)) != nil {
		s.putNow(ctx, putOf(rec))
	}
}

// PutNow writes rec and returns the store's error. The deadline of ctx, if it has one, takes the place of the PutTimeout.
func (s *Store) PutNow(ctx context.Context, rec *store.Record) error {
	timeout := s.opt.PutTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	return s.putWithin(ctx, timeout, putOf(rec))
}

func (s *Store) putNow(ctx context.Context, put request) error {
	return s.putWithin(ctx, s.opt.PutTimeout, put)
}

func (s *Store) putWithin(ctx context.Context, timeout time.Duration, put request) error {
	res := s.call(ctx, timeout, put)
	s.Stats.Stored.Add(uint64(res.stored))
	return res.err
}

// side is the lookups or the writes. Each has a breaker of its own: a server that is full answers the one and refuses the
// other.
type side struct {
	name    string
	breaker breaker
	outage  atomic.Pointer[outage] // not nil while the breaker is open
	skipped atomic.Uint64
}

// sideOf returns the side of op. Take is a lookup, because a full store takes.
func (s *Store) sideOf(op operation) *side {
	if op.isLookup() {
		return &s.lookups
	}
	return &s.writes
}

// call makes a request that ends within timeout whatever the store does.
func (s *Store) call(ctx context.Context, timeout time.Duration, r request) result {
	lookup, side := r.op.isLookup(), s.sideOf(r.op)
	err := errBreakerOpen
	probe, ok := false, s.left.Load() < maxLeft
	if ok {
		probe, ok = side.breaker.allow()
	} else {
		err = errStuck
	}
	if !ok {
		s.Stats.Skipped.Add(1)
		side.skipped.Add(1)
		return result{err: err}
	}
	begin := time.Now()
	res := s.bounded(ctx, timeout, r)
	err = res.err
	if lookup {
		s.Stats.Get.Observe(time.Since(begin))
	} else if r.op != opDelete {
		s.Stats.Put.Observe(time.Since(begin))
	}
	total := &s.Stats.Errors
	switch {
	case err == nil || errors.Is(err, store.ErrNotFound):
		good := outcomeGood
		if r.op == opDelete {
			good = outcomeNone // a full store still deletes
		}
		if side.breaker.done(probe, good) == breakerClosed {
			s.answersAgain(side)
		}
		return res
	case err == errTimeout:
		total = &s.Stats.Timeouts
	case errors.Is(err, store.ErrTooLarge):
		side.breaker.done(probe, outcomeNone)
		s.CountTooLarge(err)
		return res
	case ctx.Err() != nil: // the handshake was given up
		side.breaker.done(probe, outcomeNone)
		return res
	}
	total.Add(1)
	s.failed(r.op, err, side.breaker.done(probe, outcomeBad))
	return res
}

// CountTooLarge counts and reports a record that was not put because it is too long. That is the record's fault: the store
// has not failed.
func (s *Store) CountTooLarge(err error) {
	s.Stats.TooLarge.Add(1)
	s.Report(slog.LevelDebug, "session not stored", err)
}

func (s *Store) bounded(ctx context.Context, timeout time.Duration, r request) result {
	if s.local {
		return s.do(ctx, r)
	}
	bound, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	if s.prompt != nil && s.prompt.Prompt() {
		res := s.do(bound, r)
		res.err = timedOut(bound, res.err)
		cancel()
		return res
	}
	// A store that ignores its context keeps this goroutine, not the handshake's.
	results := make(chan result)
	go func() {
		res := result{err: errExited}
		defer func() {
			select {
			case results <- res:
			case <-bound.Done():
				s.left.Add(-1)
				s.late(r, res)
			}
		}()
		res = s.do(bound, r)
	}()
	select {
	case res := <-results:
		res.err = timedOut(bound, res.err)
		cancel()
		return res
	case <-bound.Done():
		if s.left.Add(1) == maxLeft {
			s.log(slog.LevelError, "store does not return", slog.Int("calls", maxLeft))
		}
		cause := context.Cause(bound)
		cancel()
		return result{err: cause}
	}
}

type result struct {
	rec    store.Record // of a lookup
	stored int          // records put
	err    error
}

// timedOut makes every error of a store after its time limit the same one.
func timedOut(bound context.Context, err error) error {
	if err != nil && context.Cause(bound) == errTimeout {
		return errTimeout
	}
	return err
}

// late puts back what a Take brings after its time limit.
func (s *Store) late(r request, late result) {
	if r.op == opTake && late.err == nil && r.answeredBy(late.rec) {
		s.Stats.Taken.Add(1)
		s.PutBack(context.Background(), &late.rec)
	}
}

func (s *Store) do(ctx context.Context, r request) (res result) {
	defer func() {
		if r := recover(); r != nil {
			res = result{err: &storePanic{r, debug.Stack()}}
		}
	}()
	switch r.op {
	case opGet:
		res.rec, res.err = s.st.Get(ctx, r.id)
	case opTake:
		res.rec, res.err = s.taker.Take(ctx, r.id)
	case opPut:
		if res.err = s.st.Put(ctx, *r.rec); res.err == nil {
			res.stored = 1
		}
	case opPutAll:
		res.stored, res.err = s.batch.PutAll(ctx, r.all)
		res.stored = min(max(res.stored, 0), len(r.all))
	default:
		res.err = s.st.Delete(ctx, r.id)
	}
	return res
}
