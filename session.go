package libssl

// #include "bridge.h"
import "C"

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"crypto/tls"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/store"
)

// SessionID is a session's id: comparable, at most 32 bytes, String is hex.
type SessionID = store.ID

// Session is one reference to an SSL_SESSION.
//
// Ownership: a Session from ParseSession, WrapSession, Retain, Dup or
// Conn.Session is the caller's, to be released once with Release. In a handler
// it is borrowed: dead when the handler returns, unless a new handler kept it
// by returning true, or the handler retained it. A Session that is forgotten
// instead of released is released by the collector, and counted.
//
// A dead Session answers ErrReleased; accessors without an error result return
// the zero value. It never touches freed memory.
//
// Locks and threads: safe for concurrent use. The SSL_SESSION itself may be
// shared with connections, which OpenSSL treats as read-only and does not quite
// (a resumption can change cipher and group of a shared object).
type Session struct {
	mu      sync.Mutex
	p       *C.SSL_SESSION
	cleanup runtime.Cleanup
	owned   bool // p's reference is ours to give back
	spent   bool // p is still good, but its reference has gone to C
	// ctx is the SSL_CTX that gives the session up, while a remove handler runs:
	// its Context may be closed by then.
	ctx    *C.SSL_CTX
	home   home
	vetted vetted
}

// home says which SSL_CTX may put an SSL_SESSION into its cache. OpenSSL links an
// object into one list and does not check: an object in two caches destroys both.
// All others get a copy.
type home struct {
	ctx     cgo.Handle     // 0: see claimed
	claimed *atomic.Uint64 // of an object made in Go, shared by its Sessions: the handle of the first that asks; nil: any cache may hold the object
}

// claim reports whether the SSL_CTX may have the object itself.
func (h home) claim(ctx cgo.Handle) bool {
	if h.claimed == nil {
		return h.ctx == ctx
	}
	return h.claimed.CompareAndSwap(0, uint64(ctx)) || h.claimed.Load() == uint64(ctx)
}

// vetted says by what the server's certificates in a session were last verified: the settings of a Context at one time. The zero value is never recent.
type vetted struct {
	ctx    cgo.Handle
	policy uint64 // see resuming
	at     int64  // see sinceStart
}

// vettedFor is for how long a verdict holds. A chain and the lists of its issuers can expire meanwhile.
const vettedFor = time.Minute

// holds reports whether the verdict is one of the Context, under the settings that it has now. C, which may have asked for
// the Pointer, changes them without a word.
func (v vetted) holds(c *Context) bool {
	return c.made && c.bound.strong.Load() == nil && v.ctx == c.bound.handle && v.policy == c.resuming.policy.Load() && sinceStart()-v.at < int64(vettedFor)
}

// unclaimed is the home of an object that no cache knows.
func unclaimed() home { return home{claimed: new(atomic.Uint64)} }

// liveSessions counts references that Sessions own, forgottenSessions those
// that only the collector gave back.
var liveSessions, forgottenSessions atomic.Int64

// newSession owns p's reference.
func newSession(p *C.SSL_SESSION, h home) *Session {
	s := &Session{home: h}
	s.own(p)
	return s
}

// own makes p's reference the Session's. Called before s is shared, or under
// its lock.
func (s *Session) own(p *C.SSL_SESSION) {
	s.p, s.owned = p, true
	liveSessions.Add(1)
	s.cleanup = runtime.AddCleanup(s, forgetSession, p)
}

func forgetSession(p *C.SSL_SESSION) {
	C.scb_session_free(p)
	forgottenSessions.Add(1)
	liveSessions.Add(-1)
}

// disown takes the reference out, under the lock, and gives it to the caller.
func (s *Session) disown() *C.SSL_SESSION {
	p := s.p
	s.p = nil
	if s.owned {
		s.owned = false
		s.cleanup.Stop()
		liveSessions.Add(-1)
	}
	return p
}

