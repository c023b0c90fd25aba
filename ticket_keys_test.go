package libssl_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sealed is a server of the fleet that seals its tickets with ring.
func (f *fleet) sealed(t testing.TB, ring *ticket.Ring) *libssl.Context {
	t.Helper()
	ctx := f.server(t)
	require.NoError(t, ctx.UseTicketKeys(ring))
	return ctx
}

// copyRing is a ring of its own with the keys of r, as another server loads it.
func copyRing(t testing.TB, r *ticket.Ring) *ticket.Ring {
	t.Helper()
	pr, pw := io.Pipe()
	go func() {
		_, err := r.WriteTo(pw)
		pw.CloseWithError(err)
	}()
	text, err := io.ReadAll(pr)
	require.NoError(t, err)
	other, err := ticket.ParseRing(text)
	require.NoError(t, err)
	return other
}

func TestUseTicketKeys_ServersWithOneRingResume(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		a, b, stranger := f.sealed(t, ring), f.sealed(t, copyRing(t, ring)), f.sealed(t, newRing(t))
		first := f.visit(t, a, nil)
		require.False(t, first.resumed)
		require.True(t, first.next.HasTicket())
		require.True(t, f.visit(t, a, first.next).resumed)
		require.True(t, f.visit(t, b, first.next).resumed)
		require.False(t, f.visit(t, stranger, first.next).resumed)
	})
}

// A client that uses each ticket once, as RFC 8446 C.4 wants, resumes each time.
func TestUseTicketKeys_EachResumptionBringsATicket(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.sealed(t, newRing(t))
	next := f.visit(t, server, nil).next
	for range 5 {
		v := f.visit(t, server, next)
		require.True(t, v.resumed)
		require.NotEqual(t, storedTicket(t, next), storedTicket(t, v.next))
		next = v.next
	}
}

func storedTicket(t testing.TB, s *libssl.Session) []byte {
	return sessionField(t, derOf(t, s), fieldTicket)
}

// Renewals do not make a session older than MaxLifetime, whichever of UseStore and UseTicketKeys comes first.
func TestUseTicketKeys_RenewalsEndWithTheLifetime(t *testing.T) {
	for name, version := range versions {
		for _, storeFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/store first %t", name, storeFirst), func(t *testing.T) {
				t.Parallel() // the lifetime is some seconds of real time
				f, ring := newFleet(t, version), newRing(t)
				server := f.server(t)
				if !storeFirst {
					require.NoError(t, server.UseTicketKeys(ring))
				}
				useStore(t, server, memstore.New(memstore.Options{}), &libssl.StoreOptions{MaxLifetime: 3 * time.Second})
				if storeFirst {
					require.NoError(t, server.UseTicketKeys(ring))
				}
				begin := time.Now()
				next := f.visit(t, server, nil).next
				require.True(t, f.visit(t, server, next).resumed)
				for {
					require.NoError(t, ring.Rotate()) // so that TLS 1.2 renews too
					v := f.visit(t, server, next)
					if !v.resumed {
						break
					}
					require.Less(t, time.Since(begin), 10*time.Second)
					next = v.next
					time.Sleep(100 * time.Millisecond)
				}
				require.GreaterOrEqual(t, time.Since(begin), 2*time.Second)
			})
		}
	}
}

// A ticket under an older key is accepted and renewed; one under a key that has left the ring is not.
func TestUseTicketKeys_RotationRenews(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		server := f.sealed(t, ring)
		first := f.visit(t, server, nil)
		require.NoError(t, ring.Rotate())
		renewed := f.visit(t, server, first.next)
		require.True(t, renewed.resumed)
		for range ticket.RotatedKeys - 1 {
			require.NoError(t, ring.Rotate())
		}
		require.False(t, f.visit(t, server, first.next).resumed, "its key has left the ring")
		require.True(t, f.visit(t, server, renewed.next).resumed, "renewed under a key that is still there")
	})
}

func TestUseTicketKeys_AKeySealsFromItsTimeOn(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		old := newRing(t)
		ahead := copyRing(t, old)
		require.NoError(t, ahead.RotateAt(time.Now().Add(time.Hour)))
		late, early := f.sealed(t, old), f.sealed(t, ahead)
		require.True(t, f.visit(t, late, f.visit(t, early, nil).next).resumed, "sealed under the key that both have")

		began := copyRing(t, old)
		require.NoError(t, began.RotateAt(time.Now().Add(-time.Second)))
		require.False(t, f.visit(t, late, f.visit(t, f.sealed(t, began), nil).next).resumed, "sealed under one that late lacks")
	})
}

func TestUseTicketKeys_NeverRepeatsAnIV(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		server := f.sealed(t, newRing(t))
		seen := map[string]bool{}
		for range 20 {
			v := f.visit(t, server, nil)
			der, err := v.next.MarshalBinary()
			require.NoError(t, err)
			tick := sessionField(t, der, fieldTicket)
			require.Greater(t, len(tick), 32)
			iv := string(tick[16:32])
			require.False(t, seen[iv])
			seen[iv] = true
		}
	})
}

