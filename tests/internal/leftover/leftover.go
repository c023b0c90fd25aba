// Package leftover fails a test run that leaves anything behind.
package leftover

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// Run runs the tests and returns the exit code. It fails the run if sessions or contexts are left in this module's
// account, sessions in OpenSSL's, or goroutines. forgotten returns the objects that tests left to the collector on
// purpose.
func Run(m *testing.M, forgotten func() libssl.Resources) int {
	goroutines := runtime.NumGoroutine()
	if code := m.Run(); code != 0 {
		return code
	}
	var live libssl.Resources
	var sessions, running int
	for range 500 { // goroutines that are about to end get time for it
		live, sessions, running = libssl.LiveResources(), cref.LiveSessions(), runtime.NumGoroutine()
		if live == forgotten() && sessions == 0 && running <= goroutines {
			return 0
		}
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "FAIL: left behind: %+v, expected %+v; %d SSL_SESSIONs; %d goroutines, expected %d\n",
		live, forgotten(), sessions, running, goroutines)
	if running > goroutines {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	return 1
}
