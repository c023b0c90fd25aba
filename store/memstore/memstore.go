// Package memstore is a store.Store in the memory of one process: sharded, bounded and expiring.
package memstore

import (
	"bytes"
	"container/heap"
	"context"
	"crypto/rand"
	"hash/maphash"
	"runtime"
	"sync"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Defaults of Options.
const (
	DefaultMaxEntries = 100_000
	DefaultMaxBytes   = 64 << 20
)

// A shard gets at least minShardEntries and minShardBytes of the bounds. Ids spread over the shards at random: with larger shards
// a store comes closer to its bounds before the first shard is full.
const (
	maxShards       = 16
	minShardEntries = 1024
	minShardBytes   = 16 * store.MaxData
)

// sweepPerPut is how many expired records a Put removes at most: more than it adds, so that their number falls,
// but few, so that no single Put is slow after a quiet period.
const sweepPerPut = 8

// Options bound a Store. Values of zero or less stand for the defaults.
type Options struct {
	// MaxEntries is how many records the store holds at most.
	MaxEntries int

	// MaxBytes is how many bytes of Data the store holds at most, never less than store.MaxData. A record
	// takes about 250 bytes more, which MaxEntries bounds.
	MaxBytes int64
}

// Store keeps records in memory. It implements store.Store and all optional interfaces of package store.
//
// It never exceeds its bounds: to make room, a Put first removes expired records, then the oldest. Reads do not count as use.
// Sessions live equally long, so the oldest is the next to expire. A session that is resumed in TLS 1.3, or renewed in TLS
// 1.2, is put again under another id. The bounds are split evenly between up to 16 shards, so a large store
// may begin to evict when it is a few per cent short of them.
//
// There is no goroutine to stop. An expired record is removed when a call asks for it. Each Put also removes a few expired records,
// the longest expired first. The Data of every record is wiped when it is removed.
type Store struct {
	key        [32]byte
	seed       maphash.Seed
	shards     []shard // a power of two
	maxEntries int     // per shard
	maxBytes   int64   // per shard
	now        func() time.Time
}

// shard is an independent part of the store with its own lock.
type shard struct {
	mu      sync.Mutex
	entries map[store.ID]*entry
	byEnd   endHeap
	byAge   entry // head of a ring: next is the oldest entry, prev the newest
	bytes   int64
}

type entry struct {
	id         store.ID
	data       []byte
	expires    time.Time
	prev, next *entry
	heapIndex  int
}

// New returns an empty store.
func New(opts Options) *Store {
	if opts.MaxEntries <= 0 {
		opts.MaxEntries = DefaultMaxEntries
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	opts.MaxBytes = max(opts.MaxBytes, store.MaxData)

	n := 1
	for n < maxShards && opts.MaxEntries/(2*n) >= minShardEntries && opts.MaxBytes/int64(2*n) >= minShardBytes {
		n *= 2
	}
	s := &Store{
		seed:       maphash.MakeSeed(), // random, so that a client cannot choose ids of one shard
		shards:     make([]shard, n),
		maxEntries: opts.MaxEntries / n,
		maxBytes:   opts.MaxBytes / int64(n),
		now:        time.Now,
	}
	rand.Read(s.key[:])
	for i := range s.shards {
		sh := &s.shards[i]
		sh.entries = make(map[store.ID]*entry)
		sh.byAge.prev, sh.byAge.next = &sh.byAge, &sh.byAge
	}
	return s
}

// lock returns the shard of id, locked.
func (s *Store) lock(id store.ID) *shard {
	sh := &s.shards[maphash.Comparable(s.seed, id)&uint64(len(s.shards)-1)]
	sh.mu.Lock()
	return sh
}

// Get implements store.Store.
func (s *Store) Get(_ context.Context, id store.ID) (store.Record, error) {
	sh := s.lock(id)
	defer sh.mu.Unlock()
	e := sh.live(id, s.now())
	if e == nil {
		return store.Record{}, store.ErrNotFound
	}
	return store.Record{ID: id, Data: bytes.Clone(e.data), Expires: e.expires}, nil
}

// Put implements store.Store.
func (s *Store) Put(_ context.Context, r store.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	now, e := s.now(), newEntry(r)
	sh := s.lock(r.ID)
	defer sh.mu.Unlock()
	s.put(sh, e, now)
	return nil
}

func newEntry(r store.Record) *entry {
	return &entry{id: r.ID, data: bytes.Clone(r.Data), expires: r.Expires.Round(0)} // without the monotonic clock
}

// put adds e to sh, which is locked.
func (s *Store) put(sh *shard, e *entry, now time.Time) {
	if old := sh.entries[e.id]; old != nil {
		sh.remove(old)
	}
	sh.sweep(now, sweepPerPut)
	if !now.Before(e.expires) {
		clear(e.data)
		return
	}
	for len(sh.entries) >= s.maxEntries || sh.bytes+int64(len(e.data)) > s.maxBytes {
		victim := sh.byAge.next
		if first := sh.byEnd[0]; !now.Before(first.expires) {
			victim = first
		}
		sh.remove(victim)
	}
	sh.add(e)
}

// Swap implements store.Swapper.
func (s *Store) Swap(_ context.Context, old, next store.Record) (bool, error) {
	if err := next.Validate(); err != nil {
		return false, err
	}
	now, e := s.now(), newEntry(next)
	sh := s.lock(next.ID)
	defer sh.mu.Unlock()
	var kept store.Record
	if was := sh.live(next.ID, now); was != nil {
		kept = store.Record{ID: was.id, Data: was.data, Expires: was.expires}
	}
	if !store.Same(old, kept) {
		return false, nil
	}
	s.put(sh, e, now)
	return true, nil
}

// Delete implements store.Store.
func (s *Store) Delete(_ context.Context, id store.ID) error {
	sh := s.lock(id)
	defer sh.mu.Unlock()
	if e := sh.entries[id]; e != nil {
		sh.remove(e)
	}
	return nil
}

// Take implements store.Taker.
func (s *Store) Take(_ context.Context, id store.ID) (store.Record, error) {
	sh := s.lock(id)
	defer sh.mu.Unlock()
	e := sh.live(id, s.now())
	if e == nil {
		return store.Record{}, store.ErrNotFound
	}
	sh.unlink(e)
	return store.Record{ID: id, Data: e.data, Expires: e.expires}, nil // not wiped: the caller owns the bytes now
}

// SealingKey implements store.Embedded. The key is random and lives as long as the Store.
func (s *Store) SealingKey() ([]byte, error) { return bytes.Clone(s.key[:]), nil }

// Local implements store.Local.
func (s *Store) Local() {}

// Len returns the number of records, including expired ones that have not been removed yet.
func (s *Store) Len() int {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += len(sh.entries)
		sh.mu.Unlock()
	}
	return n
}

// List implements store.Lister.
func (s *Store) List(_ context.Context, f func(id store.ID, size int, expires time.Time) error) error {
	type item struct {
		id      store.ID
		size    int
		expires time.Time
	}
	for i := range s.shards {
		sh := &s.shards[i]
		now := s.now()
		sh.mu.Lock()
		items := make([]item, 0, len(sh.entries)) // f may call the store, so the lock must be free then
		for e := sh.byAge.next; e != &sh.byAge; e = e.next {
			if now.Before(e.expires) {
				items = append(items, item{e.id, len(e.data), e.expires})
			}
		}
		sh.mu.Unlock()
		for _, it := range items {
			if err := f(it.id, it.size, it.expires); err != nil {
				return err
			}
		}
	}
	return nil
}

// purgeBatch is how many records Purge removes before it releases the lock: less than a millisecond of work.
const purgeBatch = 512

// Purge implements store.Purger. From each shard it removes as many records as the shard has when Purge begins with it. Records that are
// put meanwhile may be among them.
func (s *Store) Purge(_ context.Context, expiredOnly bool) (int, error) {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		now := s.now()
		sh.mu.Lock()
		for left := len(sh.entries); left > 0; {
			batch := min(left, purgeBatch)
			removed := 0
			if expiredOnly {
				removed = sh.sweep(now, batch)
			} else {
				for removed < batch && len(sh.byEnd) > 0 {
					sh.remove(sh.byEnd[len(sh.byEnd)-1])
					removed++
				}
			}
			n += removed
			if left -= removed; removed < batch {
				break
			}
			sh.mu.Unlock()
			runtime.Gosched() // otherwise this goroutine would mostly get the lock again
			sh.mu.Lock()
		}
		sh.mu.Unlock()
	}
	return n, nil
}

