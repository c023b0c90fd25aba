package outages

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
)

const (
	serverName = "server.test"
	budget     = 100 * time.Millisecond // LookupTimeout and PutTimeout: twice the default, as the machine may be busy
	patience   = 30 * time.Second       // for what happens soon on an idle machine
	nodes      = 3
	customers  = 6
	pause      = 4 * time.Millisecond // between a customer's visits, on average
)

// fleet is some nodes that share a store, each with a connection of its own to it, and one that has none: the control, which
// shows what the machine makes of a full handshake meanwhile.
type fleet struct {
	t       *testing.T
	ca      *tlstest.CA
	nodes   []*node
	control *libssl.Context
	clients map[uint16]*libssl.Context

	generation atomic.Int64 // of the sessions that customers keep for later
	now        atomic.Pointer[tally]
	all        []*tally

	stop context.CancelFunc
	load sync.WaitGroup
}

type node struct {
	ctx   *libssl.Context
	cache *libssl.SessionCache
}

// newFleet opens the store once a node.
func newFleet(t *testing.T, singleUse bool, open func() store.Store) *fleet {
	f := &fleet{t: t, ca: tlstest.NewCA(t, "ca"), clients: map[uint16]*libssl.Context{}}
	cert, key := f.ca.Leaf(t, serverName)
	keys, err := ticket.NewRing()
	require.NoError(t, err)
	server := func() *libssl.Context {
		ctx, err := libssl.NewContext(libssl.ServerRole)
		require.NoError(t, err)
		require.NoError(t, ctx.UseCertificatePEM(cert, key))
		ctx.SetSessionTimeout(time.Hour)
		return ctx
	}
	for range nodes {
		n := &node{ctx: server()}
		n.cache, err = n.ctx.UseStore(open(), &libssl.StoreOptions{
			Keys: keys, SingleUse: singleUse, LookupTimeout: budget, PutTimeout: budget,
		})
		require.NoError(t, err)
		f.nodes = append(f.nodes, n)
	}
	f.control = server()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c, err := libssl.NewContext(libssl.ClientRole)
		require.NoError(t, err)
		require.NoError(t, c.AddRootCAsPEM(f.ca.PEM))
		require.NoError(t, c.SetVersions(version, version))
		f.clients[version] = c
	}
	f.now.Store(&tally{})
	f.generation.Store(1)

	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	for i := range customers {
		c := &customer{fleet: f, version: tls.VersionTLS12 + uint16(i%2)}
		f.load.Go(func() { c.shop(ctx) })
	}
	f.load.Go(func() { f.watch(ctx) })
	return f
}

// close ends the load and says whether all of it has ended well.
func (f *fleet) close() {
	f.stop()
	f.load.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, n := range f.nodes {
		require.NoError(f.t, n.cache.Close(ctx))
		s := n.cache.Stats()
		require.Zero(f.t, s.Parked+s.Queue, "%+v", s)
		n.ctx.Close()
	}
	f.control.Close()
	for _, c := range f.clients {
		c.Close()
	}
}

// stats is what all nodes have counted.
func (f *fleet) stats() (sum libssl.CacheStats) {
	for _, n := range f.nodes {
		s := n.cache.Stats()
		sum.Hits += s.Hits
		sum.Misses += s.Misses - s.Untagged
		sum.Errors += s.Errors
		sum.Timeouts += s.Timeouts
		sum.Rejected += s.Rejected
		sum.Undecodable += s.Undecodable
		sum.Skipped += s.Skipped
		sum.Stored += s.Stored
	}
	return sum
}

// since is what a counted less.
func since(a, b libssl.CacheStats) libssl.CacheStats {
	b.Hits -= a.Hits
	b.Misses -= a.Misses
	b.Errors -= a.Errors
	b.Timeouts -= a.Timeouts
	b.Rejected -= a.Rejected
	b.Undecodable -= a.Undecodable
	b.Skipped -= a.Skipped
	b.Stored -= a.Stored
	return b
}

// ---- what is measured ----------------------------------------------------------------

// tally is what happened in one phase. A visit belongs to the phase in which it began.
type tally struct {
	store, name  string
	opens, keeps bool // is expected of the breakers; customers keep sessions
	began        time.Time
	took         time.Duration
	before       libssl.CacheStats
	counted      libssl.CacheStats // when the phase was over

	full, resumed, old atomic.Int64 // old: resumptions of sessions from before the outage, among the resumed
	control            peak         // handshakes with the control
	stall              peak         // by how much the machine was late to run something
	threads            peak
	goroutines, heap   peak

	next *tally // in which the last of its visits may have ended

	mu             sync.Mutex
	failures       []error
	visits         []time.Duration      // at the nodes
	opened, closed [nodes]time.Duration // when each node's breaker did first, and last; 0 if it didn't
}

type peak struct{ atomic.Int64 }

func (p *peak) note(v int64) {
	for old := p.Load(); v > old && !p.CompareAndSwap(old, v); old = p.Load() {
	}
}

func (p *peak) duration() time.Duration { return time.Duration(p.Load()) }

func (n *tally) visited(took time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.visits = append(n.visits, took)
}

func (n *tally) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures = append(n.failures, err)
}

