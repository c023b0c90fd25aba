// Package tiered puts a near store, in the memory of this process, before a far one that hosts share: what was looked up lately, or put
// here, is answered without a round trip, and so is, for a moment, that there is no such record. However many ask for one
// record at once, the far store is asked once.
//
// The price is that a near answer may be stale, see Store. Single use does not pay it, nor does it gain anything: each
// Take goes to the far store.
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

// What New puts in place of zero Options.
const (
	DefaultFresh      = 10 * time.Second
	DefaultAbsent     = time.Second
	DefaultMaxAbsent  = 10_000
	DefaultMaxEntries = memstore.DefaultMaxEntries
	DefaultMaxBytes   = memstore.DefaultMaxBytes
)

// Options bound how much is kept near, and for how long. Zero values, and negative ones, stand for the defaults.
type Options struct {
	// Fresh is how long a record may be answered after the far store had it. So long may a session that another host
	// removed or replaced still be resumed here.
	Fresh time.Duration

	// Absent is how long it may be answered that there is no record after the far store had none. So long may a session that
	// another host stores meanwhile be a miss here.
	Absent time.Duration

	// MaxAbsent is how many ids may be known to be absent at once: those that nobody has are endless.
	MaxAbsent int

	// MaxEntries and MaxBytes bound the records, as they do a memstore.
	MaxEntries int
	MaxBytes   int64
}

// Store is a store.Store in front of another.
//
// Within this process it is as consistent as the far store: Put and Delete write through, Take passes by, and all of them,
// when they return, have put an end to near answers from before. What other processes do to the far store goes unnoticed
// for as long as Options.Fresh and Options.Absent say, and no longer, counted from the moment the far store was asked; a far store that
// takes longer than that to answer is as stale as it is slow. The same holds for a call of this process that failed
// or was cut short, and has its effect later.
//
// A far store that fails fails the calls for which it is asked: near answers go on until they are too old.
//
// The near store holds what the far store does, as it is: sealed, where UseStore seals it. A tiered store is not
// store.Embedded, whatever the far one is, nor has it its other optional interfaces, but for store.Taker: ask the far store.
type Store struct {
	far    store.Store
	fresh  time.Duration
	absent time.Duration
	near   *memstore.Store // real expiry, then data
	none   *memstore.Store // ids that are absent

	mu  sync.Mutex
	ids map[store.ID]*activity // with calls to the far store under way
}

// activity is what goes on about one id.
type activity struct {
	calls   int     // under way, flights included
	writes  int     // of them, those that may change the record
	changes int     // writes begun and ended
	flight  *flight // that a Get may join: no write has begun or ended since it did
}

// flight is one question to the far store, and all who wait for the answer.
type flight struct {
	done    chan struct{} // closed when the rest is set
	rec     store.Record
	err     error
	expired bool // it ended with the time of whoever began it
	waiting int
	cancel  context.CancelFunc
}

// New puts a near store before far. What it returns is a store.Taker if far is one.
func New(far store.Store, opts Options) store.Store {
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
		far: far, fresh: opts.Fresh, absent: opts.Absent,
		near: memstore.New(memstore.Options{MaxEntries: opts.MaxEntries, MaxBytes: opts.MaxBytes}),
		none: memstore.New(memstore.Options{MaxEntries: opts.MaxAbsent}),
		ids:  map[store.ID]*activity{},
	}
	if taker, ok := far.(store.Taker); ok {
		return takingStore{s, taker}
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
			if f.expired { // with the time of who began it, which may be ours
				if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
					<-ctx.Done() // its timer is about to fire
				}
				continue
			}
			r := f.rec
			r.Data = append([]byte(nil), r.Data...) // each who waited owns his
			return r, f.err
		case <-ctx.Done():
			s.leave(id, f)
			return store.Record{}, fmt.Errorf("tiered: get: %w", ctx.Err())
		}
	}
}

var errAskFar = errors.New("tiered: not near")

// nearby answers without the far store, or errAskFar.
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

// keep remembers the far store's record for what is left of its time since asked. It is called under mu.
func (s *Store) keep(r store.Record, asked time.Time) {
	end := asked.Add(s.fresh)
	if r.Expires.Before(end) {
		end = r.Expires
	}
	data := binary.BigEndian.AppendUint64(nil, uint64(r.Expires.UnixMilli()))
	s.near.Put(context.Background(), store.Record{ID: r.ID, Data: append(data, r.Data...), Expires: end}) // one that is too long is not kept
}

// board returns the flight for id, which it starts if there is none to join, or nil if one has just landed.
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
	// It outlasts whoever began it, for the sake of those who joined, but not his time.
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

// leave is for who waits no longer. A flight that nobody waits for is called off, and takes nobody more.
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

var errNoAnswer = errors.New("tiered: the far store did not return")

func (s *Store) fly(ctx context.Context, id store.ID, a *activity, f *flight) {
	asked := time.Now().Round(0)
	defer func() { // also where the far store panics, on a goroutine that nobody guards
		if p := recover(); p != nil {
			f.err = fmt.Errorf("tiered: the far store panicked: %v", p)
		}
		f.expired = f.err != nil && ctx.Err() != nil
		f.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.flight == f { // else the answer may be from before a write
			a.flight = nil
			if a.writes == 0 {
				s.remember(id, f, asked)
			}
		}
		s.end(id, a)
		close(f.done)
	}()
	f.rec, f.err = s.far.Get(ctx, id)
}

// remember keeps an answer. It is called under mu.
func (s *Store) remember(id store.ID, f *flight, asked time.Time) {
	switch {
	case f.err == nil && f.rec.ID == id:
		s.keep(f.rec, asked)
	case errors.Is(f.err, store.ErrNotFound):
		s.none.Put(context.Background(), store.Record{ID: id, Expires: asked.Add(s.absent)})
	}
}

// begin and end surround a call to the far store, under mu.
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

// write runs a call that may change the record called id. Near answers end before it and are not made until it is over.
// kept, unless nil, is what the far store then has, provided that nothing else was written meanwhile.
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

	failed := true // should the far store panic
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

// changed drops what is near, and whatever flight may bring what was before.
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
	return s.write(ctx, "put", r.ID, &r, func() error { return s.far.Put(ctx, r) })
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error {
	return s.write(ctx, "delete", id, nil, func() error { return s.far.Delete(ctx, id) })
}

// takingStore is a Store before one that is a store.Taker.
type takingStore struct {
	*Store
	taker store.Taker
}

// Take implements store.Taker.
func (s takingStore) Take(ctx context.Context, id store.ID) (r store.Record, err error) {
	err = s.write(ctx, "take", id, nil, func() error {
		r, err = s.taker.Take(ctx, id)
		return err
	})
	return r, err
}
