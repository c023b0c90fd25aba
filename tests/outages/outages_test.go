// Package outages makes the stores of a fleet fail in every way they can, under load, and checks that no client notices. It prints
// a table of what happened.
package outages

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memcachestore"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/tests/servertest"
)

var outagesFor = flag.Duration("outages.for", 0, "how long to go on, at least; 0: until all was seen")

// phase is one state of the store. It lasts until all it must show has happened, and at least for its share of
// -outages.for.
type phase struct {
	name   string
	begin  func()
	opens  bool // each node's breaker opens, within a second
	closes bool // they are closed in the end, and sessions resume
	old    bool // those from before the outage too
	lost   bool // none of those does
	calm   bool // nothing goes wrong

	story func(s libssl.CacheStats) bool // what must come to be counted; nil: nothing in particular
	never func(s libssl.CacheStats) bool // what must not be
}

// inFlight is as many handshakes as may have begun in the phase before.
const inFlight = customers

func failed(s libssl.CacheStats) bool   { return s.Errors > 0 && s.Skipped > 0 }
func timedOut(s libssl.CacheStats) bool { return s.Timeouts > 0 && s.Skipped > 0 }
func either(s libssl.CacheStats) bool   { return s.Errors+s.Timeouts > 0 && s.Skipped > 0 }
func resumes(s libssl.CacheStats) bool  { return s.Hits > inFlight }

// handshakesEach is how many a phase sees.
const handshakesEach = 40

// run takes a fleet through the phases, and ends it.
func (f *fleet) run(store string, phases []phase, share time.Duration) {
	for _, ph := range phases {
		n := &tally{store: store, name: ph.name, opens: ph.opens, keeps: ph.old && ph.calm, before: f.stats(), began: time.Now()}
		if len(f.all) > 0 {
			f.all[len(f.all)-1].next = n
		}
		f.all = append(f.all, n)
		f.now.Store(n)
		if ph.begin != nil {
			ph.begin()
		}
		for what := "begun"; n.took < share || what != ""; n.took = time.Since(n.began) {
			time.Sleep(5 * time.Millisecond)
			if what = n.missing(f, ph); what != "" && n.took > share+patience {
				assert.Failf(f.t, "a phase is not as expected", "%s: %s: never: %s: %+v", store, ph.name, what, since(n.before, f.stats()))
				break
			}
		}
		n.counted = since(n.before, f.stats())
	}
	f.now.Store(&tally{})
	f.close()
	for i, n := range f.all {
		n.judge(f.t, phases[i], f.all[0])
	}
}

// missing names what the phase still has to show.
func (n *tally) missing(f *fleet, ph phase) string {
	s := since(n.before, f.stats())
	opened, closed := n.breakers(f)
	switch {
	case n.full.Load()+n.resumed.Load() < handshakesEach:
		return "handshakes"
	case ph.opens && opened < nodes:
		return "all breakers open"
	case ph.closes && !closed:
		return "all breakers closed"
	case ph.closes && s.Hits < nodes*2:
		return "hits"
	case ph.old && n.old.Load() == 0:
		return "an old session resumes"
	case ph.story != nil && !ph.story(s):
		return "the counters say so"
	}
	return ""
}

// bound is how long a handshake may have taken: the two budgets, and the control's slowest full handshake and the machine's worst
// stall. The latter two count twice, since a handshake may meet a longer delay than those that were measured.
func (n *tally) bound(first *tally) time.Duration {
	full, late := max(n.control.duration(), first.control.duration()), n.stall.duration()
	if n.next != nil {
		full, late = max(full, n.next.control.duration()), max(late, n.next.stall.duration())
	}
	return 2*budget + 2*full + 2*late
}

func (n *tally) slowest() time.Duration {
	if len(n.visits) == 0 {
		return 0
	}
	return slices.Max(n.visits)
}

// slow says how many handshakes took longer than the bound. A busy machine can stall a single thread without any other noticing, so
// one handshake in fifty is forgiven. A defect of a budget shows in each handshake that needs the budget.
func (n *tally) slow(first *tally) (slow, forgiven int) {
	for _, took := range n.visits {
		if took > n.bound(first) {
			slow++
		}
	}
	return slow, 1 + len(n.visits)/50
}

