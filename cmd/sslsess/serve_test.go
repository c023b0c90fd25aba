package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServe_AnswersWhatItNegotiated(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve("-node", "n1")
	for version, cipher := range map[string]string{"1.2": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "1.3": "TLS_AES_256_GCM_SHA384"} {
		c := f.dial(f.client(version), n.addr)
		r := bufio.NewReader(c)
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST /any/path?q HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
			"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		} { // on one connection
			_, err := io.WriteString(c, request)
			require.NoError(t, err)
			resp, err := http.ReadResponse(r, nil)
			require.NoError(t, err)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			var a map[string]any
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&a))
			assert.Regexp(t, `^[0-9a-f]{64}$`, a["session_id"])
			delete(a, "session_id")
			assert.Equal(t, map[string]any{
				"node": "n1", "version": "TLSv" + version, "cipher": cipher, "resumed": false, "resumed_from": "",
			}, a)
		}
		_, err := r.ReadByte()
		assert.Equal(t, io.EOF, err, "no close_notify")
	}
}

func TestServe_AnyNodeResumes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	for name, keys := range map[string][]string{"embedded key": nil, "key ring": {"-keyring", ring}, "plaintext": {"-plaintext"}} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-store", "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")}, keys...)
			first, second := f.serve(append(args, "-node", "n1")...), f.serve(append(args, "-node", "n2")...)
			for _, version := range []string{"1.2", "1.3"} {
				client := f.client(version)
				full, resumed := f.resumed(client, first, second)
				require.False(t, full.Resumed)
				assert.Equal(t, "n2", resumed.Answer.Node)
				assert.True(t, resumed.Answer.Resumed)
				if version == "1.2" {
					assert.Equal(t, full.Answer.SessionID, resumed.Answer.ResumedFrom)
				} else {
					// The client has its first ticket, but the server reports the last
					// session that it issued.
					assert.Regexp(t, `^[0-9a-f]{64}$`, resumed.Answer.ResumedFrom)
					assert.NotEqual(t, resumed.Answer.SessionID, resumed.Answer.ResumedFrom)
				}
			}
		})
	}
}

func TestServe_OthersKeysOpenNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	serve := func(ring string) *node {
		ring = filepath.Join(dir, ring)
		requireOK(t, sslsess(t, "keyring", "new", ring))
		return f.serve("-store", "sqlite:"+filepath.Join(dir, "sessions.db"), "-keyring", ring)
	}
	first, second := serve("ring1"), serve("ring2")
	client := f.client("any")
	full, _ := f.resumed(client, first, first)
	assert.False(t, f.call(client, second.addr, full.Session).Resumed)
}

func TestServe_TicketModes(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for mode, want := range map[string]struct{ resumes12, resumes13, stores12, stores13 bool }{
		"stateful":  {true, true, true, true},
		"stateless": {true, true, false, false},
		"none":      {true, false, true, false},
	} {
		t.Run(mode, func(t *testing.T) {
			for _, v := range []struct {
				version         string
				resumes, stores bool
			}{{"1.2", want.resumes12, want.stores12}, {"1.3", want.resumes13, want.stores13}} {
				url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
				n, client := f.serve("-tickets", mode, "-store", url), f.client(v.version)
				full := f.call(client, n.addr, nil)
				assert.Equal(t, v.resumes, full.Session != nil, "a session in %s", v.version)
				if v.resumes {
					f.resumed(client, n, n)
				}
				assert.Equal(t, v.stores, len(listed(t, url)) > 0, "stored in %s", v.version)
			}
		})
	}
}

// Servers with the same ring resume each other's tickets without a shared store, and follow changes of the file.
func TestServe_StatelessSharesARing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	first, second := f.serve("-tickets", "stateless", "-keyring", ring), f.serve("-tickets", "stateless", "-keyring", ring)
	client := f.client("any")
	full := f.call(client, first.addr, nil)
	require.True(t, f.call(client, second.addr, full.Session).Resumed)

	for range ticket.RotatedKeys { // until the first key has left the ring
		requireOK(t, sslsess(t, "keyring", "rotate", ring))
	}
	rotated, err := ticket.LoadRing(ring)
	require.NoError(t, err)
	for _, n := range []*node{first, second} {
		n.says(ring + ": " + rotated.String())
	}
	// The log line about the new ring and the new keys in OpenSSL come one after the other.
	eventually(t, "the key to go", func() bool { return !f.call(client, second.addr, full.Session).Resumed })
	full = f.call(client, first.addr, nil)
	require.True(t, f.call(client, second.addr, full.Session).Resumed)

	require.NoError(t, os.WriteFile(ring, []byte("garbage"), 0o600))
	first.says("line 1 is not a key")
	require.True(t, f.call(client, first.addr, full.Session).Resumed, "the keys stay")
}

