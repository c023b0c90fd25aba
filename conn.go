package libssl

// #include <stdlib.h>
// #include "bridge.h"
import "C"

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
)

// Conn is a TLS connection over any net.Conn, and behaves like crypto/tls's: the handshake runs at the first Read or Write,
// or when asked for.
//
// A Write that times out is not fatal: data that was accepted but not sent goes out first with the next Write. The end of
// the stream without a close_notify reads as io.ErrUnexpectedEOF: see OpIgnoreUnexpectedEOF.
//
// Locks and threads: safe for concurrent use; Read and Write may run together. Only code that runs inside OpenSSL holds an
// OS thread, and the number of such calls at one time is bounded.
type Conn struct {
	nc         net.Conn
	ctx        *Context
	client     bool
	serverName string
	offers     *offers // nil on servers

	// Each part has its lock. Their order: hs, read or write, write.out, tls.
	hs    handshakeState
	read  readSide
	write writeSide
	tls   engine
	end   closeState
}

// offers is what decides about the sessions that a client offers.
type offers struct {
	resume *resumption // nil without UseClientCache
	vetted vetted      // for sessions of this connection; under tls.mu
}

const versionTLS13 = tls.VersionTLS13

var forgottenConns atomic.Int64

// Server returns a server's connection over nc.
func Server(nc net.Conn, ctx *Context) (*Conn, error) {
	if ctx != nil && ctx.made && ctx.role != ServerRole {
		return nil, unsupported("a server connection on a client's Context")
	}
	return newConn(nc, ctx, false, "")
}

// Client returns a client's connection over nc. serverName, a host name or an
// IP address, is sent to the server if it is a name, and is what the server's
// certificate is verified for; it may be empty only where the Context verifies
// nothing.
func Client(nc net.Conn, ctx *Context, serverName string) (*Conn, error) {
	if ctx != nil && ctx.made && ctx.role != ClientRole {
		return nil, unsupported("a client connection on a server's Context")
	}
	return newConn(nc, ctx, true, strings.TrimSuffix(serverName, "."))
}

func newConn(nc net.Conn, ctx *Context, client bool, name string) (*Conn, error) {
	if nc == nil {
		return nil, errors.New("libssl: new connection: nil net.Conn")
	}
	if ctx == nil {
		return nil, errors.New("libssl: new connection: nil Context")
	}
	p, err := ctx.acquire()
	if err != nil {
		return nil, err
	}
	defer ctx.release()

	var cname *C.char
	kind := C.int(C.SCB_NAME_NONE)
	if client {
		if name != "" {
			if strings.ContainsRune(name, 0) {
				return nil, fmt.Errorf("libssl: new client: server name %q", name)
			}
			kind = C.SCB_NAME_DNS
			if ip, ok := addressOf(name); ok {
				kind, name = C.SCB_NAME_IP, ip.WithZone("").String()
			}
			cname = C.CString(name)
			defer C.free(unsafe.Pointer(cname))
		}
	}
	c := blankConn(ctx, nc, client, name) // before the SSL takes over the settings
	h := conns.Put(nil)
	slot := takeSlot(ctx) // it takes as long as a step
	made, err := ctx.makeConn(p, h, client, cname, kind)
	slot.give()
	cc := made.conn
	if cc == nil {
		conns.Delete(h)
		if err != nil {
			return nil, err
		}
		err := takeError("new connection", 0, made.errs)
		if name != "" && len(err.Queue) == 0 {
			return nil, fmt.Errorf("%w: is %q a host name?", err, name)
		}
		return nil, err
	}
	c.tls.conn, c.tls.handle, c.tls.ssl, c.tls.identity = c, h, cc, cc
	c.tls.cleanup = runtime.AddCleanup(c, forgetConn, cc)
	return c, nil
}

// blankConn is a Conn without an SSL.
func blankConn(ctx *Context, nc net.Conn, client bool, name string) *Conn {
	if !client {
		return &Conn{nc: nc, ctx: ctx}
	}
	both := &struct { // in one allocation
		conn   Conn
		offers offers
	}{conn: Conn{nc: nc, ctx: ctx, client: true, serverName: name}}
	both.offers.vetted = vetted{ctx: ctx.bound.handle, policy: ctx.resuming.policy.Load(), at: sinceStart()}
	both.offers.resume = ctx.resumption(nc, name, both.offers.vetted.policy)
	both.conn.offers = &both.offers
	return &both.conn
}

// makeConn makes an SSL with all settings as they are at one time.
func (c *Context) makeConn(p *C.SSL_CTX, h cgo.Handle, client bool, name *C.char, kind C.int) (made C.scb_made, err error) {
	c.settings.mu.RLock()
	defer c.settings.mu.RUnlock()
	if client && kind == C.SCB_NAME_NONE && C.scb_ctx_verify_mode(p)&C.SSL_VERIFY_PEER != 0 {
		return made, errors.New("libssl: new client: a server name is needed to verify the peer, or VerifyNone")
	}
	return C.scb_conn_new(p, C.uint64_t(h), cbool(client), name, kind), nil
}

