package valkeystore

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valkey-io/valkey-go"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/store/valkeystore/internal/records"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/libssl-go/libssl/tests/tlstest"
)

// These fail to compile if an interface gets lost.
var (
	_ store.Store                = (*Store)(nil)
	_ store.Taker                = (*Store)(nil)
	_ store.Swapper              = (*Store)(nil)
	_ interface{ Prompt() bool } = (*Store)(nil) // package libssl looks for it
	_ store.Lister               = (*Store)(nil)
	_ store.Purger               = (*Store)(nil)
)

func mustOpen(t *testing.T, rawURL string, opts Options) *Store {
	t.Helper()
	s, err := Open(rawURL, opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// eachServer runs f once for every server program that is installed.
func eachServer(t *testing.T, f func(t *testing.T, program string)) {
	for _, program := range servertest.Redises() {
		t.Run(program, func(t *testing.T) { f(t, program) })
	}
}

func record(t testing.TB, id string) store.Record {
	t.Helper()
	parsed, err := store.ParseID(id)
	require.NoError(t, err)
	return store.Record{ID: parsed, Data: []byte("record " + id), Expires: time.Now().Add(time.Hour)}
}

func TestStore(t *testing.T) {
	eachServer(t, func(t *testing.T, program string) {
		srv := servertest.Redis(t, program)
		openAt := func(t *testing.T, skew time.Duration) store.Store {
			s := mustOpen(t, "valkey://"+srv.Addr, Options{})
			s.kernel = records.New("valkeystore", s.commands, "", func() time.Time { return time.Now().Add(skew) })
			return s
		}
		storetest.RunServer(t, storetest.Server{
			Open:    func(t *testing.T) store.Store { return openAt(t, 0) },
			OpenAt:  openAt,
			Restart: func(*testing.T) { srv.Restart() },
			Freeze:  func(*testing.T) func() { srv.Freeze(); return srv.Thaw },
			Damage: func(t *testing.T, id store.ID, f func([]byte) []byte) {
				key := DefaultPrefix + id.String()
				srv.Command("SET", key, string(f([]byte(srv.Command("GET", key)))))
			},
		})
	})
}

func TestStore_TLS(t *testing.T) {
	eachServer(t, func(t *testing.T, program string) {
		ca := tlstest.NewCA(t, "CA")
		cert, key := ca.LeafFiles(t, "127.0.0.1")
		srv := servertest.RedisTLS(t, program, cert, key)
		opts := Options{TLS: &tls.Config{RootCAs: ca.Pool()}}
		storetest.Run(t, func(t *testing.T) store.Store { return mustOpen(t, "valkeys://"+srv.Addr, opts) })
		_, err := Open("valkeys://"+srv.Addr, Options{})
		assert.ErrorContains(t, err, "unknown authority")
	})
}

func TestStore_Sentinel(t *testing.T) {
	t.Parallel() // it mostly waits
	eachServer(t, func(t *testing.T, program string) {
		master := servertest.Redis(t, program)
		host, port, err := net.SplitHostPort(master.Addr)
		require.NoError(t, err)
		replica := servertest.Redis(t, program, "--replicaof", host+" "+port)
		sentinel := servertest.Sentinel(t, program, master)
		s := mustOpen(t, "redis://"+sentinel.Addr+"?master_set=main", Options{})
		storetest.Run(t, func(t *testing.T) store.Store { return s })
		require.NoError(t, s.Put(t.Context(), record(t, "01")))
		require.Eventually(t, func() bool {
			return strings.Contains(sentinel.Command("SENTINEL", "REPLICAS", "main"), replica.Addr) &&
				strings.Contains(replica.Command("KEYS", "*"), DefaultPrefix)
		}, 20*time.Second, 50*time.Millisecond)

		master.Stop()
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			return s.Put(ctx, record(t, "02")) == nil
		}, 20*time.Second, 50*time.Millisecond, "the store follows the replica that took over")
		got, err := s.Get(t.Context(), record(t, "01").ID)
		require.NoError(t, err)
		assert.Equal(t, record(t, "01").Data, got.Data)
	})
}

