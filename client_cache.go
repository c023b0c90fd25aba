package libssl

// #include "bridge.h"
import "C"

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// UseClientCache lets every connection that Dial, DialContext and Client make on
// the Context resume by itself. It keeps at most max sessions in memory and drops
// those of the server that was used least recently.
//
// Sessions are kept by server name and port, so that any host of a fleet may
// resume them, and by address where there is no name. A TLS 1.3 ticket is used
// once (RFC 8446, appendix C.4), the newest first; several are kept, for
// connections that are made at once. A TLS 1.2 session is used until the server
// refuses or replaces it. A refused session costs a full handshake and is
// forgotten, and so are those that have expired.
//
// A change of the certificate, of the trusted CAs, of CRLs, of ciphers or of the
// verify mode drops what was kept before. The checks of Conn.SetSession hold here
// too: a session is offered only where its server was verified for the name. A
// session that SetSession offers takes precedence. Conn.WriteEarlyData uses the
// cache as well.
//
// It takes over the new callback and sets the cache mode. It is an error for max
// below 1, where a new callback or a cache is set already, and on a Context for
// servers. Close wipes the sessions.
//
// TLS 1.3: tickets come with or after the first data, so only a connection that
// reads gets one.
func (c *Context) UseClientCache(max int) error {
	switch {
	case c == nil:
		return ErrClosed
	case max <= 0:
		return fmt.Errorf("libssl: use client cache: %d sessions", max)
	case c.made && c.role != ClientRole:
		return unsupported("a client cache on a server's Context")
	}
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if c.layer() != nil {
		return errHasStore
	}
	if c.resuming.cache.Load() != nil {
		return errHasClientCache
	}
	if c.SessNewCallback() != nil {
		return errors.New("libssl: use client cache: a new callback is installed on the Context")
	}
	cache := &clientCache{max: max, servers: map[string]*cachedServer{}}
	var keep NewSessionFunc = func(ssl *SSL, s *Session) bool {
		if r := ssl.Conn().resumption(); r != nil {
			if ours, err := s.Retain(); err == nil && !cache.add(r, ours) {
				ours.Release()
			}
		}
		return false
	}
	c.SetSessionCacheMode(CacheClient | CacheNoInternal)
	c.handlers.newSession.Store(&keep)
	C.scb_set_callback(p, C.SCB_SESS_NEW, 1)
	c.resuming.cache.Store(cache)
	return nil
}

var errHasClientCache = errors.New("libssl: the Context has a client cache, which has its new callback")

// resuming is a Context's part in what its clients resume.
type resuming struct {
	cache  atomic.Pointer[clientCache] // nil without UseClientCache
	policy atomic.Uint64               // counts changes of what a server is verified by
}

// close ends the cache, if there is one.
func (r *resuming) close() {
	if cache := r.cache.Load(); cache != nil {
		cache.close()
	}
}

// clientCache holds the sessions of the clients of one Context.
type clientCache struct {
	max     int
	mu      sync.Mutex
	n       int // sessions
	servers map[string]*cachedServer
	recent  list.List // of *cachedServer, the one used last in front
	closed  bool
}

// cachedServer holds the sessions of one server: several of TLS 1.3, or one of TLS 1.2.
type cachedServer struct {
	key      string
	policy   uint64     // see resuming
	sessions []*Session // the newest last
	at       *list.Element
}

// resumption is a client connection's part in the cache. Its handshake's lock guards the fields below policy.
type resumption struct {
	cache   *clientCache
	key     string
	policy  uint64
	asked   bool
	offered *Session // until the handshake ends
	kept    *Session // the TLS 1.2 session in the cache of which offered is a copy
}

// resumption is nil on a server and without a cache.
func (c *Conn) resumption() *resumption {
	if c == nil || c.offers == nil {
		return nil
	}
	return c.offers.resume
}

// resumption returns nil where the Context has no cache.
func (c *Context) resumption(nc net.Conn, name string, policy uint64) *resumption {
	cache := c.resuming.cache.Load()
	if cache == nil {
		return nil
	}
	address := ""
	if a := nc.RemoteAddr(); a != nil {
		address = a.Network() + " " + a.String()
		if _, port, err := net.SplitHostPort(a.String()); err == nil && name != "" {
			address = port
		}
	}
	return &resumption{cache: cache, key: strings.ToLower(name) + " " + address, policy: policy}
}

