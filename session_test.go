package libssl_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSession_DeadAnswersErrReleased(t *testing.T) {
	client, server := modes[0].pair(t, false)
	var lent, spent *libssl.Session
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool { lent = s; return false })
	server.SetSessGetCallback(func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		spent = makeSession(t, modes[0])
		return spent, libssl.Transfer
	})
	sess, _ := offer(t, client, server, nil)
	cn, sn := tcpPipe(t)
	c, s := wrap(t, cn, sn, client, server)
	require.NoError(t, c.SetSession(sess))
	_ = exchange(c, s) // another id inside: some releases fail
	closeBoth(c, s)
	released := makeSession(t, modes[0])
	var removed *libssl.Session
	server.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) { removed = s })
	_, err := server.RemoveSession(released)
	require.NoError(t, err)
	server.SetSessRemoveCallback(nil)
	released.Release()
	for name, s := range map[string]*libssl.Session{
		"lent": lent, "lent by remove": removed, "spent": spent, "released": released, "nil": nil, "zero": new(libssl.Session),
	} {
		t.Run(name, func(t *testing.T) {
			s.Release()
			s.Release()
			require.Equal(t, description{made: time.Time{}, expires: time.Time{}}, describe(s))
			require.Empty(t, s.Text())
			require.Nil(t, s.Pointer())
			_, err := s.MarshalBinary()
			require.ErrorIs(t, err, libssl.ErrReleased)
			_, err = s.MarshalPEM()
			require.ErrorIs(t, err, libssl.ErrReleased)
			r, err := s.Retain()
			require.ErrorIs(t, err, libssl.ErrReleased)
			require.Nil(t, r)
			r, err = s.Dup()
			require.ErrorIs(t, err, libssl.ErrReleased)
			require.Nil(t, r)
			require.ErrorIs(t, s.SetTime(time.Now()), libssl.ErrReleased)
			require.ErrorIs(t, s.SetTimeout(time.Minute), libssl.ErrReleased)
			_, err = server.AddSession(s)
			require.ErrorIs(t, err, libssl.ErrReleased)
			_, err = server.RemoveSession(s)
			require.ErrorIs(t, err, libssl.ErrReleased)
			cn, sn := tcpPipe(t)
			c, _ := wrap(t, cn, sn, client, server)
			require.ErrorIs(t, c.SetSession(s), libssl.ErrReleased)
		})
	}
}

func TestSession_RetainAndDupAreIndependent(t *testing.T) {
	made := makeSession(t, modes[0])
	before := libssl.LiveResources().Sessions
	s := parse(t, derOf(t, made))
	r, err := s.Retain()
	require.NoError(t, err)
	d, err := s.Dup()
	require.NoError(t, err)
	require.Equal(t, s.Pointer(), r.Pointer(), "one object")
	require.NotEqual(t, s.Pointer(), d.Pointer(), "another")
	require.Equal(t, derOf(t, s), derOf(t, d))
	require.NoError(t, d.SetTimeout(99*time.Second))
	require.NotEqual(t, s.Timeout(), d.Timeout())
	require.NoError(t, r.SetTimeout(98*time.Second))
	require.Equal(t, 98*time.Second, s.Timeout())
	s.Release()
	require.Equal(t, 98*time.Second, r.Timeout())
	r.Release()
	require.Equal(t, 99*time.Second, d.Timeout())
	d.Release()
	require.Equal(t, before, libssl.LiveResources().Sessions)
}

func TestSession_ReleaseAndUseTogether(t *testing.T) {
	der := derOf(t, makeSession(t, modes[0]))
	for range 200 {
		s, err := libssl.ParseSession(der)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if b, err := s.MarshalBinary(); err != nil {
					assert.ErrorIs(t, err, libssl.ErrReleased)
				} else {
					assert.Equal(t, der, b)
				}
				s.Text()
				if r, err := s.Retain(); err == nil {
					r.Release()
				}
			})
			wg.Go(s.Release)
		}
		wg.Wait()
		require.Nil(t, s.Pointer())
	}
}

