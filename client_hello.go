package libssl

// #include "bridge.h"
import "C"

import (
	"encoding/binary"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
	"github.com/libssl-go/libssl/store"
)

// maxIdentities bounds how many of a ClientHello's PSK identities are looked
// up: stock clients offer one, an attacker thousands.
const maxIdentities = 4

// clientHello is what a handshake's next lookups depend on. The slices are C
// memory, written by the peer.
type clientHello struct {
	random     []byte
	sessionID  []byte
	serverName []byte // extension bodies, nil where absent
	versions   []byte
	psk        []byte
	ticket     []byte
	tls13      bool // enabled here
	tickets    bool
	first      bool // of its handshake
}

// candidate is one session the client offers.
type candidate struct {
	id  store.ID
	psk bool // TLS 1.3
}

// candidates appends the ids that OpenSSL will ask for, by the rule of SEMANTICS
// F6.2. A wrong guess costs a lookup, never correctness.
func (h *clientHello) candidates(all []candidate) []candidate {
	if h.tls13 && h.offersTLS13() {
		return h.identities(all)
	}
	if h.tickets && len(h.ticket) > 0 {
		return all
	}
	if id, err := store.IDFromBytes(h.sessionID); err == nil {
		all = append(all, candidate{id: id})
	}
	return all
}

// vector cuts a vector with a length of n bytes off b; ok is false if b is too
// short.
func vector(b []byte, n int) (v, rest []byte, ok bool) {
	if len(b) < n {
		return nil, nil, false
	}
	size := 0
	for _, c := range b[:n] {
		size = size<<8 | int(c)
	}
	b = b[n:]
	if len(b) < size {
		return nil, nil, false
	}
	return b[:size], b[size:], true
}

func (h *clientHello) offersTLS13() bool {
	list, _, ok := vector(h.versions, 1)
	for ok && len(list) >= 2 {
		if binary.BigEndian.Uint16(list) == 0x0304 {
			return true
		}
		list = list[2:]
	}
	return false
}

// identities are the PSK identities that can be stateful tickets: those of
// exactly 32 bytes.
func (h *clientHello) identities(all []candidate) []candidate {
	list, _, ok := vector(h.psk, 2)
	for ok && len(list) > 0 && len(all) < maxIdentities {
		var identity []byte
		if identity, list, ok = vector(list, 2); !ok || len(list) < 4 {
			break
		}
		list = list[4:] // obfuscated age
		if len(identity) == store.MaxIDLen {
			if id, err := store.IDFromBytes(identity); err == nil {
				all = append(all, candidate{id: id, psk: true})
			}
		}
	}
	return all
}

// name is the host name of the server name extension, "" if it has none.
func (h *clientHello) name() string {
	list, _, ok := vector(h.serverName, 2)
	for ok && len(list) > 0 {
		kind := list[0]
		var name []byte
		if name, list, ok = vector(list[1:], 2); ok && kind == 0 {
			return string(name)
		}
	}
	return ""
}

// scbGoClientHello is called for each ClientHello, again after each park, and
// again for the second one after a HelloRetryRequest.
//
//export scbGoClientHello
func scbGoClientHello(h, ch C.uint64_t, ssl *C.SSL, ext *C.scb_hello) C.int {
	ctx, conn := lookup(h, ch)
	if ctx == nil {
		return C.SCB_HELLO_GO_ON
	}
	bytes := func(p *C.uchar, n C.size_t) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)) }
	hello := clientHello{
		random:     bytes(ext.random, ext.random_len),
		sessionID:  bytes(ext.session_id, ext.session_id_len),
		serverName: bytes(ext.server_name, ext.server_name_len),
		versions:   bytes(ext.versions, ext.versions_len),
		psk:        bytes(ext.psk, ext.psk_len),
		ticket:     bytes(ext.ticket, ext.ticket_len),
		tls13:      ext.tls13 != 0,
		tickets:    ext.tickets != 0,
		first:      ext.first != 0,
	}
	var resume *resumption
	var g *guest
	if conn != nil {
		resume = conn.resume
	} else if g = guests.Get(cgo.Handle(ext.attached)); g != nil {
		var waiting bool
		if waiting, resume = g.returns(&hello); waiting {
			return C.SCB_HELLO_PARK
		}
	}
	if resume != nil && resume.answered {
		resume.answered = false
		ctx.switchTo(resume.chosen, ssl)
		return C.SCB_HELLO_GO_ON
	}
	var chosen *Context
	if ctx.selectContext.Load() != nil {
		chosen = ctx.serverName(conn, ssl, hello.name())
	}
	if sc := ctx.cache.Load(); sc != nil {
		var room [maxIdentities]candidate
		if wanted := sc.known(hello.candidates(room[:0])); len(wanted) > 0 {
			// Switching waits for the last call: the hook of the next one is the
			// new context's (SEMANTICS F6.5).
			if conn != nil {
				if resume == nil {
					resume = &resumption{cache: sc}
					conn.resume = resume
				}
				resume.wanted, resume.chosen = append(resume.candidate[:0], wanted...), chosen
				return C.SCB_HELLO_PARK
			}
			if g == nil {
				g = invite(ssl)
			}
			if g != nil {
				g.expects(sc, &hello, wanted, chosen)
				if sc.parks() && g.park(ctx, ssl) {
					return C.SCB_HELLO_PARK
				}
			}
		}
	}
	ctx.switchTo(chosen, ssl)
	return C.SCB_HELLO_GO_ON
}

// switchTo makes chosen's certificates, client policy and id context the
// connection's.
func (c *Context) switchTo(chosen *Context, ssl *C.SSL) {
	if chosen == nil || chosen == c {
		return
	}
	p, err := chosen.acquire()
	if err != nil {
		c.misused("servername", err)
		return
	}
	defer chosen.release()
	sid, err := chosen.sessionIDContext()
	if err != nil {
		c.misused("servername", err)
		return
	}
	C.scb_ssl_switch(ssl, p)
	C.scb_ssl_set_id_context(ssl, bytesPtr(sid), C.uint(len(sid)))
}

// currentContext is the one an SNI switch left the SSL with.
func currentContext(ssl *C.SSL) *Context {
	if b := contexts.Get(cgo.Handle(C.scb_ssl_current_handle(ssl))); b != nil {
		return b.context()
	}
	return nil
}
