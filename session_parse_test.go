package libssl_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

func TestSession_SurvivesDERAndPEM(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			client, server := m.pair(t, false)
			require.NoError(t, client.SetALPN("h2", "http/1.1"))
			require.NoError(t, server.SetALPN("http/1.1"))
			server.SetSessionTimeout(1234 * time.Second)
			c, s := handshake(t, client, server, nil)
			for _, conn := range []*libssl.Conn{c, s} {
				made, err := conn.Session()
				require.NoError(t, err)
				defer made.Release()
				text, err := made.MarshalPEM()
				require.NoError(t, err)
				fromPEM, err := libssl.ParseSessionPEM(text)
				require.NoError(t, err)
				defer fromPEM.Release()
				for _, again := range []*libssl.Session{parse(t, derOf(t, made)), fromPEM} {
					require.Equal(t, derOf(t, made), derOf(t, again))
					require.Equal(t, describe(made), describe(again))
					require.Equal(t, made.Text(), again.Text())
				}
				require.Equal(t, m.version, made.Version())
				require.Equal(t, c.ConnectionState().CipherSuite, made.CipherSuite())
				require.Equal(t, "http/1.1", made.ALPN())
				require.Contains(t, made.Text(), `"http/1.1"`)
				require.Contains(t, made.Text(), tls.CipherSuiteName(made.CipherSuite()))
				require.WithinDuration(t, time.Now(), made.Time(), time.Minute)
				require.Equal(t, made.Time().Add(made.Timeout()), made.Expires())
				require.Len(t, made.ID().Bytes(), made.ID().Len())
			}
			closeBoth(c, s)
		})
	}
}

// description holds the properties of a session.
type description struct {
	id              libssl.SessionID
	idContext       string
	made, expires   time.Time
	timeout         time.Duration
	version, cipher uint16
	name, alpn      string
	early           uint32
	resumable       bool
	ticket          bool
}

func describe(s *libssl.Session) description {
	return description{
		s.ID(), string(s.IDContext()), s.Time(), s.Expires(), s.Timeout(), s.Version(), s.CipherSuite(),
		s.ServerName(), s.ALPN(), s.MaxEarlyData(), s.Resumable(), s.HasTicket(),
	}
}

func TestParseSession_RefusesBytesAfterIt(t *testing.T) {
	der := derOf(t, makeSession(t, modes[0]))
	for _, tail := range [][]byte{{0}, []byte("x"), der} {
		_, err := libssl.ParseSession(append(bytes.Clone(der), tail...))
		var e *libssl.Error
		require.ErrorAs(t, err, &e)
		require.Contains(t, err.Error(), "bytes after")
	}
}

func TestParseSession_EveryTruncationIsAnError(t *testing.T) {
	for _, m := range askingModes() {
		der := derOf(t, makeSession(t, m))
		for n := range der {
			s, err := libssl.ParseSession(der[:n])
			require.Nil(t, s)
			var e *libssl.Error
			require.ErrorAs(t, err, &e, "%d of %d bytes", n, len(der))
			require.Greater(t, len(err.Error()), len("libssl: parse session: "))
		}
	}
	_, err := libssl.ParseSession(nil)
	require.Error(t, err)
}

// An unknown cipher fails with nothing in OpenSSL's queue (SEMANTICS F7.6).
func TestParseSession_UnknownCipherHasAText(t *testing.T) {
	s := makeSession(t, modes[0])
	der := derOf(t, s)
	at := bytes.Index(der, []byte{4, 2, byte(s.CipherSuite() >> 8), byte(s.CipherSuite())})
	require.Positive(t, at)
	der[at+2], der[at+3] = 0xfe, 0xfe
	_, err := libssl.ParseSession(der)
	require.ErrorContains(t, err, "not a session")
	var e *libssl.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "parse session", e.Op)
}

