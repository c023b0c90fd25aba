// Command manynames serves many hosts, each with a certificate of its own: NAME.pem in a folder holds the chain and its key.
// A certificate is read when a client asks for its name, and again when its file has changed:
//
//	manynames -dir /etc/manynames -listen localhost:8443
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
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslhttp"
)

func main() {
	dir := flag.String("dir", ".", "folder with a file NAME.pem for each host")
	addr := flag.String("listen", "localhost:8443", "address to serve on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, *dir, *addr, func(a net.Addr) { log.Printf("listening on %s", a) }); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx is done, and then completes those that have begun.
func serve(ctx context.Context, dir, addr string, listening func(net.Addr)) error {
	sslCtx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		return err
	}
	defer sslCtx.Close()
	h := &hosts{dir: dir, known: map[string]host{}}
	if err := sslCtx.SetCertificateCallback(h.certificate); err != nil {
		return err
	}
	l, err := libssl.Listen("tcp", addr, sslCtx)
	if err != nil {
		return err
	}
	listening(l.Addr())
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "this is %s\n", r.TLS.ServerName) })}
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

// hosts are those of a folder that clients have asked for.
type hosts struct {
	dir   string
	mu    sync.Mutex
	known map[string]host
}

type host struct {
	file os.FileInfo // that cert was read from
	cert *libssl.Certificate
}

// certificate may take its time, as for a slow disk: only this handshake waits. A Certificate that was replaced is left to the
// collector, because another handshake may be about to use it.
func (h *hosts) certificate(_ context.Context, hello *libssl.ClientHello) (*libssl.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if !isHost(name) {
		return nil, fmt.Errorf("no host %q", name)
	}
	path := filepath.Join(h.dir, name+".pem")
	file, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	was := h.known[name]
	h.mu.Unlock()
	if was.cert != nil && os.SameFile(file, was.file) && file.ModTime().Equal(was.file.ModTime()) && file.Size() == was.file.Size() {
		return was.cert, nil
	}
	cert, err := libssl.LoadCertificate(path, "", nil)
	if err != nil {
		if was.cert == nil {
			return nil, err
		}
		log.Printf("the old certificate goes on serving: %v", err)
		cert = was.cert
	}
	h.mu.Lock()
	h.known[name] = host{file, cert}
	h.mu.Unlock()
	return cert, nil
}

// isHost keeps a client from choosing a file elsewhere.
func isHost(name string) bool {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' {
			return false
		}
	}
	return name != "" && name[0] != '.'
}
