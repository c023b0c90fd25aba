package libssl

// #include <stdlib.h>
// #include "bridge.h"
import "C"

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/internal/ownfile"
)

// NewServerContext makes a server Context with a certificate chain and its key,
// both PEM files.
func NewServerContext(certFile, keyFile string) (*Context, error) {
	c, err := NewContext(ServerRole)
	if err != nil {
		return nil, err
	}
	if err := c.UseCertificateFiles(certFile, keyFile); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// UseCertificateFiles loads a PEM chain, the leaf first, and its key.
// Corresponds to SSL_CTX_use_certificate_chain_file(3) and
// SSL_CTX_use_PrivateKey_file(3), but nothing changes unless both are good and
// belong together. An encrypted key is an error. So is a key that another user
// than this process's or root may have put there: see ticket.LoadRing.
func (c *Context) UseCertificateFiles(certFile, keyFile string) error {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return fmt.Errorf("libssl: certificate: %w", err)
	}
	key, _, err := ownfile.Self().Read(keyFile)
	if err != nil {
		return fmt.Errorf("libssl: key: %w", err)
	}
	defer clear(key)
	if err := c.UseCertificatePEM(cert, key); err != nil {
		return fmt.Errorf("%s, %s: %w", certFile, keyFile, err)
	}
	return nil
}

// UseCertificatePEM is UseCertificateFiles for PEM text at hand.
//
// A certificate replaces one with the same type of key; others stay. UseCertificate replaces all.
func (c *Context) UseCertificatePEM(cert, key []byte) error {
	if c.hasSet() {
		parsed, err := ParseCertificate(cert, key, nil)
		if err != nil {
			return err
		}
		defer parsed.Close()
		return c.useCertificates(C.SCB_KEEP_OTHERS, parsed)
	}
	return c.set("use certificate", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_use_pem(p, bytesPtr(cert), C.int(len(cert)),
			bytesPtr(key), C.int(len(key)), errs)
	})
}

// set changes what an SSL copies when it is made.
func (c *Context) set(op string, f func(p *C.SSL_CTX, errs **C.scb_errs) C.int) error {
	return c.setUnless(C.SCB_MADE_BY_C, op, f)
}

// setOnce changes what handshakes read from the SSL_CTX.
func (c *Context) setOnce(op, s string, f func(p *C.SSL_CTX, s *C.char, errs **C.scb_errs) C.int) error {
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("libssl: %s: %q has a zero byte", op, s)
	}
	cs := C.CString(s)
	defer C.free(unsafe.Pointer(cs))
	return c.setUnless(C.SCB_MADE_BY_C|C.SCB_MADE_BY_GO, op, func(p *C.SSL_CTX, errs **C.scb_errs) C.int { return f(p, cs, errs) })
}

// setUnless changes a setting, and with it a computed id context, unless SSLs were made by one of those named.
func (c *Context) setUnless(made C.int, op string, f func(p *C.SSL_CTX, errs **C.scb_errs) C.int) error {
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	defer c.changeSettings(p)()
	if C.scb_ctx_made(p)&made != 0 {
		return fmt.Errorf("libssl: %s: cannot be changed once a connection was made", op)
	}
	if err := c.do(op, f); err != nil {
		return err
	}
	return c.policyChanged()
}

// AddClientCAsPEM adds the CAs whose client certificates a server accepts, and
// tells clients their names. Corresponds to X509_STORE_add_cert(3) and
// SSL_CTX_add_client_CA(3).
func (c *Context) AddClientCAsPEM(pem []byte) error {
	return c.set("add client CAs", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_add_cas(p, bytesPtr(pem), C.int(len(pem)), 0, 1, errs)
	})
}

// AddRootCAsPEM adds CAs that a client trusts. The first call replaces the
// system roots. Corresponds to X509_STORE_add_cert(3).
func (c *Context) AddRootCAsPEM(pem []byte) error {
	return c.set("add root CAs", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		fresh := c.made && c.role == ClientRole && !c.settings.ownRoots
		ok := C.scb_ctx_add_cas(p, bytesPtr(pem), C.int(len(pem)), cbool(fresh), 0, errs)
		c.settings.ownRoots = c.settings.ownRoots || ok == C.SCB_OK
		return ok
	})
}

