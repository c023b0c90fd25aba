// Package wire moves ciphertext between OpenSSL and a net.Conn: pooled buffers, waiting for input without holding one, and
// output in the order in which it was made.
package wire

import "sync"

// Size is the size of a Buffer.
type Size uint8

const (
	Small  Size = iota // a request, or a wait on a connection without a descriptor
	Record             // one full record
	Bulk               // four
	sizes
)

var bytesOf = [sizes]int{4 << 10, 18 << 10, 68 << 10}

// Bytes is how many bytes a Buffer of the size holds.
func (s Size) Bytes() int { return bytesOf[s] }

// Buffer is a pooled piece of memory that is filled at its end and emptied at its start.
type Buffer struct {
	b          []byte
	start, end int
	size       Size
}

var pools [sizes]sync.Pool

// Get returns an empty Buffer.
func Get(size Size) *Buffer {
	if b, ok := pools[size].Get().(*Buffer); ok {
		return b
	}
	return &Buffer{b: make([]byte, size.Bytes()), size: size}
}

// Of returns a Buffer with a copy of p, nil if p is empty.
func Of(p []byte) *Buffer {
	if len(p) == 0 {
		return nil
	}
	size := Small
	for size < Bulk && len(p) > size.Bytes() {
		size++
	}
	b := Get(size)
	if len(p) > len(b.b) {
		b = &Buffer{b: make([]byte, len(p)), size: size}
	}
	b.Filled(copy(b.Room(), p))
	return b
}

// Put gives b, which may be nil, back to its pool.
func Put(b *Buffer) {
	if b != nil {
		b.start, b.end = 0, 0
		pools[b.size].Put(b)
	}
}

// Data is what b holds.
func (b *Buffer) Data() []byte { return b.b[b.start:b.end] }

// Room is the free space behind Data.
func (b *Buffer) Room() []byte { return b.b[b.end:] }

// Filled adds the first n bytes of Room to Data.
func (b *Buffer) Filled(n int) { b.end += n }

// Taken removes the first n bytes of Data.
func (b *Buffer) Taken(n int) { b.start += n }

// Empty reports whether b holds nothing.
func (b *Buffer) Empty() bool { return b.start == b.end }
