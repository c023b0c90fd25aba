// Command libp2p is a co-process of the bench program (see bench/rig): TLS 1.2 resumption by session
// id with github.com/libp2p/go-openssl on both ends, over loopback TCP. It is a module of its own to
// spare libssl the dependency on that package.
//
// That package has no session callbacks, so the server uses OpenSSL's internal cache, which is
// cheaper than any external one. Its client takes a session as DER only, and only where it dials
// itself. The code that sets the session breaks cgo's pointer rules, so it runs only with
// GODEBUG=cgocheck=0.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/libp2p/go-openssl"
	"github.com/libssl-go/libssl/bench/rig"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: libp2p CERT.pem KEY.pem")
		os.Exit(2)
	}
	stack := func(mode string) (rig.Stack, error) { return newStack(mode, os.Args[1], os.Args[2]) }
	if err := rig.ServeCommands(stack, listen); err != nil {
		fmt.Fprintln(os.Stderr, "libp2p:", err)
		os.Exit(1)
	}
}

func newStack(mode, certFile, keyFile string) (rig.Stack, error) {
	if mode != "res12id" {
		return rig.Stack{}, fmt.Errorf("unknown mode %q", mode)
	}
	server, err := openssl.NewCtxFromFiles(certFile, keyFile)
	if err != nil {
		return rig.Stack{}, err
	}
	client, err := openssl.NewCtx()
	if err != nil {
		return rig.Stack{}, err
	}
	for _, ctx := range []*openssl.Ctx{server, client} {
		if !ctx.SetMinProtoVersion(openssl.TLS1_2_VERSION) || !ctx.SetMaxProtoVersion(openssl.TLS1_2_VERSION) {
			return rig.Stack{}, errors.New("setting the version failed")
		}
		ctx.SetOptions(openssl.NoTicket)
		if err := ctx.SetCipherList("ECDHE-ECDSA-AES128-GCM-SHA256"); err != nil {
			return rig.Stack{}, err
		}
	}
	if err := server.SetSessionId([]byte("bench")); err != nil {
		return rig.Stack{}, err
	}
	client.SetVerifyMode(openssl.VerifyNone)
	return rig.Stack{
		Serve:     func(nc net.Conn) error { return serve(nc, server) },
		NewClient: func() func(net.Conn) error { return newClient(client) },
	}, nil
}

var oneByte = []byte{'x'}

func serve(nc net.Conn, ctx *openssl.Ctx) error {
	c, err := openssl.Server(nc, ctx)
	if err != nil {
		return err
	}
	if _, err := c.Write(oneByte); err != nil {
		return err
	}
	return c.Close()
}

func newClient(ctx *openssl.Ctx) func(net.Conn) error {
	const flags = openssl.InsecureSkipHostVerification | openssl.DisableSNI
	var session []byte
	var buf [1]byte
	return func(nc net.Conn) error {
		c, err := openssl.DialSession("tcp", nc.RemoteAddr().String(), ctx, flags, session)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return err
		}
		switch {
		case session == nil:
			if session, err = c.GetSession(); err != nil {
				return err
			}
		case !c.SessionReused():
			return errors.New("not resumed")
		}
		return c.Close()
	}
}

// transport leaves the dialling to the client half.
type transport struct{ net.Listener }

func listen() (rig.Transport, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return transport{l}, err
}

func (t transport) Dial() (net.Conn, error) { return undialled{addr: t.Addr()}, nil }

// undialled only says where to dial.
type undialled struct {
	net.Conn
	addr net.Addr
}

func (u undialled) RemoteAddr() net.Addr { return u.addr }
func (u undialled) Close() error         { return nil }