func (n *tally) judge(t *testing.T, ph phase, first *tally) {
	at := n.store + ": " + n.name
	assert.NoError(t, errors.Join(n.failures...), "%s: handshakes failed", at)
	slow, forgiven := n.slow(first)
	assert.LessOrEqual(t, slow, forgiven, "%s: handshakes were slower than %v, the slowest %v", at, n.bound(first), n.slowest())
	assert.LessOrEqual(t, n.threads.Load(), int64(4*runtime.GOMAXPROCS(0)+32), "%s: threads", at)
	assert.LessOrEqual(t, n.goroutines.Load(), first.goroutines.Load()+200, "%s: goroutines", at)
	assert.LessOrEqual(t, n.heap.Load(), 2*first.heap.Load()+64<<20, "%s: memory", at)
	if ph.lost {
		assert.Zero(t, n.old.Load(), "%s: sessions came back from nowhere", at)
	}
	if ph.never != nil {
		assert.False(t, ph.never(n.counted), "%s: %+v", at, n.counted)
	}
	// While the machine stalls for so long, a phase says nothing about the store. Nor is one late answer among many an outage.
	still := n.stall.duration() + max(0, n.control.duration()-budget/4)
	if c := n.counted; ph.calm && still < budget/4 {
		assert.Zero(t, c.Errors+c.Rejected+c.Undecodable, "%s: %+v", at, c)
		assert.LessOrEqual(t, c.Timeouts+c.Skipped, c.Hits/10, "%s: %+v", at, c)
	}
	if ph.opens {
		for i, opened := range n.opened {
			assert.LessOrEqual(t, opened, time.Second+2*n.stall.duration()+n.control.duration(), "%s: node %d's breaker", at, i)
		}
	}
}

// ---- the stores ----------------------------------------------------------------------

func valkeyAt(t *testing.T, url string) store.Store {
	st, err := valkeystore.Open(url, valkeystore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { st.Close() })
	return st
}

func memcachedAt(t *testing.T, addr string) store.Store {
	st, err := memcachestore.Open(addr, memcachestore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { st.Close() })
	return st
}

func healthy() phase {
	return phase{name: "healthy", closes: true, old: true, calm: true, story: func(s libssl.CacheStats) bool { return s.Stored > 0 }}
}

// stopped are the phases of a server process that ends and that stands still.
func stopped(f *fleet, srv *servertest.Server) []phase {
	renewed := healthy()
	renewed.begin = func() { f.generation.Add(1) }
	return []phase{
		{name: "killed", begin: srv.Stop, opens: true, story: failed, never: resumes},
		{name: "restarted, empty", begin: srv.Start, closes: true, lost: true, story: func(s libssl.CacheStats) bool { return s.Misses > 0 }},
		renewed,
		{name: "frozen", begin: srv.Freeze, opens: true, story: timedOut, never: resumes},
		{name: "thawed", begin: srv.Thaw, closes: true, old: true},
	}
}

// disturbed are the phases of the network between.
func disturbed(p *servertest.Proxy) []phase {
	// judge lets stalls of a quarter of the budget pass. A store just in time leaves more than that.
	const under, over = budget * 6 / 10, budget * 12 / 10
	healed := phase{name: "healed", begin: p.Pass, closes: true, old: true}
	return []phase{
		{name: "just in time", begin: func() { p.Delay(under) }, closes: true, calm: true, story: resumes},
		{name: "just too late", begin: func() { p.Delay(over) }, opens: true, story: timedOut, never: resumes},
		healed,
		{name: "garbage", begin: p.Garble, opens: true, story: either, never: resumes},
		healed,
		{name: "partition, refused", begin: p.Refuse, opens: true, story: failed, never: resumes},
		healed,
		{name: "partition, silent", begin: p.Drop, opens: true, story: timedOut, never: resumes},
		healed,
	}
}

func valkey(t *testing.T) (*fleet, []phase) {
	srv := servertest.Redis(t, "redis-server")
	f := newFleet(t, true, func() store.Store { return valkeyAt(t, "valkey://"+srv.Addr) })
	evicted := func() bool {
		return !strings.Contains(srv.Command("INFO", "stats"), "evicted_keys:0")
	}
	return f, append(append([]phase{healthy()}, stopped(f, srv)...),
		phase{name: "full, refuses", begin: func() { srv.Command("CONFIG", "SET", "maxmemory", "1") },
			story: func(s libssl.CacheStats) bool { return s.Errors > 0 }},
		phase{name: "room again", begin: func() { srv.Command("CONFIG", "SET", "maxmemory", "0") }, closes: true, old: true},
		phase{name: "full, evicts", begin: func() {
			for i := range 100 { // a long script would be an outage too
				srv.Command("EVAL", "for i = 1, 100 do redis.call('SET', KEYS[1] .. i, string.rep('x', 500)) end", "1", fmt.Sprint("other:", i))
			}
			srv.Command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
			srv.Command("CONFIG", "SET", "maxmemory", usedMemory(srv))
		}, closes: true, calm: true, story: func(s libssl.CacheStats) bool { return s.Stored > 0 && evicted() }},
	)
}

func usedMemory(srv *servertest.Server) (bytes string) {
	_, rest, _ := strings.Cut(srv.Command("INFO", "memory"), "used_memory:")
	bytes, _, _ = strings.Cut(rest, "\r\n")
	return bytes
}

func valkeyNetwork(t *testing.T) (*fleet, []phase) {
	p := servertest.NewProxy(t, servertest.Redis(t, "redis-server").Addr)
	f := newFleet(t, true, func() store.Store { return valkeyAt(t, "valkey://"+p.Addr) })
	return f, append([]phase{healthy()}, disturbed(p)...)
}

