package sqlitestore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// onCommit has SQLite call f before each commit of s, in the middle of it. It leaves s one connection, which is enough while
// nothing reads.
func onCommit(tb testing.TB, s *Store, f func()) {
	tb.Helper()
	db := s.now.Load().db
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	require.NoError(tb, err)
	defer conn.Close()
	require.NoError(tb, conn.Raw(func(c any) error {
		c.(*sqlite3.SQLiteConn).RegisterCommitHook(func() int { f(); return 0 })
		return nil
	}))
}

// cpuTime is the processor time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPut shows what a Put costs where that many goroutines put at once, and how many transactions a Put takes.
func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 2, 4, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := mustOpen(b, newPath(b))
			var commits, n atomic.Int64
			onCommit(b, s, func() { commits.Add(1) })
			deadline, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime()
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					r := record(1)
					r.Data = make([]byte, 600)
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						r.ID = newID(int(uint64(i) * 0x9e3779b97f4a7c15)) // anywhere in the table, as random ids are
						if err := s.Put(deadline, r); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(commits.Load())/float64(b.N), "tx/op")
		})
	}
}

// BenchmarkTickets shows what the two tickets of a TLS 1.3 handshake cost: as one PutAll, and as two Puts at once.
func BenchmarkTickets(b *testing.B) {
	for _, how := range []string{"together", "apart"} {
		b.Run(how, func(b *testing.B) {
			s := mustOpen(b, newPath(b))
			var commits atomic.Int64
			onCommit(b, s, func() { commits.Add(1) })
			deadline, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			tickets := []store.Record{record(1), record(2)}
			for i := range tickets {
				tickets[i].Data = make([]byte, 600)
			}
			cpu, n := cpuTime(), uint64(0)
			for b.Loop() {
				for i := range tickets {
					n++
					tickets[i].ID = newID(int(n * 0x9e3779b97f4a7c15))
				}
				if how == "together" {
					if _, err := s.PutAll(deadline, tickets); err != nil {
						b.Fatal(err)
					}
					continue
				}
				var both sync.WaitGroup
				for _, r := range tickets {
					both.Go(func() {
						if err := s.Put(deadline, r); err != nil {
							b.Error(err)
						}
					})
				}
				both.Wait()
			}
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(commits.Load())/float64(b.N), "tx/op")
		})
	}
}
