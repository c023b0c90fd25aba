package libssl

// #include "bridge.h"
import "C"

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"reflect"
	"runtime"
	"strings"
	"unsafe"

	"github.com/libssl-go/libssl/internal/hello"
)

// ClientHello is what a client asks a certificate for: see Context.SetCertificateCallback. Lists are in the client's order
// and may hold values that no release of OpenSSL knows. A callback may keep them.
type ClientHello struct {
	ServerName       string // as the client has sent it, "" without one
	ALPN             []string
	Versions         []uint16
	CipherSuites     []uint16
	SignatureSchemes []uint16
	Conn             net.Conn // the connection below, for its addresses; it must not be read or written
}

// CertificateRequest is a server's wish for a client certificate: see Context.SetClientCertificateCallback.
type CertificateRequest struct {
	AcceptableCAs    [][]byte // names in DER, empty for any
	SignatureSchemes []uint16
	Version          uint16
}

// SetCertificateCallback sets the function that chooses the certificate for each ClientHello; nil takes it away. With nil,
// nil as its answer the Context's own certificates serve, those of UseCertificate and its kin. An error, a panic and a
// Certificate that is closed end the handshake: Handshake returns an error that wraps the reason, and the client gets the
// alert internal_error. OnCallbackError is told of panics. Corresponds to SSL_CTX_set_cert_cb(3), but runs before a session
// is looked up.
//
// f is asked once in each handshake, resumed ones included, so that no session outlives f's refusal. After a
// HelloRetryRequest the first answer holds. Where a server-name handler chooses another Context, that one's callback is
// asked, if it has one. New handshakes have a new f.
//
// Resumption: each server name has a session id context of its own, which is computed from that of the Context and the
// name. So sessions and tickets resume under the name that they were made under and no other, whichever certificates f
// chooses, and a renewed certificate keeps them. Before UseStore and UseTicketKeys compute an id context, f has to be set,
// and it can then be replaced but not taken away: that is an error.
//
// Ownership: the Certificate stays the callback's. Close one that was replaced only when f can no longer return it, or leave
// it to the collector.
//
// Locks and threads: the handshake is parked, so f holds no OS thread however long it takes. ctx ends when the client leaves,
// at the handshake's timeout or deadline, which is final then, and when the Conn or the Listener is closed. If f takes longer
// than a few milliseconds the connection is read ahead, up to 16 KiB, to notice these. In f, calls that need the handshake
// (Handshake, Read, Write, ConnectionState) answer ErrReentrant, but f must not wait for a goroutine that makes one.
//
// It is an error on a Context for clients. On an SSL_CTX that C made it is ErrUnsupported, and so is an SSL that C makes of
// this Context: C drives it, and Go cannot park it. Its handshake ends with internal_error.
func (c *Context) SetCertificateCallback(f func(ctx context.Context, h *ClientHello) (*Certificate, error)) error {
	if c != nil && !c.made {
		return unsupported("a certificate callback in Go on an SSL_CTX that C made")
	}
	if c != nil && c.role != ServerRole {
		return unsupported("SetCertificateCallback on a client's Context: it has SetClientCertificateCallback")
	}
	const op = "set certificate callback"
	fixed := false
	err := c.set(op, func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		if (f == nil) != (c.handlers.certificate.Load() == nil) && c.id.computedInUse() {
			fixed = true
			return C.SCB_FAIL
		}
		c.handlers.certificate.Store(ptrTo(f, f != nil))
		C.scb_ctx_set_asks(p, C.SCB_ASKS_CERT, cbool(f != nil))
		return C.SCB_OK
	})
	if fixed {
		return fmt.Errorf("libssl: %s: it would change the session id context that was computed; "+
			"call it before UseStore and UseTicketKeys, or use SetSessionIDContext", op)
	}
	return err
}

