// Command mutual serves clients that have a certificate of one of the CAs in a file and are not on its CA's list of revoked
// ones. The lists are read again on SIGHUP. A client that is revoked meanwhile does not resume its session either:
//
//	mutual -cert cert.pem -key key.pem -ca clients.pem -crl revoked.pem -listen localhost:8443
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
	"syscall"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
	"github.com/libssl-go/libssl/store/memstore"
)

type files struct{ cert, key, ca, crl string }

func main() {
	var f files
	flag.StringVar(&f.cert, "cert", "cert.pem", "certificate chain")
	flag.StringVar(&f.key, "key", "key.pem", "its key")
	flag.StringVar(&f.ca, "ca", "clients.pem", "CAs of the clients")
	flag.StringVar(&f.crl, "crl", "revoked.pem", "a list of revoked certificates for each CA")
	addr := flag.String("listen", "localhost:8443", "address to serve on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	if err := serve(ctx, f, *addr, hup, func(a net.Addr) { log.Printf("listening on %s", a) }); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx is done, and then completes those that have begun.
func serve(ctx context.Context, f files, addr string, reload <-chan os.Signal, listening func(net.Addr)) error {
	sslCtx, err := libssl.NewServerContext(f.cert, f.key)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	ca, err := os.ReadFile(f.ca)
	if err != nil {
		return err
	}
	if err := errors.Join(sslCtx.AddClientCAsPEM(ca), addLists(sslCtx, f.crl), sslCtx.SetVerify(libssl.VerifyRequirePeer)); err != nil {
		return err
	}
	// UseStore would compute one that changes with the lists, so that each client makes a full handshake. By this one those who
	// are not revoked resume. The lists judge each resumption either way.
	if err := sslCtx.SetSessionIDContext([]byte("mutual")); err != nil {
		return err
	}
	if _, err := sslCtx.UseStore(memstore.New(memstore.Options{}), nil); err != nil {
		return err
	}
	l, err := libssl.Listen("tcp", addr, sslCtx)
	if err != nil {
		return err
	}
	listening(l.Addr())
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "welcome, %s\n", r.TLS.PeerCertificates[0].Subject.CommonName)
		})}
	down := make(chan error, 1)
	go func() {
		for {
			select {
			case <-reload:
				if err := addLists(sslCtx, f.crl); err != nil {
					log.Printf("the old lists go on: %v", err)
				}
			case <-ctx.Done():
				patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				down <- server.Shutdown(patience)
				return
			}
		}
	}()
	if err := sslhttp.Serve(server, l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-down
}

func addLists(sslCtx *libssl.Context, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := sslCtx.AddCRLsPEM(pem); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
