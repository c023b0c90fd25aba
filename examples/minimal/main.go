// Command minimal is the smallest HTTPS server whose sessions are in a store.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
)

func listen(addr, certFile, keyFile string) (net.Listener, error) {
	ctx, err := libssl.NewServerContext(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	if _, err := ctx.UseStore(memstore.New(memstore.Options{}), nil); err != nil {
		return nil, err
	}
	return libssl.Listen("tcp", addr, ctx)
}

func serve(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "resumed:", r.TLS.DidResume)
}

func main() {
	l, err := listen("localhost:8443", "cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on https://%s/", l.Addr())
	log.Fatal(http.Serve(l, http.HandlerFunc(serve)))
}