// The methods of shard below expect it to be locked.

// live returns the entry called id, or nil if there is none or it has expired.
func (sh *shard) live(id store.ID, now time.Time) *entry {
	e := sh.entries[id]
	if e != nil && !now.Before(e.expires) {
		sh.remove(e)
		return nil
	}
	return e
}

// sweep removes up to limit expired entries and returns how many.
func (sh *shard) sweep(now time.Time, limit int) int {
	n := 0
	for n < limit && len(sh.byEnd) > 0 && !now.Before(sh.byEnd[0].expires) {
		sh.remove(sh.byEnd[0])
		n++
	}
	return n
}

func (sh *shard) add(e *entry) {
	sh.entries[e.id] = e
	heap.Push(&sh.byEnd, e)
	head := &sh.byAge
	e.prev, e.next = head.prev, head
	e.prev.next, e.next.prev = e, e
	sh.bytes += int64(len(e.data))
}

// remove unlinks e and wipes its data.
func (sh *shard) remove(e *entry) {
	sh.unlink(e)
	clear(e.data)
}

func (sh *shard) unlink(e *entry) {
	delete(sh.entries, e.id)
	heap.Remove(&sh.byEnd, e.heapIndex)
	e.prev.next, e.next.prev = e.next, e.prev
	sh.bytes -= int64(len(e.data))
}

// endHeap is a heap.Interface whose least entry is the first to expire.
type endHeap []*entry

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h endHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

func (h *endHeap) Push(x any) {
	e := x.(*entry)
	e.heapIndex = len(*h)
	*h = append(*h, e)
}

func (h *endHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
