//go:build !asan

// AddressSanitizer takes the stack that C's abandoned frames leave behind for
// theirs still.

package libssl_test

import (
	"crypto/tls"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A handler that calls runtime.Goexit, as t.FailNow does, takes OpenSSL's call
// with it. In a process of its own: what that call had in hand is never freed.
func TestHandlers_GoexitEndsTheConnOnly(t *testing.T) {
	const variable = "LIBSSL_TEST_GOEXIT"
	handlers := map[string]func(client, server *libssl.Context, exit func()){
		"new": func(_, server *libssl.Context, exit func()) {
			server.SetSessNewCallback(func(*libssl.SSL, *libssl.Session) bool { exit(); return false })
		},
		"get": func(_, server *libssl.Context, exit func()) {
			server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
				exit()
				return nil, libssl.Copy
			})
		},
		"servername": func(_, server *libssl.Context, exit func()) {
			server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { exit(); return nil })
		},
		"remove": func(_, server *libssl.Context, exit func()) {
			server.SetSessRemoveCallback(func(*libssl.Context, *libssl.Session) { exit() })
		},
	}
	if which := os.Getenv(variable); which != "" {
		goexit(t, which, handlers[which])
		if which != "remove" {
			forgotten.Contexts++ // the SSL, and with it the SSL_CTX
		}
		return
	}
	for name := range handlers {
		t.Run(name, func(t *testing.T) {
			self, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(self, "-test.run=^TestHandlers_GoexitEndsTheConnOnly$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), variable+"="+name, "ASAN_OPTIONS=detect_leaks=0")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

func goexit(t *testing.T, which string, install func(client, server *libssl.Context, exit func())) {
	client, server := modes[0].pair(t, which == "remove")
	var told []*libssl.CallbackError
	server.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
	sess, _ := offer(t, client, server, nil)
	held := libssl.LiveResources().Sessions
	armed := true
	install(client, server, func() {
		if armed {
			armed = false
			runtime.Goexit()
		}
	})
	ends := func(what string, f func()) (returned bool) {
		t.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
			returned = true
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s does not end", what)
		}
		return returned
	}
	var conn *libssl.Conn
	if which == "remove" {
		// Without a lock: with one, the Context is lost.
		other := parse(t, derOf(t, sess))
		require.False(t, ends("RemoveSession", func() { server.RemoveSession(other) }))
	} else {
		if which == "new" {
			sess = nil
		}
		cn, sn := tcpPipe(t)
		c, s := wrap(t, cn, sn, client, server)
		if sess != nil {
			require.NoError(t, c.SetSession(sess))
		}
		failed := make(chan error, 1)
		go func() { failed <- c.Handshake() }()
		require.False(t, ends("handshake", func() { s.Handshake() }), "the goroutine goes on after a Goexit")
		require.Error(t, <-failed, "the socket is closed")
		c.Close()
		conn = s
	}
	require.Len(t, told, 1)
	require.Equal(t, which, told[0].Callback)
	require.Contains(t, told[0].Error(), "runtime.Goexit")
	require.NotContains(t, told[0].Error(), "panicked")
	require.NotEmpty(t, told[0].Stack)
	require.LessOrEqual(t, libssl.LiveResources().Sessions, held+1)
	if conn != nil {
		ends("use", func() {
			assert.ErrorContains(t, conn.Handshake(), "runtime.Goexit")
			_, err := conn.Read(make([]byte, 1))
			assert.Error(t, err)
			_, err = conn.Write(make([]byte, 1))
			assert.Error(t, err)
			conn.SessionReused()
			conn.ConnectionState()
			assert.ErrorIs(t, conn.Close(), libssl.ErrClosed)
		})
		require.Zero(t, libssl.LiveResources().Conns, "what is left has no Conn")
	}
	// Other connections, and as many as there are slots for steps, are as good as
	// before.
	ends("others", func() {
		for range 2*runtime.GOMAXPROCS(0) + 10 {
			c, s := handshake(t, client, server, nil)
			closeBoth(c, s)
		}
		assert.NoError(t, server.FlushSessions(time.Time{}))
		assert.NoError(t, server.Close())
	})
}

func TestListener_HandlerThatEndsItsGoroutine(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	l := listen(t, "tcp", "127.0.0.1:0", server)
	l.MaxHandshakes = 1
	told := failures(l)
	var once sync.Once
	server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { once.Do(runtime.Goexit); return nil })
	serveEcho(t, l)
	forgotten.Contexts++ // see above
	c, err := libssl.Client(dial(t, l), f.client, serverName)
	require.NoError(t, err)
	require.Error(t, c.Handshake())
	c.Close()
	require.Error(t, receive(t, "the failure", told).err)
	c, err = libssl.Client(dial(t, l), f.client, serverName)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Handshake(), "the slot is free again")
}
