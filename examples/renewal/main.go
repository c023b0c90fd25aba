// Command renewal serves with a certificate that is renewed meanwhile, as ACME clients and Kubernetes secrets do it. It
// looks at the files every second. Connections that are open, and sessions made under the former certificate, go on:
//
//	renewal -cert cert.pem -key key.pem -listen localhost:8443
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
	"github.com/libssl-go/libssl/store/memstore"
)

func main() {
	cert := flag.String("cert", "cert.pem", "certificate chain")
	key := flag.String("key", "key.pem", "its key")
	addr := flag.String("listen", "localhost:8443", "address to serve on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := serve(ctx, *cert, *key, *addr, time.Second, func(a net.Addr) { log.Printf("listening on %s", a) })
	if err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx is done, and then completes those that have begun.
func serve(ctx context.Context, certFile, keyFile, addr string, every time.Duration, listening func(net.Addr)) error {
	sslCtx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	// Files that cannot be read, or do not fit each other yet, change nothing.
	unwatch, err := sslCtx.WatchCertificate(certFile, keyFile, every, func(err error) {
		log.Printf("the old certificate goes on serving until %v: %v", sslCtx.CertificateExpires(), err)
	})
	if err != nil {
		return err
	}
	defer unwatch()
	if _, err := sslCtx.UseStore(memstore.New(memstore.Options{}), nil); err != nil {
		return err
	}
	l, err := libssl.Listen("tcp", addr, sslCtx)
	if err != nil {
		return err
	}
	listening(l.Addr())
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "resumed:", r.TLS.DidResume) })}
	down := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		down <- server.Shutdown(patience)
	})
	if err := sslhttp.Serve(server, l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-down
}
