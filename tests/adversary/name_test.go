package adversary_test

import (
	"crypto/ecdh"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/adversary"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/internal/leftover"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	os.Exit(leftover.Run(m, func() libssl.Resources { return libssl.Resources{} }))
}

const (
	open    = "open.test"
	guarded = "guarded.test"
	illegal = 47 // illegal_parameter
)

// hosts is a server of several names, whose clients are sent a HelloRetryRequest by the first Context.
type hosts struct {
	front, open, guarded *libssl.Context
	asked                []string
}

func newHosts(t testing.TB, attached bool) *hosts {
	ca := tlstest.NewCA(t, "ca")
	context := func(attached bool) *libssl.Context {
		var ctx *libssl.Context
		var err error
		if attached {
			p := cref.NewContext(false)
			defer cref.FreeContext(p)
			ctx, err = libssl.AttachContext(p)
		} else {
			ctx, err = libssl.NewContext(libssl.ServerRole)
		}
		require.NoError(t, err)
		t.Cleanup(func() { ctx.Close() })
		cert, key := ca.Leaf(t, open, guarded)
		require.NoError(t, ctx.UseCertificatePEM(cert, key))
		require.NoError(t, ctx.SetVersions(0, tls.VersionTLS13))
		require.NoError(t, ctx.SetGroups("P-256"))
		return ctx
	}
	h := &hosts{front: context(attached), open: context(attached), guarded: context(false)}
	require.NoError(t, h.guarded.AddClientCAsPEM(ca.PEM))
	require.NoError(t, h.guarded.SetVerify(libssl.VerifyRequirePeer))
	h.front.SetServerNameCallback(func(_ *libssl.SSL, name string) *libssl.Context {
		h.asked = append(h.asked, name)
		return map[string]*libssl.Context{open: h.open, guarded: h.guarded}[name]
	})
	return h
}

// serve runs the handshake that a peer has with the front Context.
func (h *hosts) serve(t testing.TB, byC bool) (peer net.Conn, ended <-chan error) {
	t.Helper()
	peer, end, err := tlstest.TCPPair()
	require.NoError(t, err)
	peer.SetDeadline(time.Now().Add(30 * time.Second))
	done := make(chan error, 1)
	go func() {
		defer end.Close()
		if !byC {
			s, err := libssl.Server(end, h.front)
			if err == nil {
				err = s.Handshake()
				s.Close()
			}
			done <- err
			return
		}
		file, err := end.(*net.TCPConn).File()
		if err == nil {
			defer file.Close()
			if !cref.Accept(h.front.Pointer(), int(file.Fd())) {
				err = fmt.Errorf("the handshake failed")
			}
		}
		done <- err
	}()
	return peer, done
}

// The choice by the first ClientHello holds for the second: another name, a new one and none are refused.
func TestServerName_SecondHello(t *testing.T) {
	settings := map[string]func(t testing.TB, h *hosts){
		"plain": func(testing.TB, *hosts) {},
		"store": func(t testing.TB, h *hosts) { useStore(t, h.front) },
		"store everywhere": func(t testing.TB, h *hosts) {
			for _, ctx := range []*libssl.Context{h.front, h.open, h.guarded} {
				useStore(t, ctx)
			}
		},
		"hook everywhere": func(t testing.TB, h *hosts) {
			for _, ctx := range []*libssl.Context{h.open, h.guarded} {
				ctx.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { t.Error("not this one"); return nil })
			}
		},
	}
	for setting, set := range settings {
		for _, byC := range []bool{false, true} {
			for _, attached := range []bool{false, true} {
				for _, c := range []struct{ first, second string }{
					{open, open}, {open, guarded}, {open, "other.test"}, {open, "OPEN.test"}, {open, ""},
					{"", ""}, {"", guarded}, {guarded, open}, {"other.test", guarded},
				} {
					t.Run(fmt.Sprintf("%s/C %t/attached %t/%s to %s", setting, byC, attached, c.first, c.second), func(t *testing.T) {
						h := newHosts(t, attached)
						set(t, h)
						peer, ended := h.serve(t, byC)
						defer peer.Close()
						hello := adversary.NewHello(c.first, ecdh.X25519())
						answer, err := hello.Say(peer)
						require.NoError(t, err)
						require.Equal(t, adversary.Answer{Retry: true}, answer)
						hello.Share(ecdh.P256())
						hello.Name(c.second)
						answer, err = hello.Say(peer)
						require.NoError(t, err)
						if c.first == c.second {
							require.Equal(t, adversary.Answer{Hello: true}, answer)
							peer.Close()
						} else {
							require.Equal(t, adversary.Answer{Alert: illegal}, answer)
						}
						require.Error(t, <-ended)
						require.Equal(t, []string{c.first}, h.asked)
					})
				}
			}
		}
	}
}

// A Context that the server name should have chosen, and did not, is no reason to serve under another one.
func TestServerName_FailsClosed(t *testing.T) {
	const (
		internal     = 80  // internal_error
		unrecognized = 112 // unrecognized_name
	)
	for how, c := range map[string]struct {
		alert  uint8
		choose func(t testing.TB, h *hosts) *libssl.Context
	}{
		"panics": {internal, func(testing.TB, *hosts) *libssl.Context { panic("on purpose") }},
		"names a closed Context": {unrecognized, func(_ testing.TB, h *hosts) *libssl.Context {
			h.guarded.Close()
			return h.guarded
		}},
		"names a client's Context": {internal, func(t testing.TB, _ *hosts) *libssl.Context {
			ctx, err := libssl.NewContext(libssl.ClientRole)
			require.NoError(t, err)
			t.Cleanup(func() { ctx.Close() })
			return ctx
		}},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, byC := range []bool{false, true} {
				for _, stored := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/C %t/store %t", how, tls.VersionName(version), byC, stored), func(t *testing.T) {
						h := newHosts(t, false)
						if stored {
							useStore(t, h.front)
						}
						var told []*libssl.CallbackError
						h.front.OnCallbackError(func(e *libssl.CallbackError) { told = append(told, e) })
						h.front.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return c.choose(t, h) })
						peer, ended := h.serve(t, byC)
						defer peer.Close()
						hello := adversary.NewHello(guarded, ecdh.P256())
						hello.Set(adversary.Versions, []byte{2, 3, byte(version)})
						answer, err := hello.Say(peer)
						require.NoError(t, err)
						require.Equal(t, adversary.Answer{Alert: c.alert}, answer)
						require.Error(t, <-ended)
						require.Len(t, told, 1)
						require.Equal(t, "servername", told[0].Callback)
					})
				}
			}
		}
	}
}

func useStore(t testing.TB, ctx *libssl.Context) {
	t.Helper()
	sc, err := ctx.UseStore(memstore.New(memstore.Options{}), nil)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(t.Context()) })
}
