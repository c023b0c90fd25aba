package libssl

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/require"
)

// recorder keeps the bytes read from its connection.
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

// dissect returns the parts of the ClientHello in the first record of stream that
// the hook gets.
func dissect(t testing.TB, stream []byte) clientHello {
	t.Helper()
	need := func(ok bool) {
		if !ok {
			t.Fatalf("not a ClientHello: %x", stream)
		}
	}
	need(len(stream) > 9 && stream[0] == 22 && stream[5] == 1)
	body, _, ok := vector(stream[6:], 3)
	need(ok && len(body) > 34)
	var h clientHello
	h.sessionID, body, ok = vector(body[34:], 1)
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
			h.serverName = ext
		case 35:
			h.ticket = ext
		case 41:
			h.psk = ext
		case 43:
			h.versions = ext
		}
	}
	return h
}

// realHellos records ClientHellos of OpenSSL and of crypto/tls, without a session
// and with one of each version. ids are the ids offered, by index into hellos.
func realHellos(t testing.TB) (hellos []clientHello, ids map[int]store.ID) {
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
		require.Equal(t, "server.test", h.name())
		require.True(t, h.offersTLS13())
		h.tls13 = i >= 2
		got := h.candidates(nil)
		if id, ok := ids[i]; ok {
			require.Equal(t, []candidate{{id: id, psk: i >= 2}}, got)
		} else if i == 0 {
			require.Len(t, got, 1, "the random id of a fresh client is asked for by TLS 1.2 servers")
		} else {
			require.Empty(t, got)
		}
	}
}
