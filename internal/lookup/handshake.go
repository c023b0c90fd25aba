package lookup

import (
	"context"
	"sync"

	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/store"
)

// Handshake is the lookups of one handshake. It is for one goroutine at a time.
type Handshake struct {
	source  *Source
	wanted  []hello.Candidate // by the last ClientHello
	answers *Answer
	header  entry.Header // of the session that OpenSSL accepted
	from    store.ID

	// Room for one of each, which is enough for nearly every handshake.
	candidate [1]hello.Candidate
	answer    Answer
	scratch   [512]byte // for a session without a client certificate
}

// Answer is the store's answer about one candidate.
type Answer struct {
	hello.Candidate
	DER       []byte // nil: a miss
	Header    entry.Header
	IDContext []byte // of the Context; code in C may give an SSL another one

	next    *Answer
	scratch []byte
	taken   *store.Record
	used    bool
	counted bool
}

// New begins the lookups of a handshake.
func New(s *Source) *Handshake { return &Handshake{source: s} }

// Source is the Source that New was given.
func (h *Handshake) Source() *Source { return h.source }

// Want notes the sessions that a ClientHello offers. Answers about sessions of an earlier ClientHello remain.
func (h *Handshake) Want(wanted []hello.Candidate) { h.wanted = append(h.candidate[:0], wanted...) }

// LookUp finds the wanted sessions while the handshake is parked, all at once: they share one time limit.
func (h *Handshake) LookUp(ctx context.Context, idContext []byte) {
	s := h.source
	s.Stats.Suspended.Add(1)
	s.Stats.Parked.Add(1)
	defer s.Stats.Parked.Add(-1)
	known := h.answers
	for _, c := range h.wanted {
		if h.Answer(c.ID) == nil { // or the first ClientHello asked for it already
			h.add(c)
		}
	}
	if h.answers == known {
		return
	}
	if h.answers.next == known {
		s.find(ctx, h.answers, idContext)
		return
	}
	var all sync.WaitGroup
	for a := h.answers; a != known; a = a.next {
		all.Go(func() { s.find(ctx, a, idContext) })
	}
	all.Wait()
}

// LookUpNow finds one session on the calling thread.
func (h *Handshake) LookUpNow(c hello.Candidate, idContext []byte) *Answer {
	a := h.add(c)
	h.source.find(context.Background(), a, idContext)
	return a
}

// Answer returns the answer about id, nil if it was not looked up.
func (h *Handshake) Answer(id store.ID) *Answer {
	for a := h.answers; a != nil; a = a.next {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// add makes an Answer, a miss until something is found.
func (h *Handshake) add(c hello.Candidate) *Answer {
	a := &h.answer
	if h.answers == nil {
		a.scratch = h.scratch[:0]
	} else {
		a = new(Answer)
	}
	a.Candidate, a.next = c, h.answers
	h.answers = a
	return a
}

// Accepted notes that OpenSSL was given the session. It is counted once, although OpenSSL asks again after a
// HelloRetryRequest. Where its id context is not that of the Context, it is counted at the end, which shows whether it was that
// of the SSL.
func (h *Handshake) Accepted(a *Answer, otherIDContext bool) {
	a.used = true
	h.header, h.from = a.Header, a.ID
	if !otherIDContext && !a.counted {
		h.source.Stats.Hits.Add(1)
		a.counted = true
	}
}

// Rejected notes why OpenSSL must not have the session.
func (h *Handshake) Rejected(a *Answer, why Reason) {
	if !a.counted {
		h.source.reject(why)
	}
	a.counted = true
}

// From is the id of the session that OpenSSL accepted last, zero if none. Until the handshake is over the client has not
// proved that it knows the session's secret.
func (h *Handshake) From() store.ID { return h.from }

// Header is that of the entry.
func (h *Handshake) Header() entry.Header { return h.header }

// End wipes the answers. It puts back what was taken, unless the handshake resumed with it: anyone who saw a ticket could
// otherwise use it up by offering it with a wrong binder (SEMANTICS F5.4).
func (h *Handshake) End(ctx context.Context, resumed bool) {
	for a := h.answers; a != nil; a = a.next {
		clear(a.DER)
		a.DER = nil
		if a.used && !a.counted && resumed {
			h.source.Stats.Hits.Add(1)
		} else if a.used && !a.counted {
			h.source.reject(OtherIDContext)
		}
		if a.taken != nil && !(a.used && resumed) {
			// The end of ctx gave the handshake up, not the entry.
			h.source.Store.PutBack(context.WithoutCancel(ctx), a.taken)
		}
	}
}
