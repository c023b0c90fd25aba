// Command cabi is the library of lssl.h, a session cache for servers written in C. It is built with -buildmode=c-shared or
// c-archive. lssl.c has its functions, and this file the Go functions that they call.
package main

/*
#cgo pkg-config: libssl libcrypto

#include <stdlib.h>
#include "cabi.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/internal/parking"
	"github.com/libssl-go/libssl/internal/storeurl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

func main() {}

// cache is the Go side of a struct lssl_cache.
type cache struct {
	ctx      *libssl.Context
	sc       *libssl.SessionCache
	release  func() error // releases the store
	stopRing func()
}

var caches cgo.Registry[cache]

// failure is an error with its LSSL_E code.
type failure struct {
	code C.int
	err  error
}

func (f failure) Error() string { return f.err.Error() }

func fail(code C.int, err error) error {
	if err == nil {
		return nil
	}
	return failure{code, err}
}

// answer calls f and returns its result as a code of lssl.h. The error goes into text. It recovers a panic, which must not
// unwind C frames.
func answer(text *C.char, size C.size_t, f func() error) (code C.int) {
	var err error
	func() {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("internal error: %v", r)
			}
		}()
		err = f()
	}()
	if err == nil {
		return C.LSSL_OK
	}
	code = C.LSSL_EFAIL
	if f := (failure{}); errors.As(err, &f) {
		code = f.code
	} else if errors.Is(err, libssl.ErrUnsupported) {
		code = C.LSSL_EUNSUPPORTED
	}
	into := unsafe.Slice((*byte)(unsafe.Pointer(text)), int(size))
	n := copy(into[:len(into)-1], "lssl: "+strings.TrimPrefix(oneLine(err), "libssl: "))
	into[n] = 0
	return code
}

// oneLine joins the lines of errors.Join.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

//export lsslGoUseStore
func lsslGoUseStore(sslCtx *C.SSL_CTX, url *C.char, opt *C.struct_lssl_options, out *C.uint64_t, text *C.char, size C.size_t) C.int {
	return answer(text, size, func() error {
		c, err := useStore(unsafe.Pointer(sslCtx), C.GoString(url), opt)
		if err != nil {
			return err
		}
		*out = C.uint64_t(caches.Put(c))
		return nil
	})
}

// watchInterval is how often a key ring file is checked for changes.
const watchInterval = 5 * time.Second

func useStore(sslCtx unsafe.Pointer, url string, o *C.struct_lssl_options) (*cache, error) {
	c := &cache{release: func() error { return nil }, stopRing: func() {}}
	if err := c.open(sslCtx, url, o); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func (c *cache) open(sslCtx unsafe.Pointer, url string, o *C.struct_lssl_options) error {
	opt := &libssl.StoreOptions{
		Plaintext:     o.flags&C.LSSL_PLAINTEXT != 0,
		LookupTimeout: time.Duration(o.lookup_timeout_ms) * time.Millisecond,
		PutTimeout:    time.Duration(o.put_timeout_ms) * time.Millisecond,
		WriteBehind:   o.flags&(C.LSSL_WRITE_BEHIND|C.LSSL_PARK) != 0,
		MaxLifetime:   time.Duration(o.max_lifetime_s) * time.Second,
		SingleUse:     o.flags&C.LSSL_SINGLE_USE != 0,
		Revocable:     o.flags&C.LSSL_REVOCABLE != 0,
		OnError:       teller(o),
	}
	if o.keyring != nil {
		ring, stop, err := ticket.WatchRing(C.GoString(o.keyring), watchInterval, opt.OnError)
		if err != nil {
			return fail(C.LSSL_EKEYS, err)
		}
		opt.Keys, c.stopRing = ring, stop
	}
	st, release, err := openShared(url)
	if err != nil {
		return err
	}
	c.release = release
	if _, embedded := st.(store.Embedded); !embedded && opt.Keys == nil && !opt.Plaintext {
		return fail(C.LSSL_EKEYS, errors.New("a store of several hosts needs a keyring, or LSSL_PLAINTEXT if its readers may read the traffic"))
	}
	if c.ctx, err = libssl.AttachContext(sslCtx); err != nil {
		return fail(C.LSSL_EBUSY, err)
	}
	// After an lssl_close the SSL_CTX may still point to this library's callbacks, for the SSLs that live. They count as
	// none.
	if c.ctx.SessNewCallback() != nil || c.ctx.SessGetCallback() != nil || c.ctx.SessRemoveCallback() != nil {
		return fail(C.LSSL_EBUSY, errors.New("the SSL_CTX has a session callback"))
	}
	if o.id_context != nil {
		if err := c.ctx.SetSessionIDContext(C.GoBytes(o.id_context, C.int(o.id_context_len))); err != nil {
			return err
		}
	}
	if c.sc, err = c.ctx.UseStore(st, opt); err != nil {
		return err
	}
	if o.flags&C.LSSL_PARK != 0 {
		parking.Park(c.sc, func(ssl unsafe.Pointer) parking.Place { return newPlace(ssl, opt.OnError) })
	}
	return nil
}

// teller returns a Go function that calls the program's on_error, or nil if there is none.
func teller(o *C.struct_lssl_options) func(error) {
	f, arg := o.on_error, o.on_error_arg
	if f == nil {
		return nil
	}
	return func(err error) {
		text := C.CString(oneLine(err))
		defer C.free(unsafe.Pointer(text))
		C.cabi_tell(f, arg, text)
	}
}

// end releases everything that open has acquired.
func (c *cache) end() error {
	if c.ctx != nil {
		c.ctx.Close()
	}
	c.stopRing()
	return c.release()
}

//export lsslGoOrigin
func lsslGoOrigin(ssl *C.SSL, out *C.uchar) {
	o := parking.Origin(unsafe.Pointer(ssl))
	copy(unsafe.Slice((*byte)(unsafe.Pointer(out)), len(o)), o[:])
}

//export lsslGoRevoke
func lsslGoRevoke(h C.uint64_t, origin *C.uchar, text *C.char, size C.size_t) C.int {
	return answer(text, size, func() error {
		o := *(*libssl.SessionOrigin)(unsafe.Pointer(origin))
		if o == (libssl.SessionOrigin{}) {
			return fail(C.LSSL_EINVAL, errors.New("revoke: the name of the origin is zero"))
		}
		err := caches.Get(cgo.Handle(h)).sc.Revoke(context.Background(), o)
		if errors.Is(err, libssl.ErrUnsupported) {
			return err
		}
		return fail(C.LSSL_ESTORE, err)
	})
}

//export lsslGoStats
func lsslGoStats(h C.uint64_t, out *C.struct_lssl_stats) {
	s := caches.Get(cgo.Handle(h)).sc.Stats()
	out.hits, out.misses = C.uint64_t(s.Hits), C.uint64_t(s.Misses)
	out.errors, out.timeouts = C.uint64_t(s.Errors), C.uint64_t(s.Timeouts)
	out.rejected, out.undecodable, out.untagged = C.uint64_t(s.Rejected), C.uint64_t(s.Undecodable), C.uint64_t(s.Untagged)
	out.suspended, out.skipped = C.uint64_t(s.Suspended), C.uint64_t(s.Skipped)
	out.stored, out.removed = C.uint64_t(s.Stored), C.uint64_t(s.Removed)
	out.taken, out.put_back, out.lost = C.uint64_t(s.Taken), C.uint64_t(s.PutBack), C.uint64_t(s.Lost)
	out.too_large = C.uint64_t(s.TooLarge)
	out.parked, out.queued = C.uint64_t(s.Parked), C.uint64_t(s.Queue)
}

//export lsslGoClose
func lsslGoClose(h C.uint64_t, timeout C.uint, text *C.char, size C.size_t) C.int {
	return answer(text, size, func() error {
		c := caches.Get(cgo.Handle(h))
		caches.Delete(cgo.Handle(h))
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(timeout)*time.Millisecond)
		defer cancel()
		lost := fail(C.LSSL_ELOST, c.sc.Close(ctx))
		return errors.Join(lost, c.end())
	})
}

// ---- stores ---------------------------------------------------------------------

// shared holds the open stores by URL: all SSL_CTXs of the process that name a URL share one store and its connections.
var shared = struct {
	sync.Mutex
	stores map[string]*sharedStore
}{stores: map[string]*sharedStore{}}

type sharedStore struct {
	store.Store
	close func() error
	users int
}

func openShared(url string) (st store.Store, release func() error, err error) {
	shared.Lock()
	defer shared.Unlock()
	s := shared.stores[url]
	if s == nil {
		st, closeStore, err := storeurl.Open(url, true)
		if bad := storeurl.Error(""); errors.As(err, &bad) {
			return nil, nil, fail(C.LSSL_EINVAL, err)
		} else if err != nil {
			return nil, nil, fail(C.LSSL_ESTORE, err)
		}
		s = &sharedStore{Store: st, close: closeStore}
		shared.stores[url] = s
	}
	s.users++
	return s.Store, func() error {
		shared.Lock()
		defer shared.Unlock()
		if s.users--; s.users > 0 {
			return nil
		}
		delete(shared.stores, url)
		return s.close()
	}, nil
}

// ---- parked handshakes --------------------------------------------------------------

var places sync.Map // *place by *C.SSL, as unsafe.Pointer

// place is where a parked handshake of an event loop waits.
type place struct {
	ssl unsafe.Pointer
	fd  C.int
}

func newPlace(ssl unsafe.Pointer, onError func(error)) parking.Place {
	fd, err := C.cabi_fd_new()
	if fd < 0 {
		if onError != nil {
			onError(fmt.Errorf("a session was not looked up, for lack of a descriptor: %w", err))
		}
		return nil
	}
	p := &place{ssl, fd}
	places.Store(ssl, p)
	return p
}

func (p *place) Ready() { C.cabi_fd_wake(p.fd) }

func (p *place) Leave() {
	places.Delete(p.ssl)
	C.cabi_fd_close(p.fd)
}

//export lsslGoFd
func lsslGoFd(ssl *C.SSL) C.int {
	if p, ok := places.Load(unsafe.Pointer(ssl)); ok {
		return p.(*place).fd
	}
	return -1
}
