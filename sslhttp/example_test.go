package sslhttp_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
	"github.com/libssl-go/libssl/tests/tlstest"
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

// A Listener with limits of its own, and a client: both choose HTTP/2.
func ExampleServe() {
	cert, key := tlstest.SelfSigned("127.0.0.1")
	server, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	if err := server.UseCertificatePEM(cert, key); err != nil {
		log.Fatal(err)
	}
	l, err := libssl.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		log.Fatal(err)
	}
	l.HandshakeTimeout = 5 * time.Second
	l.MaxHandshakes = 1000
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello in", r.Proto)
	})}
	ended := make(chan error)
	go func() { ended <- sslhttp.Serve(srv, l) }()

	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	if err := ctx.AddRootCAsPEM(cert); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: sslhttp.Transport(ctx)}
	resp, err := client.Get("https://" + l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Print(string(body), err, "\n")

	client.CloseIdleConnections()
	err = srv.Shutdown(context.Background())
	fmt.Println(err, <-ended)
	// Output:
	// hello in HTTP/2.0
	// <nil>
	// <nil> http: Server closed
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