func TestParseSession_SurvivesEveryChangedByte(t *testing.T) {
	for _, m := range askingModes() {
		t.Run(m.name, func(t *testing.T) {
			der := derOf(t, makeSession(t, m))
			opaque := make([]bool, len(der)) // bytes that mean nothing to the parser
			for _, field := range []int{fieldID, fieldSecret} {
				content := sessionField(t, der, field)
				at := bytes.Index(der, content)
				for i := range content {
					opaque[at+i] = true
				}
			}
			refused := 0
			for i := range der {
				for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff, der[i] ^ 1} {
					changed := bytes.Clone(der)
					changed[i] = b
					s, err := libssl.ParseSession(changed)
					if err != nil {
						var e *libssl.Error
						require.ErrorAs(t, err, &e, "byte %d is %#x", i, b)
						require.Equal(t, "parse session", e.Op)
						require.Nil(t, s)
						require.False(t, opaque[i], "byte %d is %#x", i, b)
						refused++
						continue
					}
					d, err := s.Dup()
					require.NoError(t, err)
					require.Equal(t, describe(s), describe(d), "byte %d is %#x", i, b)
					require.Equal(t, s.Text(), d.Text())
					d.Release()
					again, err := s.MarshalBinary()
					require.NoError(t, err, "byte %d is %#x", i, b)
					if opaque[i] {
						require.Equal(t, changed, again)
					}
					require.Equal(t, describe(s), describe(parse(t, again)), "byte %d is %#x", i, b)
					s.Release()
				}
			}
			require.Greater(t, refused, len(der), "changed tags and lengths")
		})
	}
}

func FuzzParseSession(f *testing.F) {
	for _, k := range keptSessions(f) {
		f.Add(k.server)
		f.Add(k.client)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		before := bytes.Clone(der)
		s, err := libssl.ParseSession(der)
		require.Equal(t, before, der)
		if err != nil {
			require.Nil(t, s)
			require.Greater(t, len(err.Error()), len("libssl: parse session: "))
			return
		}
		defer s.Release()
		describe(s)
		s.Text()
		d, err := s.Dup()
		require.NoError(t, err)
		defer d.Release()
		require.Equal(t, describe(s), describe(d))
		if again, err := s.MarshalBinary(); err == nil {
			// The first encoding may add a missing field, such as a time. The second adds nothing.
			s, err := libssl.ParseSession(again)
			require.NoError(t, err)
			defer s.Release()
			require.Equal(t, again, derOf(t, s))
		}
	})
}

func FuzzParseSessionPEM(f *testing.F) {
	for _, k := range keptSessions(f) {
		f.Add(pem.EncodeToMemory(&pem.Block{Type: "SSL SESSION PARAMETERS", Bytes: k.client}))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := libssl.ParseSessionPEM(text)
		if err != nil {
			require.Nil(t, s)
			return
		}
		defer s.Release()
		if again, err := s.MarshalPEM(); err == nil {
			s, err := libssl.ParseSessionPEM(again)
			require.NoError(t, err)
			s.Release()
		}
	})
}

func TestParseSessionPEM_SaysWhatIsWrong(t *testing.T) {
	s := makeSession(t, modes[0])
	text, err := s.MarshalPEM()
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	require.Equal(t, "SSL SESSION PARAMETERS", block.Type)
	wrong := map[string]struct {
		text []byte
		want string
	}{
		"empty":       {nil, "no PEM block"},
		"garbage":     {[]byte("garbage"), "no PEM block"},
		"cut":         {text[:len(text)/2], "no PEM block"},
		"another":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}), `"CERTIFICATE"`},
		"two":         {append(bytes.Clone(text), text...), "after the PEM block"},
		"not a one":   {pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: []byte("garbage")}), "parse session"},
		"more inside": {pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: append(block.Bytes, 0)}), "bytes after"},
	}
	for name, w := range wrong {
		_, err := libssl.ParseSessionPEM(w.text)
		require.ErrorContains(t, err, w.want, name)
	}
	again, err := libssl.ParseSessionPEM(append([]byte("text before\n"), append(text, "\n \n"...)...))
	require.NoError(t, err)
	again.Release()
}

// Every release reads sessions of OpenSSL 1.1.1. They lack the field of the
// key-exchange group, tag 19, which this test takes out of a session.
func TestParseSession_ReadsTheFormOf111(t *testing.T) {
	s := makeSession(t, modes[0])
	der := derOf(t, s)
	head := 2
	if der[1] == 0x81 {
		head = 3
	}
	for at := head; at+1 < len(der); at++ {
		// The last field: its length reaches the end.
		if der[at] == 0xb3 && at+2+int(der[at+1]) == len(der) {
			der = append([]byte{0x30, 0x81, byte(at - head)}, der[head:at]...)
			if at-head < 0x80 {
				der = append([]byte{0x30, byte(at - head)}, der[3:]...)
			}
			break
		}
	}
	old := parse(t, der)
	require.Equal(t, describe(s), describe(old))
}