// addressOf parses an IP address, in brackets or not. Most names end in a letter
// and have no colon: they are spared netip's error, which is on the heap.
func addressOf(name string) (ip netip.Addr, ok bool) {
	last := name[len(name)-1]
	if (last < '0' || last > '9') && !strings.Contains(name, ":") {
		return ip, false
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	return ip, err == nil
}

// forgetConn ends a Conn that was never closed. It leaves the goroutine of the collector at once: the SSL may hold the last
// reference of its SSL_CTX, whose end calls remove handlers.
func forgetConn(cc *C.scb_conn) {
	go func() {
		h := cgo.Handle(cc.handle)
		C.scb_conn_free(cc, 0)
		conns.Delete(h)
		forgottenConns.Add(1)
	}()
}

// ConnectionState describes the connection in crypto/tls's own type, so that
// net/http understands it. It runs the handshake if that has not run, under the
// connection's deadlines; if it fails the state is zero. ExportKeyingMaterial of
// the state panics: only crypto/tls can fill what it needs. Use the Conn's method
// of that name.
//
// TLSUnique is nil in TLS 1.3, and after a resumption in TLS 1.2 without the
// extended master secret.
//
// OCSPResponse and SignedCertificateTimestamps are what a client was sent in this
// handshake, unchecked: they belong to the certificate, which a resumption does not
// send. The timestamps are those of the
// TLS extension, as in crypto/tls, and not those in the certificate or in the OCSP
// response; nil if the list is malformed, and where OpenSSL is built without
// certificate transparency. Clients of AttachContext have either only if C has asked
// for it. Corresponds to SSL_get_tlsext_status_ocsp_resp(3) and
// SSL_get0_peer_scts(3). To judge the timestamps by known logs, C can replace the
// callback that accepts all: SSL_CTX_enable_ct(3).
//
// After a resumption the certificates are those of the full handshake. The session
// keeps the ones above the leaf, up to 16 KiB where it was encoded; of longer chains
// only the leaf is left. The verified chain is the one by which they verify on this
// Context: on a server at the lookup, on a client when the session was offered, or
// now.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if !c.tls.inHandler() && c.Handshake() != nil {
		return tls.ConnectionState{}
	}
	defer c.tls.unlock(c.tls.lock())
	if c.tls.ssl == nil {
		return tls.ConnectionState{}
	}
	i := C.scb_conn_get_info(c.tls.ssl)
	s := tls.ConnectionState{
		Version:            uint16(i.version),
		HandshakeComplete:  c.hs.complete(),
		DidResume:          i.reused != 0,
		CipherSuite:        uint16(i.cipher),
		CurveID:            tls.CurveID(i.group),
		NegotiatedProtocol: C.GoStringN((*C.char)(unsafe.Pointer(i.alpn)), C.int(i.alpn_len)),
		ServerName:         C.GoString(i.server_name),
		PeerCertificates:   c.certificates(C.SCB_CERTS_PEER),
		TLSUnique:          c.tls.unique(),

		NegotiatedProtocolIsMutual: true, // as crypto/tls: always
	}
	if c.client {
		var staple *C.uchar
		if n := C.scb_conn_staple(c.tls.ssl, &staple); n > 0 {
			s.OCSPResponse = C.GoBytes(unsafe.Pointer(staple), C.int(n))
		}
		s.SignedCertificateTimestamps = c.timestamps()
	}
	if chain := c.certificates(C.SCB_CERTS_VERIFIED); len(chain) > 0 {
		s.VerifiedChains = [][]*x509.Certificate{chain}
	}
	return s
}

// timestamps reads what scb_conn_scts has made.
func (c *Conn) timestamps() (scts [][]byte) {
	var out *C.uchar
	n := C.scb_conn_scts(c.tls.ssl, &out)
	if n == 0 {
		return nil
	}
	defer C.scb_wipe(unsafe.Pointer(out), n)
	for all := C.GoBytes(unsafe.Pointer(out), C.int(n)); len(all) > 0; {
		size := 2 + int(binary.BigEndian.Uint16(all))
		scts = append(scts, all[2:size:size])
		all = all[size:]
	}
	return scts
}

func (c *Conn) certificates(which C.int) (certs []*x509.Certificate) {
	var out *C.uchar
	n := C.scb_conn_certs(c.tls.ssl, which, &out)
	if n == 0 {
		return nil
	}
	defer C.scb_wipe(unsafe.Pointer(out), n)
	return decodeCertificates(out, n)
}

// decodeCertificates reads what scb_encode_certs has made; nil if crypto/x509 cannot parse one that OpenSSL accepts.
func decodeCertificates(p *C.uchar, n C.size_t) (certs []*x509.Certificate) {
	der := C.GoBytes(unsafe.Pointer(p), C.int(n))
	for len(der) >= 4 {
		size := int(binary.BigEndian.Uint32(der))
		cert, err := x509.ParseCertificate(der[4 : 4+size])
		if err != nil {
			return nil
		}
		certs = append(certs, cert)
		der = der[4+size:]
	}
	return certs
}