// SetVerify says what a peer's certificate is asked for. A client with
// VerifyNone checks neither certificate nor name. Corresponds to
// SSL_CTX_set_verify(3).
//
// A server that asks for certificates needs an id context, or OpenSSL drops new
// sessions silently and fails handshakes that would resume: SetSessionIDContext,
// or UseStore, which computes one.
func (c *Context) SetVerify(m VerifyMode) error {
	if m != VerifyNone && m != VerifyPeer && m != VerifyRequirePeer {
		return fmt.Errorf("libssl: no such verify mode: %d", m)
	}
	return c.set("set verify", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		C.scb_ctx_set_verify(p, C.int(m))
		return C.SCB_OK
	})
}

// SetVersions bounds the protocol version, from tls.VersionTLS10 to
// tls.VersionTLS13. 0 leaves a bound open; the lower one is then TLS 1.2, or max
// where that is older. It is an error once a
// connection was made. Corresponds to SSL_CTX_set_min_proto_version(3) and
// SSL_CTX_set_max_proto_version(3).
//
// TLS 1.0 and 1.1 need a security level that allows them: 0 from OpenSSL 3.0 on.
// Set it before, as with SetCiphers("DEFAULT@SECLEVEL=0"), on both sides. Such a
// level also lets weak keys, ciphers and signatures in. At a higher one, and where
// OpenSSL is built without these versions, the error is ErrUnsupported.
func (c *Context) SetVersions(min, max uint16) error {
	for _, v := range []uint16{min, max} {
		if v != 0 && (v < tls.VersionTLS10 || v > tls.VersionTLS13) {
			return unsupported("protocol version %s", versionName(v))
		}
	}
	if max != 0 && min > max {
		return fmt.Errorf("libssl: versions: minimum %s above maximum %s", versionName(min), versionName(max))
	}
	if min == 0 {
		min = tls.VersionTLS12
		if max != 0 && max < min {
			min = max
		}
	}
	var refused error
	err := c.setUnless(C.SCB_MADE_BY_C|C.SCB_MADE_BY_GO, "set versions", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		if refused = versionAllowed(p, min); refused != nil {
			return C.SCB_FAIL
		}
		return C.scb_ctx_set_versions(p, C.int(min), C.int(max), errs)
	})
	if refused != nil {
		return refused
	}
	return err
}

// versionAllowed asks OpenSSL about a version before TLS 1.2.
func versionAllowed(p *C.SSL_CTX, v uint16) error {
	if v >= tls.VersionTLS12 {
		return nil
	}
	level, most := C.scb_ctx_security_level(p), C.scb_ctx_level_for(p, C.int(v))
	switch {
	case most < 0:
		return unsupported("versions: this OpenSSL is built without %s", versionName(v))
	case level > most:
		return unsupported("versions: %s needs a security level of at most %d, and this Context has %d: "+
			"lower it before, as with SetCiphers(\"DEFAULT@SECLEVEL=%d\")", versionName(v), most, level, most)
	}
	return nil
}

// SetOptions turns options on and returns all that are on then. Options of DTLS
// and of kernel TLS cannot work on a Conn: they stay off on an SSL_CTX that
// NewContext made, which the result shows. Connections keep the options that they were made with.
// Corresponds to SSL_CTX_set_options(3).
func (c *Context) SetOptions(o Options) Options {
	if c != nil && c.made {
		o &^= C.SCB_OPS_FOR_OTHER_IO
	}
	return c.changeOptions(o, 0)
}