func TestStore_Cluster(t *testing.T) {
	t.Parallel() // it mostly waits
	eachServer(t, func(t *testing.T, program string) {
		nodes := servertest.Cluster(t, program)
		storetest.Run(t, func(t *testing.T) store.Store {
			return mustOpen(t, "valkey://"+nodes[0].Addr+"?addr="+nodes[1].Addr, Options{})
		})
		s := mustOpen(t, "valkey://"+nodes[2].Addr, Options{}) // one suffices
		for _, n := range nodes {
			n.Command("CONFIG", "RESETSTAT")
		}
		const records = 30
		for i := range records {
			r := record(t, fmt.Sprintf("%02x", i))
			require.NoError(t, s.Put(t.Context(), r))
			_, err := s.Get(t.Context(), r.ID)
			require.NoError(t, err)
		}
		gets := 0
		for _, n := range nodes {
			assert.NotEmpty(t, n.Command("KEYS", "*"), "records are everywhere")
			gets += calls(n.Command("INFO", "commandstats"), "get")
			assert.NotContains(t, n.Command("INFO", "errorstats"), "MOVED", "no node redirects the client")
		}
		assert.Equal(t, records, gets)
	})
}

func TestOpen_Databases(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	one, two := mustOpen(t, "redis://"+srv.Addr+"/1", Options{}), mustOpen(t, "redis://"+srv.Addr+"/2", Options{})
	r := record(t, "01")
	require.NoError(t, one.Put(t.Context(), r))
	_, err := two.Get(t.Context(), r.ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
}

// Purge and List see only keys of their prefix, also if it looks like a pattern.
func TestPrefix(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	starred, plain := mustOpen(t, "redis://"+srv.Addr, Options{Prefix: `a*[b]?\:`}), mustOpen(t, "redis://"+srv.Addr, Options{Prefix: "axb0:"})
	r := record(t, "01")
	require.NoError(t, starred.Put(t.Context(), r))
	require.NoError(t, plain.Put(t.Context(), r))
	srv.Command("SET", "axb0:ring", "another program's")
	srv.Command("SET", "axb0:AB", "another program's")

	for _, s := range []*Store{starred, plain} {
		n := 0
		require.NoError(t, s.List(t.Context(), func(store.ID, int, time.Time) error { n++; return nil }))
		assert.Equal(t, 1, n)
	}
	n, err := starred.Purge(t.Context(), false)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	_, err = plain.Get(t.Context(), r.ID)
	require.NoError(t, err)
	n, err = plain.Purge(t.Context(), false)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Equal(t, "2", srv.Command("DBSIZE"))
}

// The server itself removes expired records, by its own clock.
func TestPut_ServerExpires(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	s := mustOpen(t, "redis://"+srv.Addr, Options{})
	now := func() time.Time { return time.Now().Add(-24 * time.Hour) }
	s.kernel = records.New("valkeystore", s.commands, "", now)
	r := record(t, "01")
	r.Expires = now().Add(100 * time.Millisecond)
	require.NoError(t, s.Put(t.Context(), r))
	assert.Eventually(t, func() bool { return srv.Command("DBSIZE") == "0" }, 10*time.Second, 20*time.Millisecond)
}

func TestPut_ServerIsFull(t *testing.T) {
	srv := servertest.Redis(t, "redis-server", "--maxmemory", "1b")
	s := mustOpen(t, "redis://"+srv.Addr, Options{})
	assert.ErrorContains(t, s.Put(t.Context(), record(t, "01")), "OOM")
	_, err := s.Get(t.Context(), record(t, "01").ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
}

// calls is how often a server of these commandstats was given a command.
func calls(stats, command string) (n int) {
	_, after, _ := strings.Cut(stats, "cmdstat_"+command+":calls=")
	fmt.Sscanf(after, "%d,", &n)
	return n
}

// Each call on a record is one command, and so one round trip.
func TestStore_OneCommandEach(t *testing.T) {
	eachServer(t, func(t *testing.T, program string) {
		srv := servertest.Redis(t, program)
		s := mustOpen(t, "redis://"+srv.Addr, Options{})
		r, ended := record(t, "01"), record(t, "01")
		ended.Expires = time.Now()
		for command, call := range map[string]func() error{
			"get":    func() error { _, err := s.Get(t.Context(), r.ID); return err },
			"getdel": func() error { _, err := s.Take(t.Context(), r.ID); return err },
			"set":    func() error { return s.Put(t.Context(), r) },
			"del":    func() error { return s.Delete(t.Context(), r.ID) },
			"eval":   func() error { _, err := s.Swap(t.Context(), record(t, "02"), record(t, "02")); return err },
		} {
			require.NoError(t, s.Put(t.Context(), r))
			srv.Command("CONFIG", "RESETSTAT")
			require.NoError(t, call())
			stats := srv.Command("INFO", "commandstats")
			require.Equal(t, 1, calls(stats, command), command)
			for line := range strings.Lines(stats) {
				ours := strings.HasPrefix(line, "cmdstat_"+command+":")
				inScript := command == "eval" && strings.HasPrefix(line, "cmdstat_get:")
				reset := strings.HasPrefix(line, "cmdstat_config|resetstat:")
				greeting := strings.HasPrefix(line, "cmdstat_hello:") || strings.HasPrefix(line, "cmdstat_client|") // of a new connection
				assert.True(t, ours || inScript || reset || greeting || !strings.HasPrefix(line, "cmdstat_"), "%s: %s", command, line)
			}
		}
		srv.Command("CONFIG", "RESETSTAT")
		require.NoError(t, s.Put(t.Context(), ended))
		stats := srv.Command("INFO", "commandstats")
		assert.Equal(t, 1, calls(stats, "del"))
		assert.Zero(t, calls(stats, "set"))
	})
}

// proxy stands between a store and its server.
type proxy struct {
	addr     string
	delay    time.Duration                // of every answer
	onAnswer func(asked []byte) (ok bool) // false: the connection breaks instead
}

func newProxy(t *testing.T, to string, p *proxy) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.addr = l.Addr().String()
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.pass(nc, to) })
		}
	})
	return p
}