// A TLS 1.2 client that takes no tickets is resumed through the store, even if
// other clients get tickets.
func TestServe_StatelessKeepsIDsForClientsWithoutTickets(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	url := "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")
	n, client := f.serve("-tickets", "stateless", "-store", url), f.client("1.2")
	client.SetOptions(libssl.OpNoTicket)
	full := f.call(client, n.addr, nil)
	resumed := f.call(client, n.addr, full.Session)
	assert.True(t, resumed.Resumed)
	assert.Equal(t, full.Answer.SessionID, resumed.Answer.ResumedFrom)
	assert.Len(t, listed(t, url), 1)
}

func TestServe_TLSFlagBoundsTheVersion(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, version := range []string{"1.2", "1.3"} {
		n := f.serve("-tls", version)
		assert.Equal(t, "TLSv"+version, f.call(f.client("any"), n.addr, nil).Version)
		other := map[string]string{"1.2": "1.3", "1.3": "1.2"}[version]
		assert.Error(t, f.connect(f.client(other), n.addr).Handshake())
	}
}

func TestServe_ClientCARequiresCertificates(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve("-client-ca", f.caFile)
	for _, version := range []string{"1.2", "1.3"} {
		client := f.client(version)
		v, err := call(t.Context(), client, n.addr, "localhost", nil)
		v.Session.Release()
		assert.Error(t, errors.Join(err, v.NoAnswer), "without a certificate")

		cert, key := f.ca.Leaf(t, "client")
		require.NoError(t, client.UseCertificatePEM(cert, key))
		full := f.call(client, n.addr, nil)
		require.NotNil(t, full.Session)
		assert.True(t, f.call(client, n.addr, full.Session).Resumed)
	}
}

func TestServe_MakesACertificate(t *testing.T) {
	t.Parallel()
	n := serveOn(t)
	n.says("self-signed certificate")
	client, err := newClientContext("", true, "any")
	require.NoError(t, err)
	defer client.Close()
	f := &testFleet{t: t}
	c := f.dial(client, n.addr)
	leaf := c.ConnectionState().PeerCertificates[0]
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		assert.NoError(t, leaf.VerifyHostname(host))
	}
}

func TestSelfSigned_NamesTheListenHost(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"server.example", "192.0.2.7", "2001:db8::7", "", "::", "0.0.0.0"} {
		text, _, err := selfSigned(host)
		require.NoError(t, err)
		block, _ := pem.Decode(text)
		leaf, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		named := leaf.VerifyHostname(host) == nil
		assert.Equal(t, !strings.HasSuffix("::", host) && host != "0.0.0.0", named, host)
	}
}

// ---- openssl s_client -----------------------------------------------------------

func TestServe_SClientReconnects(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve()
	out := openssl(t, "", "s_client", "-connect", n.addr, "-reconnect", "-no_ticket", "-tls1_2")
	assert.Equal(t, 1, strings.Count(out, "\nNew, TLSv1.2"), out)
	assert.Equal(t, 5, strings.Count(out, "\nReused, TLSv1.2"), out)
}

func TestServe_SClientResumesOnAnotherNode(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	store := []string{"-store", "sqlite:" + filepath.Join(t.TempDir(), "sessions.db")}
	first, second := f.serve(store...), f.serve(store...)
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		session := filepath.Join(t.TempDir(), "session.pem")
		const request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		args := []string{"s_client", version, "-ign_eof", "-CAfile", f.caFile, "-verify_return_error", "-connect"}
		out := openssl(t, request, append(args, first.addr, "-sess_out", session)...)
		assert.Contains(t, out, "\nNew, ")
		assert.Contains(t, out, `"resumed":false`)
		out = openssl(t, request, append(args, second.addr, "-sess_in", session)...)
		assert.Contains(t, out, "\nReused, ")
		assert.Contains(t, out, `"resumed":true`)
	}
}

// ---- bad peers ------------------------------------------------------------------