// ClearOptions turns options off and returns those that are still on. OpNoTicket
// stays on beside a store with Revocable or SingleUse, or early data: stateless
// tickets could be neither revoked nor taken. Corresponds to
// SSL_CTX_clear_options(3).
func (c *Context) ClearOptions(o Options) Options {
	if _, err := c.acquire(); err != nil {
		return 0
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if l := c.layer(); l != nil && l.allowTicketKeys() != nil {
		o &^= OpNoTicket
	}
	return c.changeOptions(0, o)
}

func (c *Context) changeOptions(set, off Options) (now Options) {
	c.do("set options", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		now = Options(C.scb_ctx_set_options(p, C.uint64_t(set), C.uint64_t(off)))
		return C.SCB_OK
	})
	return now
}

// SetCiphers sets the TLS 1.2 ciphers, in OpenSSL's syntax. It is an error once a
// connection was made. Corresponds to SSL_CTX_set_cipher_list(3). TLS 1.2 sessions
// that another server made with other ciphers are still resumed with these, unless
// the id contexts differ, as they do under UseStore.
func (c *Context) SetCiphers(list string) error {
	return c.setOnce("set ciphers", list, func(p *C.SSL_CTX, s *C.char, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_ciphers(p, s, errs)
	})
}

// SetCipherSuites sets the TLS 1.3 cipher suites, separated by colons. It is an
// error once a connection was made. Corresponds to SSL_CTX_set_ciphersuites(3).
func (c *Context) SetCipherSuites(list string) error {
	return c.setOnce("set cipher suites", list, func(p *C.SSL_CTX, s *C.char, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_ciphersuites(p, s, errs)
	})
}

// SetGroups sets the key-exchange groups, separated by colons and in order of
// preference. It is an error once a connection was made. Corresponds to
// SSL_CTX_set1_groups_list(3).
func (c *Context) SetGroups(list string) error {
	return c.setOnce("set groups", list, func(p *C.SSL_CTX, s *C.char, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_groups(p, s, errs)
	})
}

type keyLogger struct {
	mu sync.Mutex
	w  io.Writer
}

func (k *keyLogger) writeLine(line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// For debugging only: a failed write has no one to report to.
	_, _ = io.WriteString(k.w, line+"\n")
}

// SetKeyLogWriter writes the secrets of every connection to w, one line each in
// NSS key log format, so that others can decrypt the traffic: for debugging
// only. nil turns it off. Writes are serialised. Corresponds to
// SSL_CTX_set_keylog_callback(3).
func (c *Context) SetKeyLogWriter(w io.Writer) {
	c.do("set key log", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		if w == nil {
			c.handlers.keyLog.Store(nil)
		} else {
			c.handlers.keyLog.Store(&keyLogger{w: w})
		}
		C.scb_ctx_set_asks(p, C.SCB_ASKS_KEYLOG, cbool(w != nil))
		C.scb_set_callback(p, C.SCB_KEYLOG, cbool(w != nil))
		return C.SCB_OK
	})
}

//export scbGoKeyLog
func scbGoKeyLog(ctxHandle, connHandle C.uint64_t, line *C.char) {
	ctx, conn := find(ctxHandle, connHandle)
	if ctx == nil {
		return
	}
	conn.enterGo()
	defer conn.leaveGo()
	if w := ctx.handlers.keyLog.Load(); w != nil {
		conn.mayBlock()
		returned := false
		defer ctx.recoverHandler("keylog", &returned, nil)
		w.writeLine(C.GoString(line))
		returned = true
	}
}

// SetNumTickets sets how many TLS 1.3 tickets a full handshake issues; OpenSSL's
// default is 2, a resumed one issues one. 0 turns TLS 1.3 resumption off.
// Corresponds to SSL_CTX_set_num_tickets(3).
func (c *Context) SetNumTickets(n int) error {
	if n < 0 {
		return fmt.Errorf("libssl: number of tickets: %d", n)
	}
	return c.do("set number of tickets", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		return C.scb_ctx_set_num_tickets(p, C.size_t(n))
	})
}

