package soak

import (
	"crypto/tls"
	"errors"
	"sync"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

type fleet struct {
	t         *testing.T
	n         *tally
	ca        *tlstest.CA
	cert, key []byte
	keys      *ticket.Ring

	mu      sync.Mutex
	clients map[uint16]*libssl.Context
	ends    map[*libssl.Context]func() // what has to be done before one is closed
}

func (f *fleet) close() {
	for _, c := range f.clients {
		c.Close()
	}
}

func (f *fleet) client(version uint16) *libssl.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.clients[version]; c != nil {
		return c
	}
	c, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(f.t, err)
	require.NoError(f.t, c.AddRootCAsPEM(f.ca.PEM))
	require.NoError(f.t, c.SetVersions(version, version))
	f.clients[version] = c
	return c
}

// server makes what all kinds have in common.
func (f *fleet) server(version uint16) *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err == nil {
		err = errors.Join(ctx.UseCertificatePEM(f.cert, f.key), ctx.SetVersions(version, version),
			ctx.SetSessionIDContext([]byte("soak")))
	}
	if err != nil {
		panic(err)
	}
	ctx.OnCallbackError(func(e *libssl.CallbackError) {
		switch e.Value {
		case errOnPurpose:
			f.n.told.Add(1)
		case libssl.ErrClosed: // set on a Context that has just been replaced
		default:
			f.n.fail("%s handler: %v", e.Callback, e.Value)
		}
	})
	return ctx
}

// replace closes a lane's Context while it serves, and its store's cache first.
func (f *fleet) replace(l *lane) {
	f.finish(l.current.Swap(l.make()))
	f.n.turnover.Add(1)
}

func (f *fleet) finish(ctx *libssl.Context) {
	f.n.evictions.Add(int64(ctx.Stats().CacheFull))
	f.mu.Lock()
	end := f.ends[ctx]
	delete(f.ends, ctx)
	f.mu.Unlock()
	end()
	ctx.Close()
}

func (f *fleet) atEnd(ctx *libssl.Context, end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[ctx] = end
}

func (f *fleet) lanes() (all []*lane) {
	f.ends = map[*libssl.Context]func(){}
	for _, v := range []struct {
		name    string
		version uint16
	}{{"1.2", tls.VersionTLS12}, {"1.3", tls.VersionTLS13}} {
		all = append(all,
			f.storeLane(v.name+" store", v.version, libssl.StoreOptions{Keys: f.keys}),
			f.storeLane(v.name+" store, single use, write behind", v.version,
				libssl.StoreOptions{Keys: f.keys, SingleUse: true, WriteBehind: true}),
			f.handlerLane(v.name+" handlers", v.version, false),
			f.handlerLane(v.name+" handlers and the internal cache", v.version, true),
		)
	}
	early := f.storeLane("early data", tls.VersionTLS13, libssl.StoreOptions{Keys: f.keys, SingleUse: true})
	early.early = true
	return append(all, early)
}
