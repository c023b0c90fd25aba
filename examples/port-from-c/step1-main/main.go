// Command step1-main is the C server of step 0 with a main in Go. C still makes
// the SSL_CTX, accepts, serves and has its callbacks. Go wraps each callback in a
// handler that logs it. docs/porting.md leads from here to step 5.
package main

// #cgo pkg-config: libssl libcrypto
// #include <stdlib.h>
// #include "server.h"
import "C"

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"syscall"
	"unsafe"

	"github.com/libssl-go/libssl"
)

func main() {
	clientCAs := flag.String("a", "", "demand certificates of clients, signed by these `CAs`")
	lifetime := flag.Int("t", 300, "lifetime of a session in `seconds`")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: step1-main [-a CLIENT_CAS.pem] [-t SECONDS] CERT.pem KEY.pem")
	}
	if err := run(flag.Arg(0), flag.Arg(1), *clientCAs, *lifetime); err != nil {
		log.Fatal(err)
	}
}

// run serves until SIGTERM.
func run(cert, key, clientCAs string, lifetime int) error {
	signal.Ignore(syscall.SIGPIPE) // the C code writes to sockets that the client may have closed
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()

	sslCtx := newContext(cert, key, clientCAs, lifetime)
	if sslCtx == nil {
		return errors.New("the SSL_CTX could not be made")
	}
	defer C.SSL_CTX_free(sslCtx)
	ctx, err := libssl.AttachContext(unsafe.Pointer(sslCtx))
	if err != nil {
		return err
	}
	defer ctx.Close()
	watch(ctx)

	var port C.int
	fd, err := C.server_listen(&port)
	if fd < 0 {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Printf("listening on 127.0.0.1:%d\n", port)
	ended := make(chan error, 1)
	go func() { ended <- syscall.Errno(C.server_run(sslCtx, fd)) }()
	select {
	case err := <-ended:
		return fmt.Errorf("accept: %w", err)
	case <-stop.Done():
		return nil
	}
}

func newContext(cert, key, clientCAs string, lifetime int) *C.SSL_CTX {
	c, k := C.CString(cert), C.CString(key)
	defer C.free(unsafe.Pointer(c))
	defer C.free(unsafe.Pointer(k))
	var cas *C.char
	if clientCAs != "" {
		cas = C.CString(clientCAs)
		defer C.free(unsafe.Pointer(cas))
	}
	return C.server_ctx(c, k, cas, C.long(lifetime))
}

// watch wraps each C callback in a handler that logs it.
func watch(ctx *libssl.Context) {
	created, wanted, removed := ctx.SessNewCallback(), ctx.SessGetCallback(), ctx.SessRemoveCallback()
	ctx.SetSessNewCallback(func(ssl *libssl.SSL, s *libssl.Session) bool {
		log.Printf("new %s", s.ID())
		return created(ssl, s)
	})
	ctx.SetSessGetCallback(func(ssl *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		s, flag := wanted(ssl, id)
		log.Printf("get %s: %t", id, s != nil)
		return s, flag
	})
	ctx.SetSessRemoveCallback(func(c *libssl.Context, s *libssl.Session) {
		log.Printf("remove %s", s.ID())
		removed(c, s)
	})
}