func (p *proxy) pass(nc net.Conn, to string) {
	defer nc.Close()
	srv, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	var mu sync.Mutex
	var asked []byte
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer srv.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := nc.Read(buf)
			mu.Lock()
			asked = append(asked[:0], buf[:n]...)
			mu.Unlock()
			if err != nil {
				return
			}
			if _, err := srv.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	buf := make([]byte, 1<<16)
	for {
		n, err := srv.Read(buf)
		if err != nil {
			break
		}
		mu.Lock()
		question := bytes.Clone(asked)
		mu.Unlock()
		if p.onAnswer != nil && !p.onAnswer(question) {
			break
		}
		time.Sleep(p.delay)
		if _, err := nc.Write(buf[:n]); err != nil {
			break
		}
	}
	nc.Close()
	srv.Close()
}

// When a connection breaks before the answer, the client repeats a Get, but not a Take, because the record may be taken.
func TestTake_IsNotRepeated(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	var cut atomic.Value
	cut.Store("")
	broken := atomic.Int32{}
	p := newProxy(t, srv.Addr, &proxy{onAnswer: func(asked []byte) bool {
		word := cut.Load().(string)
		if word != "" && bytes.Contains(asked, []byte(word)) {
			cut.Store("")
			broken.Add(1)
			return false
		}
		return true
	}})
	s := mustOpen(t, "redis://"+p.addr, Options{})
	r := record(t, "01")
	require.NoError(t, s.Put(t.Context(), r))

	cut.Store("\r\nGET\r\n")
	_, err := s.Get(t.Context(), r.ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, broken.Load())

	srv.Command("CONFIG", "RESETSTAT")
	cut.Store("GETDEL")
	_, err = s.Take(t.Context(), r.ID)
	require.EqualValues(t, 2, broken.Load())
	assert.Error(t, err)
	assert.NotErrorIs(t, err, store.ErrNotFound)
	assert.Contains(t, srv.Command("INFO", "commandstats"), "cmdstat_getdel:calls=1,")
}

