package libssl

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"testing"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// vec is a TLS vector with a length of n bytes.
func vec(n int, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	size := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	return append(size[4-n:], body...)
}

func pskIdentity(b []byte) []byte { return append(vec(2, b), 1, 2, 3, 4) }

func pskExtension(identities ...[]byte) []byte {
	return append(vec(2, identities...), vec(2, vec(1, make([]byte, 32)))...)
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

var (
	only12 = []byte{2, 3, 3}
	both   = []byte{4, 3, 4, 3, 3}
)

func TestClientHello_Candidates(t *testing.T) {
	one := pskExtension(pskIdentity(fill('a', 32)))
	for _, tt := range []struct {
		name string
		h    clientHello
		want []string // the first byte of each id, "+" in front for a PSK
	}{
		{"nothing", clientHello{}, nil},
		{"1.2 id", clientHello{sessionID: fill('i', 32)}, []string{"i"}},
		{"1.2 id of one byte", clientHello{sessionID: fill('i', 1)}, []string{"i"}},
		{"1.2 id too long", clientHello{sessionID: fill('i', 33)}, nil},
		{"1.2 id, 1.3 enabled but not offered", clientHello{sessionID: fill('i', 32), versions: only12, tls13: true}, []string{"i"}},
		{"1.2 id, no version extension", clientHello{sessionID: fill('i', 32), tls13: true}, []string{"i"}},
		{"1.3 offered, not enabled: the id counts", clientHello{sessionID: fill('i', 32), versions: both, psk: one}, []string{"i"}},
		{"1.3 without PSK: the id is decoration", clientHello{sessionID: fill('i', 32), versions: both, tls13: true}, nil},
		{"1.3 with PSK", clientHello{sessionID: fill('i', 32), versions: both, psk: one, tls13: true}, []string{"+a"}},
		{"1.3 after GREASE", clientHello{versions: []byte{6, 0xda, 0xda, 3, 4, 3, 3}, psk: one, tls13: true}, []string{"+a"}},
		{"1.3 only straddling", clientHello{versions: []byte{4, 1, 3, 4, 1}, psk: one, tls13: true}, nil},
		{"tickets on, ticket offered", clientHello{sessionID: fill('i', 32), ticket: fill('t', 100), tickets: true}, nil},
		{"tickets on, empty ticket", clientHello{sessionID: fill('i', 32), ticket: []byte{}, tickets: true}, []string{"i"}},
		{"tickets on, no ticket extension", clientHello{sessionID: fill('i', 32), tickets: true}, []string{"i"}},
		{"tickets off, ticket offered", clientHello{sessionID: fill('i', 32), ticket: fill('t', 100)}, []string{"i"}},
		{"a stateless ticket first", clientHello{versions: both, tls13: true,
			psk: pskExtension(pskIdentity(fill('s', 200)), pskIdentity(fill('b', 32)))}, []string{"+b"}},
		{"31 and 33 bytes", clientHello{versions: both, tls13: true,
			psk: pskExtension(pskIdentity(fill('s', 31)), pskIdentity(fill('s', 33)))}, nil},
		{"more than are looked up", clientHello{versions: both, tls13: true,
			psk: pskExtension(pskIdentity(fill('a', 32)), pskIdentity(fill('b', 32)), pskIdentity(fill('c', 32)),
				pskIdentity(fill('d', 32)), pskIdentity(fill('e', 32)))}, []string{"+a", "+b", "+c", "+d"}},
		{"PSK list cut", clientHello{versions: both, tls13: true, psk: one[:20]}, nil},
		{"second identity cut", clientHello{versions: both, tls13: true,
			psk: vec(2, pskIdentity(fill('a', 32)), vec(2, fill('b', 32))[:10])}, []string{"+a"}},
		{"age cut", clientHello{versions: both, tls13: true, psk: vec(2, vec(2, fill('a', 32)), []byte{1, 2, 3})}, nil},
		{"version list cut", clientHello{versions: []byte{4, 3, 3}, psk: one, tls13: true, sessionID: fill('i', 32)}, []string{"i"}},
		{"odd version list", clientHello{versions: []byte{3, 3, 3, 3}, psk: one, tls13: true}, nil},
		{"empty version list", clientHello{versions: []byte{}, psk: one, tls13: true}, nil},
		{"empty PSK", clientHello{versions: both, psk: []byte{}, tls13: true}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, c := range tt.h.candidates(nil) {
				b := c.id.Bytes()
				require.Equal(t, fill(b[0], len(b)), b)
				if c.psk {
					got = append(got, "+"+string(b[:1]))
				} else {
					got = append(got, string(b[:1]))
				}
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestClientHello_Name(t *testing.T) {
	host := func(kind byte, name string) []byte { return append([]byte{kind}, vec(2, []byte(name))...) }
	for name, tt := range map[string]struct {
		ext  []byte
		want string
	}{
		"absent":       {nil, ""},
		"empty":        {[]byte{}, ""},
		"empty list":   {vec(2), ""},
		"a host":       {vec(2, host(0, "server.test")), "server.test"},
		"other kinds":  {vec(2, host(7, "x"), host(0, "server.test")), "server.test"},
		"no host":      {vec(2, host(7, "x")), ""},
		"kind alone":   {vec(2, []byte{0}), ""},
		"name cut":     {vec(2, host(0, "server.test")[:6]), ""},
		"list cut":     {vec(2, host(0, "server.test"))[:9], ""},
		"empty a host": {vec(2, host(0, "")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := clientHello{serverName: tt.ext}
			require.Equal(t, tt.want, h.name())
		})
	}
}

// reference is the rule of SEMANTICS F6.2 once more, by other means: each structure is read to its end, with io.Reader,
// and lists are cut where a structure is not whole.
type reference struct{ clientHello }

// read returns what a vector with a length of n bytes holds.
func (reference) read(r *bytes.Reader, n int) (body []byte, whole bool) {
	length := make([]byte, 8)
	if _, err := io.ReadFull(r, length[8-n:]); err != nil {
		return nil, false
	}
	size := binary.BigEndian.Uint64(length)
	if size > uint64(r.Len()) {
		return nil, false
	}
	body = make([]byte, size)
	_, err := io.ReadFull(r, body)
	return body, err == nil
}

func (h reference) speaks13() bool {
	list, _ := h.read(bytes.NewReader(h.versions), 1)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i] == 3 && list[i+1] == 4 {
			return true
		}
	}
	return false
}

func (h reference) candidates() (all []candidate) {
	id := func(b []byte, psk bool) {
		if len(b) == 0 || len(b) > 32 {
			return
		}
		c := candidate{psk: psk}
		c.id, _ = store.ParseID(hex.EncodeToString(b))
		all = append(all, c)
	}
	switch {
	case h.tls13 && h.speaks13():
		list, _ := h.read(bytes.NewReader(h.psk), 2)
		for r := bytes.NewReader(list); len(all) < 4; {
			identity, whole := h.read(r, 2)
			if _, err := io.ReadFull(r, make([]byte, 4)); !whole || err != nil {
				break
			}
			if len(identity) == 32 {
				id(identity, true)
			}
		}
	case h.tickets && len(h.ticket) > 0:
	default:
		id(h.sessionID, false)
	}
	return all
}

func (h reference) name() string {
	list, _ := h.read(bytes.NewReader(h.serverName), 2)
	for r := bytes.NewReader(list); ; {
		kind, err := r.ReadByte()
		if err != nil {
			return ""
		}
		switch name, whole := h.read(r, 2); {
		case !whole:
			return ""
		case kind == 0:
			return string(name)
		}
	}
}

func FuzzClientHello(f *testing.F) {
	hellos, _ := realHellos(f)
	for _, h := range hellos {
		for _, tls13 := range []bool{false, true} {
			f.Add(h.sessionID, h.serverName, h.versions, h.psk, h.ticket, tls13, !tls13)
		}
	}
	f.Fuzz(func(t *testing.T, sessionID, serverName, versions, psk, ticket []byte, tls13, tickets bool) {
		h := clientHello{sessionID: sessionID, serverName: serverName, versions: versions, psk: psk, ticket: ticket, tls13: tls13, tickets: tickets}
		parts := [][]byte{sessionID, serverName, versions, psk, ticket}
		before := bytes.Join(parts, nil)

		want := reference{h}
		require.Equal(t, want.candidates(), h.candidates(nil))
		require.Equal(t, want.name(), h.name())
		require.Equal(t, want.speaks13(), h.offersTLS13())
		require.Equal(t, before, bytes.Join(parts, nil), "the parser changed its input")
	})
}
