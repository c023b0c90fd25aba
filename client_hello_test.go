package libssl

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// recorder keeps what is read from the connection below.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	read bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	r.read.Write(b[:n])
	r.mu.Unlock()
	return n, err
}

// vector cuts a vector with a length of n bytes off b.
func vector(b []byte, n int) (v, rest []byte, ok bool) {
	size := 0
	for _, c := range b[:min(n, len(b))] {
		size = size<<8 | int(c)
	}
	if len(b) < n+size {
		return nil, nil, false
	}
	return b[n : n+size], b[n+size:], true
}

// dissect cuts the ClientHello in the first record of stream into what the hook
// is shown of it.
func dissect(t testing.TB, stream []byte) hello.Hello {
	t.Helper()
	need := func(ok bool) {
		if !ok {
			t.Fatalf("not a ClientHello: %x", stream)
		}
	}
	need(len(stream) > 9 && stream[0] == 22 && stream[5] == 1)
	body, _, ok := vector(stream[6:], 3)
	need(ok && len(body) > 34)
	var h hello.Hello
	h.SessionID, body, ok = vector(body[34:], 1)
	need(ok)
	_, body, ok = vector(body, 2) // ciphers
	need(ok)
	_, body, ok = vector(body, 1) // compression
	need(ok)
	extensions, _, ok := vector(body, 2)
	for ok && len(extensions) >= 4 {
		kind := binary.BigEndian.Uint16(extensions)
		var ext []byte
		ext, extensions, ok = vector(extensions[2:], 2)
		need(ok)
		switch kind {
		case 0:
			h.ServerName = ext
		case 35:
			h.Ticket = ext
		case 41:
			h.PSK = ext
		case 43:
			h.Versions = ext
		}
	}
	return h
}

// realHellos records what OpenSSL's and crypto/tls's clients send, fresh and
// with a session of each version. ids are what the resuming ones offer.
func realHellos(t testing.TB) (hellos []hello.Hello, ids map[int]store.ID) {
	ca := tlstest.NewCA(t, "ca")
	cert, key := ca.Leaf(t, "server.test")
	client, err := NewContext(ClientRole)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.AddRootCAsPEM(ca.PEM))
	ids = map[int]store.ID{}

	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		server, err := NewContext(ServerRole)
		require.NoError(t, err)
		defer server.Close()
		require.NoError(t, server.UseCertificatePEM(cert, key))
		require.NoError(t, server.SetVersions(version, version))
		sc, err := server.UseStore(memstore.New(memstore.Options{}), nil)
		require.NoError(t, err)
		defer sc.Close(t.Context())

		connect := func(sess *Session) (*Session, store.ID) {
			cn, sn := net.Pipe()
			rec := &recorder{Conn: sn}
			s, err := Server(rec, server)
			require.NoError(t, err)
			defer s.Close()
			c, err := Client(cn, client, "server.test")
			require.NoError(t, err)
			defer c.Close()
			if sess != nil {
				require.NoError(t, c.SetSession(sess))
			}
			go func() {
				s.Write([]byte("x"))
				s.Read(make([]byte, 1))
			}()
			_, err = io.ReadFull(c, make([]byte, 1))
			require.NoError(t, err)
			require.Equal(t, sess != nil, c.SessionReused())
			rec.mu.Lock()
			hellos = append(hellos, dissect(t, bytes.Clone(rec.read.Bytes())))
			rec.mu.Unlock()
			next, err := c.Session()
			require.NoError(t, err)
			return next, s.ResumedFrom()
		}
		sess, _ := connect(nil)
		next, from := connect(sess)
		ids[len(hellos)-1] = from
		sess.Release()
		next.Release()
	}

	cn, sn := net.Pipe()
	go tls.Client(cn, &tls.Config{ServerName: "server.test"}).Handshake()
	rec := &recorder{Conn: sn}
	io.ReadFull(rec, make([]byte, 5))
	io.ReadFull(rec, make([]byte, binary.BigEndian.Uint16(rec.read.Bytes()[3:])))
	sn.Close()
	cn.Close()
	return append(hellos, dissect(t, rec.read.Bytes())), ids
}

func TestClientHello_RealOnes(t *testing.T) {
	hellos, ids := realHellos(t)
	require.Len(t, hellos, 5)
	require.Len(t, ids, 2)
	for i, h := range hellos {
		require.Equal(t, "server.test", h.Name())
		h.TLS13 = i >= 2
		got := h.Candidates(nil)
		if id, ok := ids[i]; ok {
			require.Equal(t, []hello.Candidate{{ID: id, PSK: i >= 2}}, got)
		} else if i == 0 {
			require.Len(t, got, 1, "the random id of a fresh client is asked for by TLS 1.2 servers")
		} else {
			require.Empty(t, got)
		}
	}
}