// The store is not prompt after it was opened, after connections were made, after calls have failed, and while many calls are under
// way.
func TestStore_Prompt(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	s := mustOpen(t, "redis://"+srv.Addr, Options{})
	r := record(t, "01")
	settle := func() { // and let the trouble be long ago
		for range 100 { // enough to make all connections
			require.NoError(t, s.Put(t.Context(), r))
		}
		s.commands.dialer.trouble.Add(-int64(settling))
		require.True(t, s.Prompt())
	}
	require.False(t, s.Prompt(), "opened")
	settle()
	_, err := s.Get(t.Context(), record(t, "02").ID)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.True(t, s.Prompt(), "an answer is no trouble")

	srv.Freeze()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range promptCalls {
		wg.Go(func() {
			_, err := s.Get(ctx, r.ID)
			assert.NoError(t, err)
		})
	}
	require.Eventually(t, func() bool { return !s.Prompt() }, 10*time.Second, time.Millisecond)
	require.True(t, s.commands.dialer.settled(), "many calls, no trouble")
	srv.Thaw()
	wg.Wait()
	require.True(t, s.Prompt())

	srv.Freeze()
	time.AfterFunc(time.Millisecond, cancel)
	_, err = s.Get(ctx, r.ID)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, s.Prompt(), "a call failed")
	srv.Thaw()
	settle()

	srv.Restart()
	require.Eventually(t, func() bool { return s.Put(t.Context(), r) == nil }, 10*time.Second, time.Millisecond)
	require.False(t, s.Prompt(), "connected anew")

	mine, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{srv.Addr}, DisableCache: true})
	require.NoError(t, err)
	defer mine.Close()
	require.False(t, New(mine, Options{}).Prompt(), "its configuration is unknown")
}

// The budget of a lookup may be less than it takes to connect: the store must connect all the same.
func TestStore_ReconnectsWithinShortBudgets(t *testing.T) {
	ca := tlstest.NewCA(t, "CA")
	cert, key := ca.LeafFiles(t, "127.0.0.1")
	srv := servertest.RedisTLS(t, "redis-server", cert, key)
	p := newProxy(t, srv.Addr, &proxy{delay: 30 * time.Millisecond})
	s := mustOpen(t, "valkeys://"+p.addr, Options{TLS: &tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS12}}) // two round trips
	srv.Restart()
	assert.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
		defer cancel()
		return s.Put(ctx, record(t, "01")) == nil
	}, 10*time.Second, time.Millisecond)
}

// Concurrent lookups share connections and round trips: the answers to a hundred wait until all were asked, on few connections.
func TestStore_Pipelines(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	const lookups = 100
	all := make(chan struct{})
	release := sync.OnceFunc(func() { close(all) })
	p := newProxy(t, srv.Addr, &proxy{onAnswer: func(asked []byte) bool {
		if bytes.Contains(asked, []byte("\r\nGET\r\n")) { // not a greeting: any lookup may connect
			<-all
		}
		return true
	}})
	t.Cleanup(release) // before the proxy ends
	s := mustOpen(t, "redis://"+p.addr, Options{})
	r := record(t, "01")
	require.NoError(t, s.Put(t.Context(), r))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range lookups {
		wg.Go(func() {
			_, err := s.Get(ctx, r.ID)
			assert.NoError(t, err)
		})
	}
	assert.Eventually(t, func() bool {
		return strings.Contains(srv.Command("INFO", "commandstats"), fmt.Sprintf("cmdstat_get:calls=%d,", lookups))
	}, 15*time.Second, 10*time.Millisecond)
	release()
	wg.Wait()
	assert.LessOrEqual(t, strings.Count(srv.Command("CLIENT", "LIST"), "name=libssl"), 8)
}

