package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/tests/servertest"
)

// ---- Valkey ----

const redisServer = "redis-server"

// withValkey measures with a server of this protocol on the same host.
func withValkey(measure func(t testing.TB, addr string) (measured, error)) (m measured, err error) {
	if _, err := exec.LookPath(redisServer); err != nil {
		return skipped(redisServer + " is missing")
	}
	testing.Init() // servertest asks for -short
	h := new(host)
	defer func() {
		if r, ok := recover().(hostError); ok {
			err = r
		}
		h.end()
	}()
	return measure(h, servertest.Redis(h, redisServer).Addr)
}

// host stands in for the test that servertest runs servers for, with the methods that servertest calls.
type host struct {
	testing.TB
	ends []func()
}

type hostError string

func (e hostError) Error() string { return string(e) }

func (h *host) Helper()                           {}
func (h *host) Fatal(args ...any)                 { panic(hostError(fmt.Sprint(args...))) }
func (h *host) Fatalf(format string, args ...any) { panic(hostError(fmt.Sprintf(format, args...))) }
func (h *host) Cleanup(f func())                  { h.ends = append(h.ends, f) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (h *host) end() {
	for _, f := range slices.Backward(h.ends) {
		f()
	}
}

// storeStack is libssl on both ends, resuming through st.
func (s *session) storeStack(mode string, st store.Store) (rig.Stack, error) {
	server, client, err := libsslContexts(mode, s.cert, s.key)
	if err != nil {
		return rig.Stack{}, err
	}
	return libsslHalves(server, client, true), useRemote(server, st)
}

// lookupLatency is what a lookup in Valkey adds to a resumed handshake, against a Get through the same client, with a deadline as
// the contract of a store wants it.
func (s *session) lookupLatency() (measured, error) {
	return withValkey(func(_ testing.TB, addr string) (measured, error) {
		st, err := valkeystore.Open("valkey://"+addr, valkeystore.Options{})
		if err != nil {
			return measured{}, err
		}
		defer st.Close()
		var rigs [2]*rig.Rig
		for i, st := range []store.Store{memstore.New(memstore.Options{}), st} {
			stack, err := s.storeStack("res12id", st)
			if err != nil {
				return measured{}, err
			}
			if rigs[i], err = rig.New(stack, 1, rig.Memory); err != nil {
				return measured{}, err
			}
			defer rigs[i].Close()
		}
		rec, err := someRecord(300)
		if err == nil {
			err = st.Put(context.Background(), rec)
		}
		if err != nil {
			return measured{}, err
		}
		get := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			_, err := st.Get(ctx, rec.ID)
			return err
		}
		for range 100 { // on whichever connection: all are made
			if err := get(); err != nil {
				return measured{}, err
			}
		}
		for !st.Prompt() { // as it is seconds after it has connected
			time.Sleep(10 * time.Millisecond)
		}
		var added, gets, ratios []float64
		for range s.rounds {
			// Each handshake comes after a wait, as those of a server do, and each Get after a handshake.
			took, err := s.latencies(get, func() error { return rigs[0].Handshakes(1) }, get, func() error { return rigs[1].Handshakes(1) })
			if err != nil {
				return measured{}, err
			}
			more, a := took[3]-took[1], (took[0]+took[2])/2
			added, gets, ratios = append(added, more), append(gets, a), append(ratios, more/a)
		}
		m := spread(ratios)
		m.Detail = fmt.Sprintf("%.4g : %.4g us", spread(added).Median, spread(gets).Median)
		return m, nil
	})
}

// latencies runs the functions one after the other, again and again, and returns how many microseconds each takes where it is disturbed
// least: in a quarter of the cases.
func (s *session) latencies(functions ...func() error) ([]float64, error) {
	took := make([][]float64, len(functions))
	for until := time.Now().Add(s.sample); time.Now().Before(until); {
		for i, f := range functions {
			began := time.Now()
			if err := f(); err != nil {
				return nil, err
			}
			took[i] = append(took[i], float64(time.Since(began).Nanoseconds())/1e3)
		}
	}
	quarters := make([]float64, len(functions))
	for i := range took {
		quarters[i] = spread(took[i]).Q1
	}
	return quarters, nil
}

func someRecord(size int) (store.Record, error) {
	b := make([]byte, store.MaxIDLen)
	rand.Read(b)
	id, err := store.IDFromBytes(b)
	return store.Record{ID: id, Data: make([]byte, size), Expires: time.Now().Add(time.Hour)}, err
}

// parkedOnValkey has the proxy in this process and the handshakes, whose threads are counted, in another.
func (s *session) parkedOnValkey() (measured, error) {
	return withValkey(func(t testing.TB, addr string) (measured, error) {
		p := servertest.NewProxy(t, addr)
		p.Delay(50 * time.Millisecond)
		return runChild("stalled-store", "valkey://"+p.Addr)
	})
}

// ---- against OpenSSL's internal cache ----