// SetClientCertificateCallback sets the function that chooses a client's certificate when a server asks for one; nil takes it
// away. With nil, nil as its answer no certificate is sent, not even the Context's own. Nor is one whose key does not fit the
// signature schemes in the request. An error, a panic and a Certificate that is closed end the handshake, as with
// SetCertificateCallback; the server gets the alert internal_error. Corresponds to SSL_CTX_set_client_cert_cb(3) and, on a
// client, SSL_CTX_set_cert_cb(3).
//
// f is asked once on a connection, which is parked as a server's. A resumed session keeps the certificate that it was made
// with, and nothing is asked. A server that asks only after the handshake gets no certificate. New connections have a new f.
//
// TLS 1.3: the server is not verified yet when f runs. The certificate that f chooses is sent only after the verification.
//
// It is an error on a Context for servers, and ErrUnsupported on an SSL_CTX that C made.
func (c *Context) SetClientCertificateCallback(f func(ctx context.Context, r *CertificateRequest) (*Certificate, error)) error {
	if c != nil && !c.made {
		return unsupported("a certificate callback in Go on an SSL_CTX that C made")
	}
	if c != nil && c.role != ClientRole {
		return unsupported("SetClientCertificateCallback on a server's Context: it has SetCertificateCallback")
	}
	return c.set("set client certificate callback", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		c.handlers.clientCertificate.Store(ptrTo(f, f != nil))
		C.scb_ctx_hook_client_cert(p, cbool(f != nil))
		return C.SCB_OK
	})
}

// choice is the part of a certificate callback in one handshake. Only the goroutine of the handshake uses it.
type choice struct {
	callback string // the name in a CallbackError
	ask      func(context.Context) (*Certificate, error)
	name     string // of the server, in lower case
	answered bool
	cert     *Certificate
	err      error
}

// ---- servers -------------------------------------------------------------------

// chooses reports whether a callback has to be asked for the ClientHello, and prepares that. conn is nil for an SSL that C
// drives, which must not go on then.
func (c *Context) chooses(conn *Conn, ssl *C.SSL, h *hello.Hello) (asked bool, answer C.int) {
	f := c.handlers.certificate.Load()
	if f == nil || h.Judged {
		return false, C.SCB_HELLO_GO_ON
	}
	if conn == nil {
		c.reportMisuse("certificate", unsupported("a certificate callback for an SSL that C drives"))
		return true, -C.SSL_AD_INTERNAL_ERROR
	}
	offer := readHello(ssl, h)
	offer.Conn = conn.nc
	conn.hs.choice = &choice{
		callback: "certificate",
		ask:      func(ctx context.Context) (*Certificate, error) { return (*f)(ctx, offer) },
		name:     strings.ToLower(offer.ServerName),
	}
	return true, C.SCB_HELLO_PARK
}

func readHello(ssl *C.SSL, h *hello.Hello) *ClientHello {
	l := C.scb_hello_read(ssl)
	bytes := func(p *C.uchar, n C.size_t) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)) }
	offer := &ClientHello{
		ServerName:       h.Name(),
		ALPN:             hello.Protocols(bytes(l.alpn, l.alpn_len)),
		CipherSuites:     hello.Numbers(bytes(l.ciphers, l.ciphers_len)),
		SignatureSchemes: hello.NumbersOf(bytes(l.sigalgs, l.sigalgs_len), 2),
		Versions:         hello.NumbersOf(bytes(l.versions, l.versions_len), 1),
	}
	if l.versions == nil {
		offer.Versions = hello.VersionsUpTo(uint16(l.legacy_version))
	}
	return offer
}

// idContext is the id context of the connection, of which sid is the Context's. ch may be nil.
func (ch *choice) idContext(sid []byte) []byte {
	if ch == nil {
		return sid
	}
	sum := sha256.Sum256(append(append([]byte{byte(len(sid))}, sid...), ch.name...))
	return sum[:]
}

// present gives a server's SSL the certificate that was chosen, and answers the ClientHello hook.
func (c *Conn) present(ssl *C.SSL, serving *Context) C.int {
	ch := c.hs.choice
	sid := ch.idContext(serving.id.get())
	if ch.err == nil && ch.cert != nil {
		ch.err = ch.cert.useIn(ssl)
	}
	if ch.err == nil && C.scb_ssl_set_id_context(ssl, bytesPtr(sid), C.uint(len(sid))) == C.SCB_OK {
		return C.SCB_HELLO_GO_ON
	}
	c.tls.verdict.by, c.tls.verdict.err = byCertificateCallback, ch.failure()
	return -C.SSL_AD_INTERNAL_ERROR
}

// useIn makes cert the only certificate of an SSL, or takes all away if it is nil.
func (c *Certificate) useIn(ssl *C.SSL) error {
	var p *C.scb_cert
	if c != nil {
		if err := c.acquire(); err != nil {
			return err
		}
		defer c.release()
		p = c.p
	}
	var errs *C.scb_errs
	if C.scb_ssl_use_cert(ssl, p, &errs) != C.SCB_OK {
		return takeError("use certificate", 0, errs)
	}
	return nil
}

