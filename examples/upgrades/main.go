// Command upgrades has libssl under clients that speak TLS with crypto/tls otherwise. It asks a server for its version:
//
//	upgrades -ca ca.pem postgres://user:password@localhost/db
//	upgrades -ca ca.pem rediss://localhost:6380
//	upgrades -ca ca.pem smtp://localhost:25
//
// Clients of Redis begin with TLS, so a dialer is all. Clients of PostgreSQL and SMTP ask for TLS in plain text first.
// docs/porting.md says which libraries leave room for that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"os/signal"

	"github.com/libssl-go/libssl"
)

func main() {
	ca := flag.String("ca", "ca.pem", "CAs to trust")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *ca, flag.Arg(0), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run writes the version of the server at a URL.
func run(ctx context.Context, caFile, server string, out io.Writer) error {
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	sslCtx, err := client(caFile)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	var version string
	switch u.Scheme {
	case "postgres":
		version, err = postgresVersion(ctx, server, sslCtx)
	case "rediss":
		version, err = redisVersion(ctx, server, sslCtx)
	case "smtp":
		version, err = smtpVersion(ctx, u.Host, sslCtx)
	default:
		err = fmt.Errorf("%q is no postgres, rediss or smtp URL", server)
	}
	if err == nil {
		_, err = fmt.Fprintln(out, version)
	}
	return err
}

// client returns a Context that trusts the CAs of a file, and resumes sessions.
func client(caFile string) (*libssl.Context, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.AddRootCAsPEM(pem), ctx.UseClientCache(100)); err != nil {
		ctx.Close()
		return nil, err
	}
	return ctx, nil
}

// upgrade turns nc to TLS, once ask has asked the server for it. ask must not read beyond the answer. If anything fails, or
// ctx ends before, nc is closed.
func upgrade(ctx context.Context, nc net.Conn, sslCtx *libssl.Context, host string, ask func(net.Conn) error) (*libssl.Conn, error) {
	giveUp := context.AfterFunc(ctx, func() { nc.Close() })
	err := ask(nc)
	if !giveUp() {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	conn, err := libssl.Client(nc, sslCtx, host)
	if err != nil {
		nc.Close()
		return nil, err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
