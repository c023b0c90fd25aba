// Command step5-go is the server of step 0 in Go only.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
)

func main() {
	clientCAs := flag.String("a", "", "demand certificates of clients, signed by these `CAs`")
	file := flag.String("s", "", "share the sessions with other processes through this `file`")
	lifetime := flag.Int("t", 300, "lifetime of a session in `seconds`")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: step5-go [-a CLIENT_CAS.pem] [-s FILE] [-t SECONDS] CERT.pem KEY.pem")
	}
	if err := run(flag.Arg(0), flag.Arg(1), *clientCAs, *lifetime, *file); err != nil {
		log.Fatal(err)
	}
}

// run serves until SIGTERM.
func run(cert, key, clientCAs string, lifetime int, file string) (err error) {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()

	ctx, err := newContext(cert, key, clientCAs, lifetime)
	if err != nil {
		return err
	}
	defer ctx.Close()
	if file != "" {
		db, err := sqlitestore.Open(file)
		if err != nil {
			return err
		}
		defer db.Close()
		sessions = db
	}
	cache, err := ctx.UseStore(sessions, &libssl.StoreOptions{OnError: func(err error) { log.Print(err) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close(context.Background())) }()

	l, err := libssl.Listen("tcp", "127.0.0.1:0", ctx)
	if err != nil {
		return err
	}
	context.AfterFunc(stop, func() { l.Close() })
	fmt.Printf("listening on %s\n", l.Addr())
	for {
		conn, err := l.Accept()
		if stop.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go serve(conn.(*libssl.Conn), ctx)
	}
}

func newContext(cert, key, clientCAs string, lifetime int) (*libssl.Context, error) {
	ctx, err := libssl.NewServerContext(cert, key)
	if err != nil {
		return nil, err
	}
	if clientCAs != "" {
		var pem []byte
		if pem, err = os.ReadFile(clientCAs); err == nil {
			err = errors.Join(ctx.AddClientCAsPEM(pem), ctx.SetVerify(libssl.VerifyRequirePeer))
		}
	}
	if err != nil {
		ctx.Close()
		return nil, err
	}
	ctx.SetSessionTimeout(time.Duration(lifetime) * time.Second)
	return ctx, nil
}

// serve answers lines until it reads a wrong one.
func serve(conn *libssl.Conn, ctx *libssl.Context) {
	defer conn.Close() // not Abort: a wrong line is no reason to drop the session
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() != "status" {
			return
		}
		state := conn.ConnectionState()
		resumed := "no"
		if state.DidResume {
			resumed = "yes"
		}
		_, err := fmt.Fprintf(conn, "version=%s resumed=%s sessions=%d answered=%d\n",
			strings.Replace(tls.VersionName(state.Version), " ", "v", 1), resumed, size(), ctx.Stats().CallbackHits)
		if err != nil {
			return
		}
	}
}

// sessions is the store: the memory of this process, unless -s names a file.
var sessions interface {
	store.Store
	store.Lister
} = memstore.New(memstore.Options{})

func size() (n int) {
	err := sessions.List(context.Background(), func(store.ID, int, time.Time) error {
		n++
		return nil
	})
	if err != nil {
		log.Print(err)
	}
	return n
}
