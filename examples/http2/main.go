// Command http2 serves HTTP/2 over libssl, with HTTP/1.1 for older clients, or
// fetches a page over libssl:
//
//	http2 -cert cert.pem -key key.pem -listen localhost:8443
//	http2 -ca ca.pem -get https://localhost:8443/
//
// net/http speaks HTTP/2 only over connections of crypto/tls. With
// golang.org/x/net/http2 the server itself chooses by the result of ALPN.
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
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/libssl-go/libssl"
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

const headerTimeout = 10 * time.Second

// serve answers requests until ctx is done.
func serve(ctx context.Context, certFile, keyFile, addr string, listening func(net.Addr)) error {
	sslCtx, err := libssl.NewServerContext(certFile, keyFile)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	if err := sslCtx.SetALPN("h2", "http/1.1"); err != nil {
		return err
	}
	l, err := libssl.Listen("tcp", addr, sslCtx)
	if err != nil {
		return err
	}
	listening(l.Addr())

	server := &http.Server{ReadHeaderTimeout: headerTimeout, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s over %s to %s\n", r.Proto, tls.VersionName(r.TLS.Version), r.TLS.ServerName)
		})}
	h2 := &http2.Server{IdleTimeout: time.Minute}
	if err := http2.ConfigureServer(server, h2); err != nil { // so that Shutdown ends HTTP/2 too
		return err
	}
	h1 := &handedOver{addr: l.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	go server.Serve(h1)

	var serving sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		nc, err := l.Accept()
		if err != nil {
			h1.Close()
			patience, cancel := context.WithTimeout(context.Background(), headerTimeout)
			defer cancel()
			down := server.Shutdown(patience)
			serving.Wait()
			if ctx.Err() != nil {
				return down
			}
			return err
		}
		serving.Go(func() {
			if c := nc.(*libssl.Conn); c.ConnectionState().NegotiatedProtocol == "h2" {
				h2.ServeConn(c, &http2.ServeConnOpts{Context: ctx, BaseConfig: server})
			} else {
				h1.serve(c)
			}
		})
	}
}

// handedOver is a listener for connections that are already accepted.
type handedOver struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (h *handedOver) serve(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handedOver) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handedOver) Addr() net.Addr { return h.addr }

// client is an HTTP/2 client over libssl that trusts the CAs of a file.
func client(caFile string) (*http.Client, func(), error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, nil, err
	}
	sslCtx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(sslCtx.AddRootCAsPEM(pem), sslCtx.SetALPN("h2")); err != nil {
		sslCtx.Close()
		return nil, nil, err
	}
	transport := &http2.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			c, err := libssl.DialContext(ctx, network, addr, sslCtx)
			if err != nil {
				return nil, err
			}
			if c.ConnectionState().NegotiatedProtocol != "h2" {
				c.Close()
				return nil, fmt.Errorf("%s does not speak HTTP/2", addr)
			}
			return c, nil
		},
	}
	return &http.Client{Transport: transport}, func() {
		transport.CloseIdleConnections()
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
