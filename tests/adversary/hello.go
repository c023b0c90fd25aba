// Package adversary has peers that break the protocol on purpose, while the rest of the handshake stays valid.
package adversary

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// Types of extensions.
const (
	ServerName    = 0
	Groups        = 10
	SignatureAlgs = 13
	ALPN          = 16
	Ticket        = 35
	PSK           = 41
	EarlyData     = 42
	Versions      = 43
	Cookie        = 44
	PSKModes      = 45
	KeyShare      = 51
)

// Types of records.
const (
	ChangeCipherSpec = 20
	Alert            = 21
	Handshake        = 22
	Data             = 23
	Heartbeat        = 24
)

// Types of handshake messages.
const (
	ClientHello       = 1
	ServerHello       = 2
	Certificate       = 11
	ClientKeyExchange = 16
	Finished          = 20
	KeyUpdate         = 24
)

// Message is a handshake message.
func Message(kind byte, body []byte) []byte { return append([]byte{kind}, vector(3, body)...) }

// Record is one record, whatever its length.
func Record(kind byte, body []byte) []byte { return append([]byte{kind, 3, 1}, vector(2, body)...) }

// Extension is one extension of a ClientHello.
type Extension struct {
	Type uint16
	Body []byte
}

// Hello is a ClientHello.
type Hello struct {
	Random     [32]byte
	SessionID  []byte
	Suites     []uint16
	Extensions []Extension
}

// NewHello makes a valid ClientHello of TLS 1.3 for a server name, none for "". It has a key share of curve, and knows all groups.
func NewHello(name string, curve ecdh.Curve) *Hello {
	h := &Hello{Suites: []uint16{0x1301, 0x1302, 0x1303, 0xc02b}} // the last for TLS 1.2
	rand.Read(h.Random[:])
	h.Set(Versions, []byte{2, 3, 4})
	h.Set(Groups, vector(2, groups[ecdh.X25519()], groups[ecdh.P256()]))
	h.Set(SignatureAlgs, vector(2, []byte{4, 3, 8, 4, 8, 7})) // ECDSA with P-256, RSA-PSS, Ed25519
	h.Share(curve)
	h.Name(name)
	return h
}

var groups = map[ecdh.Curve][]byte{ecdh.X25519(): {0, 29}, ecdh.P256(): {0, 23}}

// Share replaces the key share.
func (h *Hello) Share(curve ecdh.Curve) {
	key, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	h.Set(KeyShare, vector(2, groups[curve], vector(2, key.PublicKey().Bytes())))
}

// Name replaces the server name, and removes the extension for "".
func (h *Hello) Name(name string) {
	if name == "" {
		h.Set(ServerName, nil)
	} else {
		h.Set(ServerName, vector(2, []byte{0}, vector(2, []byte(name))))
	}
}

// Set replaces the body of an extension in its place, or adds the extension; nil removes it.
func (h *Hello) Set(kind uint16, body []byte) {
	for i, e := range h.Extensions {
		if e.Type == kind && body != nil {
			h.Extensions[i].Body = body
			return
		} else if e.Type == kind {
			h.Extensions = append(h.Extensions[:i], h.Extensions[i+1:]...)
			return
		}
	}
	if body != nil {
		h.Extensions = append(h.Extensions, Extension{kind, body})
	}
}

// vector puts a length of n bytes in front of the parts.
func vector(n int, parts ...[]byte) []byte {
	b := make([]byte, n)
	for _, p := range parts {
		b = append(b, p...)
	}
	for i, size := n-1, len(b)-n; i >= 0; i, size = i-1, size>>8 {
		b[i] = byte(size)
	}
	return b
}

// Message is the ClientHello as a handshake message.
func (h *Hello) Message() []byte {
	var suites, extensions []byte
	for _, s := range h.Suites {
		suites = binary.BigEndian.AppendUint16(suites, s)
	}
	for _, e := range h.Extensions {
		extensions = append(binary.BigEndian.AppendUint16(extensions, e.Type), vector(2, e.Body)...)
	}
	body := append([]byte{3, 3}, h.Random[:]...)
	body = append(body, vector(1, h.SessionID)...)
	body = append(body, vector(2, suites)...)
	body = append(body, 1, 0) // no compression
	body = append(body, vector(2, extensions)...)
	return Message(ClientHello, body)
}

// Record is the ClientHello in a record.
func (h *Hello) Record() []byte { return Record(Handshake, h.Message()) }

// Forge offers a session with this identity and a binder of zeros; nil removes the offer.
func (h *Hello) Forge(identity []byte) {
	h.Set(PSK, nil)
	if identity != nil {
		h.Set(PSKModes, []byte{1, 1})
		h.Set(PSK, append(vector(2, vector(2, identity), make([]byte, 4)), vector(2, vector(1, make([]byte, 32)))...))
	}
}

// Answer is what a server says to a ClientHello.
type Answer struct {
	Retry bool  // a HelloRetryRequest
	Hello bool  // a ServerHello
	Alert uint8 // a fatal one, else 0
}

// The random of a ServerHello that is a HelloRetryRequest begins with this.
const retry = "\xcf\x21\xad\x74\xe5\x9a\x61\x11"

// Say sends the ClientHello and reads the answer.
func (h *Hello) Say(nc net.Conn) (a Answer, err error) {
	if _, err := nc.Write(h.Record()); err != nil {
		return a, err
	}
	for {
		var head [5]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return a, err
		}
		body := make([]byte, binary.BigEndian.Uint16(head[3:]))
		if _, err := io.ReadFull(nc, body); err != nil {
			return a, err
		}
		switch {
		case head[0] == Alert && len(body) == 2:
			a.Alert = body[1]
			return a, nil
		case head[0] == Handshake && len(body) > 38 && body[0] == ServerHello:
			a.Retry = string(body[6:6+len(retry)]) == retry
			a.Hello = !a.Retry
			return a, nil
		case head[0] != ChangeCipherSpec: // which says nothing
			return a, fmt.Errorf("adversary: a record of type %d", head[0])
		}
	}
}
