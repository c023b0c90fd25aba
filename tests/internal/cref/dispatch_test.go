package cref

import (
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// BenchmarkDispatch samples the dispatch to a closure and bare calls in turns. It reports the ratio and
// the cost of each.
func BenchmarkDispatch(b *testing.B) {
	callbacks := []struct {
		name    string
		install func(c *libssl.Context, called *int)
		call    func(d *Dispatcher, n int) bool
	}{
		{"new", func(c *libssl.Context, called *int) {
			c.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { *called++; return false })
		}, (*Dispatcher).New},
		{"get", func(c *libssl.Context, called *int) {
			c.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				*called++
				return nil, libssl.Copy
			})
		}, (*Dispatcher).Get},
		{"remove", func(c *libssl.Context, called *int) {
			c.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { *called++ })
		}, (*Dispatcher).Remove},
	}
	for _, cb := range callbacks {
		b.Run(cb.name, func(b *testing.B) {
			var called int
			var ctx *libssl.Context
			d, err := NewDispatcher(func(sslCtx unsafe.Pointer) (err error) {
				if ctx, err = libssl.AttachContext(sslCtx); err == nil {
					cb.install(ctx, &called)
				}
				return err
			})
			require.NoError(b, err)
			defer ctx.Close()
			defer d.Close()
			b.ReportAllocs()
			b.ResetTimer()
			var closure, bare time.Duration
			// Turns of a thousand calls, some 60 us: short against whatever disturbs the machine.
			for left := b.N; left > 0; left -= 1000 {
				n := min(left, 1000)
				start := time.Now()
				require.True(b, cb.call(d, n))
				between := time.Now()
				d.Bare(n)
				closure += between.Sub(start)
				bare += time.Since(between)
			}
			b.StopTimer()
			require.Equal(b, b.N, called)
			b.ReportMetric(float64(closure)/float64(bare), "ratio")
			b.ReportMetric(float64(closure.Nanoseconds())/float64(b.N), "closure-ns")
			b.ReportMetric(float64(bare.Nanoseconds())/float64(b.N), "yardstick-ns")
			b.ReportMetric(0, "ns/op") // it would be the two together
		})
	}
}

// BenchmarkDispatchOnThread compares the dispatch to a closure on C threads with that on a Go thread.
func BenchmarkDispatchOnThread(b *testing.B) {
	var called int
	var ctx *libssl.Context
	d, err := NewDispatcher(func(sslCtx unsafe.Pointer) (err error) {
		if ctx, err = libssl.AttachContext(sslCtx); err == nil {
			ctx.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { called++; return false })
		}
		return err
	})
	require.NoError(b, err)
	defer ctx.Close()
	defer d.Close()
	b.ResetTimer()
	var foreign, own time.Duration
	for left := b.N; left > 0; left -= 1000 {
		n := min(left, 1000)
		took := d.NewOnThread(n)
		require.NotZero(b, took)
		start := time.Now()
		require.True(b, d.New(n))
		own += time.Since(start)
		foreign += took
	}
	b.StopTimer()
	require.Equal(b, 2*b.N+(b.N+999)/1000, called)
	b.ReportMetric(float64(foreign)/float64(own), "ratio")
	b.ReportMetric(float64(foreign.Nanoseconds())/float64(b.N), "closure-ns")
	b.ReportMetric(float64(own.Nanoseconds())/float64(b.N), "yardstick-ns")
	b.ReportMetric(0, "ns/op")
}
