package callbacks_test

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// resident is the process's memory, in bytes.
func resident(b *testing.B) int {
	b.Helper()
	runtime.GC()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(b, err)
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	require.NoError(b, err)
	return pages * os.Getpagesize()
}

// BenchmarkCertificate reads a certificate and its key, from files with this package and from memory with C alone: the time of
// each, and the memory that it takes while it is kept.
func BenchmarkCertificate(b *testing.B) {
	certFile, keyFile := tlstest.NewCA(b, "ca").LeafFiles(b, name)
	cert, err := os.ReadFile(certFile)
	require.NoError(b, err)
	key, err := os.ReadFile(keyFile)
	require.NoError(b, err)
	bench := func(name string, read func() (drop func())) {
		const kept = 5000
		before := resident(b)
		for range kept {
			b.Cleanup(read()) // after both, because the other would get the memory again
		}
		each := float64(resident(b)-before) / kept
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				read()()
			}
			b.ReportMetric(each, "B/kept")
		})
	}
	bench("C", func() func() {
		p := cref.ReadPair(cert, key)
		require.NotEqual(b, unsafe.Pointer(nil), p)
		return func() { cref.DropPair(p) }
	})
	bench("Go", func() func() {
		c, err := libssl.LoadCertificate(certFile, keyFile, nil)
		require.NoError(b, err)
		return func() { c.Close() }
	})
}