// A lent Session dies with its handler, also while another goroutine uses it.
func TestSession_LentAndUsedElsewhere(t *testing.T) {
	client, server := modes[0].pair(t, false)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		using := make(chan struct{})
		wg.Go(func() {
			for i := 0; ; i++ {
				s.ID()
				if _, err := s.MarshalBinary(); i == 0 {
					assert.NoError(t, err)
					close(using)
				} else if err != nil {
					assert.ErrorIs(t, err, libssl.ErrReleased)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		<-using
		return false
	})
	for range 5 {
		offer(t, client, server, nil)
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		close(stop)
		t.Fatal("a lent Session went on after its handler")
	}
}

func TestSession_Times(t *testing.T) {
	s := makeSession(t, modes[0])
	made := time.Unix(1_700_000_000, 0)
	require.NoError(t, s.SetTime(made.Add(900*time.Millisecond)))
	require.NoError(t, s.SetTimeout(90*time.Minute+900*time.Millisecond))
	require.True(t, made.Equal(s.Time()), "whole seconds")
	require.Equal(t, 90*time.Minute, s.Timeout())
	require.True(t, made.Add(90*time.Minute).Equal(s.Expires()))
	require.Contains(t, s.Text(), "5400 s, until 2023-11-14T23:43:20Z")
	again := parse(t, derOf(t, s))
	require.True(t, made.Equal(again.Time()))
	require.Equal(t, 90*time.Minute, again.Timeout())

	require.Error(t, s.SetTimeout(-time.Second))
	require.Equal(t, 90*time.Minute, s.Timeout(), "as it was")
	server := newServer(t, tlstest.NewCA(t, "ca"))
	server.SetSessionTimeout(-time.Hour)
	require.Zero(t, server.SetSessionTimeout(1<<63-1), "releases differ in what a negative one means")
	require.InDelta(t, float64(1<<63-1), float64(server.SetSessionTimeout(0)), float64(time.Second))
	require.NoError(t, s.SetTimeout(1<<63-1))
	require.InDelta(t, float64(1<<63-1), float64(s.Timeout()), float64(time.Second))
	require.False(t, s.Expires().Before(s.Time()), "no overflow")
	s.Text()
}

// OpenSSL's lifetimes reach further than a time.Duration.
func TestSession_MonstrousTimeoutSaturates(t *testing.T) {
	made := makeSession(t, modes[0])
	require.NoError(t, made.SetTimeout(7200*time.Second))
	der := derOf(t, made)
	head := 2
	if der[1] == 0x81 {
		head = 3
	}
	short, long := []byte{0xa2, 4, 2, 2, 0x1c, 0x20}, []byte{0xa2, 10, 2, 8, 0x0f, 1, 2, 3, 4, 5, 6, 7}
	require.Equal(t, 1, bytes.Count(der, short))
	body := bytes.Replace(der[head:], short, long, 1)
	s := parse(t, append([]byte{0x30, 0x81, byte(len(body))}, body...))
	const years = 365 * 24 * time.Hour
	require.Greater(t, s.Timeout(), 200*years)
	require.True(t, s.Expires().After(time.Now().Add(200*years)))
	require.NotEmpty(t, s.Text())
}

func TestSessionID_HoldsAtMost32Bytes(t *testing.T) {
	for n := range 34 {
		id, err := store.IDFromBytes(make([]byte, n))
		require.Equal(t, n >= 1 && n <= 32, err == nil, n)
		if err == nil {
			require.Len(t, id.Bytes(), n)
		}
	}
	var id libssl.SessionID
	require.True(t, id.IsZero())
	seen := map[libssl.SessionID]bool{makeSession(t, modes[0]).ID(): true}
	require.Len(t, seen, 1, "comparable")
}

func TestWrapSession_RefusesNonsense(t *testing.T) {
	_, err := libssl.WrapSession(nil, libssl.Copy)
	require.Error(t, err)
	s := makeSession(t, modes[0])
	before := libssl.LiveResources().Sessions
	_, err = libssl.WrapSession(s.Pointer(), 2)
	require.ErrorContains(t, err, "copy flag")
	require.Equal(t, before, libssl.LiveResources().Sessions)
	c, err := libssl.WrapSession(s.Pointer(), libssl.Copy)
	require.NoError(t, err)
	require.Equal(t, derOf(t, s), derOf(t, c))
	c.Release()
	require.NotNil(t, s.Pointer())
	require.NotEmpty(t, derOf(t, s))
}

func TestSession_ForgottenIsCollectedAndCounted(t *testing.T) {
	der := derOf(t, makeSession(t, modes[0]))
	before := libssl.LiveResources()
	for range 10 {
		_, err := libssl.ParseSession(der)
		require.NoError(t, err)
	}
	forgotten.ForgottenSessions += 10
	collect(t, func() bool {
		live := libssl.LiveResources()
		return live.ForgottenSessions == before.ForgottenSessions+10 && live.Sessions == before.Sessions
	})
}

func TestContextAndSessionPointers_AreNilWhenDead(t *testing.T) {
	_, server := modes[0].pair(t, false)
	require.NotNil(t, server.Pointer())
	require.NoError(t, server.Close())
	require.Equal(t, unsafe.Pointer(nil), server.Pointer())
}

func TestSession_ServerNameOfBothEnds(t *testing.T) {
	for _, m := range modes {
		client, server := m.pair(t, false)
		server.SetServerNameCallback(func(*libssl.SSL, string) *libssl.Context { return nil })
		sess, _ := offer(t, client, server, nil)
		require.Equal(t, serverName, sess.ServerName(), m.name)
		require.True(t, strings.Contains(sess.Text(), serverName))
	}
}