func TestUseTicketKeys_RotatesUnderLoad(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		servers := []*libssl.Context{f.sealed(t, ring), f.sealed(t, ring)}
		stop := make(chan struct{})
		var rotating sync.WaitGroup
		rotating.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					assert.NoError(t, ring.Rotate())
				}
			}
		})
		var clients sync.WaitGroup
		var handshakes atomic.Int32
		for i := range 4 {
			clients.Go(func() {
				var sess *libssl.Session
				for n := range 25 {
					cn, sn := tcpPipe(t)
					c, s := f.ends(t, cn, sn, servers[(i+n)%2], sess)
					if !assert.NoError(t, exchange(c, s)) {
						return
					}
					handshakes.Add(1)
					sess = sessionOf(t, c)
					closeBoth(c, s)
				}
			})
		}
		clients.Wait()
		close(stop)
		rotating.Wait()
		require.EqualValues(t, 100, handshakes.Load(), "none failed")
	})
}

// The store serves clients that know no tickets; the others hold theirs.
func TestUseTicketKeys_BesideAStore(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	for _, name := range []string{"keys first", "store first"} {
		t.Run(name, func(t *testing.T) {
			server := f.server(t)
			st := memstore.New(memstore.Options{})
			if name == "keys first" {
				require.NoError(t, server.UseTicketKeys(newRing(t)))
			}
			sc := useStore(t, server, st, nil)
			if name == "store first" {
				require.NoError(t, server.UseTicketKeys(newRing(t)))
			}
			v := f.visit(t, server, nil)
			require.True(t, f.visit(t, server, v.next).resumed)
			require.Zero(t, sc.Stats().Stored, "a ticket")

			withoutTickets := *f
			withoutTickets.client = newClient(t, f.ca)
			withoutTickets.client.SetOptions(libssl.OpNoTicket)
			v = withoutTickets.visit(t, server, nil)
			require.True(t, withoutTickets.visit(t, server, v.next).resumed)
			require.EqualValues(t, 1, sc.Stats().Stored, "an id")
		})
	}
}

// Without a store these clients have OpenSSL's internal cache, which no other server sees.
func TestUseTicketKeys_ClientsWithoutTicketsResumeAtOneServer(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	f.client.SetOptions(libssl.OpNoTicket)
	ring := newRing(t)
	one, two := f.sealed(t, ring), f.sealed(t, ring)
	v := f.visit(t, one, nil)
	require.True(t, f.visit(t, one, v.next).resumed)
	require.False(t, f.visit(t, two, v.next).resumed)
}

func TestUseTicketKeys_IsBoundToThePolicy(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		ring := newRing(t)
		open := f.sealed(t, ring)
		strict := f.server(t)
		require.NoError(t, strict.AddClientCAsPEM(f.ca.PEM))
		require.NoError(t, strict.SetVerify(libssl.VerifyPeer))
		require.NoError(t, strict.UseTicketKeys(ring))
		v := f.visit(t, open, nil)
		require.False(t, f.visit(t, strict, v.next).resumed)
		v = f.visit(t, strict, nil)
		require.True(t, f.visit(t, strict, v.next).resumed, "with an id context, which OpenSSL wants here")
		require.False(t, f.visit(t, open, v.next).resumed)
	})
}

// A change of the old ring that is under way must not bring it back.
func TestUseTicketKeys_ReplacedRingStaysAway(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	old, fresh := newRing(t), newRing(t)
	server := f.server(t)
	stop := old.OnChange(func() { require.NoError(t, server.UseTicketKeys(fresh)) }) // before the Context hears of it
	require.NoError(t, server.UseTicketKeys(old))
	require.NoError(t, old.Rotate())
	v := f.visit(t, server, nil)
	require.False(t, f.visit(t, f.sealed(t, old), v.next).resumed)
	require.True(t, f.visit(t, f.sealed(t, fresh), v.next).resumed)

	stop()
	require.NoError(t, server.UseTicketKeys(old), "and back")
	require.NoError(t, old.Replace(newRing(t)))
	v = f.visit(t, server, nil)
	require.True(t, f.visit(t, f.sealed(t, old), v.next).resumed)
}

func TestUseTicketKeys_Refuses(t *testing.T) {
	f := newFleet(t, tls.VersionTLS13)
	server := f.server(t)
	require.Error(t, server.UseTicketKeys(nil))
	require.Error(t, server.UseTicketKeys(new(ticket.Ring)))
	require.ErrorIs(t, f.client.UseTicketKeys(newRing(t)), libssl.ErrUnsupported)
	require.ErrorIs(t, (*libssl.Context)(nil).UseTicketKeys(newRing(t)), libssl.ErrClosed)

	useStore(t, server, memstore.New(memstore.Options{}), &libssl.StoreOptions{SingleUse: true})
	require.ErrorIs(t, server.UseTicketKeys(newRing(t)), libssl.ErrUnsupported)
	other := f.sealed(t, newRing(t))
	_, err := other.UseStore(memstore.New(memstore.Options{}), &libssl.StoreOptions{SingleUse: true})
	require.ErrorIs(t, err, libssl.ErrUnsupported)

	ring := newRing(t)
	closed := f.sealed(t, ring)
	closed.OnCallbackError(func(e *libssl.CallbackError) { t.Error(e) })
	require.NoError(t, closed.Close())
	require.ErrorIs(t, closed.UseTicketKeys(ring), libssl.ErrClosed)
	require.NoError(t, ring.Rotate(), "and calls no handler")
}