// with runs f on the live object.
func (s *Session) with(f func(p *C.SSL_SESSION)) error {
	if s == nil {
		return ErrReleased
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p == nil {
		return ErrReleased
	}
	f(s.p)
	return nil
}

// ParseSession decodes the DER form of a session. Bytes after it are an error.
// Corresponds to d2i_SSL_SESSION(3). OpenSSL 1.1.1 cannot read what later
// versions wrote.
func ParseSession(der []byte) (*Session, error) {
	var errs *C.scb_errs
	p := C.scb_session_parse(bytesPtr(der), C.size_t(len(der)), &errs)
	if p == nil {
		err := takeError("parse session", 0, errs)
		if len(err.Queue) == 0 {
			return nil, fmt.Errorf("%w: not a session, or bytes after one", err)
		}
		return nil, err
	}
	return newSession(p, unclaimed()), nil
}

// bytesPtr is the address of the first byte, in a type that holds no pointers:
// cgo then does not search the object that contains b.
func bytesPtr(b []byte) *C.uchar { return (*C.uchar)(unsafe.SliceData(b)) }

const pemType = "SSL SESSION PARAMETERS"

// ParseSessionPEM decodes the PEM form that "openssl s_client -sess_out"
// writes. Corresponds to PEM_read_bio_SSL_SESSION(3).
func ParseSessionPEM(text []byte) (*Session, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("libssl: parse session: no PEM block")
	case block.Type != pemType:
		return nil, fmt.Errorf("libssl: parse session: PEM block is %q, want %q", block.Type, pemType)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("libssl: parse session: bytes after the PEM block")
	}
	defer clear(block.Bytes)
	return ParseSession(block.Bytes)
}

// WrapSession makes a Session of an SSL_SESSION pointer that C code has.
//
// Ownership: with Copy it takes a reference of its own (SSL_SESSION_up_ref) and
// C's stays C's; with Transfer it takes over the caller's, which C must not free
// any more, so that is the flag for SSL_get1_session and d2i_SSL_SESSION. The
// Session is to be released in both cases. After an error nothing has changed
// hands.
func WrapSession(p unsafe.Pointer, f CopyFlag) (*Session, error) {
	if p == nil {
		return nil, errors.New("libssl: wrap session: nil pointer")
	}
	s := (*C.SSL_SESSION)(p)
	switch f {
	case Copy:
		C.scb_session_up_ref(s)
	case Transfer:
	default:
		return nil, fmt.Errorf("libssl: wrap session: %w", badFlag(f))
	}
	return newSession(s, home{}), nil
}

// Pointer is the SSL_SESSION, for C code, nil if the Session is dead.
//
// Ownership: borrowed, good until Release or, in a handler, until that returns;
// keep the Session reachable meanwhile. C code that keeps it takes a reference
// of its own (SSL_SESSION_up_ref), and must not free the Session's.
func (s *Session) Pointer() (p unsafe.Pointer) {
	s.with(func(c *C.SSL_SESSION) { p = unsafe.Pointer(c) })
	return p
}

// MarshalBinary encodes the session as DER. The bytes hold its master secret.
// Corresponds to i2d_SSL_SESSION(3). Not encoded: the not-resumable mark and
// ex_data. OpenSSL encodes the leaf certificate of the peer only. A session of a Conn
// has the others in its application data, if they are at most 16 KiB.
func (s *Session) MarshalBinary() (der []byte, err error) {
	dead := s.with(func(p *C.SSL_SESSION) {
		var errs *C.scb_errs
		c := C.scb_session_der(p, 0, &errs)
		if c.len == 0 {
			err = takeError("encode session", 0, errs)
			return
		}
		der = C.GoBytes(unsafe.Pointer(c.p), C.int(c.len))
		C.scb_wipe(unsafe.Pointer(c.p), c.len)
	})
	if dead != nil {
		return nil, dead
	}
	return der, err
}

// MarshalPEM encodes the session as PEM, readable by "openssl sess_id" and
// "s_client -sess_in". It holds the master secret.
func (s *Session) MarshalPEM() ([]byte, error) {
	der, err := s.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// Retain returns a Session with a reference of its own to the same object. It
// is how a handler keeps what it was lent. Corresponds to
// SSL_SESSION_up_ref(3).
func (s *Session) Retain() (r *Session, err error) {
	err = s.with(func(p *C.SSL_SESSION) {
		C.scb_session_up_ref(p)
		r = newSession(p, s.home)
		r.vetted = s.vetted
	})
	return r, err
}

// Dup returns an independent copy. Corresponds to SSL_SESSION_dup(3), which
// copies the not-resumable mark too.
func (s *Session) Dup() (d *Session, err error) {
	dead := s.with(func(p *C.SSL_SESSION) {
		var errs *C.scb_errs
		if c := C.scb_session_dup(p, &errs); c != nil {
			d = newSession(c, unclaimed())
			d.vetted = s.vetted
			return
		}
		err = takeError("duplicate session", 0, errs)
	})
	if dead != nil {
		return nil, dead
	}
	return d, err
}

// Release gives the reference back, once; later calls do nothing, and neither
// does releasing what a handler was only lent. Corresponds to
// SSL_SESSION_free(3).
func (s *Session) Release() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owned {
		C.scb_session_free(s.disown())
	}
}

// info reads all fields in one call; f copies what it needs.
func (s *Session) info(f func(i *C.scb_session_info)) {
	s.with(func(p *C.SSL_SESSION) {
		i := C.scb_session_get_info(p)
		f(&i)
	})
}

