package hello

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
		h    Hello
		want []string // the first byte of each id, "+" in front for a PSK
	}{
		{"nothing", Hello{}, nil},
		{"1.2 id", Hello{SessionID: fill('i', 32)}, []string{"i"}},
		{"1.2 id of one byte", Hello{SessionID: fill('i', 1)}, []string{"i"}},
		{"1.2 id too long", Hello{SessionID: fill('i', 33)}, nil},
		{"1.2 id, 1.3 enabled but not offered", Hello{SessionID: fill('i', 32), Versions: only12, TLS13: true}, []string{"i"}},
		{"1.2 id, no version extension", Hello{SessionID: fill('i', 32), TLS13: true}, []string{"i"}},
		{"1.3 offered, not enabled: the id counts", Hello{SessionID: fill('i', 32), Versions: both, PSK: one}, []string{"i"}},
		{"1.3 without PSK: the id is decoration", Hello{SessionID: fill('i', 32), Versions: both, TLS13: true}, nil},
		{"1.3 with PSK", Hello{SessionID: fill('i', 32), Versions: both, PSK: one, TLS13: true}, []string{"+a"}},
		{"1.3 after GREASE", Hello{Versions: []byte{6, 0xda, 0xda, 3, 4, 3, 3}, PSK: one, TLS13: true}, []string{"+a"}},
		{"1.3 only straddling", Hello{Versions: []byte{4, 1, 3, 4, 1}, PSK: one, TLS13: true}, nil},
		{"tickets on, ticket offered", Hello{SessionID: fill('i', 32), Ticket: fill('t', 100), Tickets: true}, nil},
		{"tickets on, empty ticket", Hello{SessionID: fill('i', 32), Ticket: []byte{}, Tickets: true}, []string{"i"}},
		{"tickets on, no ticket extension", Hello{SessionID: fill('i', 32), Tickets: true}, []string{"i"}},
		{"tickets off, ticket offered", Hello{SessionID: fill('i', 32), Ticket: fill('t', 100)}, []string{"i"}},
		{"a stateless ticket first", Hello{Versions: both, TLS13: true,
			PSK: pskExtension(pskIdentity(fill('s', 200)), pskIdentity(fill('b', 32)))}, []string{"+b"}},
		{"31 and 33 bytes", Hello{Versions: both, TLS13: true,
			PSK: pskExtension(pskIdentity(fill('s', 31)), pskIdentity(fill('s', 33)))}, nil},
		{"more than are looked up", Hello{Versions: both, TLS13: true,
			PSK: pskExtension(pskIdentity(fill('a', 32)), pskIdentity(fill('b', 32)), pskIdentity(fill('c', 32)),
				pskIdentity(fill('d', 32)), pskIdentity(fill('e', 32)))}, []string{"+a", "+b", "+c", "+d"}},
		{"PSK list cut", Hello{Versions: both, TLS13: true, PSK: one[:20]}, nil},
		{"second identity cut", Hello{Versions: both, TLS13: true,
			PSK: vec(2, pskIdentity(fill('a', 32)), vec(2, fill('b', 32))[:10])}, []string{"+a"}},
		{"age cut", Hello{Versions: both, TLS13: true, PSK: vec(2, vec(2, fill('a', 32)), []byte{1, 2, 3})}, nil},
		{"version list cut", Hello{Versions: []byte{4, 3, 3}, PSK: one, TLS13: true, SessionID: fill('i', 32)}, []string{"i"}},
		{"odd version list", Hello{Versions: []byte{3, 3, 3, 3}, PSK: one, TLS13: true}, nil},
		{"empty version list", Hello{Versions: []byte{}, PSK: one, TLS13: true}, nil},
		{"empty PSK", Hello{Versions: both, PSK: []byte{}, TLS13: true}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, c := range tt.h.Candidates(nil) {
				b := c.ID.Bytes()
				require.Equal(t, fill(b[0], len(b)), b)
				if c.PSK {
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
			h := Hello{ServerName: tt.ext}
			require.Equal(t, tt.want, h.Name())
		})
	}
}