// add keeps s, which is then the cache's to release.
func (cc *clientCache) add(r *resumption, s *Session) (kept bool) {
	if !usable(s, time.Now()) {
		return false
	}
	tls13 := s.Version() == versionTLS13
	cc.mu.Lock()
	defer cc.mu.Unlock()
	server := cc.servers[r.key]
	if cc.closed || server != nil && server.policy > r.policy {
		return false
	}
	if server != nil && (server.policy < r.policy || !tls13 || server.sessions[0].Version() != versionTLS13) {
		cc.drop(server, len(server.sessions))
		server = nil
	}
	if server == nil {
		server = &cachedServer{key: r.key, policy: r.policy}
		server.at = cc.recent.PushFront(server)
		cc.servers[r.key] = server
	}
	server.sessions = append(server.sessions, s)
	cc.n++
	cc.recent.MoveToFront(server.at)
	for cc.n > cc.max {
		cc.drop(cc.recent.Back().Value.(*cachedServer), 1)
	}
	return true
}

// drop releases the n oldest sessions of a server. mu is held.
func (cc *clientCache) drop(server *cachedServer, n int) {
	for _, s := range server.sessions[:n] {
		s.Release()
	}
	server.sessions = append(server.sessions[:0], server.sessions[n:]...)
	cc.n -= n
	cc.forgetEmpty(server)
}

func (cc *clientCache) forgetEmpty(server *cachedServer) {
	if len(server.sessions) == 0 && cc.servers[server.key] == server {
		delete(cc.servers, server.key)
		cc.recent.Remove(server.at)
	}
}

// take returns a session to offer, nil if there is none: a TLS 1.3 one leaves the cache, of a TLS 1.2 one it is a copy of
// kept. No two connections share an object: the failure of one would spoil the other's.
func (cc *clientCache) take(r *resumption) (offer, kept *Session) {
	now := time.Now()
	cc.mu.Lock()
	defer cc.mu.Unlock()
	server := cc.servers[r.key]
	if server == nil || server.policy > r.policy {
		return nil, nil
	}
	if server.policy < r.policy {
		cc.drop(server, len(server.sessions))
		return nil, nil
	}
	cc.recent.MoveToFront(server.at)
	defer cc.forgetEmpty(server)
	for len(server.sessions) > 0 {
		last := len(server.sessions) - 1
		s := server.sessions[last]
		if usable(s, now) && s.Version() != versionTLS13 {
			if offer, err := s.Dup(); err == nil {
				return offer, s
			}
		}
		server.sessions = server.sessions[:last]
		cc.n--
		if usable(s, now) && s.Version() == versionTLS13 {
			return s, nil
		}
		s.Release()
	}
	return nil, nil
}

// forget drops a TLS 1.2 session, unless another one has taken its place.
func (cc *clientCache) forget(r *resumption, kept *Session) {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	if server := cc.servers[r.key]; server != nil && kept != nil && server.sessions[0] == kept {
		cc.drop(server, 1)
	}
}

func (cc *clientCache) close() {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	cc.closed = true
	for _, server := range cc.servers {
		cc.drop(server, len(server.sessions))
	}
}

// usable reports whether a server may still accept the session.
func usable(s *Session, now time.Time) (ok bool) {
	s.info(func(i *C.scb_session_info) {
		life := int64(i.timeout)
		if hint := int64(i.lifetime_hint); i.has_ticket != 0 && (hint > 0 || i.version == versionTLS13) {
			life = min(life, hint)
		}
		age := now.Unix() - int64(i.time)
		ok = i.resumable != 0 && age >= 0 && age <= life && life > 0
	})
	return ok
}

// offerCached offers a session of the cache, once. The handshake is locked.
func (c *Conn) offerCached() {
	r := c.resumption()
	if r == nil || r.asked {
		return
	}
	r.asked = true
	for {
		offer, kept := r.cache.take(r)
		if offer == nil {
			return
		}
		if offered, _ := c.offer(offer); offered {
			r.offered, r.kept = offer, kept
			return
		}
		offer.Release()
		r.cache.forget(r, kept)
	}
}

// endOffer takes note of how the server has answered. The handshake is locked, and over.
func (c *Conn) endOffer() {
	r := c.resumption()
	if r == nil || r.offered == nil {
		return
	}
	offered := r.offered
	defer offered.Release()
	switch {
	case !c.hs.complete() && !c.tls.failed(): // the network failed, or Close came first
	case !c.SessionReused():
		r.cache.forget(r, r.kept)
	case r.kept != nil:
		// OpenSSL calls no callback for a ticket that a TLS 1.2 server has renewed.
		if s, err := c.Session(); err == nil && (s.Pointer() == r.offered.Pointer() || !r.cache.add(r, s)) {
			s.Release()
		}
	}
	r.offered, r.kept = nil, nil
}