// valkeySentinel moves: the server is killed for good, and its replica takes over.
func valkeySentinel(t *testing.T) (*fleet, []phase) {
	master := servertest.Redis(t, "redis-server")
	host, port, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	replica := servertest.Redis(t, "redis-server", "--replicaof", host+" "+port)
	sentinel := servertest.Sentinel(t, "redis-server", master)
	require.Eventually(t, func() bool {
		return strings.Contains(sentinel.Command("SENTINEL", "REPLICAS", "main"), replica.Addr) &&
			strings.Contains(replica.Command("INFO", "replication"), "master_link_status:up")
	}, patience, 20*time.Millisecond)
	f := newFleet(t, true, func() store.Store { return valkeyAt(t, "valkey://"+sentinel.Addr+"?master_set=main") })
	return f, []phase{
		healthy(),
		{name: "master killed", begin: master.Stop, opens: true, story: either},
		{name: "replica took over", closes: true, old: true, story: func(s libssl.CacheStats) bool { return s.Stored > 0 }},
	}
}

func memcached(t *testing.T) (*fleet, []phase) {
	srv := servertest.Memcached(t, "-m", "2", "-M") // an error when it is full, and no eviction
	f := newFleet(t, false, func() store.Store { return memcachedAt(t, srv.Addr) })
	return f, append(append([]phase{healthy()}, stopped(f, srv)...),
		phase{name: "full, refuses", begin: func() { fill(t, srv.Addr) }, story: func(s libssl.CacheStats) bool { return s.Errors > 0 }},
		phase{name: "room again", begin: func() { tell(t, srv.Addr, func(to io.Writer) { io.WriteString(to, "flush_all\r\n") }) }, closes: true},
	)
}

func memcachedNetwork(t *testing.T) (*fleet, []phase) {
	p := servertest.NewProxy(t, servertest.Memcached(t).Addr)
	f := newFleet(t, false, func() store.Store { return memcachedAt(t, p.Addr) })
	return f, append([]phase{healthy()}, disturbed(p)...)
}

// fill leaves memcached, which has a pool of chunks for each range of sizes, no chunk that a session would fit in.
func fill(t *testing.T, addr string) {
	tell(t, addr, func(to io.Writer) {
		for size := 128; size < 1024; size += size / 6 {
			for i := range (1 << 20) / size {
				fmt.Fprintf(to, "set other:%d:%d 0 0 %d noreply\r\n%s\r\n", size, i, size, strings.Repeat("x", size))
			}
		}
	})
}

// tell has memcached do something, and waits until it is done.
func tell(t *testing.T, addr string, commands func(to io.Writer)) {
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	go func() {
		to := bufio.NewWriter(nc)
		commands(to)
		io.WriteString(to, "quit\r\n")
		to.Flush()
	}()
	io.Copy(io.Discard, nc)
}

func TestOutages(t *testing.T) {
	outages := []struct {
		store string
		make  func(*testing.T) (*fleet, []phase)
	}{
		{"valkey", valkey},
		{"valkey, network", valkeyNetwork},
		{"valkey, sentinel", valkeySentinel},
		{"memcached", memcached},
		{"memcached, network", memcachedNetwork},
	}
	var all []*tally
	for _, o := range outages {
		t.Run(o.store, func(t *testing.T) {
			f, phases := o.make(t)
			f.run(o.store, phases, *outagesFor/time.Duration(len(outages)*len(phases)))
			all = append(all, f.all...)
		})
	}
	show(t.Output(), all)
	require.Eventually(t, func() bool { return libssl.LiveResources() == libssl.Resources{} }, patience, 10*time.Millisecond,
		"left behind: %+v", libssl.LiveResources())
}

// show prints the table.
func show(out io.Writer, all []*tally) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.0f", d.Seconds()*1000) }
	fmt.Fprintln(w, "store\tphase\ts\tfull\tresumed\tfailed\tslowest ms\tbound\tslower\topen after\tclosed\thits\tmisses\terrors\ttimeouts\tskipped\tthreads\tgoroutines\theap MB\t")
	first := map[string]*tally{}
	for _, n := range all {
		if first[n.store] == nil {
			first[n.store] = n
		}
		slow, _ := n.slow(first[n.store])
		c, opened := n.counted, "-"
		if n.opens {
			opened = last(n.opened[:])
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", n.store, n.name, n.took.Seconds(),
			n.full.Load(), n.resumed.Load(), len(n.failures), ms(n.slowest()), ms(n.bound(first[n.store])), slow, opened, last(n.closed[:]),
			c.Hits, c.Misses, c.Errors, c.Timeouts, c.Skipped, n.threads.Load(), n.goroutines.Load(), n.heap.Load()>>20)
	}
	w.Flush()
}

// last is the latest of what happened, in ms.
func last(at []time.Duration) string {
	if d := slices.Max(at); d > 0 {
		return fmt.Sprintf("%.0f", d.Seconds()*1000)
	}
	return "-"
}
