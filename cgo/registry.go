// Package cgo is the plumbing between Go and C that knows nothing about
// sessions: handles that C code may keep, the link flags, the version check and
// the texts of OpenSSL error codes.
package cgo

import (
	"sync"
	"sync/atomic"
)

// A Handle stands for a Go value in C memory. It is an integer, so the cgo rules
// for passing pointers do not apply to it. It contains a generation, so a handle
// that outlived its value finds nothing, rather than the next value in the same
// slot. The zero Handle is never given out.
type Handle uint64

const (
	chunkBits = 8
	chunkSize = 1 << chunkBits
)

// Registry maps handles to values of one type. Get takes no lock: callbacks
// arrive on all threads at once, and a lock word shared by all of them would
// cost more than the callback.
type Registry[T any] struct {
	chunks atomic.Pointer[[]*[chunkSize]slot[T]]
	live   atomic.Int64

	mu   sync.Mutex
	free []uint32
}

type slot[T any] struct {
	gen atomic.Uint32 // odd while the slot is taken
	val atomic.Pointer[T]
}

// Put registers v and returns its handle. v may be nil: Get then returns nil
// until Set.
func (r *Registry[T]) Put(v *T) Handle {
	r.mu.Lock()
	if len(r.free) == 0 {
		r.grow()
	}
	i := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.mu.Unlock()

	s := &(*r.chunks.Load())[i>>chunkBits][i&(chunkSize-1)]
	s.val.Store(v)
	r.live.Add(1)
	return Handle(uint64(s.gen.Add(1))<<32 | uint64(i))
}

func (r *Registry[T]) grow() {
	var old []*[chunkSize]slot[T]
	if p := r.chunks.Load(); p != nil {
		old = *p
	}
	chunk := new([chunkSize]slot[T])
	base := uint32(len(old)) << chunkBits
	for i := range chunk {
		// In descending order, so that low indexes are used first.
		r.free = append(r.free, base+chunkSize-1-uint32(i))
	}
	// A new slice: readers may still use the old one.
	grown := append(old[:len(old):len(old)], chunk)
	r.chunks.Store(&grown)
}

func (r *Registry[T]) slot(h Handle) *slot[T] {
	p := r.chunks.Load()
	i, gen := uint32(h), uint32(h>>32)
	if p == nil || gen&1 == 0 || int(i>>chunkBits) >= len(*p) {
		return nil
	}
	s := &(*p)[i>>chunkBits][i&(chunkSize-1)]
	if s.gen.Load() != gen {
		return nil
	}
	return s
}

// Get returns the value of h, or nil if h is unknown or deleted.
func (r *Registry[T]) Get(h Handle) *T {
	s := r.slot(h)
	if s == nil {
		return nil
	}
	v := s.val.Load()
	// The slot may have been deleted and taken again since the first check.
	if s.gen.Load() != uint32(h>>32) {
		return nil
	}
	return v
}

// Set changes the value of a live handle. The caller owns h: Set and Delete of
// the same handle must not run concurrently.
func (r *Registry[T]) Set(h Handle, v *T) {
	if s := r.slot(h); s != nil {
		s.val.Store(v)
	}
}

// Delete forgets h. Deleting an unknown handle does nothing.
func (r *Registry[T]) Delete(h Handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slot(h)
	if s == nil {
		return
	}
	s.val.Store(nil)
	s.gen.Add(1)
	r.free = append(r.free, uint32(h))
	r.live.Add(-1)
}

// Len returns the number of live handles.
func (r *Registry[T]) Len() int { return int(r.live.Load()) }
