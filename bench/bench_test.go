package main

import (
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/libssl-go/libssl/bench/rig"
	"github.com/stretchr/testify/require"
)

// These benchmarks are for benchstat and for profiles: one handshake, round trip or write after the other.
// The program itself measures the promised ratios, in turns with the yardsticks.

var implementations = []struct {
	name  string
	stack func(mode string, cert, key []byte) (rig.Stack, error)
}{
	{"libssl", libsslStack},
	{"cryptotls", cryptoStack},
}

func BenchmarkHandshake(b *testing.B) {
	cert, key, err := certificate()
	require.NoError(b, err)
	transports := []struct {
		name string
		make func() (rig.Transport, error)
	}{{"mem", rig.Memory}, {"tcp", rig.TCP}}
	for _, mode := range modes {
		for _, transport := range transports {
			for _, impl := range implementations {
				b.Run(mode+"/"+transport.name+"/"+impl.name, func(b *testing.B) {
					st, err := impl.stack(mode, cert, key)
					require.NoError(b, err)
					r, err := rig.New(st, 1, transport.make)
					require.NoError(b, err)
					defer r.Close()
					b.ReportAllocs()
					b.ResetTimer()
					require.NoError(b, r.Handshakes(b.N))
				})
			}
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	onConnections(b, func(b *testing.B, server, client io.ReadWriteCloser) {
		go echo(server)
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, pingPong(client, buf))
		}
	})
}

func BenchmarkBulk(b *testing.B) {
	onConnections(b, func(b *testing.B, server, client io.ReadWriteCloser) {
		blk := newBulk(server, client)
		var n int
		b.SetBytes(int64(len(blk.buf)))
		b.ReportAllocs()
		b.ResetTimer()
		require.NoError(b, blk.send(func() bool { n++; return n <= b.N }))
	})
}

func onConnections(b *testing.B, f func(b *testing.B, server, client io.ReadWriteCloser)) {
	cert, key, err := certificate()
	require.NoError(b, err)
	for _, impl := range implementations {
		b.Run(impl.name, func(b *testing.B) {
			server, client, err := connected(impl.name, cert, key)
			require.NoError(b, err)
			defer server.Close()
			defer client.Close()
			f(b, server, client)
		})
	}
}

// The bench program itself must stay runnable: every mode resumes where it says so.
func TestStacks_ResumeAsTheySay(t *testing.T) {
	cert, key, err := certificate()
	require.NoError(t, err)
	for _, mode := range modes {
		for _, impl := range implementations {
			t.Run(mode+"/"+impl.name, func(t *testing.T) {
				st, err := impl.stack(mode, cert, key)
				require.NoError(t, err)
				var served atomic.Int64
				serve := st.Serve
				st.Serve = func(nc net.Conn) error { served.Add(1); return serve(nc) }
				r, err := rig.New(st, 2, rig.Memory)
				require.NoError(t, err)
				defer r.Close()
				require.NoError(t, r.Handshakes(3))
				require.EqualValues(t, 2*2+3, served.Load())
			})
		}
	}
}
