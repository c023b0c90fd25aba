package adversary_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	. "github.com/libssl-go/libssl/tests/adversary"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// many is a record n times.
func many(n int, kind byte, body ...byte) []byte { return bytes.Repeat(Record(kind, body), n) }

// join puts records, one after the other, into what a peer sends.
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// split puts a message into records of n bytes.
func split(message []byte, n int) (all []byte) {
	for len(message) > n {
		all, message = append(all, Record(Handshake, message[:n])...), message[n:]
	}
	return append(all, Record(Handshake, message)...)
}

// retried is a ClientHello that is answered with a HelloRetryRequest, and the next one. change alters the second.
func retried(change func(h *Hello)) []byte { return retriedAs(func(*Hello) {}, change) }

func retriedAs(first, change func(h *Hello)) []byte {
	h := NewHello(open, ecdh.X25519())
	first(h)
	one := h.Record()
	h.Share(ecdh.P256())
	change(h)
	return append(one, h.Record()...)
}

func with(changes ...func(h *Hello)) *Hello {
	h := NewHello(open, ecdh.P256())
	for _, change := range changes {
		change(h)
	}
	return h
}

func older(h *Hello) { h.Set(Versions, nil); h.Set(KeyShare, nil) }

func set(kind uint16, body ...byte) func(*Hello) { return func(h *Hello) { h.Set(kind, body) } }

func forge(fill byte, n int) func(*Hello) {
	return func(h *Hello) { h.Forge(bytes.Repeat([]byte{fill}, n)) }
}

