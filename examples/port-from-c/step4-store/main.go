// Command step4-store is step 3 with a store instead of the table and the
// callbacks. C still makes the SSL_CTX, accepts and serves.
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
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
)

func main() {
	clientCAs := flag.String("a", "", "demand certificates of clients, signed by these `CAs`")
	file := flag.String("s", "", "share the sessions with other processes through this `file`")
	lifetime := flag.Int("t", 300, "lifetime of a session in `seconds`")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: step4-store [-a CLIENT_CAS.pem] [-s FILE] [-t SECONDS] CERT.pem KEY.pem")
	}
	if err := run(flag.Arg(0), flag.Arg(1), *clientCAs, *lifetime, *file); err != nil {
		log.Fatal(err)
	}
}

// run serves until SIGTERM.
func run(cert, key, clientCAs string, lifetime int, file string) (err error) {
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
	if file != "" {
		db, err := sqlitestore.Open(file)
		if err != nil {
			return err
		}
		defer db.Close()
		sessions = db
	}
	cache, err := ctx.UseStore(sessions, &libssl.StoreOptions{OnError: func(err error) { log.Print(err) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close(context.Background())) }()

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

// sessions is the store: the memory of this process, unless -s names a file.
var sessions interface {
	store.Store
	store.Lister
} = memstore.New(memstore.Options{})

//export goTableSize
func goTableSize() (n C.long) {
	err := sessions.List(context.Background(), func(store.ID, int, time.Time) error {
		n++
		return nil
	})
	if err != nil {
		log.Print(err)
	}
	return n
}
