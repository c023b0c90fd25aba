package cref

// #include "cref.h"
import "C"

import "unsafe"

// Write is SSL_write.
func Write(ssl unsafe.Pointer, p []byte) int {
	return int(C.cref_ssl_write((*C.SSL)(ssl), (*C.uchar)(unsafe.SliceData(p)), C.int(len(p))))
}

// Read is SSL_read; a negative result is that of SSL_get_error.
func Read(ssl unsafe.Pointer, p []byte) int {
	return int(C.cref_ssl_read((*C.SSL)(ssl), (*C.uchar)(unsafe.SliceData(p)), C.int(len(p))))
}

// WantRead is the negative of SSL_ERROR_WANT_READ.
const WantRead = -C.SSL_ERROR_WANT_READ

// UpdateKey sends a KeyUpdate that asks for one back.
func UpdateKey(ssl unsafe.Pointer) bool { return C.cref_ssl_update_key((*C.SSL)(ssl)) == 1 }

// LetAsk lets the server ask for a certificate after the handshake.
func LetAsk(ssl unsafe.Pointer) { C.cref_ssl_let_ask((*C.SSL)(ssl)) }

// AskForCertificate asks the client for one after the handshake.
func AskForCertificate(ssl unsafe.Pointer) bool { return C.cref_ssl_ask((*C.SSL)(ssl)) == 1 }

// LetRenegotiate lets both ends ask for another handshake.
func LetRenegotiate(ssl unsafe.Pointer) { C.cref_ssl_let_renegotiate((*C.SSL)(ssl)) }

// Renegotiate has the next write begin another handshake.
func Renegotiate(ssl unsafe.Pointer) bool { return C.SSL_renegotiate((*C.SSL)(ssl)) == 1 }

// Errors reports whether this thread's error queue has an entry, and may leave one there.
func Errors(leaveOne bool) bool {
	n := C.int(0)
	if leaveOne {
		n = 1
	}
	return C.cref_errors(n) == 1
}
