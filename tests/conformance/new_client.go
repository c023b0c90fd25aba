package conformance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F1.14: on a client -----------------------------------------------------------

// clientLab is a lab whose callbacks are the client's.
func clientLab(o *observer, version uint16, tickets bool) *lab {
	l := o.lab(version)
	l.storeOn(l.client)
	l.client.SetSessionCacheMode(libssl.CacheClient | libssl.CacheNoInternal)
	if tickets {
		l.server.ClearOptions(libssl.OpNoTicket)
	}
	return l
}

func clientByDefault(o *observer, version uint16) {
	l := clientLab(o, version, true)
	l.client.SetSessionCacheMode(libssl.CacheServer) // as by default
	l.mustVisit(l.server, nil)
	o.say(versioned(version, "mode SERVER"), "new %d", l.news)
}

func clientCalls(o *observer, name string, version uint16, tickets bool) {
	l := clientLab(o, version, tickets)
	o.must(l.server.SetNumTickets(2))
	k := l.open(l.server, "", nil)
	var served error
	var both sync.WaitGroup
	both.Go(func() { served = k.server.Handshake() })
	err := k.client.Handshake()
	both.Wait()
	o.must(errors.Join(err, served))
	handshake := l.news
	o.mustBe(k.run(), "a byte each way")
	o.say(versioned(version, name), "new %d in the handshake, %d while reading", handshake, l.news-handshake)
	k.closeClean()
}

// clientIDs looks for the session's id in the bytes of a resumption.
func clientIDs(o *observer, version uint16) {
	l := clientLab(o, version, true)
	var id []byte
	hash := false
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		digest := sha256.Sum256(ticketOf(s))
		id = s.ID().Bytes()
		hash = bytes.Equal(id, digest[:])
	}
	_, session := l.mustVisit(l.server, nil)
	l.onNew = nil
	k := l.open(l.server, "", session)
	var crossed atomic.Bool
	k.wire.clientHook = func(p []byte) []byte {
		if bytes.Contains(p, id) {
			crossed.Store(true)
		}
		return p
	}
	k.wire.serverHook = k.wire.clientHook
	o.mustBe(k.run(), "a handshake")
	o.say(versioned(version, "id with a ticket"), "%d bytes, the ticket's SHA-256 %s, resumed %s, sent for that %s",
		len(id), yes(hash), yes(k.resumed()), yes(crossed.Load()))
	k.closeClean()
}

func clientRenews(o *observer, version uint16) {
	l := clientLab(o, version, true)
	cref.RenewTickets(l.server.Pointer())
	_, first := l.mustVisit(l.server, nil)
	l.reset()
	resumed, second := l.mustVisit(l.server, first)
	o.say(versioned(version, "renewed ticket"), "resumed %s, new %d, remove %d, the connection has another ticket %s",
		yes(resumed), l.news, l.removes, yes(!bytes.Equal(ticketOf(first), ticketOf(second))))
}

// ticketOf returns the client's ticket, or nil without one.
func ticketOf(s *libssl.Session) []byte {
	der, err := s.MarshalBinary()
	if err != nil {
		return nil
	}
	fields, err := parseFields(der)
	if err != nil {
		return nil
	}
	return fields.octets(fieldTicket)
}
