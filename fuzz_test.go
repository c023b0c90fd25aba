package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/asn1"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

var updateSeeds = flag.Bool("update", false, "record the seeds of FuzzServer anew")

// keptSessions are sessions that every release can read, in DER, those of TLS 1.3 with early data allowed.
func keptSessions(t testing.TB) (all []keptSession) {
	t.Helper()
	text, err := os.ReadFile("tests/conformance/testdata/sessions/1.1.1.pem")
	require.NoError(t, err)
	for {
		server, rest := pem.Decode(text)
		if server == nil {
			return all
		}
		client, rest := pem.Decode(rest)
		text = rest
		all = append(all, keptSession{allowEarlyData(t, server.Bytes), allowEarlyData(t, client.Bytes)})
	}
}

// allowEarlyData gives a session that ends before it the field max_early_data, if it is one of TLS 1.3.
func allowEarlyData(t testing.TB, der []byte) []byte {
	t.Helper()
	if parse(t, der).Version() != tls.VersionTLS13 {
		return der
	}
	var seq asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	require.NoError(t, err)
	seq.FullBytes, seq.Bytes = nil, append(bytes.Clone(seq.Bytes), 0xaf, 4, 2, 2, maxEarly>>8, maxEarly&0xff)
	der, err = asn1.Marshal(seq)
	require.NoError(t, err)
	require.EqualValues(t, maxEarly, parse(t, der).MaxEarlyData())
	return der
}

const maxEarly = 1000

type keptSession struct{ server, client []byte }

// Indices into keptSessions by version, without and with a client certificate.
var kept12, kept13 = []int{0, 2}, []int{1, 3}

// ---- servers for any bytes --------------------------------------------------------

// Bits of a fuzzed server's mode. The lowest two pick the versions.
const (
	fuzzRetry     = 1 << 2 // a ClientHello with a share of another group than P-384's is sent back
	fuzzNames     = 1 << 3 // the server name picks another Context
	fuzzClients   = 1 << 4 // certificates are asked for
	fuzzSingleUse = 1 << 5
	fuzzStateless = 1 << 6 // tickets instead of a store
	fuzzModes     = 1 << 7
)

var fuzzVersions = [...][2]uint16{
	{tls.VersionTLS12, tls.VersionTLS13}, {tls.VersionTLS12, tls.VersionTLS12}, {tls.VersionTLS13, tls.VersionTLS13},
	{0, 0},
}

// fuzzServers are the servers of all modes. Seeds and findings have to mean the same in every process. So the entries are
// not sealed, and the sessions come from files.
type fuzzServers struct {
	ca        *tlstest.CA
	cert, key []byte
	client    *libssl.Context
	kept      []keptSession
	ids       []store.ID // of the kept sessions
	modes     [fuzzModes]*fuzzServer
}

type fuzzServer struct {
	ctx *libssl.Context
	mem *memstore.Store // nil with fuzzStateless
}

func newFuzzServers(t testing.TB) *fuzzServers {
	t.Helper()
	s := &fuzzServers{ca: tlstest.NewCA(t, "ca"), kept: keptSessions(t)}
	s.cert, s.key = s.ca.Leaf(t, serverName)
	s.client = newClient(t, s.ca)
	require.NoError(t, s.client.SetVerify(libssl.VerifyNone))
	require.NoError(t, s.client.UseCertificatePEM(s.cert, s.key))
	for _, k := range s.kept {
		id, err := store.IDFromBytes(sessionField(t, k.server, fieldID))
		require.NoError(t, err)
		s.ids = append(s.ids, id)
	}
	for mode := range s.modes {
		s.modes[mode] = s.make(t, byte(mode))
	}
	return s
}

var fuzzIDContext = []byte("conformance") // of the kept sessions

func (s *fuzzServers) context(t testing.TB) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.UseCertificatePEM(s.cert, s.key))
	require.NoError(t, ctx.SetSessionIDContext(fuzzIDContext))
	return ctx
}

