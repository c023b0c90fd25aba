package libssl_test

import (
	"context"
	"crypto/tls"
	"encoding/asn1"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// fleet is a host served by several Contexts with one certificate, and a client
// of it.
type fleet struct {
	ca        *tlstest.CA
	cert, key []byte
	client    *libssl.Context
	version   uint16
	name      string
	tickets   int // a full handshake stores
}

func newFleet(t testing.TB, version uint16) *fleet {
	t.Helper()
	f := &fleet{ca: tlstest.NewCA(t, "ca"), version: version, name: serverName, tickets: 1}
	if version == tls.VersionTLS13 {
		f.tickets = 2
	}
	f.cert, f.key = f.ca.Leaf(t, serverName)
	f.client = newClient(t, f.ca)
	return f
}

func eachVersion(t *testing.T, test func(t *testing.T, f *fleet), only ...uint16) {
	for name, v := range versions {
		if len(only) > 0 && !slices.Contains(only, v) {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, newFleet(t, v)) })
	}
}

func (f *fleet) server(t testing.TB) *libssl.Context {
	t.Helper()
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.UseCertificatePEM(f.cert, f.key))
	require.NoError(t, ctx.SetVersions(f.version, f.version))
	return ctx
}

// node is a server with a store. Its cache is closed with the test at the
// latest.
func (f *fleet) node(t testing.TB, st store.Store, opt *libssl.StoreOptions) (*libssl.Context, *libssl.SessionCache) {
	t.Helper()
	ctx := f.server(t)
	return ctx, useStore(t, ctx, st, opt)
}

// useStore gives the store all the time it needs where opt sets no limit: the
// machine may be busy.
func useStore(t testing.TB, ctx *libssl.Context, st store.Store, opt *libssl.StoreOptions) *libssl.SessionCache {
	t.Helper()
	var o libssl.StoreOptions
	if opt != nil {
		o = *opt
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = time.Minute
	}
	if o.PutTimeout == 0 {
		o.PutTimeout = time.Minute
	}
	sc, err := ctx.UseStore(st, &o)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(context.Background()) })
	return sc
}

func newRing(t testing.TB) *ticket.Ring {
	t.Helper()
	r, err := ticket.NewRing()
	require.NoError(t, err)
	return r
}

// visit is the outcome of a connection.
type visit struct {
	resumed   bool
	from      store.ID            // the server's ResumedFrom
	next      *libssl.Session     // for the client's next visit
	id        store.ID            // the id of the session on the server
	idContext []byte              // the id context of the same session
	state     tls.ConnectionState // on the server
}

// visit connects, offering sess, which may be nil, and closes.
func (f *fleet) visit(t testing.TB, server *libssl.Context, sess *libssl.Session) visit {
	t.Helper()
	cn, sn := tcpPipe(t)
	return f.visitOver(t, cn, sn, server, sess)
}

func (f *fleet) visitOver(t testing.TB, cn, sn net.Conn, server *libssl.Context, sess *libssl.Session) visit {
	t.Helper()
	c, s := f.ends(t, cn, sn, server, sess)
	require.NoError(t, exchange(c, s))
	defer closeBoth(c, s)
	v := visit{resumed: s.SessionReused(), from: s.ResumedFrom(), state: s.ConnectionState()}
	require.Equal(t, v.resumed, c.SessionReused())
	require.Equal(t, v.resumed, v.state.DidResume)
	require.Equal(t, v.resumed, c.ConnectionState().DidResume)
	require.Zero(t, c.ResumedFrom())
	v.next = sessionOf(t, c)
	own := sessionOf(t, s)
	v.id, v.idContext = own.ID(), own.IDContext()
	return v
}

// ends makes both ends of a connection, closed with the test at the latest.
func (f *fleet) ends(t testing.TB, cn, sn net.Conn, server *libssl.Context, sess *libssl.Session) (c, s *libssl.Conn) {
	t.Helper()
	c, s = wrapNamed(t, cn, sn, f.client, server, f.name)
	if sess != nil {
		require.NoError(t, c.SetSession(sess))
	}
	return c, s
}

func sessionOf(t testing.TB, c *libssl.Conn) *libssl.Session {
	t.Helper()
	sess, err := c.Session()
	require.NoError(t, err)
	t.Cleanup(sess.Release)
	return sess
}

// Fields in the DER of a session: the position of those without a tag, and 100
// plus the tag of the others.
const (
	fieldID        = 3
	fieldSecret    = 4
	fieldIDContext = 104
	fieldTicket    = 110
)

// sessionField returns a field's content, which is part of der; nil if the
// session has none.
func sessionField(t testing.TB, der []byte, field int) []byte {
	t.Helper()
	var seq, v asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	require.NoError(t, err)
	for i, rest := 0, seq.Bytes; len(rest) > 0; i++ {
		rest, err = asn1.Unmarshal(rest, &v)
		require.NoError(t, err)
		if v.Class == asn1.ClassContextSpecific && 100+v.Tag == field {
			_, err = asn1.Unmarshal(v.Bytes, &v)
			require.NoError(t, err)
			return v.Bytes
		}
		if v.Class == asn1.ClassUniversal && i == field {
			return v.Bytes
		}
	}
	return nil
}

func derOf(t testing.TB, s *libssl.Session) []byte {
	t.Helper()
	der, err := s.MarshalBinary()
	require.NoError(t, err)
	return der
}

// storeID is the id a client's session is looked up by: in TLS 1.3 the ticket.
func storeID(t testing.TB, s *libssl.Session) store.ID {
	t.Helper()
	der := derOf(t, s)
	b := sessionField(t, der, fieldID)
	if s.Version() == tls.VersionTLS13 {
		b = sessionField(t, der, fieldTicket)
	}
	id, err := store.IDFromBytes(b)
	require.NoError(t, err)
	return id
}

// altered is sess with the last byte of a field changed.
func altered(t testing.TB, sess *libssl.Session, field int) *libssl.Session {
	t.Helper()
	der := derOf(t, sess)
	b := sessionField(t, der, field)
	require.NotEmpty(t, b)
	b[len(b)-1] ^= 1
	s, err := libssl.ParseSession(der)
	require.NoError(t, err)
	t.Cleanup(s.Release)
	return s
}

// forgedID is sess under an id that no server issued.
func forgedID(t testing.TB, sess *libssl.Session) *libssl.Session {
	if sess.Version() == tls.VersionTLS13 {
		return altered(t, sess, fieldTicket)
	}
	return altered(t, sess, fieldID)
}
