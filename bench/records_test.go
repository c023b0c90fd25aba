package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memcachestore"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/stretchr/testify/require"
)

// recordSize is the length of a sealed TLS 1.3 session without a client certificate, as sslsess store ls shows it, rounded up.
const recordSize = 290

// kept is a store, and the bytes that its records take where they are kept.
type kept struct {
	store.Store
	bytes func() int64
}

var keptIn = []struct {
	name string
	open func(b *testing.B) kept
}{
	{"memstore", func(b *testing.B) kept {
		return kept{memstore.New(memstore.Options{MaxEntries: 1 << 30, MaxBytes: 1 << 40}), func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}}
	}},
	{"sqlitestore", func(b *testing.B) kept {
		path := filepath.Join(b.TempDir(), "sessions.db")
		s, err := sqlitestore.Open(path)
		require.NoError(b, err)
		b.Cleanup(func() { s.Close() })
		return kept{s, func() int64 {
			info, err := os.Stat(path)
			require.NoError(b, err)
			return info.Size()
		}}
	}},
	{"valkeystore", func(b *testing.B) kept {
		addr := servertest.Redis(b, redisServer).Addr
		s, err := valkeystore.Open("valkey://"+addr, valkeystore.Options{})
		require.NoError(b, err)
		b.Cleanup(func() { s.Close() })
		return kept{s, func() int64 {
			return sum(b, answer(b, addr, "INFO memory", "mem_allocator"), `used_memory:(\d+)()`)
		}}
	}},
	{"memcachestore", func(b *testing.B) kept {
		addr := servertest.Memcached(b).Addr
		s, err := memcachestore.Open(addr, memcachestore.Options{})
		require.NoError(b, err)
		b.Cleanup(func() { s.Close() })
		return kept{s, func() int64 {
			return sum(b, answer(b, addr, "stats slabs", "END"), `(?s)STAT \d+:chunk_size (\d+).*?used_chunks (\d+)`)
		}}
	}},
}

// answer sends a line to a server and returns its answer up to the line that begins with last.
func answer(b *testing.B, addr, line, last string) string {
	nc, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	defer nc.Close()
	fmt.Fprintf(nc, "%s\r\n", line)
	var text strings.Builder
	for lines := bufio.NewScanner(nc); lines.Scan() && !strings.HasPrefix(lines.Text(), last); {
		fmt.Fprintln(&text, lines.Text())
	}
	return text.String()
}

// sum adds the products of the two numbers in each match; one that is empty counts as 1.
func sum(b *testing.B, text, numbers string) (n int64) {
	for _, m := range regexp.MustCompile(numbers).FindAllStringSubmatch(text, -1) {
		product := int64(1)
		for _, digits := range m[1:] {
			if digits != "" {
				f, err := strconv.ParseInt(digits, 10, 64)
				require.NoError(b, err)
				product *= f
			}
		}
		n += product
	}
	return n
}

// BenchmarkRecord measures what a session costs in each store: the time of a Put and of a Get, one after the other, and the bytes that it
// takes. The tables of docs/operations.md and docs/performance.md are from it.
func BenchmarkRecord(b *testing.B) {
	for _, in := range keptIn {
		b.Run(in.name, func(b *testing.B) {
			st := in.open(b)
			rec := store.Record{Data: make([]byte, recordSize), Expires: time.Now().Add(time.Hour)}
			rand.Read(rec.Data)
			put := func(b *testing.B) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				var id [store.MaxIDLen]byte
				rand.Read(id[:])
				rec.ID, _ = store.IDFromBytes(id[:])
				require.NoError(b, st.Put(ctx, rec))
			}
			b.Run("bytes", func(b *testing.B) {
				const many = 50_000
				before := st.bytes()
				for range many {
					put(b)
				}
				b.ReportMetric(float64(st.bytes()-before)/many, "B/record")
				b.ReportMetric(0, "ns/op")
			})
			b.Run("put", func(b *testing.B) {
				for b.Loop() {
					put(b)
				}
			})
			b.Run("get", func(b *testing.B) {
				for b.Loop() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					_, err := st.Get(ctx, rec.ID)
					cancel()
					require.NoError(b, err)
				}
			})
		})
	}
}