// SetMaxEarlyData lets clients send up to n bytes of early data (0-RTT) with a
// session from now on; 0 ends that. Corresponds to SSL_CTX_set_max_early_data(3).
//
// An attacker may record early data and send it again. So it is accepted in one
// mode only: through UseStore, before or after, with entries that are taken out of
// the store, each by one server of the fleet. That turns
// StoreOptions.SingleUse on, and fails where the store is no store.Taker. Without
// UseStore nothing is offered.
//
// The client of early data has proved nothing in this connection, and the data may
// be refused and sent again as ordinary data. Use it only for actions that may
// happen twice.
func (c *Context) SetMaxEarlyData(n uint32) error {
	switch {
	case c == nil:
		return ErrClosed
	case c.made && c.role == ClientRole:
		return unsupported("early data on a client's Context: the session it offers says how much")
	}
	if _, err := c.acquire(); err != nil {
		return err
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if c.stopTicketKeys != nil && n > 0 {
		return unsupported("early data with stateless tickets, which the client can use again and again")
	}
	if l := c.layer(); l != nil {
		if n > 0 {
			if err := l.allowEarlyData(); err != nil {
				return err
			}
		}
		if err := c.offerEarlyData(n); err != nil {
			return err
		}
	}
	c.maxEarlyData = n
	return nil
}

func (c *Context) offerEarlyData(n uint32) error {
	return c.do("set max early data", func(p *C.SSL_CTX, _ **C.scb_errs) C.int { return C.scb_ctx_set_max_early_data(p, C.uint32_t(n)) })
}

// SetSessionIDContext sets the context within which sessions may be resumed, at
// most 32 bytes: servers that share sessions share it, and servers with
// different policies must not. Corresponds to
// SSL_CTX_set_session_id_context(3).
func (c *Context) SetSessionIDContext(sid []byte) error {
	if len(sid) > C.SSL_MAX_SID_CTX_LENGTH {
		return fmt.Errorf("libssl: session id context: %d bytes, at most %d", len(sid), C.SSL_MAX_SID_CTX_LENGTH)
	}
	return c.set("set session id context", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		c.id.mu.Lock()
		defer c.id.mu.Unlock()
		return c.setIDContext(p, slices.Clone(sid), len(sid) > 0, errs)
	})
}

// setIDContext is called with the settings and the id context locked.
func (c *Context) setIDContext(p *C.SSL_CTX, sid []byte, explicit bool, errs **C.scb_errs) C.int {
	ok := C.scb_ctx_set_id_context(p, bytesPtr(sid), C.uint(len(sid)), errs)
	if ok == C.SCB_OK {
		c.id.sid, c.id.explicit = sid, explicit
	}
	return ok
}

// sessionIDContext is the id context in force, computed from the policy where
// none was set. A computed one is not put on the SSL_CTX, which may be serving
// without one.
func (c *Context) sessionIDContext() ([]byte, error) {
	if sid := c.id.get(); len(sid) > 0 { // also of a closed Context: its connections go on with it
		return sid, nil
	}
	p, err := c.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	defer c.changeSettings(p)()
	c.id.mu.Lock()
	defer c.id.mu.Unlock()
	if len(c.id.sid) == 0 {
		digest, gap, err := c.policyDigest()
		if err == nil {
			err = gapError(gap)
		}
		if err != nil {
			return nil, err
		}
		c.id.sid = digest
	}
	return c.id.sid, nil
}

func (id *idContext) get() []byte {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.sid
}

// computedInUse reports whether a computed id context is on the SSL_CTX.
func (id *idContext) computedInUse() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.used && !id.explicit
}

// useIDContext puts the id context in force on the SSL_CTX.
func (c *Context) useIDContext() error {
	if _, err := c.sessionIDContext(); err != nil {
		return err
	}
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	defer c.changeSettings(p)()
	c.id.mu.Lock()
	defer c.id.mu.Unlock()
	c.id.used = true
	return c.putIDContext(c.id.sid)
}

// putIDContext is called with the settings and the id context locked. The id context is a computed one, or that in force.
func (c *Context) putIDContext(sid []byte) error {
	return c.do("set session id context", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return c.setIDContext(p, sid, c.id.explicit, errs)
	})
}

