package cref

/*
#cgo pkg-config: libssl libcrypto

#include <stdlib.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>

char *cref_certificate_pem(void);
static void cref_free(void *p) { OPENSSL_free(p); }
int cref_has(const char *name);
char *cref_observe(const char *name, int *broken);
void *cref_hold_lock(SSL_CTX *ctx, SSL_SESSION *like);
void cref_release_lock(void *lock);
void cref_keep_session(const char *writer, const unsigned char *server, size_t server_len, const unsigned char *client,
                       size_t client_len);
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// Has says whether there is a scenario of that name.
func Has(name string) bool {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	return C.cref_has(cname) == 1
}

// Observe runs a fact's scenario in C and returns the lines it left: "case: text", each ended by a newline.
func Observe(name string) (string, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var broken C.int
	text := C.cref_observe(cname, &broken)
	if text == nil {
		return "", fmt.Errorf("cref: no scenario is called %q", name)
	}
	defer C.free(unsafe.Pointer(text))
	if broken != 0 {
		return "", errors.New(C.GoString(text))
	}
	return C.GoString(text), nil
}

// CertificatePEM is the certificate of every lab, and its key, in one text.
func CertificatePEM() ([]byte, error) {
	pem := C.cref_certificate_pem()
	if pem == nil {
		return nil, errors.New("cref: no certificate")
	}
	defer C.cref_free(unsafe.Pointer(pem))
	return []byte(C.GoString(pem)), nil
}

// HoldLock has a thread hold an SSL_CTX's lock until release is called. Two duplicates of like are put into the cache
// for it, where the second stays.
func HoldLock(sslCtx, like unsafe.Pointer) (release func()) {
	lock := C.cref_hold_lock((*C.SSL_CTX)(sslCtx), (*C.SSL_SESSION)(like))
	return func() { C.cref_release_lock(lock) }
}

// KeepSession gives the C side of F7.3 a session that some release wrote, the server's and the client's: DER. Those of one
// writer come in a row, before any fact is observed.
func KeepSession(writer string, server, client []byte) {
	cwriter := C.CString(writer)
	defer C.free(unsafe.Pointer(cwriter))
	C.cref_keep_session(cwriter, (*C.uchar)(unsafe.SliceData(server)), C.size_t(len(server)),
		(*C.uchar)(unsafe.SliceData(client)), C.size_t(len(client)))
}
