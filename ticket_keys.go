package libssl

// #include "bridge.h"
import "C"

import (
	"errors"
	"runtime"
	"time"
	"unsafe"
	"weak"

	"github.com/libssl-go/libssl/ticket"
)

// UseTicketKeys makes the Context's tickets stateless and seals them with the
// keys of r: every server with the same ring, certificate and policy resumes
// them, without a store. A change of the ring reaches the Context at
// once, while it serves; a ticket under an older key of the ring is accepted and
// renewed. In TLS 1.3 each resumption brings new tickets, because clients use a ticket once. A ticket and its renewals
// resume for 24 h after the full handshake, or for MaxLifetime where the Context has a store. The time travels in the
// ticket's application data, SSL_SESSION_set1_ticket_appdata(3), so C code must not use that. Corresponds to SSL_CTX_set_tlsext_ticket_key_evp_cb(3), and to
// SSL_CTX_set_tlsext_ticket_key_cb(3) on 1.1.1.
//
// It clears OpNoTicket and, where no id context was set, has one computed as
// UseStore does. Together with UseStore, before or after, the store serves the
// TLS 1.2 clients that know no tickets. A ticket that the client holds cannot be
// single-use: with StoreOptions.SingleUse the answer is ErrUnsupported.
//
// On an SSL_CTX that C made it replaces the callbacks for ticket keys and for the
// sessions in tickets (SSL_CTX_set_session_ticket_cb).
//
// Locks and threads: the keys are copied into C; no handshake calls into Go for
// them. Another ring may be given at any time.
func (c *Context) UseTicketKeys(r *ticket.Ring) error {
	switch {
	case c == nil:
		return ErrClosed
	case r == nil || r.Len() == 0:
		return errors.New("libssl: use ticket keys: a ring without keys")
	case c.made && c.role == ClientRole:
		return unsupported("ticket keys on a client's Context")
	}
	if _, err := c.acquire(); err != nil {
		return err
	}
	defer c.release()
	c.setters.Lock()
	defer c.setters.Unlock()
	if l := c.layer(); l != nil {
		if err := l.allowTicketKeys(); err != nil {
			return err
		}
	}
	if c.maxEarlyData > 0 {
		return unsupported("stateless tickets with early data")
	}
	if err := c.useIDContext(); err != nil {
		return err
	}
	// The ring must not keep a forgotten Context from being collected.
	of := weak.Make(c)
	stop := r.OnChange(func() { // first: no change is missed
		if c := of.Value(); c != nil {
			c.ringChanged(r)
		}
	})
	if err := c.changeRing(r); err != nil {
		stop()
		return err
	}
	c.changeOptions(0, OpNoTicket)
	if c.stopTicketKeys != nil {
		c.stopTicketKeys()
	}
	c.stopTicketKeys = stop
	runtime.AddCleanup(c, func(stop func()) { stop() }, stop)
	return nil
}

func (c *Context) changeRing(r *ticket.Ring) error {
	c.ticketKeys.mu.Lock()
	defer c.ticketKeys.mu.Unlock()
	err := c.setTicketKeys(r)
	if err == nil {
		c.ticketKeys.ring = r
	}
	return err
}

// ringChanged follows r, unless another ring is in use by now.
func (c *Context) ringChanged(r *ticket.Ring) {
	if _, err := c.acquire(); err != nil { // before the lock: see Context
		return
	}
	defer c.release()
	c.ticketKeys.mu.Lock()
	var err error
	if c.ticketKeys.ring == r {
		err = c.setTicketKeys(r)
	}
	c.ticketKeys.mu.Unlock()
	if err != nil {
		c.reportMisuse("ticket keys", err)
	}
}

func (c *Context) setTicketLifetime(d time.Duration) error {
	return c.do("set ticket lifetime", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_ticket_lifetime(p, C.int64_t(d/time.Second), errs)
	})
}

// setTicketKeys copies the ring's keys into C. ticketKeys.mu is held.
func (c *Context) setTicketKeys(r *ticket.Ring) error {
	keys, err := r.TicketKeys()
	if err != nil {
		return err
	}
	in := make([]C.scb_ticket_key, len(keys))
	defer clear(keys)
	defer clear(in)
	for i, k := range keys {
		copy(unsafe.Slice((*byte)(&in[i].name[0]), len(k.Name)), k.Name[:])
		copy(unsafe.Slice((*byte)(&in[i].aes[0]), len(k.AES)), k.AES[:])
		copy(unsafe.Slice((*byte)(&in[i].hmac[0]), len(k.HMAC)), k.HMAC[:])
		if !k.NotBefore.IsZero() {
			in[i].not_before = C.int64_t(k.NotBefore.Unix())
		}
	}
	return c.do("use ticket keys", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_ticket_keys(p, unsafe.SliceData(in), C.size_t(len(in)), errs)
	})
}