func idOf(p *C.uchar, n C.uint) SessionID {
	id, _ := store.IDFromBytes(unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)))
	return id
}

// ID is the session's id; on a client with a ticket, a hash of the ticket.
// Corresponds to SSL_SESSION_get_id(3).
func (s *Session) ID() (id SessionID) {
	s.info(func(i *C.scb_session_info) { id = idOf(i.id, i.id_len) })
	return id
}

// IDContext is the context within which the session may be resumed.
func (s *Session) IDContext() (sid []byte) {
	s.info(func(i *C.scb_session_info) { sid = C.GoBytes(unsafe.Pointer(i.sid_ctx), C.int(i.sid_ctx_len)) })
	return sid
}

// Time is when the session was made, in whole seconds.
func (s *Session) Time() (t time.Time) {
	s.info(func(i *C.scb_session_info) { t = time.Unix(int64(i.time), 0) })
	return t
}

// Timeout is the session's lifetime from Time on.
func (s *Session) Timeout() (d time.Duration) {
	s.info(func(i *C.scb_session_info) { d = seconds(int64(i.timeout)) })
	return d
}

// Expires is Time plus Timeout; the session is still valid at that very second.
func (s *Session) Expires() (t time.Time) {
	s.info(func(i *C.scb_session_info) { t = time.Unix(int64(i.time), 0).Add(seconds(int64(i.timeout))) })
	return t
}

// seconds saturates: OpenSSL's lifetimes reach further than a Duration.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(max(-most, min(n, most))) * time.Second
}

// timeoutOf is the timeout for OpenSSL, in seconds. Releases differ in what a negative one means, and a sum with one near
// the end of its long overflows.
func timeoutOf(d time.Duration) int64 {
	const most = int64(^uint(0) >> 2) // half of a long in C, which has as many bits as uint
	return max(0, min(int64(d/time.Second), most))
}

// SetTime sets when the session counts as made, to the second. Corresponds to
// SSL_SESSION_set_time(3).
//
// Threads: from OpenSSL 3.0 on it must not run while another goroutine may remove the
// session from the internal cache of a Context: OpenSSL can crash then. A session is in
// none where the mode has CacheNoInternalStore, and Dup makes one that is in none.
func (s *Session) SetTime(t time.Time) error {
	return s.withRef(func(p *C.SSL_SESSION, _ *C.SSL_CTX) (gone bool) {
		C.scb_session_set_time(p, C.int64_t(t.Unix()))
		return false
	})
}

// SetTimeout sets the lifetime, to the second. Corresponds to
// SSL_SESSION_set_timeout(3). Threads: see SetTime. Context.SetSessionTimeout sets the
// lifetime of all new sessions, and has no such limit.
func (s *Session) SetTimeout(d time.Duration) (err error) {
	if d < 0 {
		return fmt.Errorf("libssl: set session timeout: negative: %v", d)
	}
	dead := s.withRef(func(p *C.SSL_SESSION, _ *C.SSL_CTX) (gone bool) {
		if C.scb_session_set_timeout(p, C.int64_t(timeoutOf(d))) != C.SCB_OK {
			err = &Error{Op: "set session timeout"}
		}
		return false
	})
	if dead != nil {
		return dead
	}
	return err
}

// Version is the protocol version, as tls.VersionTLS13.
func (s *Session) Version() (v uint16) {
	s.info(func(i *C.scb_session_info) { v = uint16(i.version) })
	return v
}

// CipherSuite is the cipher suite's number, as tls.TLS_AES_128_GCM_SHA256.
func (s *Session) CipherSuite() (c uint16) {
	s.info(func(i *C.scb_session_info) { c = uint16(i.cipher) })
	return c
}

// ServerName is the host name the session was agreed for, if any.
func (s *Session) ServerName() (name string) {
	s.info(func(i *C.scb_session_info) { name = C.GoString(i.hostname) })
	return name
}

// ALPN is the application protocol that was agreed, if any.
func (s *Session) ALPN() (proto string) {
	s.info(func(i *C.scb_session_info) {
		proto = string(unsafe.Slice((*byte)(unsafe.Pointer(i.alpn)), int(i.alpn_len)))
	})
	return proto
}

// Resumable reports whether OpenSSL would offer or accept the session: it has
// an id or a ticket and was not marked otherwise. Corresponds to
// SSL_SESSION_is_resumable(3).
func (s *Session) Resumable() (ok bool) {
	s.info(func(i *C.scb_session_info) { ok = i.resumable != 0 })
	return ok
}

// MaxEarlyData is how many bytes of early data the session allows.
func (s *Session) MaxEarlyData() (n uint32) {
	s.info(func(i *C.scb_session_info) { n = uint32(i.max_early_data) })
	return n
}