// breakers says at how many nodes it has opened in this phase, and whether none is open now.
func (n *tally) breakers(f *fleet) (opened int, closed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	closed = true
	for i := range n.opened {
		if n.opened[i] > 0 {
			opened++
		}
		closed = closed && !f.nodes[i].cache.Stats().Open
	}
	return opened, closed
}

// watch looks at the process and at the breakers, all the time.
func (f *fleet) watch(ctx context.Context) {
	const often = time.Millisecond
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	var open [nodes]bool
	for ctx.Err() == nil {
		n, asleep := f.now.Load(), time.Now()
		time.Sleep(often)
		n.stall.note(int64(time.Since(asleep) - often))
		if tasks, err := os.ReadDir("/proc/self/task"); err == nil {
			n.threads.note(int64(len(tasks)))
		}
		metrics.Read(heap)
		n.heap.note(int64(heap[0].Value.Uint64()))
		n.goroutines.note(int64(runtime.NumGoroutine()))
		var was [nodes]bool
		for i, node := range f.nodes {
			was[i], open[i] = open[i], node.cache.Stats().Open
		}
		n = f.now.Load() // it may have begun meanwhile, and be why one is open
		n.mu.Lock()
		for i := range f.nodes {
			switch at := time.Since(n.began); {
			case open[i] && n.opened[i] == 0: // or still, when the phase began
				n.opened[i] = at
			case !open[i] && was[i]:
				n.closed[i] = at
			}
		}
		n.mu.Unlock()
	}
}

// ---- load ----------------------------------------------------------------------------

// customer visits the nodes, as often as not with the session that the last one gave it.
type customer struct {
	*fleet
	version    uint16
	sess       *libssl.Session // of the last visit
	kept       *libssl.Session // from before, of TLS 1.2: it can be used again and again
	generation int64
}

func (c *customer) shop(ctx context.Context) {
	defer func() {
		c.sess.Release()
		c.kept.Release()
	}()
	for ctx.Err() == nil {
		n := c.now.Load()
		var err error
		switch what := rand.IntN(8); {
		case what < 2:
			var next *libssl.Session
			next, _, err = c.visit(c.control, nil, func(took time.Duration) { n.control.note(int64(took)) })
			next.Release()
		case what == 2 && c.version == tls.VersionTLS12 && n.keeps && c.generation != c.fleet.generation.Load():
			err = c.keep(n)
		case what == 2 && c.kept != nil:
			err = c.again(n, c.kept)
		case what == 3:
			err = c.again(n, nil)
		default:
			err = c.again(n, c.sess)
		}
		if err != nil {
			n.fail(err)
		}
		time.Sleep(rand.N(2 * pause))
	}
}

// keep makes the session to keep. One that does not resume at once is not kept: its Put may have been cut short, and such a Put may
// take effect after the server has restarted.
func (c *customer) keep(n *tally) error {
	generation := c.fleet.generation.Load()
	sess, _, err := c.visit(c.node(), nil, n.visited)
	if err != nil {
		return err
	}
	n.full.Add(1)
	next, resumed, err := c.visit(c.node(), sess, n.visited)
	next.Release()
	if err != nil || !resumed {
		sess.Release()
		return err
	}
	n.resumed.Add(1)
	c.kept.Release()
	c.kept, c.generation = sess, generation
	return nil
}

func (c *customer) node() *libssl.Context { return c.nodes[rand.IntN(nodes)].ctx }

// again visits any node with sess, and keeps what it gets there for the next visit.
func (c *customer) again(n *tally, sess *libssl.Session) error {
	next, resumed, err := c.visit(c.node(), sess, n.visited)
	if err != nil {
		return err
	}
	if resumed {
		n.resumed.Add(1)
		if sess == c.kept {
			n.old.Add(1)
		}
	} else {
		n.full.Add(1)
	}
	c.sess.Release()
	c.sess = next
	return nil
}

// visit takes a question to a server and says how long the answer takes.
func (c *customer) visit(server *libssl.Context, sess *libssl.Session, took func(time.Duration)) (next *libssl.Session, resumed bool, err error) {
	cn, sn, err := tlstest.SocketPair()
	if err != nil {
		return nil, false, err
	}
	s, err := libssl.Server(sn, server)
	if err != nil {
		return nil, false, err
	}
	k, err := libssl.Client(cn, c.clients[c.version], serverName)
	if err != nil {
		return nil, false, err
	}
	k.SetDeadline(time.Now().Add(patience))
	s.SetDeadline(time.Now().Add(patience))
	if sess != nil {
		if err := k.SetSession(sess); err != nil {
			return nil, false, err
		}
	}
	served := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(s, make([]byte, 1))
		if err == nil {
			_, err = s.Write([]byte("a"))
		}
		if err != nil {
			sn.Close()
		}
		served <- err
	}()
	began := time.Now()
	_, err = k.Write([]byte("q"))
	if err == nil {
		_, err = io.ReadFull(k, make([]byte, 1))
	}
	took(time.Since(began))
	if err != nil {
		cn.Close()
	}
	err = errors.Join(err, <-served)
	if err == nil {
		resumed = k.SessionReused()
		next, err = k.Session()
	}
	var both sync.WaitGroup
	both.Go(func() { k.Close() })
	s.Close()
	both.Wait()
	if err != nil {
		err = fmt.Errorf("%s, offered a session: %v: %w", tls.VersionName(c.version), sess != nil, err)
	}
	return next, resumed, err
}
