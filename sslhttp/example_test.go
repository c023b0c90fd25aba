package sslhttp_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
)

// A server of HTTP/1.1 and HTTP/2.
func ExampleListenAndServe() {
	ctx, err := libssl.NewServerContext("cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{
		Addr:              ":8443",
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.Proto, "resumed:", r.TLS.DidResume)
		}),
	}
	log.Fatal(sslhttp.ListenAndServe(srv, ctx))
}

// A Listener with limits of its own.
func ExampleServe() {
	ctx, err := libssl.NewServerContext("cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	l, err := libssl.Listen("tcp", ":8443", ctx)
	if err != nil {
		log.Fatal(err)
	}
	l.HandshakeTimeout = 5 * time.Second
	l.MaxHandshakes = 1000
	log.Fatal(sslhttp.Serve(&http.Server{Handler: http.FileServer(http.Dir("public"))}, l))
}

// A client.
func ExampleTransport() {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	client := &http.Client{Transport: sslhttp.Transport(ctx)}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://localhost:8443/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.Proto, resp.TLS.DidResume, string(body), err)
}
