// Package hello reads a ClientHello: which sessions the client offers, and for which server name.
package hello

import (
	"encoding/binary"

	"github.com/libssl-go/libssl/store"
)

// MaxIdentities bounds how many PSK identities of one ClientHello are looked up. Stock clients offer one; a ClientHello
// has room for more than a thousand.
const MaxIdentities = 4

// Hello is the part of a ClientHello that decides which session is resumed. Extensions are given as their bodies, nil where
// absent. The slices may be C memory and are valid only while the callback runs that they came with.
type Hello struct {
	Random     []byte
	SessionID  []byte
	ServerName []byte
	Versions   []byte // supported_versions
	PSK        []byte // pre_shared_key
	Ticket     []byte // session_ticket
	TLS13      bool   // the server has TLS 1.3 enabled
	Tickets    bool   // the server has tickets enabled
	First      bool   // the handshake's first ClientHello, not the one after a HelloRetryRequest
	Judged     bool   // the handshake's first ClientHello had the same name, by which the server's policy was chosen
}

// Candidate is a session that the client offers.
type Candidate struct {
	ID  store.ID
	PSK bool // offered as a PSK of TLS 1.3
}

// Candidates appends the ids that OpenSSL will ask for, by the rule of SEMANTICS F6.2. A wrong guess costs a lookup, never
// correctness.
func (h *Hello) Candidates(all []Candidate) []Candidate {
	if h.TLS13 && h.offersTLS13() {
		return h.identities(all)
	}
	if h.Tickets && len(h.Ticket) > 0 {
		return all
	}
	if id, err := store.IDFromBytes(h.SessionID); err == nil {
		all = append(all, Candidate{ID: id})
	}
	return all
}

// vector cuts a vector with a length prefix of n bytes off b. ok is false if b is too short.
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

func (h *Hello) offersTLS13() bool {
	list, _, ok := vector(h.Versions, 1)
	for ok && len(list) >= 2 {
		if binary.BigEndian.Uint16(list) == 0x0304 {
			return true
		}
		list = list[2:]
	}
	return false
}

// identities appends the PSK identities that can be stateful tickets: those of exactly 32 bytes.
func (h *Hello) identities(all []Candidate) []Candidate {
	list, _, ok := vector(h.PSK, 2)
	for ok && len(list) > 0 && len(all) < MaxIdentities {
		var identity []byte
		if identity, list, ok = vector(list, 2); !ok || len(list) < 4 {
			break
		}
		list = list[4:] // the obfuscated ticket age
		if len(identity) == store.MaxIDLen {
			if id, err := store.IDFromBytes(identity); err == nil {
				all = append(all, Candidate{ID: id, PSK: true})
			}
		}
	}
	return all
}

// Name is the host name of the server_name extension, "" if it has none.
func (h *Hello) Name() string {
	list, _, ok := vector(h.ServerName, 2)
	for ok && len(list) > 0 {
		kind := list[0]
		var name []byte
		if name, list, ok = vector(list[1:], 2); ok && kind == 0 {
			return string(name)
		}
	}
	return ""
}

// Numbers reads a list of numbers of 16 bits, nil if it is cut.
func Numbers(list []byte) (all []uint16) {
	if len(list)%2 != 0 || len(list) == 0 {
		return nil
	}
	all = make([]uint16, len(list)/2)
	for i := range all {
		all[i] = binary.BigEndian.Uint16(list[2*i:])
	}
	return all
}

// NumbersOf is Numbers for an extension: the list has its length, of n bytes, in front.
func NumbersOf(ext []byte, n int) []uint16 {
	list, _, _ := vector(ext, n)
	return Numbers(list)
}

// VersionsUpTo are those that a client without the supported_versions extension speaks, the highest first.
func VersionsUpTo(legacy uint16) (all []uint16) {
	for v := min(legacy, 0x0303); v >= 0x0301; v-- {
		all = append(all, v)
	}
	return all
}

// Protocols reads the extension of ALPN, nil if it is cut.
func Protocols(ext []byte) (all []string) {
	list, _, ok := vector(ext, 2)
	for ok && len(list) > 0 {
		var name []byte
		if name, list, ok = vector(list, 1); ok {
			all = append(all, string(name))
		}
	}
	if !ok {
		return nil
	}
	return all
}
