// Command http2 serves HTTP/2 over libssl, with HTTP/1.1 for older clients, or
// fetches a page over libssl:
//
//	http2 -cert cert.pem -key key.pem -listen localhost:8443
//	http2 -ca ca.pem -get https://localhost:8443/
//
// net/http speaks HTTP/2 only over connections of crypto/tls; package sslhttp
// makes it speak HTTP/2 over libssl too.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
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
	cert := flag.String("cert", "cert.pem", "certificate chain")
	key := flag.String("key", "key.pem", "its key")
	addr := flag.String("listen", "localhost:8443", "address to serve on")
	ca := flag.String("ca", "ca.pem", "CAs to trust for -get")
	url := flag.String("get", "", "fetch this instead of serving")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *url != "" {
		err = get(ctx, *ca, *url, os.Stdout)
	} else {
		err = serve(ctx, *cert, *key, *addr, func(a net.Addr) { log.Printf("listening on %s", a) })
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx is done, and then completes those that have begun.
func serve(ctx context.Context, certFile, keyFile, addr string, listening func(net.Addr)) error {
	sslCtx, err := libssl.NewServerContext(certFile, keyFile)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	l, err := libssl.Listen("tcp", addr, sslCtx)
	if err != nil {
		return err
	}
	listening(l.Addr())

	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s over %s to %s\n", r.Proto, tls.VersionName(r.TLS.Version), r.TLS.ServerName)
		})}
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

// client is a client over libssl that trusts the CAs of a file.
func client(caFile string) (*http.Client, func(), error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, nil, err
	}
	sslCtx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		return nil, nil, err
	}
	if err := sslCtx.AddRootCAsPEM(pem); err != nil {
		sslCtx.Close()
		return nil, nil, err
	}
	c := &http.Client{Transport: sslhttp.Transport(sslCtx)}
	return c, func() {
		c.CloseIdleConnections()
		sslCtx.Close()
	}, nil
}

func get(ctx context.Context, caFile, url string, out io.Writer) error {
	c, done, err := client(caFile)
	if err != nil {
		return err
	}
	defer done()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(out, resp.Body)
	return err
}