// policyDigest computes an id context. gap is what it does not cover.
func (c *Context) policyDigest() (digest []byte, gap C.int, err error) {
	digest = make([]byte, 32)
	err = c.do("compute session id context", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		gap = C.scb_ctx_policy(p, bytesPtr(digest))
		if gap == C.SCB_FAIL {
			return C.SCB_FAIL
		}
		return C.SCB_OK
	})
	return digest, gap, err
}

func gapError(gap C.int) error {
	var what string
	switch gap {
	case C.SCB_OK:
		return nil
	case C.SCB_POLICY_NO_CERT:
		what = "the Context has no certificate, or a callback in C chooses it"
	case C.SCB_POLICY_CALLBACK:
		what = "a verify callback in C decides which clients are accepted"
	case C.SCB_POLICY_LAZY_CAS:
		what = "CAs are loaded when a chain needs them, as from a CApath"
	case C.SCB_POLICY_NO_CAS:
		what = "clients are verified but no CA is loaded, unless later, as from a CApath"
	}
	return fmt.Errorf("libssl: the session id context cannot be computed: %s; "+
		"give the same one to servers of the same policy, with SetSessionIDContext (in lssl with id_context)", what)
}

// policyChanged keeps a computed id context true. The settings are locked.
func (c *Context) policyChanged() error {
	c.resuming.policy.Add(1)
	c.id.mu.Lock()
	defer c.id.mu.Unlock()
	if len(c.id.sid) == 0 || c.id.explicit {
		return nil
	}
	sid, gap, err := c.policyDigest()
	if err == nil && gap != C.SCB_POLICY_NO_CAS { // they may be the next to be set
		err = gapError(gap)
	}
	if err != nil {
		rand.Read(sid) // that of no other policy
	}
	if !c.id.used {
		c.id.sid = sid
	} else if failed := c.putIDContext(sid); err == nil {
		err = failed
	}
	return err
}

// SetSessionCacheMode sets the mode of the internal cache and returns the one
// before. Corresponds to SSL_CTX_set_session_cache_mode(3).
func (c *Context) SetSessionCacheMode(m CacheMode) (before CacheMode) {
	c.do("set cache mode", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		before = CacheMode(C.scb_ctx_set_cache_mode(p, C.long(m)))
		return C.SCB_OK
	})
	return before
}

// SetSessionCacheSize bounds the internal cache and returns the bound before;
// 0 is no bound. From OpenSSL 3.0 on a bound of n holds n-1 sessions.
// Corresponds to SSL_CTX_sess_set_cache_size(3).
func (c *Context) SetSessionCacheSize(n int) (before int) {
	c.do("set cache size", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		before = int(C.scb_ctx_set_cache_size(p, C.long(n)))
		return C.SCB_OK
	})
	return before
}

// SetSessionTimeout sets the lifetime of new sessions, in whole seconds, and
// returns the one before. A negative one counts as 0: such sessions end within a
// second. Corresponds to SSL_CTX_set_timeout(3).
func (c *Context) SetSessionTimeout(d time.Duration) (before time.Duration) {
	c.do("set session timeout", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		before = seconds(int64(C.scb_ctx_set_timeout(p, C.long(timeoutOf(d)))))
		return C.SCB_OK
	})
	return before
}