// reference is the rule of SEMANTICS F6.2 once more, by other means: each structure is read to its end, with io.Reader,
// and lists are cut where a structure is not whole.
type reference struct{ Hello }

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
	list, _ := h.read(bytes.NewReader(h.Versions), 1)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i] == 3 && list[i+1] == 4 {
			return true
		}
	}
	return false
}

func (h reference) candidates() (all []Candidate) {
	id := func(b []byte, psk bool) {
		if len(b) == 0 || len(b) > 32 {
			return
		}
		c := Candidate{PSK: psk}
		c.ID, _ = store.ParseID(hex.EncodeToString(b))
		all = append(all, c)
	}
	switch {
	case h.TLS13 && h.speaks13():
		list, _ := h.read(bytes.NewReader(h.PSK), 2)
		for r := bytes.NewReader(list); len(all) < 4; {
			identity, whole := h.read(r, 2)
			if _, err := io.ReadFull(r, make([]byte, 4)); !whole || err != nil {
				break
			}
			if len(identity) == 32 {
				id(identity, true)
			}
		}
	case h.Tickets && len(h.Ticket) > 0:
	default:
		id(h.SessionID, false)
	}
	return all
}

func (h reference) name() string {
	list, _ := h.read(bytes.NewReader(h.ServerName), 2)
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
	name := vec(2, append([]byte{0}, vec(2, []byte("server.test"))...))
	psk := pskExtension(pskIdentity(fill('s', 200)), pskIdentity(fill('a', 32)))
	for _, tls13 := range []bool{false, true} {
		f.Add(fill('i', 32), name, both, psk, []byte(nil), tls13, !tls13)
		f.Add(fill('i', 32), name, only12, []byte(nil), fill('t', 100), tls13, !tls13)
	}
	f.Fuzz(func(t *testing.T, sessionID, serverName, versions, psk, ticket []byte, tls13, tickets bool) {
		h := Hello{SessionID: sessionID, ServerName: serverName, Versions: versions, PSK: psk, Ticket: ticket, TLS13: tls13, Tickets: tickets}
		parts := [][]byte{sessionID, serverName, versions, psk, ticket}
		before := bytes.Join(parts, nil)

		want := reference{h}
		require.Equal(t, want.candidates(), h.Candidates(nil))
		require.Equal(t, want.name(), h.Name())
		require.Equal(t, want.speaks13(), h.offersTLS13())
		require.Equal(t, before, bytes.Join(parts, nil), "the parser changed its input")
	})
}

func TestClientHello_Lists(t *testing.T) {
	require.Equal(t, []uint16{0x1301, 0xaaaa}, Numbers([]byte{0x13, 1, 0xaa, 0xaa}))
	require.Equal(t, []uint16{0x0304, 0x0303}, NumbersOf([]byte{4, 3, 4, 3, 3}, 1))
	require.Equal(t, []uint16{0x0403}, NumbersOf([]byte{0, 2, 4, 3}, 2))
	require.Equal(t, []string{"h2", "http/1.1"}, Protocols(vec(2, vec(1, []byte("h2")), vec(1, []byte("http/1.1")))))
	require.Equal(t, []uint16{0x0303, 0x0302, 0x0301}, VersionsUpTo(0x0303))
	require.Equal(t, []uint16{0x0303, 0x0302, 0x0301}, VersionsUpTo(0xffff))
	require.Equal(t, []uint16{0x0301}, VersionsUpTo(0x0301))
	for _, ext := range [][]byte{nil, {}, {0}, {0, 0}, {0, 1, 3}, {0, 2, 3}, {0, 3, 2, 'h'}, {0, 9, 2, 'h', '2'}} {
		require.Empty(t, NumbersOf(ext, 2))
		require.Empty(t, Protocols(ext))
	}
	require.Empty(t, Numbers([]byte{1}))
	require.Empty(t, VersionsUpTo(0))
}
