// Package soak runs everything at once for as long as it is told to, and accounts for all of it in the end.
package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

var soakFor = flag.Duration("soak.for", 2*time.Second, "how long to go on")

const (
	serverName = "server.test"
	patience   = time.Minute // a handshake that takes longer hangs
	progress   = 5 * time.Second

	customersPerLane = 2
)

// tally counts what happened.
type tally struct {
	full, resumed  atomic.Int64
	aborted        atomic.Int64 // on purpose, in the handshake or after it
	early          atomic.Int64 // early data that was read
	storeFaults    atomic.Int64
	panics         atomic.Int64 // of handlers
	told           atomic.Int64 // CallbackErrors for them
	swaps, flushes atomic.Int64
	turnover       atomic.Int64 // Contexts that were closed while they served
	forgotSessions atomic.Int64
	evictions      atomic.Int64
	peakThreads    atomic.Int64

	mu      sync.Mutex
	failed  int64
	failure []string // the first few
}

func (n *tally) fail(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed++
	if len(n.failure) < 10 {
		n.failure = append(n.failure, fmt.Sprintf(format, args...))
	}
}

func (n *tally) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("full %d, resumed %d, aborted %d, failed %d; early data %d, store faults %d, panics %d, swaps %d, "+
		"flushes %d, evictions %d, contexts replaced %d, sessions forgotten %d, threads at most %d",
		n.full.Load(), n.resumed.Load(), n.aborted.Load(), n.failed, n.early.Load(), n.storeFaults.Load(), n.panics.Load(),
		n.swaps.Load(), n.flushes.Load(), n.evictions.Load(), n.turnover.Load(), n.forgotSessions.Load(), n.peakThreads.Load())
}

// missing names the events that a soak needs and that have not happened yet.
func (n *tally) missing(lanes []*lane) (all []string) {
	count := func(what string, c *atomic.Int64) {
		if c.Load() == 0 {
			all = append(all, what)
		}
	}
	for _, l := range lanes {
		count(l.name+": full handshakes", &l.full)
		count(l.name+": resumed ones", &l.resumed)
	}
	count("aborted handshakes", &n.aborted)
	count("early data", &n.early)
	count("store faults", &n.storeFaults)
	count("panics", &n.panics)
	count("swaps", &n.swaps)
	count("flushes", &n.flushes)
	count("evictions", &n.evictions)
	count("replaced contexts", &n.turnover)
	count("forgotten sessions", &n.forgotSessions)
	return all
}

// lane is one kind of server with its clients.
type lane struct {
	name    string
	version uint16
	make    func() *libssl.Context // another one of the kind
	current atomic.Pointer[libssl.Context]
	disturb func(ctx *libssl.Context) // may be nil
	early   bool                      // its sessions allow early data

	full, resumed atomic.Int64
}

func TestSoak(t *testing.T) {
	before := account{libssl.LiveResources(), cref.LiveSessions(), runtime.NumGoroutine()}
	n := &tally{}
	lanes := soak(t, n)
	t.Logf("%v: %v", *soakFor, n)
	for _, l := range lanes {
		t.Logf("%s: full %d, resumed %d", l.name, l.full.Load(), l.resumed.Load())
	}
	require.Empty(t, n.failure, "%d handshakes failed that should not have", n.failed)
	require.Empty(t, n.missing(lanes), "events that a soak must see")
	require.Equal(t, n.panics.Load(), n.told.Load(), "each panic is told once")
	require.LessOrEqual(t, n.peakThreads.Load(), int64(4*runtime.GOMAXPROCS(0)+32), "threads")
	before.live.ForgottenSessions += n.forgotSessions.Load()
	before.settle(t)
}

// account counts the objects that are alive.
type account struct {
	live       libssl.Resources
	sessions   int // SSL_SESSIONs, by OpenSSL's own hooks
	goroutines int
}

// settle waits until there is no more than a. The collector has to find what was forgotten first.
func (a account) settle(t *testing.T) {
	t.Helper()
	var now account
	for range 1000 {
		runtime.GC()
		now = account{libssl.LiveResources(), cref.LiveSessions(), runtime.NumGoroutine()}
		if now.live == a.live && now.sessions == a.sessions && now.goroutines <= a.goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left behind: %+v, expected %+v", now, a)
	stacks := make([]byte, 1<<20)
	t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
}

func soak(t *testing.T, n *tally) []*lane {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	f := &fleet{t: t, n: n, ca: tlstest.NewCA(t, "ca"), clients: map[uint16]*libssl.Context{}}
	defer f.close()
	f.cert, f.key = f.ca.Leaf(t, serverName)
	var err error
	f.keys, err = ticket.NewRing()
	require.NoError(t, err)
	lanes := f.lanes()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var all sync.WaitGroup
	each := func(pause time.Duration, do func()) {
		all.Go(func() {
			for ctx.Err() == nil {
				do()
				if pause > 0 {
					select {
					case <-ctx.Done():
					case <-time.After(rand.N(2 * pause)):
					}
				}
			}
		})
	}
	for _, l := range lanes {
		l.current.Store(l.make())
		for range customersPerLane {
			c := &customer{fleet: f, lane: l}
			each(0, c.visit)
			defer c.drop()
		}
		if l.disturb != nil {
			each(2*time.Millisecond, func() { l.disturb(l.current.Load()) })
		}
		each(200*time.Millisecond, func() { f.replace(l) })
	}
	each(10*time.Millisecond, runtime.GC)
	each(10*time.Millisecond, func() { n.peakThreads.Store(max(n.peakThreads.Load(), threads())) })
	all.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(progress):
				fmt.Fprintln(os.Stderr, "soak:", n)
			}
		}
	})
	time.Sleep(*soakFor)
	for grace := time.Now().Add(patience); n.missing(lanes) != nil && time.Now().Before(grace); { // a busy machine
		time.Sleep(progress / 50)
	}
	stop()
	all.Wait()
	for _, l := range lanes {
		f.finish(l.current.Load())
	}
	return lanes
}

// threads counts the process's.
func threads() int64 {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	return int64(len(tasks))
}