// HasTicket reports whether the session carries a ticket.
func (s *Session) HasTicket() (ok bool) {
	s.info(func(i *C.scb_session_info) { ok = i.has_ticket != 0 })
	return ok
}

// Text describes the session for people. It holds no secrets, unlike
// SSL_SESSION_print(3).
func (s *Session) Text() string {
	var b bytes.Buffer
	s.info(func(i *C.scb_session_info) {
		made := time.Unix(int64(i.time), 0).UTC()
		fmt.Fprintf(&b, "Protocol:     %s\n", versionName(uint16(i.version)))
		fmt.Fprintf(&b, "Cipher suite: %s\n", tls.CipherSuiteName(uint16(i.cipher)))
		fmt.Fprintf(&b, "Session id:   %s\n", idOf(i.id, i.id_len))
		fmt.Fprintf(&b, "Id context:   %x\n", unsafe.Slice((*byte)(unsafe.Pointer(i.sid_ctx)), int(i.sid_ctx_len)))
		fmt.Fprintf(&b, "Made:         %s\n", made.Format(time.RFC3339))
		fmt.Fprintf(&b, "Lifetime:     %d s, until %s\n", int64(i.timeout),
			made.Add(seconds(int64(i.timeout))).Format(time.RFC3339))
		if i.hostname != nil {
			fmt.Fprintf(&b, "Server name:  %q\n", C.GoString(i.hostname))
		}
		if i.alpn_len > 0 {
			fmt.Fprintf(&b, "ALPN:         %q\n", unsafe.Slice((*byte)(unsafe.Pointer(i.alpn)), int(i.alpn_len)))
		}
		fmt.Fprintf(&b, "Ticket:       %t\n", i.has_ticket != 0)
		fmt.Fprintf(&b, "Early data:   %d bytes\n", uint32(i.max_early_data))
		fmt.Fprintf(&b, "Resumable:    %t\n", i.resumable != 0)
	})
	return b.String()
}

// versionName spells a protocol version as OpenSSL does.
func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS10:
		return "TLSv1"
	case tls.VersionTLS11:
		return "TLSv1.1"
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return fmt.Sprintf("%#04x", v)
}

// forCache returns a Session that ctx may put into its cache, to be released: a
// reference to the object, or a copy where another cache may hold it.
func (s *Session) forCache(ctx cgo.Handle) (*Session, error) {
	if s == nil {
		return nil, ErrReleased
	}
	if s.home.claim(ctx) {
		return s.Retain()
	}
	return s.Dup()
}

// handOver settles the flag while the wrapper is locked, so that no collector
// and no other goroutine can come between. OpenSSL gets exactly one reference, to
// the object or to a copy where the cache of another SSL_CTX may hold it.
func (s *Session) handOver(flag CopyFlag, ctx cgo.Handle) (*C.SSL_SESSION, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.p == nil:
		return nil, ErrReleased
	case flag != Copy && flag != Transfer:
		return nil, fmt.Errorf("libssl: %w", badFlag(flag))
	case flag == Transfer && !s.owned:
		return nil, fmt.Errorf("%w: transfer of a borrowed session", ErrReleased)
	case !s.home.claim(ctx):
		return s.handOverCopy(flag)
	case C.scb_session_hand_over(s.p, cbool(flag == Copy)) == 0:
		return nil, errNoCipher
	case flag == Copy:
		return s.p, nil
	}
	return s.disown(), nil
}

// handOverCopy is handOver with a copy of the object. The lock is held.
func (s *Session) handOverCopy(flag CopyFlag) (*C.SSL_SESSION, error) {
	if C.scb_session_hand_over(s.p, 0) == 0 {
		return nil, errNoCipher
	}
	var errs *C.scb_errs
	p := C.scb_session_dup(s.p, &errs)
	if p == nil {
		return nil, takeError("duplicate session", 0, errs)
	}
	if flag == Transfer {
		C.scb_session_free(s.disown())
	}
	return p, nil
}

// withRef runs f under a reference and not under the lock. f calls unknown code, or a function that takes the lock of the
// SSL_CTX whose cache has the session: a remove handler runs under that lock and may use the Session. f reports whether
// the reference has gone.
func (s *Session) withRef(f func(p *C.SSL_SESSION, ctx *C.SSL_CTX) (gone bool)) error {
	var p *C.SSL_SESSION
	var ctx *C.SSL_CTX
	err := s.with(func(live *C.SSL_SESSION) {
		C.scb_session_up_ref(live)
		p, ctx = live, s.ctx
	})
	if err == nil && !f(p, ctx) {
		C.scb_session_free(p)
	}
	return err
}
