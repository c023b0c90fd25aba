// Command token serves with a key that stays in a token: an HSM, a smart card, or SoftHSM. OpenSSL 3.0 or newer, a provider
// for PKCS #11, and an openssl.cnf that loads it and names the token's library are what it needs:
//
//	PIN=1234 token -uri 'pkcs11:token=servers;object=www' -listen localhost:8443
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
)

func main() {
	uri := flag.String("uri", "pkcs11:token=servers", "certificate, its issuers and its key")
	addr := flag.String("listen", "localhost:8443", "address to serve on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, *uri, *addr, func(a net.Addr) { log.Printf("listening on %s", a) }); err != nil {
		log.Fatal(err)
	}
}

// pin is asked for once: from then on the provider is logged in. An URI that holds it would be seen in the list of processes.
func pin() ([]byte, error) {
	if pin := os.Getenv("PIN"); pin != "" {
		return []byte(pin), nil
	}
	return nil, errors.New("the environment has no PIN")
}

// serve answers requests until ctx is done, and then completes those that have begun.
func serve(ctx context.Context, uri, addr string, listening func(net.Addr)) error {
	cert, err := libssl.OpenCertificate(uri, &libssl.KeyOptions{Passphrase: pin})
	if err != nil {
		return err
	}
	defer cert.Close()
	sslCtx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	if err := sslCtx.UseCertificate(cert); err != nil {
		return err
	}
	l, err := libssl.Listen("tcp", addr, sslCtx)
	if err != nil {
		return err
	}
	listening(l.Addr())
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "signed in the token") })}
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
