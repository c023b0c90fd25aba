package main

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/stretchr/testify/require"
)

// cpuTime is the processor time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchListener is a listener as serve's.
func benchListener(b *testing.B) *libssl.Listener {
	b.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(b, err)
	b.Cleanup(func() { ctx.Close() })
	cert, key, err := selfSigned("127.0.0.1")
	require.NoError(b, err)
	require.NoError(b, ctx.UseCertificatePEM(cert, key))
	cache, err := ctx.UseStore(memstore.New(memstore.Options{}), &libssl.StoreOptions{})
	require.NoError(b, err)
	b.Cleanup(func() { cache.Close(context.Background()) })
	l, err := libssl.Listen("tcp", "127.0.0.1:0", ctx)
	require.NoError(b, err)
	b.Cleanup(func() { l.Close() })
	return l
}

// plainWeb is what a server costs that answers with a line.
func plainWeb(b *testing.B) net.Addr {
	l := benchListener(b)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{\"node\":\"n1\"}\n")
	})}
	go srv.Serve(l)
	b.Cleanup(func() { srv.Close() })
	return l.Addr()
}

// servedWeb is what serve runs behind its listener.
func servedWeb(b *testing.B) net.Addr {
	l := benchListener(b)
	logger := log.New(io.Discard, "", 0)
	s := &server{node: "n1", log: logger, refused: &rateLimitedLog{log: logger}, conns: map[*conn]struct{}{}}
	ctx, cancel := context.WithCancel(context.Background())
	web, over := s.web(), make(chan struct{})
	go func() {
		s.run(ctx, l, func(accept func() *conn) { web.Serve(handshaken{accept}) }, func(ctx context.Context) { shutDown(ctx, web) })
		close(over)
	}()
	b.Cleanup(func() { cancel(); <-over })
	return l.Addr()
}

const benchRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// exchange sends a request and reads its answer, which comes in one record.
func exchange(b *testing.B, c net.Conn, buf []byte) {
	_, err := io.WriteString(c, benchRequest)
	require.NoError(b, err)
	n, err := c.Read(buf)
	require.NoError(b, err)
	if !strings.HasSuffix(string(buf[:n]), "}\n") {
		b.Fatalf("not an answer: %q", buf[:n])
	}
}

// BenchmarkAnswer compares serve with a plain net/http handler, in turn, client included: requests on a kept connection, and
// connections with one request. Compare their cpu-ns.
func BenchmarkAnswer(b *testing.B) {
	client, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(b, err)
	defer client.Close()
	require.NoError(b, client.SetVerify(libssl.VerifyNone))
	names, addrs := []string{"plain", "serve"}, []net.Addr{plainWeb(b), servedWeb(b)}
	dial := func(b *testing.B, i int) net.Conn {
		c, err := libssl.Dial("tcp", addrs[i].String(), client)
		require.NoError(b, err)
		return c
	}
	buf := make([]byte, 4096)
	inTurn := func(b *testing.B, turn int, f func(i int)) {
		var used [2]time.Duration
		for range b.N {
			for i := range names {
				begin := cpuTime()
				for range turn {
					f(i)
				}
				used[i] += cpuTime() - begin
			}
		}
		for i, name := range names {
			b.ReportMetric(float64(used[i].Nanoseconds())/float64(turn*b.N), name+"-cpu-ns")
		}
	}
	b.Run("kept", func(b *testing.B) {
		conns := [2]net.Conn{dial(b, 0), dial(b, 1)}
		inTurn(b, 100, func(i int) { exchange(b, conns[i], buf) })
		for _, c := range conns {
			c.Close()
		}
	})
	b.Run("fresh", func(b *testing.B) {
		inTurn(b, 10, func(i int) {
			c := dial(b, i)
			exchange(b, c, buf)
			c.Close()
		})
	})
}

func TestCipherName_IsThatOfCryptoTLS(t *testing.T) {
	for id := range uint16(0xffff) {
		require.Equal(t, tls.CipherSuiteName(id), cipherName(id))
	}
}