func TestNew_LeavesTheClientOpen(t *testing.T) {
	srv := servertest.Redis(t, "redis-server")
	client, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{srv.Addr}, DisableCache: true})
	require.NoError(t, err)
	defer client.Close()
	s := New(client, Options{Prefix: "mine:"})
	r := record(t, "01")
	require.NoError(t, s.Put(t.Context(), r))
	assert.Equal(t, "mine:01", srv.Command("KEYS", "*"))
	require.NoError(t, s.Close())
	_, err = s.Get(t.Context(), r.ID)
	assert.NoError(t, err)
}

func TestOpen_Refuses(t *testing.T) {
	t.Parallel() // it mostly waits
	const secret = "s3cret"
	locked := servertest.Redis(t, "redis-server", "--requirepass", "another")
	limited := servertest.Redis(t, "redis-server")
	limited.Command("ACL", "SETUSER", "default", "-getdel")
	plain := servertest.Redis(t, "redis-server")
	host, port, err := net.SplitHostPort(plain.Addr)
	require.NoError(t, err)
	replica := servertest.Redis(t, "redis-server", "--replicaof", host+" "+port)
	memcached := servertest.Memcached(t)
	for name, c := range map[string]struct{ url, says string }{
		"unreachable":        {"valkey://" + servertest.FreeAddr(t), "refused"},
		"wrong password":     {"valkey://:" + secret + "@" + locked.Addr, "WRONGPASS"},
		"wrong user":         {"valkey://" + secret + ":" + secret + "@" + locked.Addr, "WRONGPASS"},
		"no password":        {"valkey://" + locked.Addr, "NOAUTH"},
		"may not take":       {"valkey://" + limited.Addr, "NOPERM"},
		"read-only replica":  {"valkey://" + replica.Addr, "READONLY"},
		"no TLS there":       {"valkeys://" + plain.Addr, "with TLS where"},
		"memcached":          {"valkey://:" + secret + "@" + memcached.Addr, "another protocol"},
		"no such database":   {"valkey://" + plain.Addr + "/99", "out of range"},
		"no sentinel":        {"valkey://" + plain.Addr + "?master_set=main", "SENTINEL"},
		"no host":            {"valkey://:" + secret + "@", "no host"},
		"unescaped password": {"valkey://:" + secret + "%@h", "malformed"},
		"slash in password":  {"valkey://u:" + secret + "/x@h", "malformed"},
		"slash and digits":   {"valkey://h:1/" + secret, "number of a database"},
		"hash in password":   {"valkey://u:1#" + secret + "@h", "malformed"},
		"parameter":          {"valkey://h?" + secret + "=1", "parameter"},
		"addr":               {"valkey://h?addr=" + secret, "addr"},
		"scheme":             {"http://:" + secret + "@h", "does not begin with"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(c.url, Options{})
			require.Error(t, err)
			assert.Equal(t, !strings.Contains(c.url, "127.0.0.1"), errors.Is(err, ErrURL))
			assert.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), secret)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}

// A server that accepts the connection and answers nothing, or in another protocol.
func TestOpen_StrangeServers(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, answer := range map[string]string{"http": "HTTP/1.1 400 Bad Request\r\n\r\n", "ssh": "SSH-2.0-x\r\n", "binary": "\x00\x01\x02\xff"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			go func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					io.WriteString(nc, answer)
					nc.Close()
				}
			}()
			_, err = Open("valkey://"+l.Addr().String(), Options{})
			assert.ErrorContains(t, err, l.Addr().String())
		})
	}
	t.Run("silent", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		_, err = Open("valkey://"+l.Addr().String(), Options{})
		assert.ErrorContains(t, err, l.Addr().String()+": no answer")
	})
}