// SetSession offers a session for resumption: a client's, before its handshake.
// s stays the caller's. Corresponds to SSL_set_session(3).
//
// A resumption verifies nothing, so a client that verifies offers only sessions
// that were verified, and for the name it asks for now. It is an error if the
// certificate in the session did not pass verification when the session
// was made, as with VerifyNone, or is not good for that name. Nothing is
// offered then, and the handshake is a full one.
//
// The chain is verified again by the roots, the CRLs and the other settings of this
// Context, unless that was done within a minute. Where it does not verify, because a
// certificate has expired or was revoked meanwhile, nothing is offered. That is no
// error, as with an expired session: the full handshake tells why. If C has a
// verify callback that accepts what OpenSSL refuses, it has to set X509_V_OK.
func (c *Conn) SetSession(s *Session) (err error) {
	if !c.client {
		return unsupported("SetSession on a server's connection")
	}
	if c.tls.inHandler() {
		return ErrReentrant
	}
	if c.end.begun() {
		return ErrClosed
	}
	if err := c.hs.lock(); err != nil {
		return err
	}
	defer c.hs.mu.Unlock()
	if c.hs.complete() || c.hs.err != nil {
		return errors.New("libssl: SetSession after the handshake")
	}
	if r := c.offers.resume; r != nil {
		r.asked = true
	}
	_, err = c.offer(s)
	return err
}

// offer reports whether s will be offered. The handshake is locked.
func (c *Conn) offer(s *Session) (offered bool, err error) {
	c.tls.mu.Lock()
	defer c.tls.mu.Unlock()
	if c.tls.ssl == nil {
		return false, ErrClosed
	}
	name := C.CString(c.serverName)
	defer C.free(unsafe.Pointer(name))
	kind := C.int(C.SCB_NAME_DNS)
	if c.serverName == "" {
		kind = C.SCB_NAME_NONE
	} else if _, ok := addressOf(c.serverName); ok {
		kind = C.SCB_NAME_IP
	}
	dead := s.with(func(p *C.SSL_SESSION) {
		known := s.vetted.holds(c.ctx)
		switch C.scb_conn_set_session(c.tls.ssl, p, name, kind, cbool(known)) {
		case C.SCB_OK:
			offered = true
			if known {
				c.offers.vetted.at = min(c.offers.vetted.at, s.vetted.at)
			}
		case C.SCB_FAIL:
			err = c.tls.failure("set session")
		case C.SCB_OFFER_UNVERIFIED:
			err = errors.New("libssl: set session: its server was not verified when it was made")
		case C.SCB_OFFER_OTHER_NAME:
			err = fmt.Errorf("libssl: set session: its server was not verified for %q", c.serverName)
		}
	})
	if dead != nil {
		return false, dead
	}
	return offered, err
}

// Session returns the connection's session, with a reference that is the
// caller's to release. Corresponds to SSL_get1_session(3).
//
// TLS 1.3: a client has one worth keeping once it has read a ticket, which comes
// with or after the first application data; Session.Resumable tells.
func (c *Conn) Session() (*Session, error) {
	defer c.tls.unlock(c.tls.lock())
	if c.tls.ssl == nil {
		return nil, ErrClosed
	}
	p := C.scb_conn_get1_session(c.tls.ssl)
	if p == nil {
		return nil, errors.New("libssl: the connection has no session")
	}
	h := home{}
	if !c.client { // a client's may be one that was offered
		h.ctx = c.ctx.bound.handle
	}
	s := newSession(p, h)
	if c.offers != nil {
		s.vetted = c.offers.vetted
	}
	return s, nil
}

// SessionReused reports whether the handshake resumed a session. Corresponds to
// SSL_session_reused(3).
func (c *Conn) SessionReused() bool {
	defer c.tls.unlock(c.tls.lock())
	return c.tls.ssl != nil && c.tls.ssl.reused != 0
}

// ResumedFrom is the id that a store answered for and that the handshake then resumed, zero if it did not. In TLS 1.3 no
// other call returns it, because the connection moves on to a session of its own.
func (c *Conn) ResumedFrom() SessionID { return c.tls.resumedFrom() }

// NetConn is the connection below. Reading or writing it directly breaks this
// one.
func (c *Conn) NetConn() net.Conn { return c.nc }

// LocalAddr is the address of the connection below.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// RemoteAddr is the peer's address of the connection below.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// SetDeadline sets the deadlines of the connection below. A timeout is never
// fatal: see Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.noteWriteDeadline(t)
	return c.nc.SetDeadline(t)
}

// SetReadDeadline is SetDeadline for reading.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// SetWriteDeadline is SetDeadline for writing.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.noteWriteDeadline(t)
	return c.nc.SetWriteDeadline(t)
}

var start = time.Now()

// sinceStart is never 0.
func sinceStart() int64 { return int64(time.Since(start)) + 1 }

func (c *Conn) noteWriteDeadline(t time.Time) {
	if t.IsZero() {
		c.write.deadline.Store(0)
	} else {
		c.write.deadline.Store(max(1, int64(t.Sub(start))))
	}
}