// The server has one slot, so that the test notices a peer that keeps it.
func TestServe_BadPeersHoldNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve("-max-conns", "1", "-handshake-timeout", "300ms")
	client := f.client("any")
	hello := clientHello(t, f)
	for name, act := range map[string]func(c net.Conn){
		"never speaks":           func(c net.Conn) {},
		"disconnects":            func(c net.Conn) { c.Close() },
		"garbage":                func(c net.Conn) { c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"half a hello":           func(c net.Conn) { c.Write(hello[:len(hello)/2]) },
		"hello, then silence":    func(c net.Conn) { c.Write(hello) },
		"hello, then garbage":    func(c net.Conn) { c.Write(append(bytes.Clone(hello), "garbage garbage"...)) },
		"hello, then disconnect": func(c net.Conn) { c.Write(hello); c.Close() },
		"half-closes":            func(c net.Conn) { c.(*net.TCPConn).CloseWrite() },
		"resets":                 func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Write(hello); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", n.addr)
			require.NoError(t, err)
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			act(c)
			v, err := call(t.Context(), client, n.addr, "localhost", nil) // the next client is served
			require.NoError(t, err)
			require.NoError(t, v.NoAnswer)
			v.Session.Release()
			if _, err := io.Copy(io.Discard, c); err != nil { // and the bad peer is disconnected
				var ne net.Error
				assert.False(t, errors.As(err, &ne) && ne.Timeout(), "still connected")
			}
		})
	}
	assert.Equal(t, 0, n.end(syscall.SIGTERM))
}

// clientHello returns the first flight of a libssl client.
func clientHello(t *testing.T, f *testFleet) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	c, err := libssl.Client(ours, f.client("any"), "localhost")
	require.NoError(t, err)
	defer c.Close()
	go c.Handshake()
	b := make([]byte, 4096)
	n, err := theirs.Read(b)
	require.NoError(t, err)
	theirs.Close()
	return b[:n]
}

// ---- forwarding -----------------------------------------------------------------

// backend runs serve for each connection.
func backend(t *testing.T, serve func(*net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

func TestServe_BackendHalfCloses(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	// The backend answers only after the end of the request.
	addr := backend(t, func(c *net.TCPConn) {
		defer c.Close()
		b, err := io.ReadAll(c)
		if err == nil {
			c.Write(bytes.ToUpper(b))
		}
	})
	n := f.serve("-backend", addr)
	question := bytes.Repeat([]byte("question "), 50_000)
	for _, version := range []string{"1.2", "1.3"} {
		c := f.dial(f.client(version), n.addr)
		_, err := c.Write(question)
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		b, err := io.ReadAll(c) // fails without a close_notify
		require.NoError(t, err)
		assert.True(t, bytes.Equal(bytes.ToUpper(question), b))
	}
}

func TestServe_BackendSpeaksFirstAndEndsFirst(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	heard := make(chan string, 1)
	addr := backend(t, func(c *net.TCPConn) {
		defer c.Close()
		io.WriteString(c, "hello")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})
	n := f.serve("-backend", addr)
	c := f.dial(f.client("any"), n.addr)
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(b))
	_, err = io.WriteString(c, "late words")
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	assert.Equal(t, "late words", <-heard)
}

// A stream that was cut off must not look complete.
func TestServe_BackendCutsAreSeenOnBothSides(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	backendSaw := make(chan error, 1)
	addr := backend(t, func(c *net.TCPConn) {
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err == nil && string(b) == "reset" {
			c.SetLinger(0)
			c.Close()
			return
		}
		_, err := io.ReadAll(c)
		backendSaw <- err
	})
	n := f.serve("-backend", addr)
	client := f.client("any")

	c := f.dial(client, n.addr)
	io.WriteString(c, "reset")
	_, err := io.ReadAll(c)
	assert.Error(t, err, "the backend's reset looks like an end")

	c = f.dial(client, n.addr)
	io.WriteString(c, "stays")
	c.NetConn().Close() // without a close_notify
	assert.Error(t, <-backendSaw, "the client's cut looks like an end")
}

func TestServe_BackendThatIsIdleIsCut(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	backendSaw := make(chan error, 1)
	addr := backend(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		backendSaw <- err
	})
	n := f.serve("-backend", addr, "-idle-timeout", "1s")
	c := f.dial(f.client("1.3"), n.addr)
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	_, err = io.ReadAll(c)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Error(t, <-backendSaw)
}

func TestServe_BackendIsAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve("-backend", servertest.FreeAddr(t))
	c := f.dial(f.client("any"), n.addr)
	_, err := c.Read(make([]byte, 1))
	assert.Error(t, err)
	n.says("backend: ")
	assert.Equal(t, 0, n.end(syscall.SIGTERM))
}

