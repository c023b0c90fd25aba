package cref

/*
#cgo pkg-config: libssl libcrypto

#include <openssl/ssl.h>
#include <stdint.h>

void cref_call_bare(SSL *ssl, SSL_SESSION *sess, long n);
int cref_call_new(SSL_CTX *ctx, SSL *ssl, SSL_SESSION *sess, long n);
int64_t cref_call_new_on_thread(SSL_CTX *ctx, SSL *ssl, SSL_SESSION *sess, long n);
int cref_call_get(SSL_CTX *ctx, SSL *ssl, long n);
int cref_call_remove(SSL_CTX *ctx, SSL_SESSION *sess, long n);
*/
import "C"

import (
	"errors"
	"time"
	"unsafe"
)

// Dispatcher calls the callbacks that are installed on an SSL_CTX, many times from one C loop, so that
// what one call costs can be seen.
type Dispatcher struct {
	ctx  *C.SSL_CTX
	ssl  *C.SSL
	sess *C.SSL_SESSION
}

// NewDispatcher makes an SSL_CTX and hands it to attach, which may install handlers; the SSL that the
// callbacks are called for is made after that.
func NewDispatcher(attach func(sslCtx unsafe.Pointer) error) (*Dispatcher, error) {
	d := &Dispatcher{ctx: C.SSL_CTX_new(C.TLS_server_method()), sess: C.SSL_SESSION_new()}
	if d.ctx == nil || d.sess == nil {
		d.Close()
		return nil, errors.New("out of memory")
	}
	if err := attach(unsafe.Pointer(d.ctx)); err != nil {
		d.Close()
		return nil, err
	}
	if d.ssl = C.SSL_new(d.ctx); d.ssl == nil {
		d.Close()
		return nil, errors.New("SSL_new failed")
	}
	return d, nil
}

// Close frees the C objects.
func (d *Dispatcher) Close() {
	C.SSL_free(d.ssl)
	C.SSL_SESSION_free(d.sess)
	C.SSL_CTX_free(d.ctx)
}

// Bare calls an empty Go function n times: the runtime's own price of a call from C.
func (d *Dispatcher) Bare(n int) { C.cref_call_bare(d.ssl, d.sess, C.long(n)) }

// New calls the new callback n times. Its handler must answer false.
func (d *Dispatcher) New(n int) bool { return C.cref_call_new(d.ctx, d.ssl, d.sess, C.long(n)) == 1 }

// NewOnThread does so on a thread that C made, once more to begin with, and returns how long the n took, or 0.
func (d *Dispatcher) NewOnThread(n int) time.Duration {
	return time.Duration(C.cref_call_new_on_thread(d.ctx, d.ssl, d.sess, C.long(n)))
}

// Get calls the get callback n times. Its handler must answer with a miss.
func (d *Dispatcher) Get(n int) bool { return C.cref_call_get(d.ctx, d.ssl, C.long(n)) == 1 }

// Remove calls the remove callback n times.
func (d *Dispatcher) Remove(n int) bool { return C.cref_call_remove(d.ctx, d.sess, C.long(n)) == 1 }

//export crefGoBare
func crefGoBare(*C.SSL, *C.SSL_SESSION) C.int { return 0 }