// attacks are what peers send, all at once. A peer then waits for the server to say its last word.
func attacks() map[string][]byte {
	hello := with()
	all := map[string][]byte{
		"nothing":                   nil,
		"a hello":                   hello.Record(),
		"a hello of TLS 1.2":        with(older).Record(),
		"two hellos":                append(hello.Record(), hello.Record()...),
		"two hellos of TLS 1.2":     append(with(older).Record(), with(older).Record()...),
		"a hello in bytes":          split(hello.Message(), 1),
		"a hello in halves":         split(hello.Message(), 100),
		"an alert within a hello":   join(split(hello.Message()[:100], 100), many(1, Alert, 1, 90), Record(Handshake, hello.Message()[100:])),
		"half a hello":              Record(Handshake, hello.Message()[:60]),
		"Finished first":            Record(Handshake, Message(Finished, make([]byte, 32))),
		"Certificate first":         Record(Handshake, Message(Certificate, make([]byte, 4))),
		"Finished in plaintext":     append(hello.Record(), Record(Handshake, Message(Finished, make([]byte, 32)))...),
		"KeyUpdate in plaintext":    append(hello.Record(), Record(Handshake, Message(KeyUpdate, []byte{1}))...),
		"a ServerHello":             Record(Handshake, Message(ServerHello, hello.Message()[4:])),
		"a forged key exchange":     join(with(older).Record(), Record(Handshake, Message(ClientKeyExchange, append([]byte{65, 4}, make([]byte, 64)...)))),
		"Finished without keys":     join(with(older).Record(), Record(Handshake, Message(Finished, make([]byte, 12)))),
		"CCS without keys":          join(with(older).Record(), many(1, ChangeCipherSpec, 1)),
		"garbage for ciphertext":    append(hello.Record(), Record(Data, make([]byte, 100))...),
		"data first":                Record(Data, []byte("GET")),
		"HTTP":                      []byte("GET / HTTP/1.1\r\nHost: open.test\r\n\r\n"),
		"an SSLv2 hello":            append([]byte{0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16}, make([]byte, 37)...),
		"a heartbeat":               append(hello.Record(), many(1, Heartbeat, 1, 0xff, 0xff)...),
		"warnings before":           append(many(40, Alert, 1, 90), hello.Record()...),
		"warnings after":            append(hello.Record(), many(40, Alert, 1, 100)...),
		"warnings in TLS 1.2":       append(with(older).Record(), many(40, Alert, 1, 100)...),
		"close_notify first":        many(1, Alert, 1, 0),
		"a fatal alert after":       append(hello.Record(), many(1, Alert, 2, 80)...),
		"half an alert":             many(1, Alert, 2),
		"ChangeCipherSpecs":         append(hello.Record(), many(100, ChangeCipherSpec, 1)...),
		"a ChangeCipherSpec before": append(many(1, ChangeCipherSpec, 1), hello.Record()...),
		"a wrong ChangeCipherSpec":  append(hello.Record(), many(1, ChangeCipherSpec, 2)...),
		"empty records":             append(many(40, Handshake), hello.Record()...),
		"a long record":             Record(Handshake, make([]byte, 0x4900)),
		"a long message":            Record(Handshake, []byte{ClientHello, 0xff, 0xff, 0xff, 3, 3}),
		"an empty message":          Record(Handshake, []byte{ClientHello, 0, 0, 0}),
		"a long session id":         with(func(h *Hello) { h.SessionID = make([]byte, 33) }).Record(),
		"a session id":              with(func(h *Hello) { h.SessionID = make([]byte, 32) }).Record(),
		"a session id in TLS 1.2":   with(older, func(h *Hello) { h.SessionID = make([]byte, 32) }).Record(),
		"a ticket in TLS 1.2":       with(older, set(Ticket, make([]byte, 200)...)).Record(),
		"no suites":                 with(func(h *Hello) { h.Suites = nil }).Record(),
		"no suite in common":        with(func(h *Hello) { h.Suites = []uint16{0x1304} }).Record(),
		"no version in common":      with(set(Versions, 2, 3, 5)).Record(),
		"no versions":               with(set(Versions, 0)).Record(),
		"no share":                  with(set(KeyShare, 0, 0)).Record(),
		"a share off the curve":     with(set(KeyShare, append([]byte{0, 69, 0, 23, 0, 65, 4}, make([]byte, 64)...)...)).Record(),
		"a broken name":             with(set(ServerName, 0, 9, 0, 0, 6, 'o')).Record(),
		"no ALPN in common":         with(set(ALPN, 0, 2, 1, 'z')).Record(),
		"an unknown extension":      with(set(0xfafa, make([]byte, 1000)...)).Record(),
		"extensions twice": with(func(h *Hello) {
			h.Extensions = append(h.Extensions, h.Extensions...)
		}).Record(),
		"a forged session":         with(forge(7, 32)).Record(),
		"a forged ticket":          with(forge(7, 200)).Record(),
		"an empty identity":        with(forge(7, 0)).Record(),
		"a session before its end": with(forge(7, 32), set(0xfafa, 1)).Record(),
		"forged early data":        append(with(set(EarlyData), forge(7, 32)).Record(), Record(Data, make([]byte, 100))...),
		"early data alone":         with(set(EarlyData)).Record(),
	}
	for name, change := range map[string]func(*Hello){
		"nothing":  func(*Hello) {},
		"random":   func(h *Hello) { h.Random[0]++ },
		"suites":   func(h *Hello) { h.Suites = h.Suites[1:] },
		"id":       func(h *Hello) { h.SessionID = make([]byte, 32) },
		"share":    func(h *Hello) { h.Share(ecdh.X25519()) },
		"no share": set(KeyShare, 0, 0),
		"groups":   set(Groups, 0, 2, 0, 23),
		"version":  set(Versions, 2, 3, 3),
		"versions": func(h *Hello) { h.Set(Versions, nil) },
		"schemes":  set(SignatureAlgs, 0, 2, 8, 4),
		"ALPN":     set(ALPN, 0, 2, 1, 'a'),
		"cookie":   set(Cookie, 0, 2, 1, 2),
		"session":  forge(7, 32),
		"unknown":  set(0xfafa, 1, 2, 3),
		"many":     func(h *Hello) { h.Extensions = append(h.Extensions, h.Extensions[0]) },
		"early":    set(EarlyData),
	} {
		all["a second hello that changes "+name] = retried(change)
	}
	all["another session in the second hello"] = retriedAs(forge(7, 32), forge(8, 32))
	all["no session in the second hello"] = retriedAs(forge(7, 32), func(h *Hello) { h.Forge(nil) })
	all["the same session in the second hello"] = retriedAs(forge(7, 32), forge(7, 32))
	all["early data in the second hello"] = retriedAs(func(h *Hello) { h.Set(EarlyData, []byte{}); h.Forge(make([]byte, 32)) }, func(*Hello) {})
	all["three hellos"] = append(retried(func(*Hello) {}), NewHello(open, ecdh.X25519()).Record()...)
	return all
}