// AddSession puts s into the internal cache and reports whether it was not
// there yet. OpenSSL takes a reference of its own. Corresponds to
// SSL_CTX_add_session(3).
//
// Ownership: OpenSSL links an SSL_SESSION into the cache of one SSL_CTX only,
// and does not check. So a session that the cache of another one may hold is
// copied first: it belongs to another Context, or comes from WrapSession or a
// client's Conn. The copy takes the place of one with the same id, and what is set on s later
// does not reach it. While a Context serves, give it a Dup of a session that it
// may be evicting.
func (c *Context) AddSession(s *Session) (added bool, err error) {
	return c.changeCache(func() (*Session, error) { return s.forCache(c.bound.handle) }, func(p *C.SSL_CTX, sess *C.SSL_SESSION) C.int {
		if C.scb_ctx_in_remove(p) != 0 {
			return C.SCB_REENTRANT
		}
		// Some releases chain what they evict through the sessions themselves
		// and walk that chain unlocked; an evicted session that is inserted
		// again meanwhile crashes them (SEMANTICS F3.7).
		c.adds.Lock()
		defer c.adds.Unlock()
		return C.scb_ctx_add_session(p, sess)
	})
}

// RemoveSession takes the session out of the internal cache and reports whether
// it was there. The remove handler is called, and the session is marked not
// resumable, in either case. From a remove handler that was told of this very
// session the answer is ErrReentrant, for OpenSSL would call it again without an
// end. Corresponds to SSL_CTX_remove_session(3).
func (c *Context) RemoveSession(s *Session) (removed bool, err error) {
	return c.changeCache(s.Retain, func(p *C.SSL_CTX, sess *C.SSL_SESSION) C.int {
		return C.scb_ctx_remove_session(p, sess)
	})
}

// changeCache calls f with a session that hold returns and that is released after.
func (c *Context) changeCache(hold func() (*Session, error), f func(p *C.SSL_CTX, sess *C.SSL_SESSION) C.int) (bool, error) {
	p, err := c.acquire()
	if err != nil {
		return false, err
	}
	defer c.release()
	// Not under the Session's lock: handlers may use it.
	held, err := hold()
	if err != nil {
		return false, err
	}
	defer held.Release()
	switch ret := f(p, held.p); ret {
	case C.SCB_REENTRANT:
		return false, ErrReentrant
	default:
		return ret == 1, nil
	}
}

// FlushSessions removes the sessions that have expired by at from the internal
// cache; the zero time removes all. Corresponds to SSL_CTX_flush_sessions(3).
func (c *Context) FlushSessions(at time.Time) error {
	var t C.int64_t // 0 is OpenSSL's word for all, and so is a negative time from 3.5 on
	if !at.IsZero() {
		t = C.int64_t(max(1, at.Unix()))
	}
	return c.do("flush sessions", func(p *C.SSL_CTX, _ **C.scb_errs) C.int { return C.scb_ctx_flush(p, t) })
}

// Stats are OpenSSL's counters of a context, see SSL_CTX_sess_number(3), and
// counts of the handshakes of Conns, those of Listeners included. Hit
// ratios of an external cache cannot be computed from them: Misses counts the
// internal cache alone, CallbackHits also answers that were then refused.
type Stats struct {
	Number       int // sessions in the internal cache
	Connect      int
	ConnectGood  int
	Accept       int
	AcceptGood   int
	Hits         int
	CallbackHits int
	Misses       int
	Timeouts     int
	CacheFull    int

	// HandshakesUnderWay are calls that run a handshake now: in a Listener, connections that are not ready for Accept.
	HandshakesUnderWay int
	// ByThreads are the connections of Listeners that threads outside Go have accepted.
	ByThreads int
	// HandshakesFailed are handshakes that ended for good. One that a deadline of the Conn has interrupted can go on.
	HandshakesFailed HandshakeFailureCounts
}

// Stats reads the counters.
func (c *Context) Stats() (s Stats) {
	c.do("stats", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		n := C.scb_ctx_get_stats(p)
		s = Stats{
			Number: int(n.number), Connect: int(n.connect), ConnectGood: int(n.connect_good),
			Accept: int(n.accept), AcceptGood: int(n.accept_good), Hits: int(n.hits),
			CallbackHits: int(n.cb_hits), Misses: int(n.misses), Timeouts: int(n.timeouts),
			CacheFull: int(n.cache_full),
		}
		c.handshakes.read(&s)
		s.HandshakesUnderWay += int(C.scb_acceptors_under_way(p))
		return C.SCB_OK
	})
	return s
}