// ---- statistics, start and end --------------------------------------------------

func TestServe_HTTPShowsStats(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve("-http", "127.0.0.1:0", "-node", "n1")
	base := "http://" + n.says("http on ")
	client := f.client("1.2")
	full := f.call(client, n.addr, nil)
	require.True(t, f.call(client, n.addr, full.Session).Resumed)

	get := func(path string) (int, string) {
		resp, err := http.Get(base + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	status, body := get("/healthz")
	assert.Equal(t, 200, status)
	assert.Equal(t, "ok\n", body)
	status, body = get("/stats")
	assert.Equal(t, 200, status)
	var s struct {
		Node, OpenSSL string
		Cache         libssl.CacheStats
		Context       libssl.Stats

		CertificateExpires time.Time `json:"certificate_expires"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &s))
	assert.Equal(t, "n1", s.Node)
	assert.False(t, s.CertificateExpires.IsZero())
	assert.Equal(t, libssl.Version(), s.OpenSSL)
	assert.EqualValues(t, 1, s.Cache.Hits)
	assert.Equal(t, 2, s.Context.AcceptGood)
	status, body = get("/metrics")
	assert.Equal(t, 200, status)
	assert.Contains(t, body, "# TYPE libssl_handshake_seconds histogram\n")
	assert.Contains(t, body, `libssl_handshake_seconds_count{kind="resumed"} 1`+"\n")
	assert.Contains(t, body, `libssl_session_lookups_total{result="hit"} 1`+"\n")
	status, body = get("/")
	assert.Equal(t, 200, status)
	assert.Equal(t, string(page), body)
	var past pastHandshakes
	eventually(t, "both handshakes in the history", func() bool {
		_, body := get("/history")
		require.NoError(t, json.Unmarshal([]byte(body), &past))
		var full, resumed uint64
		for i := range past.Full {
			full, resumed = full+past.Full[i], resumed+past.Resumed[i]
		}
		return full == 1 && resumed == 1
	})
	assert.EqualValues(t, 1000, past.PeriodMS)
	status, _ = get("/nothing")
	assert.Equal(t, 404, status)
}

// settled is the number of complete handshakes in the statistics of a server, or -1 while one is under way: OpenSSL counts it
// before the server is done with it.
func settled(t *testing.T, base string) int {
	resp, err := http.Get(base + "/stats")
	require.NoError(t, err)
	defer resp.Body.Close()
	var s struct{ Context libssl.Stats }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&s))
	if s.Context.HandshakesUnderWay > 0 {
		return -1
	}
	return s.Context.AcceptGood
}

func TestServe_SignalsEndItPolitely(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		n := f.serve("-store", "sqlite:"+filepath.Join(t.TempDir(), "sessions.db"), "-http", "127.0.0.1:0", "-handshake-timeout", "1h")
		client := f.client("any")
		idle := f.dial(client, n.addr)
		_, err := io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		_, err = readAnswer(idle)
		require.NoError(t, err)
		unasked := f.dial(client, n.addr)
		// A client of TLS 1.3 is done before the server is, which may end a handshake that is under way.
		base := "http://" + n.says("http on ")
		eventually(t, "both handshakes are complete", func() bool { return settled(t, base) == 2 })
		silent, err := net.Dial("tcp", n.addr)
		require.NoError(t, err)
		defer silent.Close()

		assert.Equal(t, 0, n.end(sig), n.errors())
		for what, c := range map[string]*libssl.Conn{"idle": idle, "unasked": unasked} {
			_, err := c.Read(make([]byte, 1))
			assert.Equal(t, io.EOF, err, "no close_notify on the %s connection", what)
		}
		_, err = net.Dial("tcp", n.addr)
		assert.Error(t, err)
		_, more := <-n.lines
		assert.False(t, more, "more than one line on standard output")
	}
}

// At the end an open stream may go on for a moment, and then is cut.
func TestServe_SignalEndsForwarding(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	released := make(chan struct{})
	addr := backend(t, func(c *net.TCPConn) {
		defer c.Close()
		io.WriteString(c, "a")
		b := make([]byte, 1)
		c.Read(b)
		io.WriteString(c, "b")
		io.Copy(io.Discard, c)
		close(released)
	})
	n := f.serve("-backend", addr)
	c := f.dial(f.client("any"), n.addr)
	b := make([]byte, 1)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.NoError(t, n.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "it stops accepting", func() bool {
		nc, err := net.Dial("tcp", n.addr)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	_, err = io.WriteString(c, "x")
	require.NoError(t, err)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	assert.Equal(t, "b", string(b))
	assert.Equal(t, 0, n.status())
	<-released
}

func TestServe_BadConfigurationIsStatus1(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	garbage, none := file("garbage", "garbage\n"), filepath.Join(dir, "none")
	_, otherKey := f.ca.LeafFiles(t, "other")
	taken := f.serve()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"address taken":       {[]string{"-listen", taken.addr}, "address already in use"},
		"-http address taken": {[]string{"-http", taken.addr}, "-http: "},
		"no certificate":      {[]string{"-cert", none, "-key", f.key}, none},
		"garbage certificate": {[]string{"-cert", garbage, "-key", f.key}, garbage},
		"another key":         {[]string{"-cert", f.cert, "-key", otherKey}, "key"},
		"no client CA":        {[]string{"-client-ca", none}, none},
		"garbage client CA":   {[]string{"-client-ca", garbage}, garbage},
		"no key ring":         {[]string{"-keyring", none}, none},
		"garbage key ring":    {[]string{"-keyring", garbage}, garbage},
		"no ring in env":      {[]string{"-keyring", "env:LIBSSL_TEST_NO_RING"}, "LIBSSL_TEST_NO_RING"},
		"no secret for store": {[]string{"-keyring", "store:" + none}, none},
		"garbage for store":   {[]string{"-keyring", "store:" + garbage}, garbage},
		"store in no folder":  {[]string{"-store", "sqlite:" + filepath.Join(none, "s.db")}, none},
		"store is a folder":   {[]string{"-store", "sqlite:" + dir}, dir},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"serve", "-listen", "127.0.0.1:0", "-cert", f.cert, "-key", f.key}, c.args...)
			r := sslsess(t, args...)
			requireFailure(t, r, 1, c.says)
			assert.Empty(t, r.stdout)
		})
	}
}

// hostless is a store without its own key.
type hostless struct{ store.Store }

func TestServe_StoreOfSeveralHostsNeedsKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ring := filepath.Join(t.TempDir(), "ring")
	requireOK(t, sslsess(t, "keyring", "new", ring))
	logger := log.New(io.Discard, "", 0)
	for name, c := range map[string]struct {
		flags serveFlags
		says  string
	}{
		"neither":   {serveFlags{}, "-keyring, or -plaintext"},
		"key ring":  {serveFlags{keyring: ring}, ""},
		"plaintext": {serveFlags{plaintext: true}, ""},
	} {
		ctx, err := libssl.NewServerContext(f.cert, f.key)
		require.NoError(t, err)
		defer ctx.Close()
		c.flags.tickets = new(string)
		ring, stop, err := c.flags.loadRing(t.Context(), nil, logger)
		require.NoError(t, err)
		defer stop()
		cache, err := c.flags.useStore(ctx, hostless{memstore.New(memstore.Options{})}, ring, logger)
		if c.says != "" {
			assert.ErrorContains(t, err, c.says, name)
			assert.IsType(t, usageError(""), err, name)
			continue
		}
		require.NoError(t, err, name)
		require.NoError(t, cache.Close(t.Context()))
	}
}

func TestSeldom_CountsWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := &rateLimitedLog{log: log.New(&b, "", 0)}
	for range 3 {
		l.print("peer", errors.New("a\nb"))
	}
	l.last = l.last.Add(-time.Second)
	l.print("peer", errors.New("c"))
	assert.Equal(t, "peer: a; b\npeer: c (and 2 more since the last such line)\n", b.String())
}

// No handshake fails when the store goes away while the server runs.
func TestServe_OutlivesItsStore(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	path := filepath.Join(t.TempDir(), "sessions.db")
	n, client := f.serve("-store", "sqlite:"+path), f.client("any")
	full := f.call(client, n.addr, nil)
	db, err := sql.Open("sqlite3", path) // package sqlitestore registers the driver
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("DROP TABLE records")
	require.NoError(t, err)
	for range 10 {
		v := f.call(client, n.addr, full.Session)
		require.NoError(t, v.NoAnswer)
		assert.False(t, v.Resumed)
	}
	n.says(`: level=WARN msg="store failed" operation=`)
	n.says(`: level=ERROR msg="store left alone" operations=lookups error=`)
	assert.NotContains(t, n.errors(), "time=")
	assert.Equal(t, 0, n.end(syscall.SIGTERM))
}