// hear reads to the end and says what came: the types of records, of messages that are not encrypted, and alerts.
func hear(nc net.Conn) (said []string, err error) {
	all, err := io.ReadAll(nc)
	if err != nil {
		return nil, err
	}
	for len(all) >= 5 && len(all) >= 5+int(binary.BigEndian.Uint16(all[3:])) {
		kind, body := all[0], all[5:5+int(binary.BigEndian.Uint16(all[3:]))]
		all = all[5+len(body):]
		switch {
		case kind == Alert && len(body) == 2:
			said = append(said, fmt.Sprint("alert ", body[1]))
		case kind == Handshake && len(body) > 0:
			said = append(said, fmt.Sprint("message ", body[0]))
		default:
			said = append(said, fmt.Sprint("record ", kind))
		}
	}
	if len(all) > 0 {
		said = append(said, fmt.Sprintf("%q", all))
	}
	return said, nil
}

// attack sends what a peer sends to a server, and returns what that said before it closed.
func attack(t testing.TB, sent []byte, serve func(nc *net.TCPConn)) []string {
	t.Helper()
	peer, end, err := tlstest.TCPPair()
	require.NoError(t, err)
	defer peer.Close()
	peer.SetDeadline(time.Now().Add(time.Minute))
	end.SetDeadline(time.Now().Add(time.Minute))
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer end.Close()
		serve(end.(*net.TCPConn))
		// Closing a socket with unread bytes resets the connection, and the peer may lose the alert.
		end.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, end)
	}()
	// The end without a close_notify is an alert of its own where OpenSSL has the socket.
	_, err = peer.Write(append(sent, many(1, Alert, 1, 0)...))
	require.NoError(t, err)
	require.NoError(t, peer.(*net.TCPConn).CloseWrite())
	said, err := hear(peer)
	require.NoError(t, err)
	<-served
	return said
}

// byC serves with an SSL of C.
func byC(ctx *libssl.Context) func(*net.TCPConn) {
	return func(nc *net.TCPConn) {
		if file, err := nc.File(); err == nil {
			cref.Accept(ctx.Pointer(), int(file.Fd()))
			file.Close()
		}
	}
}

// byConn serves with a Conn, which does not close the socket.
func byConn(ctx *libssl.Context) func(*net.TCPConn) {
	return func(nc *net.TCPConn) {
		if s, err := libssl.Server(openSocket{nc}, ctx); err == nil {
			_ = s.Handshake()
			s.Close()
		}
	}
}

type openSocket struct{ net.Conn }

func (openSocket) Close() error { return nil }

// A server of ours answers each attack as OpenSSL alone does: with and without a store, a ring, a choice by name.
func TestServer_AnswersAttacksAsOpenSSLDoes(t *testing.T) {
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.Leaf(t, open)
	server := func(t *testing.T) *libssl.Context {
		ctx, err := libssl.NewContext(libssl.ServerRole)
		require.NoError(t, err)
		t.Cleanup(func() { ctx.Close() })
		require.NoError(t, ctx.UseCertificatePEM(cert, key))
		require.NoError(t, ctx.SetGroups("P-256"))
		require.NoError(t, ctx.SetALPN("a", "b"))
		return ctx
	}
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	choose := func(ctx *libssl.Context) {
		ctx.SetServerNameCallback(func(ssl *libssl.SSL, _ string) *libssl.Context { return nil })
	}
	for name, install := range map[string]func(t *testing.T, ctx *libssl.Context){
		"plain": func(*testing.T, *libssl.Context) {},
		"store": func(t *testing.T, ctx *libssl.Context) { useStore(t, ctx) },
		"ring":  func(t *testing.T, ctx *libssl.Context) { require.NoError(t, ctx.UseTicketKeys(ring)) },
		"name":  func(_ *testing.T, ctx *libssl.Context) { choose(ctx) },
		"both":  func(t *testing.T, ctx *libssl.Context) { useStore(t, ctx); choose(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bare, ours := server(t), server(t)
			install(t, ours)
			for what, sent := range attacks() {
				want := attack(t, sent, byC(bare))
				require.Equal(t, want, attack(t, sent, byConn(ours)), "%s to a Conn", what)
				require.Equal(t, want, attack(t, sent, byC(ours)), "%s to an SSL of C", what)
			}
		})
	}
}
