// Package tiered puts a near store, in the memory of this process, before a backing store that hosts share. The near store answers for
// records that were lately looked up or put by this process, and for a moment also that a record is absent, without a round trip.
// Concurrent Gets of one record share one Get of the backing store.
//
// The price is that a near answer may be stale: see Store. Take is never stale, but always goes to the backing store, so single use
// gains nothing.
package tiered

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
)

// Defaults of Options.
const (
	DefaultFresh      = 10 * time.Second
	DefaultAbsent     = time.Second
	DefaultMaxAbsent  = 10_000
	DefaultMaxEntries = memstore.DefaultMaxEntries
	DefaultMaxBytes   = memstore.DefaultMaxBytes
)

// Options bound how much is kept near, and for how long. Values of zero or less stand for the defaults.
type Options struct {
	// Fresh is how long the near store answers with a record after the backing store was asked for it. For as long, this
	// host may resume a session that another host has removed or replaced.
	Fresh time.Duration

	// Absent is how long the near store answers that a record is absent after the backing store was asked for it. For as long,
	// a session that another host stores may be a miss on this one.
	Absent time.Duration

	// MaxAbsent is how many ids the near store remembers as absent.
	MaxAbsent int

	// MaxEntries and MaxBytes bound the near records, as in memstore.Options.
	MaxEntries int
	MaxBytes   int64
}

// Store is a store.Store in front of another.
//
// Within this process it is as consistent as the backing store: Put, Delete, Take and Swap go to the backing store, and end the near
// answers for their record before they return. Near answers do not reflect changes by other processes, for at most
// Options.Fresh and Options.Absent from the moment the backing store was asked. If the backing store takes longer than that to answer, its
// answer is as old as the call. The same bounds hold for a call of this process that failed or was cut short, and has its
// effect later.
//
// If the backing store fails, so do the calls that need it. Near answers go on until they are too old.
//
// The near store holds the same bytes as the backing store: sealed, where UseStore seals them. Of the optional interfaces of package
// store a tiered store has Taker and Swapper, if the backing store does. It is never Embedded, because its backing store may be shared.
type Store struct {
	backing store.Store
	fresh   time.Duration
	absent  time.Duration
	near    *memstore.Store // real expiry, then data
	none    *memstore.Store // ids that are absent

	mu  sync.Mutex
	ids map[store.ID]*activity // those with calls to the backing store under way
}

// activity counts the calls to the backing store for one id.
type activity struct {
	calls   int     // under way, flights included
	writes  int     // of calls, those that may change the record
	changes int     // how often a write has begun or ended
	flight  *flight // a Get may join it: no write has begun or ended since it began; may be nil
}

// flight is one Get of the backing store. All Gets that wait for its answer share it.
type flight struct {
	done    chan struct{} // closed when rec, err and expired are set
	rec     store.Record
	err     error
	expired bool // it failed because the deadline of the Get that began it passed
	waiting int
	cancel  context.CancelFunc
}

// New puts a near store before backing. The result is a store.Taker if backing is one, and a store.Swapper if backing is one.
func New(backing store.Store, opts Options) store.Store {
	if opts.Fresh <= 0 {
		opts.Fresh = DefaultFresh
	}
	if opts.Absent <= 0 {
		opts.Absent = DefaultAbsent
	}
	if opts.MaxAbsent <= 0 {
		opts.MaxAbsent = DefaultMaxAbsent
	}
	s := &Store{
		backing: backing, fresh: opts.Fresh, absent: opts.Absent,
		near: memstore.New(memstore.Options{MaxEntries: opts.MaxEntries, MaxBytes: opts.MaxBytes}),
		none: memstore.New(memstore.Options{MaxEntries: opts.MaxAbsent}),
		ids:  map[store.ID]*activity{},
	}
	taker, takes := backing.(store.Taker)
	swapper, swaps := backing.(store.Swapper)
	switch {
	case takes && swaps:
		return takingSwappingStore{s, taking{s, taker}, swapping{s, swapper}}
	case takes:
		return takingStore{s, taking{s, taker}}
	case swaps:
		return swappingStore{s, swapping{s, swapper}}
	}
	return s
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return store.Record{}, fmt.Errorf("tiered: get: %w", err)
		}
		if r, err := s.nearby(id); !errors.Is(err, errAskFar) {
			return r, err
		}
		f := s.board(ctx, id)
		if f == nil {
			continue
		}
		select {
		case <-f.done:
			if f.expired { // perhaps at our own deadline
				if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
					<-ctx.Done() // its timer is about to fire
				}
				continue
			}
			r := f.rec
			r.Data = append([]byte(nil), r.Data...) // each caller owns its copy
			return r, f.err
		case <-ctx.Done():
			s.leave(id, f)
			return store.Record{}, fmt.Errorf("tiered: get: %w", ctx.Err())
		}
	}
}

var errAskFar = errors.New("tiered: not near")

// nearby answers from the near store, or with errAskFar.
func (s *Store) nearby(id store.ID) (store.Record, error) {
	kept, err := s.near.Get(context.Background(), id)
	if err != nil {
		if _, err := s.none.Get(context.Background(), id); err == nil {
			return store.Record{}, store.ErrNotFound
		}
		return store.Record{}, errAskFar
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(kept.Data)))
	return store.Record{ID: id, Data: kept.Data[8:], Expires: expires}, nil
}

