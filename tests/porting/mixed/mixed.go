// Package mixed is the C half of a program that uses the same OpenSSL objects from C and through libssl. Each function
// is one C call on a pointer that libssl returned or will be given.
package mixed

/*
#cgo pkg-config: libssl libcrypto

#include <stdlib.h>
#include <openssl/ssl.h>

static long mixed_number(SSL_CTX *ctx) { return SSL_CTX_sess_number(ctx); }
static const unsigned char *mixed_id(const SSL_SESSION *s, unsigned int *len) { return SSL_SESSION_get_id(s, len); }

// A C program's own data on an SSL.
static int mixed_mark(SSL *ssl, char *text) { return SSL_set_app_data(ssl, text); }
static char *mixed_marked(SSL *ssl) { return SSL_get_app_data(ssl); }
*/
import "C"

import "unsafe"

// ContextUpRef is SSL_CTX_up_ref.
func ContextUpRef(ctx unsafe.Pointer) { C.SSL_CTX_up_ref((*C.SSL_CTX)(ctx)) }

// ContextFree is SSL_CTX_free.
func ContextFree(ctx unsafe.Pointer) { C.SSL_CTX_free((*C.SSL_CTX)(ctx)) }

// AddSession is SSL_CTX_add_session.
func AddSession(ctx, session unsafe.Pointer) bool {
	return C.SSL_CTX_add_session((*C.SSL_CTX)(ctx), (*C.SSL_SESSION)(session)) == 1
}

// RemoveSession is SSL_CTX_remove_session.
func RemoveSession(ctx, session unsafe.Pointer) bool {
	return C.SSL_CTX_remove_session((*C.SSL_CTX)(ctx), (*C.SSL_SESSION)(session)) == 1
}

// Number is SSL_CTX_sess_number.
func Number(ctx unsafe.Pointer) int { return int(C.mixed_number((*C.SSL_CTX)(ctx))) }

// SessionUpRef is SSL_SESSION_up_ref.
func SessionUpRef(session unsafe.Pointer) { C.SSL_SESSION_up_ref((*C.SSL_SESSION)(session)) }

// SessionFree is SSL_SESSION_free.
func SessionFree(session unsafe.Pointer) { C.SSL_SESSION_free((*C.SSL_SESSION)(session)) }

// SessionID is a copy of what SSL_SESSION_get_id points at.
func SessionID(session unsafe.Pointer) []byte {
	var n C.uint
	p := C.mixed_id((*C.SSL_SESSION)(session), &n)
	return C.GoBytes(unsafe.Pointer(p), C.int(n))
}

// Get1Session is SSL_get1_session: the reference is the caller's.
func Get1Session(ssl unsafe.Pointer) unsafe.Pointer {
	return unsafe.Pointer(C.SSL_get1_session((*C.SSL)(ssl)))
}

// Mark is SSL_set_app_data with a C string, which Unmark takes back.
func Mark(ssl unsafe.Pointer, text string) bool {
	return C.mixed_mark((*C.SSL)(ssl), C.CString(text)) == 1
}

// Unmark returns what Mark has set, and frees it.
func Unmark(ssl unsafe.Pointer) string {
	text := C.mixed_marked((*C.SSL)(ssl))
	defer C.free(unsafe.Pointer(text))
	C.mixed_mark((*C.SSL)(ssl), nil)
	return C.GoString(text)
}
