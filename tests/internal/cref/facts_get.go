package cref

/*
#cgo pkg-config: libssl libcrypto

#include "cref.h"

int cref_offer_identity(SSL_CTX *client);
const unsigned char *cref_offered_identity(void);
int cref_session_drop_cipher(SSL_SESSION *s);
unsigned long cref_thread(void);
*/
import "C"

import "unsafe"

// Watch watches one SSL_SESSION, in the place of the one before.
func Watch(session unsafe.Pointer) { C.cref_watch((*C.SSL_SESSION)(session)) }

// WatchedIsGone says whether the last reference to it has been given back.
func WatchedIsGone() bool { return C.cref_watched_gone() == 1 }

// OfferIdentity makes TLS 1.3 clients of an SSL_CTX offer a PSK after the session they offer, and returns its identity,
// which has the length of a stateful ticket.
func OfferIdentity(client unsafe.Pointer) []byte {
	if C.cref_offer_identity((*C.SSL_CTX)(client)) != 1 {
		return nil
	}
	return C.GoBytes(unsafe.Pointer(C.cref_offered_identity()), 32)
}

// DropCipher is SSL_SESSION_set_cipher of NULL.
func DropCipher(session unsafe.Pointer) bool {
	return C.cref_session_drop_cipher((*C.SSL_SESSION)(session)) == 1
}

// Thread tells the calling thread from others.
func Thread() uint64 { return uint64(C.cref_thread()) }
