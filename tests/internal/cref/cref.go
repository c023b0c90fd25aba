// Package cref does with OpenSSL in C what the tests compare Go against: it counts SSL_SESSIONs, has the three session
// callbacks with their literal flags, and drives both ends of a connection without any Go.
package cref

/*
#cgo pkg-config: libssl libcrypto

#include <stdlib.h>
#include "cref.h"
#include <openssl/x509v3.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"time"
	"unsafe"
)

func init() {
	if C.cref_init() != 1 {
		panic("cref: no ex_data index left")
	}
}

// SessionsMade counts the SSL_SESSIONs that came to life in this process, duplicates included.
func SessionsMade() int { return int(C.cref_sessions_made()) }

// SessionsDestroyed counts those whose last reference was given back.
func SessionsDestroyed() int { return int(C.cref_sessions_destroyed()) }

// LiveSessions counts those that exist.
func LiveSessions() int { return int(C.cref_sessions_made() - C.cref_sessions_destroyed()) }

// ContextsDestroyed counts the SSL_CTXs whose last reference was given back.
func ContextsDestroyed() int { return int(C.cref_ctxs_destroyed()) }

// MasterKey is the secret of an SSL_SESSION.
func MasterKey(session unsafe.Pointer) []byte {
	b := make([]byte, 512)
	n := C.cref_master_key((*C.SSL_SESSION)(session), (*C.uchar)(unsafe.SliceData(b)), C.size_t(len(b)))
	return b[:n]
}

// BlankSession is an SSL_SESSION without a cipher, which has no serial form.
func BlankSession() unsafe.Pointer { return unsafe.Pointer(C.cref_session_without_cipher()) }

// ---- callbacks in C ------------------------------------------------------------

// New, Get and Remove name the callbacks to install or to ask for.
const (
	New    = C.CREF_NEW
	Get    = C.CREF_GET
	Remove = C.CREF_REMOVE
)

// Callbacks are C functions installed on an SSL_CTX, and what they have seen.
type Callbacks struct{ c *C.cref_callbacks }

// Install puts the C functions named by which onto an SSL_CTX.
func Install(sslCtx unsafe.Pointer, which int) (*Callbacks, error) {
	c := C.cref_install((*C.SSL_CTX)(sslCtx), C.int(which))
	if c == nil {
		return nil, errors.New("cref: out of memory")
	}
	return &Callbacks{c}, nil
}

// Keep says whether new returns 1 and keeps the session.
func (cb *Callbacks) Keep(yes bool) {
	cb.c.keep = 0
	if yes {
		cb.c.keep = 1
	}
}

// Untouched is Answer's copy for a get that leaves *copy as OpenSSL has preset it.
const Untouched = -1

// Answer makes get answer with the decoded session and set *copy to copy; with 0 it is answered once.
func (cb *Callbacks) Answer(der []byte, copy int) error {
	cb.c.copy = C.int(copy)
	if C.cref_answer_der(cb.c, (*C.uchar)(unsafe.SliceData(der)), C.size_t(len(der))) != 1 {
		return errors.New("cref: cannot decode")
	}
	return nil
}

// Calls counts what was called so far.
func (cb *Callbacks) Calls() (news, gets, removes int) {
	return int(cb.c.news), int(cb.c.gets), int(cb.c.removes)
}

// Kept counts the references that new has kept.
func (cb *Callbacks) Kept() int { return int(cb.c.nkept) }

// Made is the serial form of the last session that new saw.
func (cb *Callbacks) Made() []byte { return C.GoBytes(unsafe.Pointer(cb.c.der), cb.c.der_len) }

// Free gives back what the callbacks hold. They must not be called any more.
func (cb *Callbacks) Free() { C.cref_callbacks_free(cb.c) }

// The functions that a callback pointer of an SSL_CTX may name.
const (
	Unset  = 0
	Ours   = 1 // a function of cref
	Others = 2
)

// Installed says which function the C pointer of one callback names.
func Installed(sslCtx unsafe.Pointer, which int) int {
	return int(C.cref_installed((*C.SSL_CTX)(sslCtx), C.int(which)))
}

// ---- contexts and connections -----------------------------------------------------

// NewContext makes an SSL_CTX in C.
func NewContext(client bool) unsafe.Pointer {
	if client {
		return unsafe.Pointer(C.cref_ctx_new(1))
	}
	return unsafe.Pointer(C.cref_ctx_new(0))
}

// NewDTLSContext makes an SSL_CTX for servers of DTLS.
func NewDTLSContext() unsafe.Pointer { return unsafe.Pointer(C.cref_ctx_new_dtls()) }

// FreeContext gives an SSL_CTX's reference back, in C.
func FreeContext(sslCtx unsafe.Pointer) { C.cref_ctx_free((*C.SSL_CTX)(sslCtx)) }

// Flush is SSL_CTX_flush_sessions of all.
func Flush(sslCtx unsafe.Pointer) { C.cref_flush((*C.SSL_CTX)(sslCtx)) }

// SwitchOnName makes a servername callback in C that switches every SSL of one SSL_CTX to another.
func SwitchOnName(sslCtx, to unsafe.Pointer) {
	C.cref_sni_switch((*C.SSL_CTX)(sslCtx), (*C.SSL_CTX)(to))
}

// SwitchOnHello does that in a ClientHello callback.
func SwitchOnHello(sslCtx, to unsafe.Pointer) {
	C.cref_sni_switch_in_hello((*C.SSL_CTX)(sslCtx), (*C.SSL_CTX)(to))
}

// LetAllIn makes a verify callback in C that is content with whatever certificate the peer shows. The result of the
// verification stays what it was.
func LetAllIn(sslCtx unsafe.Pointer) { C.cref_let_all_in((*C.SSL_CTX)(sslCtx)) }

// SetVerifyDepth bounds the intermediate certificates in a peer chain, for which Go has no setter.
func SetVerifyDepth(sslCtx unsafe.Pointer, n int) {
	C.SSL_CTX_set_verify_depth((*C.SSL_CTX)(sslCtx), C.int(n))
}

// SetVerifyTime has chains judged as of a time.
func SetVerifyTime(sslCtx unsafe.Pointer, at time.Time) {
	C.X509_VERIFY_PARAM_set_time(C.SSL_CTX_get0_param((*C.SSL_CTX)(sslCtx)), C.time_t(at.Unix()))
}

// DemandCRLs makes a chain need revocation lists.
func DemandCRLs(sslCtx unsafe.Pointer) bool {
	return C.cref_demand((*C.SSL_CTX)(sslCtx), C.X509_V_FLAG_CRL_CHECK, 0, nil) == 1
}

// DemandServer makes a chain need to be a server's.
func DemandServer(sslCtx unsafe.Pointer) bool {
	return C.cref_demand((*C.SSL_CTX)(sslCtx), 0, C.X509_PURPOSE_SSL_SERVER, nil) == 1
}

// DemandHost makes a chain need to be for a host.
func DemandHost(sslCtx unsafe.Pointer, host string) bool {
	name := C.CString(host)
	defer C.free(unsafe.Pointer(name))
	return C.cref_demand((*C.SSL_CTX)(sslCtx), 0, 0, name) == 1
}

// TrustNone gives the context a verify store that is empty, beside its own.
func TrustNone(sslCtx unsafe.Pointer) bool { return C.cref_trust_none((*C.SSL_CTX)(sslCtx)) == 1 }

// VerifyBy gives the context a verify store with one CA, beside its own.
func VerifyBy(sslCtx unsafe.Pointer, ca []byte) bool {
	p, n := text(ca)
	return C.cref_verify_by((*C.SSL_CTX)(sslCtx), p, n) == 1
}

// LetNoneIn makes a verify callback in C that is content with nothing.
func LetNoneIn(sslCtx unsafe.Pointer) { C.cref_let_none_in((*C.SSL_CTX)(sslCtx)) }

// SetCAPath has CAs read from a folder, each when a chain needs it.
func SetCAPath(sslCtx unsafe.Pointer, dir string) bool {
	name := C.CString(dir)
	defer C.free(unsafe.Pointer(name))
	return C.cref_ca_dir((*C.SSL_CTX)(sslCtx), name) == 1
}

// Announce adds a CA to those whose names clients are told.
func Announce(sslCtx unsafe.Pointer, ca []byte) bool {
	p, n := text(ca)
	return C.cref_announce((*C.SSL_CTX)(sslCtx), p, n) == 1
}

// CAFile is the name that a CA's file has in such a folder.
func CAFile(ca []byte) string {
	p, n := text(ca)
	return fmt.Sprintf("%08x.0", uint32(C.cref_ca_hash(p, n)))
}

// AddCRL adds a revocation list to the CAs.
func AddCRL(sslCtx unsafe.Pointer, crl []byte) bool {
	p, n := text(crl)
	return C.cref_add_crl((*C.SSL_CTX)(sslCtx), p, n) == 1
}

// SetSecurityLevel sets what is too weak.
func SetSecurityLevel(sslCtx unsafe.Pointer, level int) {
	C.SSL_CTX_set_security_level((*C.SSL_CTX)(sslCtx), C.int(level))
}

// CertifyByCallback has a callback in C give each SSL its certificate.
func CertifyByCallback(sslCtx unsafe.Pointer, cert, key []byte) bool {
	c, cn := text(cert)
	k, kn := text(key)
	return C.cref_certify_by_callback((*C.SSL_CTX)(sslCtx), c, cn, k, kn) == 1
}

// ReadPair reads a certificate and its key, nil if it cannot.
func ReadPair(cert, key []byte) unsafe.Pointer {
	c, cn := text(cert)
	k, kn := text(key)
	return C.cref_pair_read(c, cn, k, kn)
}

// DropPair frees what ReadPair has read.
func DropPair(p unsafe.Pointer) { C.cref_pair_drop(p) }

func text(b []byte) (*C.char, C.int) {
	return (*C.char)(unsafe.Pointer(unsafe.SliceData(b))), C.int(len(b))
}

// AskForFragments has clients of the context ask for fragments of 2^(8+n) bytes at most, or of any size for 0.
func AskForFragments(sslCtx unsafe.Pointer, n int) bool {
	return C.cref_ask_for_fragments((*C.SSL_CTX)(sslCtx), C.int(n)) == 1
}

// WatchNames counts, from 0 on, the servers that confirm the server name of a client of the context.
func WatchNames(sslCtx unsafe.Pointer) { C.cref_watch_names((*C.SSL_CTX)(sslCtx)) }

// NamesConfirmed is that count.
func NamesConfirmed() int { return int(C.cref_names_confirmed()) }

// VerifyResult is SSL_get_verify_result.
func VerifyResult(ssl unsafe.Pointer) int { return int(C.SSL_get_verify_result((*C.SSL)(ssl))) }

// RenewTickets makes a server issue a new ticket for each one it accepts.
func RenewTickets(sslCtx unsafe.Pointer) { C.cref_renew_tickets((*C.SSL_CTX)(sslCtx)) }

// SetTimeout is SSL_CTX_set_timeout.
func SetTimeout(sslCtx unsafe.Pointer, seconds int64) {
	C.SSL_CTX_set_timeout((*C.SSL_CTX)(sslCtx), C.long(seconds))
}

// SetMaxEarlyData says how much early data a server takes, which libssl offers with a store only.
func SetMaxEarlyData(sslCtx unsafe.Pointer, n uint32) error {
	if C.cref_set_early_data((*C.SSL_CTX)(sslCtx), C.uint32_t(n)) != 1 {
		return errors.New("cref: early data")
	}
	return nil
}

// SetAsync sets SSL_MODE_ASYNC on an SSL_CTX.
func SetAsync(sslCtx unsafe.Pointer) { C.cref_ctx_set_async((*C.SSL_CTX)(sslCtx)) }

// InAsyncJob says whether its caller runs on the stack of an ASYNC job.
func InAsyncJob() bool { return C.cref_in_async_job() == 1 }

// Pair is both ends of a connection, made and driven by C.
type Pair struct{ c *C.cref_pair }

// NewPair makes the SSLs of a connection; the client asks for name and offers a session, where given.
func NewPair(client, server unsafe.Pointer, name string, offer unsafe.Pointer) (*Pair, error) {
	var cname *C.char
	if name != "" {
		cname = C.CString(name)
		defer C.free(unsafe.Pointer(cname))
	}
	c := C.cref_pair_new((*C.SSL_CTX)(client), (*C.SSL_CTX)(server), cname, (*C.SSL_SESSION)(offer))
	if c == nil {
		return nil, errors.New("cref: no pair")
	}
	return &Pair{c}, nil
}

// Run handshakes and moves a byte each way.
func (p *Pair) Run() bool { return C.cref_pair_run(p.c) == 1 }

// The results of Step.
const (
	Failed = 0
	Done   = 1
	Parked = 2
)

// Step handshakes as far as that goes without waiting. Parked, the server's ClientHello callback waits.
func (p *Pair) Step() int { return int(C.cref_pair_step(p.c)) }

// Clear takes the server's SSL through SSL_clear and gives it another client.
func (p *Pair) Clear(client, offer unsafe.Pointer) bool {
	return C.cref_pair_clear(p.c, (*C.SSL_CTX)(client), (*C.SSL_SESSION)(offer)) == 1
}

// RunOnThread is Run on a thread that C starts and Go does not know.
func (p *Pair) RunOnThread() bool { return C.cref_pair_run_on_thread(p.c) == 1 }

// Renegotiate has the server ask for a second handshake of TLS 1.2, and drives it.
func (p *Pair) Renegotiate() bool { return C.cref_pair_renegotiate(p.c) == 1 }

// Reused says whether both ends resumed.
func (p *Pair) Reused() bool { return C.cref_pair_reused(p.c) == 1 }

// Session is SSL_get1_session of the client.
func (p *Pair) Session() unsafe.Pointer { return unsafe.Pointer(C.cref_pair_session(p.c)) }

// Client and Server are the SSLs.
func (p *Pair) Client() unsafe.Pointer { return unsafe.Pointer(p.c.client) }
func (p *Pair) Server() unsafe.Pointer { return unsafe.Pointer(p.c.server) }

// Free frees both SSLs, the client's after a close_notify, the server's after one if clean.
func (p *Pair) Free(clean bool) {
	if clean {
		C.cref_pair_free(p.c, 1)
	} else {
		C.cref_pair_free(p.c, 0)
	}
}

// SetIDContext sets the id context of one SSL.
func SetIDContext(ssl unsafe.Pointer, sid string) bool {
	s := C.CString(sid)
	defer C.free(unsafe.Pointer(s))
	return C.cref_ssl_id_context((*C.SSL)(ssl), s) == 1
}

// SetContextIDContext sets that of an SSL_CTX.
func SetContextIDContext(sslCtx unsafe.Pointer, sid string) bool {
	s := C.CString(sid)
	defer C.free(unsafe.Pointer(s))
	return C.cref_ctx_id_context((*C.SSL_CTX)(sslCtx), s) == 1
}

// Accept is a server's handshake on a socket, which blocks.
func Accept(sslCtx unsafe.Pointer, fd int) bool {
	return C.cref_accept((*C.SSL_CTX)(sslCtx), C.int(fd)) == 1
}

// CurrentContext is SSL_get_SSL_CTX.
func CurrentContext(ssl unsafe.Pointer) unsafe.Pointer {
	return unsafe.Pointer(C.SSL_get_SSL_CTX((*C.SSL)(ssl)))
}
