package ticket

import (
	"crypto/rand"
	"fmt"
	"testing"
)

func BenchmarkSeal(b *testing.B) {
	r := mustRing(b, 1)
	additional := make([]byte, 64)
	for _, size := range []int{130, 600} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			plaintext := make([]byte, size)
			dst := make([]byte, 0, size+Overhead)
			b.ReportAllocs()
			for b.Loop() {
				r.Seal(dst, plaintext, additional)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	r := mustRing(b, 4)
	additional := make([]byte, 64)
	for _, size := range []int{130, 600} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			envelope := r.Seal(nil, make([]byte, size), additional)
			dst := make([]byte, 0, size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Open(dst, envelope, additional); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTag(b *testing.B) {
	r := mustRing(b, 1)
	random := make([]byte, TagSize)
	rand.Read(random)
	b.ReportAllocs()
	for b.Loop() {
		r.Tag(random)
	}
}

func BenchmarkCheckTag(b *testing.B) {
	for _, keys := range []int{1, 4} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			r := mustRing(b, keys)
			random := make([]byte, TagSize)
			tag := r.Tag(random)
			b.ReportAllocs()
			for b.Loop() {
				if !r.CheckTag(random, tag[:]) {
					b.Fatal("tag refused")
				}
			}
		})
	}
}

// mustRing returns a ring of n fresh keys.
func mustRing(tb testing.TB, n int) *Ring {
	tb.Helper()
	r := new(Ring)
	for range n {
		if err := r.Rotate(); err != nil {
			tb.Fatal(err)
		}
	}
	return r
}
