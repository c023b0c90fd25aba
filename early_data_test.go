package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// early is a node that offers 0-RTT.
func (f *fleet) early(t testing.TB, st store.Store, keys *ticket.Ring) (*libssl.Context, *libssl.SessionCache) {
	t.Helper()
	ctx, sc := f.node(t, st, &libssl.StoreOptions{Keys: keys})
	require.NoError(t, ctx.SetMaxEarlyData(1<<14))
	return ctx, sc
}

// readEarly reads early data to its end.
func readEarly(s *libssl.Conn) ([]byte, error) {
	var all []byte
	buf := make([]byte, 1000)
	for {
		n, err := s.ReadEarlyData(buf)
		all = append(all, buf[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// zeroRTT is a connection whose client writes early data and whose server reads it and then handshakes.
func (f *fleet) zeroRTT(t testing.TB, server *libssl.Context, sess *libssl.Session, data []byte) (c, s *libssl.Conn, got []byte) {
	t.Helper()
	cn, sn := tcpPipe(t)
	c, s = f.ends(t, cn, sn, server, sess)
	served := make(chan error, 1)
	go func() {
		var err error
		got, err = readEarly(s)
		if err == nil {
			err = s.Handshake()
		}
		served <- err
	}()
	n, err := c.WriteEarlyData(data)
	require.NoError(t, err)
	require.Equal(t, len(data), n)
	require.NoError(t, c.Handshake())
	require.NoError(t, <-served)
	return c, s, got
}

func TestEarlyData_ArrivesBeforeTheHandshake(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st, ring := memstore.New(memstore.Options{}), newRing(t)
	a, _ := f.early(t, st, ring)
	b, cache := f.early(t, st, ring)
	for _, size := range []int{1, 5000, 1 << 14} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			sess := f.visit(t, a, nil).next
			require.EqualValues(t, 1<<14, sess.MaxEarlyData())
			data := bytes.Repeat([]byte("early "), size/6+1)[:size]
			hits := cache.Stats().Hits
			c, s, got := f.zeroRTT(t, b, sess, data)
			require.Equal(t, data, got)
			require.True(t, c.EarlyDataAccepted())
			require.True(t, s.EarlyDataAccepted())
			require.True(t, s.SessionReused())
			require.Equal(t, hits+1, cache.Stats().Hits)
			require.NoError(t, exchange(c, s), "and the connection goes on")
			_, err := s.ReadEarlyData(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		})
	}
}

func TestEarlyData_IsRefusedByWhoDoesNotRead(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.early(t, memstore.New(memstore.Options{}), nil)
	sess := f.visit(t, server, nil).next
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	served := make(chan error, 1)
	go func() { served <- s.Handshake() }()
	_, err := c.WriteEarlyData([]byte("early"))
	require.NoError(t, err)
	require.NoError(t, c.Handshake())
	require.NoError(t, <-served)
	require.False(t, c.EarlyDataAccepted())
	require.False(t, s.EarlyDataAccepted())
	require.True(t, s.SessionReused(), "the session resumes all the same")
	require.NoError(t, exchange(c, s))
}

// Early data that was accepted has to be read, so that none is lost.
func TestEarlyData_HasToBeReadToItsEnd(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.early(t, memstore.New(memstore.Options{}), nil)
	sess := f.visit(t, server, nil).next
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	client := make(chan error, 1)
	go func() {
		_, err := c.WriteEarlyData([]byte("early"))
		if err == nil {
			err = c.Handshake()
		}
		client <- err
	}()
	b := make([]byte, 2)
	n, err := s.ReadEarlyData(b)
	require.NoError(t, err)
	require.Equal(t, "ea", string(b[:n]))
	n, err = s.ReadEarlyData(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	require.ErrorContains(t, s.Handshake(), "not read to its end")
	_, err = s.Read(b)
	require.ErrorContains(t, err, "not read to its end")
	rest, err := readEarly(s)
	require.NoError(t, err)
	require.Equal(t, "rly", string(rest))
	_, err = s.ReadEarlyData(b)
	require.Equal(t, io.EOF, err, "again")
	require.NoError(t, s.Handshake())
	require.NoError(t, <-client)
	require.NoError(t, exchange(c, s))
}

func TestEarlyData_EndsAtOnceWhereThereIsNone(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.server(t)
		useStore(t, server, memstore.New(memstore.Options{}), nil)
		require.NoError(t, server.SetMaxEarlyData(1000))
		var sess *libssl.Session
		for range 2 { // full, then resumed
			cn, sn := tcpPipe(t)
			c, s := f.ends(t, cn, sn, server, sess)
			read := make(chan error, 1)
			go func() {
				_, err := s.ReadEarlyData(make([]byte, 10))
				read <- err
				s.Handshake()
			}()
			require.NoError(t, c.Handshake())
			require.Equal(t, io.EOF, <-read)
			require.NoError(t, exchange(c, s))
			require.False(t, s.EarlyDataAccepted())
			sess = sessionOf(t, c)
		}
	})
}

func TestEarlyData_MissesBecomeFullHandshakes(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	a, _ := f.early(t, memstore.New(memstore.Options{}), newRing(t))
	stranger, _ := f.early(t, memstore.New(memstore.Options{}), newRing(t))
	c, s, got := f.zeroRTT(t, stranger, f.visit(t, a, nil).next, []byte("early"))
	require.Empty(t, got)
	require.False(t, c.EarlyDataAccepted())
	require.False(t, s.SessionReused())
	require.NoError(t, exchange(c, s))
}

func TestEarlyData_IsRefusedAfterAHelloRetryRequest(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.early(t, memstore.New(memstore.Options{}), nil)
	require.NoError(t, server.SetGroups("P-384"))
	require.NoError(t, f.client.SetGroups("P-256:P-384"))
	sess := f.visit(t, server, nil).next
	c, s, got := f.zeroRTT(t, server, sess, []byte("early"))
	require.Empty(t, got)
	require.False(t, c.EarlyDataAccepted())
	require.True(t, s.SessionReused(), "from the connection's memory")
}

func TestWriteEarlyData_KeepsToWhatTheSessionAllows(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, _ := f.node(t, memstore.New(memstore.Options{}), nil)
	require.NoError(t, server.SetMaxEarlyData(10))
	sess := f.visit(t, server, nil).next
	cn, sn := tcpPipe(t)
	c, s := f.ends(t, cn, sn, server, sess)
	_, err := s.WriteEarlyData([]byte("x"))
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	_, err = c.ReadEarlyData([]byte("x"))
	require.ErrorIs(t, err, libssl.ErrUnsupported)

	served := make(chan []byte, 1)
	go func() {
		got, _ := readEarly(s)
		served <- got
		s.Handshake()
	}()
	n, err := c.WriteEarlyData([]byte("1234567"))
	require.NoError(t, err)
	require.Equal(t, 7, n)
	n, err = c.WriteEarlyData([]byte("8901"))
	require.ErrorContains(t, err, "more early data than the session allows")
	require.Equal(t, 3, n)
	n, err = c.WriteEarlyData([]byte("1"))
	require.Error(t, err)
	require.Zero(t, n)
	require.NoError(t, c.Handshake())
	require.Equal(t, "1234567890", string(<-served))
	require.NoError(t, exchange(c, s))
	_, err = c.WriteEarlyData([]byte("x"))
	require.ErrorContains(t, err, "after the handshake")

	without := f.visit(t, f.server(t), nil).next
	cn, sn = tcpPipe(t)
	c, _ = f.ends(t, cn, sn, server, without)
	_, err = c.WriteEarlyData([]byte("x"))
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	closeBoth(c, s)
	_, err = c.WriteEarlyData([]byte("x"))
	require.ErrorIs(t, err, libssl.ErrClosed)
	_, err = s.ReadEarlyData([]byte("x"))
	require.Error(t, err)
}

// noTaker hides the optional methods of a store.
type noTaker struct{ store.Store }

func TestSetMaxEarlyData_IsSingleUse(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	require.ErrorIs(t, f.client.SetMaxEarlyData(1), libssl.ErrUnsupported)
	require.ErrorIs(t, (*libssl.Context)(nil).SetMaxEarlyData(1), libssl.ErrClosed)
	require.ErrorIs(t, f.sealed(t, newRing(t)).SetMaxEarlyData(1), libssl.ErrUnsupported)

	before := f.server(t)
	require.NoError(t, before.SetMaxEarlyData(100))
	require.ErrorIs(t, before.UseTicketKeys(newRing(t)), libssl.ErrUnsupported)
	require.Zero(t, f.visit(t, before, nil).next.MaxEarlyData(), "nothing is offered without a store")
	_, err := before.UseStore(noTaker{memstore.New(memstore.Options{})}, &libssl.StoreOptions{Plaintext: true})
	require.ErrorIs(t, err, libssl.ErrUnsupported)
	useStore(t, before, memstore.New(memstore.Options{}), nil)

	after := f.server(t)
	useStore(t, after, noTaker{memstore.New(memstore.Options{})}, &libssl.StoreOptions{Plaintext: true})
	require.ErrorIs(t, after.SetMaxEarlyData(100), libssl.ErrUnsupported)
	require.Zero(t, f.visit(t, after, nil).next.MaxEarlyData())

	v := f.visit(t, before, nil)
	require.EqualValues(t, 100, v.next.MaxEarlyData())
	require.True(t, f.visit(t, before, v.next).resumed)
	require.False(t, f.visit(t, before, v.next).resumed, "taken")
	require.NoError(t, before.SetMaxEarlyData(0))
	require.Zero(t, f.visit(t, before, nil).next.MaxEarlyData())
}

func TestSetMaxEarlyData_EndsWithTheStore(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server, sc := f.early(t, memstore.New(memstore.Options{}), nil)
	require.NotZero(t, f.visit(t, server, nil).next.MaxEarlyData())
	require.NoError(t, sc.Close(t.Context()))
	require.Zero(t, f.visit(t, server, nil).next.MaxEarlyData())
	useStore(t, server, memstore.New(memstore.Options{}), nil)
	require.NotZero(t, f.visit(t, server, nil).next.MaxEarlyData(), "it was not taken back")
}

// recorder keeps the bytes of a client and sends none.
type recorder struct {
	net.Conn
	sent bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) { return r.sent.Write(p) }

// One captured flight, ClientHello and early data, is replayed to all nodes at once, the one that issued the session
// included. One node reads it, and none reads it again.
func TestEarlyData_ReplaysAreRefusedByEveryNode(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 50
	}
	f := newFleet(t, tls.VersionTLS13)
	st, ring := memstore.New(memstore.Options{}), newRing(t)
	nodes := make([]*libssl.Context, 4)
	for i := range nodes {
		nodes[i], _ = f.early(t, st, ring)
	}
	for range rounds {
		cn, sn := net.Pipe()
		rec := &recorder{Conn: cn}
		c, err := libssl.Client(rec, f.client, f.name)
		require.NoError(t, err)
		sess := f.visit(t, nodes[0], nil).next
		require.NoError(t, c.SetSession(sess))
		_, err = c.WriteEarlyData([]byte("transfer 100"))
		require.NoError(t, err)

		var read atomic.Int32
		for range 2 {
			var all sync.WaitGroup
			for _, node := range nodes {
				all.Go(func() {
					attacker, below := tcpPipe(t)
					s, err := libssl.Server(below, node)
					if !assert.NoError(t, err) {
						return
					}
					s.SetDeadline(time.Now().Add(time.Minute))
					go io.Copy(io.Discard, attacker)
					attacker.Write(rec.sent.Bytes())
					attacker.(*net.TCPConn).CloseWrite() // it cannot go on: it has no key
					got, err := readEarly(s)
					if string(got) == "transfer 100" {
						read.Add(1)
					} else {
						assert.Empty(t, got)
					}
					assert.Error(t, errors.Join(err, s.Handshake()))
					s.Abort()
					attacker.Close()
				})
			}
			all.Wait()
			require.EqualValues(t, 1, read.Load(), "once in all, however often it is sent")
		}
		c.Abort()
		sn.Close()
		sess.Release()
	}
}