// keep puts a record of the backing store, which was asked at the given time, into the near store. mu is locked.
func (s *Store) keep(r store.Record, asked time.Time) {
	end := asked.Add(s.fresh)
	if r.Expires.Before(end) {
		end = r.Expires
	}
	data := binary.BigEndian.AppendUint64(nil, uint64(r.Expires.UnixMilli()))
	s.near.Put(context.Background(), store.Record{ID: r.ID, Data: append(data, r.Data...), Expires: end}) // fails if too long: not kept
}

// board joins the flight for id, or starts one. It returns nil if the near store has an answer by now.
func (s *Store) board(ctx context.Context, id store.ID) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.ids[id]; a != nil && a.flight != nil {
		a.flight.waiting++
		return a.flight
	}
	if _, err := s.nearby(id); !errors.Is(err, errAskFar) {
		return nil
	}
	// The flight goes on when the Get that began it is cancelled, because others may have joined. It keeps that Get's deadline.
	flying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if deadline, ok := ctx.Deadline(); ok {
		cancel()
		flying, cancel = context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	a := s.begin(id)
	a.flight = &flight{done: make(chan struct{}), err: errNoAnswer, waiting: 1, cancel: cancel}
	go s.fly(flying, id, a, a.flight)
	return a.flight
}

// leave is called by a Get that stops waiting. It cancels a flight with no Get left, which no other may join then.
func (s *Store) leave(id store.ID, f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		if a := s.ids[id]; a != nil && a.flight == f {
			a.flight = nil
		}
	}
}

var errNoAnswer = errors.New("tiered: the backing store did not return")

func (s *Store) fly(ctx context.Context, id store.ID, a *activity, f *flight) {
	asked := time.Now().Round(0)
	defer func() { // also recovers a panic of the backing store, which would end the process
		if p := recover(); p != nil {
			f.err = fmt.Errorf("tiered: the backing store panicked: %v", p)
		}
		f.expired = f.err != nil && ctx.Err() != nil
		f.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.flight == f { // otherwise the answer may precede a write
			a.flight = nil
			if a.writes == 0 {
				s.remember(id, f, asked)
			}
		}
		s.end(id, a)
		close(f.done)
	}()
	f.rec, f.err = s.backing.Get(ctx, id)
}

// remember keeps the backing store's answer near. mu is locked.
func (s *Store) remember(id store.ID, f *flight, asked time.Time) {
	switch {
	case f.err == nil && f.rec.ID == id:
		s.keep(f.rec, asked)
	case errors.Is(f.err, store.ErrNotFound):
		s.none.Put(context.Background(), store.Record{ID: id, Expires: asked.Add(s.absent)})
	}
}

// begin and end surround a call to the backing store. mu is locked in both.
func (s *Store) begin(id store.ID) *activity {
	a := s.ids[id]
	if a == nil {
		a = &activity{}
		s.ids[id] = a
	}
	a.calls++
	return a
}

func (s *Store) end(id store.ID, a *activity) {
	if a.calls--; a.calls == 0 {
		delete(s.ids, id)
	}
}

// write runs a call that may change the record called id. Near answers for it end before the call, and none are made until it is
// over. If the call succeeds and no other write overlapped it, kept goes into the near store, unless it is nil.
func (s *Store) write(ctx context.Context, op string, id store.ID, kept *store.Record, call func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tiered: %s: %w", op, err)
	}
	asked := time.Now().Round(0)
	s.mu.Lock()
	a := s.begin(id)
	changes := s.changed(id, a)
	a.writes++
	alone := a.writes == 1
	s.mu.Unlock()

	failed := true // also if the backing store panics
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		alone = alone && a.changes == changes
		s.changed(id, a)
		a.writes--
		if alone && !failed && kept != nil {
			s.keep(*kept, asked)
		}
		s.end(id, a)
	}()
	err := call()
	failed = err != nil
	return err
}

// changed drops near answers, and the flight, whose answer may precede the change. mu is locked.
func (s *Store) changed(id store.ID, a *activity) int {
	a.flight = nil
	a.changes++
	s.near.Delete(context.Background(), id)
	s.none.Delete(context.Background(), id)
	return a.changes
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, r store.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return s.write(ctx, "put", r.ID, &r, func() error { return s.backing.Put(ctx, r) })
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error {
	return s.write(ctx, "delete", id, nil, func() error { return s.backing.Delete(ctx, id) })
}

// A Store has the methods that its backing store has.
type (
	takingStore struct {
		*Store
		taking
	}
	swappingStore struct {
		*Store
		swapping
	}
	takingSwappingStore struct {
		*Store
		taking
		swapping
	}
)

// taking adds Take to a Store.
type taking struct {
	s     *Store
	taker store.Taker
}

// Take implements store.Taker.
func (t taking) Take(ctx context.Context, id store.ID) (r store.Record, err error) {
	err = t.s.write(ctx, "take", id, nil, func() error {
		r, err = t.taker.Take(ctx, id)
		return err
	})
	return r, err
}

// swapping adds Swap to a Store.
type swapping struct {
	s       *Store
	swapper store.Swapper
}

// Swap implements store.Swapper. A Swap that fails because old is a stale near answer ends that answer: the next Get asks the backing
// store.
func (w swapping) Swap(ctx context.Context, old, next store.Record) (swapped bool, err error) {
	if err := next.Validate(); err != nil {
		return false, err
	}
	err = w.s.write(ctx, "swap", next.ID, nil, func() error {
		swapped, err = w.swapper.Swap(ctx, old, next)
		return err
	})
	return swapped, err
}