// againstInternal is the CPU of resumption through a store against that through OpenSSL's internal cache, on Conns too.
func (s *session) againstInternal(mode string, st store.Store) (measured, error) {
	stack, err := s.storeStack(mode, st)
	if err != nil {
		return measured{}, err
	}
	server, client, err := libsslContexts(mode, s.cert, s.key)
	if err != nil {
		return measured{}, err
	}
	server.SetSessionCacheMode(libssl.CacheServer)
	if err := server.SetSessionIDContext([]byte("bench")); err != nil {
		return measured{}, err
	}
	var sides [2]func() (float64, error)
	for i, stack := range []rig.Stack{stack, libsslHalves(server, client, true)} {
		r, err := rig.New(stack, inFlight, rig.Memory)
		if err != nil {
			return measured{}, err
		}
		defer r.Close()
		sides[i] = s.cost(r)
	}
	m, err := s.inTurns(sides[0], sides[1])
	m.Detail += " us"
	return m, err
}

func (s *session) memoryAgainstInternal(mode string) func() (measured, error) {
	return func() (measured, error) { return s.againstInternal(mode, memstore.New(memstore.Options{})) }
}

func (s *session) valkeyAgainstInternal(mode string) func() (measured, error) {
	return func() (measured, error) {
		return withValkey(func(_ testing.TB, addr string) (measured, error) {
			st, err := valkeystore.Open("valkey://"+addr, valkeystore.Options{})
			if err != nil {
				return measured{}, err
			}
			defer st.Close()
			return s.againstInternal(mode, st)
		})
	}
}

// ---- storms ----

func (s *session) storms() (measured, error) { return runChild("storms") }

// How far a storm is.
const (
	pouring = iota
	purging
	over
)

// storms lets a million records pour into a store that is full, expire and be purged, while handshakes go on. The machine is as busy
// where that is another store than theirs: how much longer handshakes take with their own is what the storm stalls them. Since the
// longest of all is the machine's doing, it is the longest but one in a hundred that is compared, of each part of the storm.
func storms() (measured, error) {
	const rounds, sessions = 3, 1_000_000

	cert, key, err := certificate()
	if err != nil {
		return measured{}, err
	}
	server, client, err := libsslContexts("res12id", cert, key)
	if err != nil {
		return measured{}, err
	}
	options := memstore.Options{MaxEntries: sessions, MaxBytes: 1 << 30}
	own, other := memstore.New(options), memstore.New(options)
	if _, err := server.UseStore(own, nil); err != nil {
		return measured{}, err
	}
	var stalls, purges, calm []float64
	for range rounds {
		var slow [2][over]float64
		for i, st := range []*memstore.Store{own, other} {
			var part atomic.Int32
			stormed := make(chan error, 1)
			go func() {
				stormed <- storm(st, sessions, &part)
				part.Store(over)
			}()
			slow[i], err = slowHandshakes(server, client, &part)
			if err := errors.Join(err, <-stormed); err != nil {
				return measured{}, err
			}
		}
		stalls = append(stalls, max(slow[0][pouring]-slow[1][pouring], slow[0][purging]-slow[1][purging]))
		purges, calm = append(purges, slow[0][purging]), append(calm, slow[1][purging])
	}
	m := spread(stalls)
	m.Detail = fmt.Sprintf("one in a hundred during a purge takes %.3g : %.3g ms", spread(purges).Median, spread(calm).Median)
	return m, nil
}

// storm fills st, evicts half of it again by records that expire soon, and purges it: first what has expired, then all.
func storm(st *memstore.Store, n int, part *atomic.Int32) error {
	began := time.Now()
	if err := pour(st, n, time.Now().Add(time.Hour)); err != nil {
		return err
	}
	soon := time.Now().Add(2*time.Since(began) + 500*time.Millisecond) // evicting takes longer
	if err := pour(st, n/2, soon); err != nil {
		return err
	}
	time.Sleep(time.Until(soon))
	part.Store(purging)
	for _, expiredOnly := range []bool{true, false} {
		if purged, err := st.Purge(context.Background(), expiredOnly); err != nil {
			return err
		} else if purged < n/4 {
			return fmt.Errorf("only %d records purged, expired ones only: %v", purged, expiredOnly)
		}
	}
	return nil
}

// pour puts n records.
func pour(st store.Store, n int, expires time.Time) error {
	for range n {
		rec, err := someRecord(100)
		if err != nil {
			return err
		}
		rec.Expires = expires
		if err := st.Put(context.Background(), rec); err != nil {
			return err
		}
	}
	return nil
}

// slowHandshakes resumes where it can, until the storm is over, and returns how many ms one handshake in a hundred takes at least, in
// each part.
func slowHandshakes(server, client *libssl.Context, part *atomic.Int32) (slow [over]float64, err error) {
	var took [over][]float64
	sess, err := firstSessionOf(server, client)
	for now := part.Load(); err == nil && now != over; now = part.Load() {
		p := rig.NewPipe()
		served := make(chan error, 1)
		go func() { served <- serve(libssl.Server(p.Server(), server)) }()
		began := time.Now()
		var reused bool
		reused, err = resume(p.Client(), client, sess)
		took[now] = append(took[now], float64(time.Since(began).Microseconds())/1e3)
		if err = errors.Join(err, <-served); err == nil && !reused { // it was purged
			sess, err = firstSessionOf(server, client)
		}
	}
	for i, t := range took {
		if len(t) == 0 {
			return slow, errors.Join(err, errors.New("no handshake in a part of the storm"))
		}
		slices.Sort(t)
		slow[i] = t[len(t)*99/100]
	}
	return slow, err
}