func (ch *choice) failure() error {
	if ch.err == nil {
		return nil
	}
	return fmt.Errorf("libssl: handshake: %s callback: %w", ch.callback, ch.err)
}

// ---- clients -------------------------------------------------------------------

//export scbGoClientCertificate
func scbGoClientCertificate(ctxHandle, connHandle C.uint64_t, ssl *C.SSL) C.int {
	ctx, conn := find(ctxHandle, connHandle)
	if ctx == nil {
		return C.SCB_CHOSEN
	}
	conn.enterGo()
	defer conn.leaveGo()
	f := ctx.handlers.clientCertificate.Load()
	switch {
	case conn != nil && conn.hs.complete():
		(*Certificate)(nil).useIn(ssl)
		return C.SCB_CHOSEN
	case conn != nil && conn.hs.choice != nil:
	case f == nil:
		return C.SCB_CHOSEN // it was taken away meanwhile
	case conn == nil:
		ctx.reportMisuse("clientcertificate", unsupported("a certificate callback for an SSL that C drives"))
		return C.SCB_CHOSEN_FAIL
	default:
		r := readRequest(ssl)
		conn.hs.choice = &choice{
			callback: "clientcertificate",
			ask:      func(ctx context.Context) (*Certificate, error) { return (*f)(ctx, r) },
		}
	}
	ch := conn.hs.choice
	if !ch.answered {
		return C.SCB_CHOSEN_PARK
	}
	if ch.err == nil {
		ch.err = ch.cert.useIn(ssl)
	}
	if ch.err != nil {
		conn.tls.verdict.by, conn.tls.verdict.err = byCertificateCallback, ch.failure()
		return C.SCB_CHOSEN_FAIL
	}
	return C.SCB_CHOSEN
}

func readRequest(ssl *C.SSL) *CertificateRequest {
	r := &CertificateRequest{Version: uint16(C.scb_ssl_version(ssl))}
	var out *C.uchar
	if n := C.scb_ssl_ca_names(ssl, &out); n > 0 {
		der := C.GoBytes(unsafe.Pointer(out), C.int(n))
		C.scb_wipe(unsafe.Pointer(out), n)
		for len(der) >= 4 {
			size := 4 + binary.BigEndian.Uint32(der)
			r.AcceptableCAs = append(r.AcceptableCAs, der[4:size:size])
			der = der[size:]
		}
	}
	for i := range C.scb_ssl_peer_sigalgs(ssl) {
		r.SignatureSchemes = append(r.SignatureSchemes, uint16(C.scb_ssl_peer_sigalg(ssl, i)))
	}
	return r
}

// ---- asking --------------------------------------------------------------------

// ask calls the callback of a parked handshake, on the goroutine of the handshake and outside OpenSSL. It returns an error if
// the handshake was given up meanwhile; the callback's own ends the handshake in the next step, with an alert.
func (c *Conn) ask(ctx context.Context, ch *choice) error {
	handshake := ctx
	ctx, cancel := context.WithCancelCause(handshake)
	defer cancel(nil)
	giveUp := context.CancelCauseFunc(func(cause error) {
		if handshake.Err() != nil { // then the connection was closed for that, which is no cause of its own
			cause = context.Cause(handshake)
		}
		cancel(cause)
	})
	c.hs.giveUp.Store(&giveUp)
	defer c.hs.giveUp.Store(nil)
	if c.end.begun() {
		return ErrClosed
	}
	defer c.watch(giveUp)()
	cert, err := callChooser(ctx, c.ctx, ch)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ch.cert, ch.err, ch.answered = cert, err, true
	return nil
}

var errChooser = errors.New("it panicked")

func callChooser(ctx context.Context, c *Context, ch *choice) (cert *Certificate, err error) {
	returned := false
	err = errChooser
	defer c.recoverHandler(ch.callback, &returned, nil)
	cert, err = ch.ask(ctx)
	returned = true
	return cert, err
}

var chooserName = runtime.FuncForPC(reflect.ValueOf(callChooser).Pointer()).Name()

// insideChooser reports whether a certificate callback is among the callers.
func insideChooser() bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		if n == 0 {
			return false
		}
		frames := runtime.CallersFrames(pcs[:n])
		for more := true; more; {
			var f runtime.Frame
			if f, more = frames.Next(); f.Function == chooserName {
				return true
			}
		}
	}
}