// A stranger cannot burn a session by sending its ticket with a wrong binder and early data.
func TestEarlyData_AForgedBinderBurnsNothing(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	st := memstore.New(memstore.Options{})
	server, cache := f.early(t, st, nil)
	sess := f.visit(t, server, nil).next
	cn, _ := net.Pipe()
	rec := &recorder{Conn: cn}
	c, err := libssl.Client(rec, f.client, f.name)
	require.NoError(t, err)
	dup, err := sess.Dup() // the end of the connection makes the original unusable
	require.NoError(t, err)
	require.NoError(t, c.SetSession(dup))
	dup.Release()
	_, err = c.WriteEarlyData([]byte("early"))
	require.NoError(t, err)
	c.Abort()
	flight := bytes.Clone(rec.sent.Bytes())
	hello := int(flight[3])<<8 | int(flight[4])
	flight[5+hello-1] ^= 1 // the binder is the end of a ClientHello

	attacker, below := tcpPipe(t)
	s, err := libssl.Server(below, server)
	require.NoError(t, err)
	go io.Copy(io.Discard, attacker)
	attacker.Write(flight)
	got, err := readEarly(s)
	require.Error(t, err)
	require.Empty(t, got)
	s.Abort()
	attacker.Close()
	require.EqualValues(t, 1, cache.Stats().PutBack)
	require.True(t, f.visit(t, server, sess).resumed)
	require.NoError(t, cache.Close(context.Background()))
}