func (s *fuzzServers) make(t testing.TB, mode byte) *fuzzServer {
	t.Helper()
	server := &fuzzServer{ctx: s.context(t)}
	v := fuzzVersions[mode%4]
	require.NoError(t, server.ctx.SetVersions(v[0], v[1]))
	if mode&fuzzRetry != 0 {
		require.NoError(t, server.ctx.SetGroups("P-384:P-256")) // the second is for certificates
	}
	if mode&fuzzNames != 0 {
		other := s.context(t)
		server.ctx.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context {
			if len(name)%2 == 1 { // as that of the seeds has
				return other
			}
			return nil
		})
	}
	if mode&fuzzClients != 0 {
		require.NoError(t, server.ctx.AddClientCAsPEM(s.ca.PEM))
		require.NoError(t, server.ctx.SetVerify(libssl.VerifyPeer))
		for _, k := range s.kept {
			trustPeer(t, server.ctx, k.server)
		}
	}
	if mode&fuzzStateless == 0 {
		server.mem = memstore.New(memstore.Options{})
		useStore(t, server.ctx, server.mem, &libssl.StoreOptions{
			Plaintext: true, SingleUse: mode&fuzzSingleUse != 0, OnError: func(err error) { panic(err) },
		})
		if mode&fuzzSingleUse != 0 {
			require.NoError(t, server.ctx.SetMaxEarlyData(maxEarly))
		}
	}
	return server
}

// get returns the server of a mode, with the kept sessions in its store, from where broken handshakes may remove them.
func (s *fuzzServers) get(t testing.TB, mode byte) *fuzzServer {
	t.Helper()
	server := s.modes[mode%fuzzModes]
	if server.mem == nil {
		return server
	}
	now := time.Now()
	for i, id := range s.ids {
		data := libssl.SealEntry(nil, id, now, madeNow(t, s.kept[i].server))
		require.NoError(t, server.mem.Put(context.Background(), store.Record{ID: id, Data: data, Expires: now.Add(time.Hour)}))
	}
	return server
}

// offer gives a client a kept session.
func (s *fuzzServers) offer(t testing.TB, c *libssl.Conn, i int) {
	t.Helper()
	sess, err := libssl.ParseSession(madeNow(t, s.kept[i].client))
	require.NoError(t, err)
	defer sess.Release()
	require.NoError(t, c.SetSession(sess))
}

// watched runs f and dies, with all stacks, if it does not end.
func watched(f func()) {
	debug.SetTraceback("all")
	dog := time.AfterFunc(time.Minute, func() { panic("it hangs") })
	defer dog.Stop()
	f()
}

// balanced fails the test if f leaves a resource or a goroutine behind.
func balanced(t testing.TB, f func()) {
	t.Helper()
	before, running := libssl.LiveResources(), runtime.NumGoroutine()
	watched(f)
	var after libssl.Resources
	for range 60_000 { // removals are queued; a busy machine takes its time
		if after = libssl.LiveResources(); after == before && runtime.NumGoroutine() <= running {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("left behind: %+v, before %+v; %d goroutines, before %d", after, before, runtime.NumGoroutine(), running)
}

// ---- any input of a server ----------------------------------------------------------

// nowhere has the methods of a transport that tests do without.
type nowhere struct{}

func (nowhere) Close() error                     { return nil }
func (nowhere) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (nowhere) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (nowhere) SetDeadline(time.Time) error      { return nil }
func (nowhere) SetReadDeadline(time.Time) error  { return nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }

// script is a transport that delivers given bytes, a chunk at a time, and takes whatever comes.
type script struct {
	nowhere
	rest  []byte
	chunk int
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.chunk)], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }

// A server's handshake fails in order on any input: it leaves nothing behind. An entry that was taken from the store is
// put back unless the client has proved that it knows the secret.
func FuzzServer(f *testing.F) {
	servers := newFuzzServers(f)
	f.Add(byte(0), uint16(5), []byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(byte(0), uint16(1), []byte{22, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, mode byte, chunk uint16, data []byte) {
		server := servers.get(t, mode)
		proved := false
		balanced(t, func() {
			c, err := libssl.Server(&script{rest: data, chunk: int(chunk)%4096 + 1}, server.ctx)
			require.NoError(t, err)
			defer c.Close()
			if chunk%2 == 1 {
				_, _ = io.ReadAll(earlyReader{c}) // Handshake reports the error
			}
			err = c.Handshake()
			require.Error(t, err, "a recorded client cannot finish a handshake")
			require.Equal(t, err, c.Handshake())
			_, err = c.Read(make([]byte, 1))
			require.Error(t, err)
			proved = c.SessionReused() // the binder did, which a seed may have
		})
		if mode&fuzzSingleUse == 0 || server.mem == nil || proved {
			return
		}
		for _, i := range kept13 {
			_, err := server.mem.Get(context.Background(), servers.ids[i])
			require.NoError(t, err, "the entry is back")
		}
	})
}

// earlyReader reads a server's early data.
type earlyReader struct{ *libssl.Conn }

func (r earlyReader) Read(p []byte) (int, error) { return r.ReadEarlyData(p) }

// flight records the bytes of a client.
type flight struct {
	net.Conn
	mu   sync.Mutex
	sent []byte
}

func (r *flight) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.sent = append(r.sent, p...)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// The seeds of FuzzServer are recordings of clients whose handshakes succeed. -update records them again.
func TestFuzzServer_GetsFarWithItsSeeds(t *testing.T) {
	servers := newFuzzServers(t)
	for _, tt := range []struct {
		name  string
		mode  byte
		offer int // the kept session, -1 for none
		early string
	}{
		{"12-fresh", 1, -1, ""},
		{"12-resuming", 1, kept12[0], ""},
		{"12-resuming-single-use", 1 | fuzzSingleUse, kept12[0], ""},
		{"12-with-certificate", 1 | fuzzClients, -1, ""},
		{"12-names", 1 | fuzzNames, kept12[0], ""},
		{"12-stateless", 1 | fuzzStateless, -1, ""},
		{"13-fresh", 2, -1, ""},
		{"13-resuming", 2, kept13[0], ""},
		{"13-resuming-single-use", 2 | fuzzSingleUse, kept13[0], ""},
		{"13-retried", 2 | fuzzRetry, -1, ""},
		{"13-retried-resuming-single-use", 2 | fuzzRetry | fuzzSingleUse, kept13[0], ""},
		{"13-with-certificate", 2 | fuzzClients, kept13[1], ""},
		{"13-names", 2 | fuzzNames, kept13[0], ""},
		{"13-stateless", 2 | fuzzStateless, -1, ""},
		{"13-early-data", 2 | fuzzSingleUse, kept13[0], "early data"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := servers.get(t, tt.mode)
			cn, sn := tcpPipe(t)
			sent := &flight{Conn: cn}
			c, err := libssl.Client(sent, servers.client, serverName)
			require.NoError(t, err)
			s, err := libssl.Server(sn, server.ctx)
			require.NoError(t, err)
			deadline := time.Now().Add(30 * time.Second)
			c.SetDeadline(deadline)
			s.SetDeadline(deadline)
			if tt.offer >= 0 {
				servers.offer(t, c, tt.offer)
			}
			if tt.early != "" {
				_, err := c.WriteEarlyData([]byte(tt.early))
				require.NoError(t, err)
				read := make(chan string)
				go func() {
					all, _ := io.ReadAll(earlyReader{s})
					read <- string(all)
				}()
				require.NoError(t, c.Handshake())
				require.Equal(t, tt.early, <-read)
			}
			require.NoError(t, exchange(c, s))
			require.Equal(t, tt.offer >= 0, s.SessionReused())
			if tt.offer >= 0 {
				require.Equal(t, servers.ids[tt.offer], s.ResumedFrom())
			}
			require.Equal(t, fuzzVersions[tt.mode%4][0], s.ConnectionState().Version)
			closeBoth(c, s)
			if *updateSeeds {
				// An odd chunk has early data read, which without any changes nothing.
				writeSeed(t, "FuzzServer", tt.name, fmt.Sprintf("byte(%d)\nuint16(1001)\n[]byte(%q)\n", tt.mode, sent.sent))
			}
		})
	}
}

func writeSeed(t *testing.T, target, name, values string) {
	t.Helper()
	dir := filepath.Join("testdata", "fuzz", target)
	require.NoError(t, os.MkdirAll(dir, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("go test fuzz v1\n"+values), 0o666))
}
