package callbacks_test

import (
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

// callback is one of the three, with its setter and its getter.
type callback struct {
	name  string
	which int
	set   func(ctx *libssl.Context, on bool)
	isSet func(ctx *libssl.Context) bool
}

var three = []callback{
	{"new", cref.New, func(ctx *libssl.Context, on bool) {
		var f libssl.NewSessionFunc
		if on {
			f = func(*libssl.SSL, *libssl.Session) bool { return false }
		}
		ctx.SetSessNewCallback(f)
	}, func(ctx *libssl.Context) bool { return ctx.SessNewCallback() != nil }},
	{"get", cref.Get, func(ctx *libssl.Context, on bool) {
		var f libssl.GetSessionFunc
		if on {
			f = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) { return nil, libssl.Copy }
		}
		ctx.SetSessGetCallback(f)
	}, func(ctx *libssl.Context) bool { return ctx.SessGetCallback() != nil }},
	{"remove", cref.Remove, func(ctx *libssl.Context, on bool) {
		var f libssl.RemoveSessionFunc
		if on {
			f = func(*libssl.Context, *libssl.Session) {}
		}
		ctx.SetSessRemoveCallback(f)
	}, func(ctx *libssl.Context) bool { return ctx.SessRemoveCallback() != nil }},
}

func TestSetters_NilUninstallsAtOnceWithoutConnections(t *testing.T) {
	for _, cb := range three {
		t.Run(cb.name, func(t *testing.T) {
			ctx := modes[0].server(t)
			require.Equal(t, cref.Unset, cref.Installed(ctx.Pointer(), cb.which), "before")
			require.False(t, cb.isSet(ctx))
			for range 2 {
				cb.set(ctx, true)
				require.Equal(t, cref.Others, cref.Installed(ctx.Pointer(), cb.which))
				require.True(t, cb.isSet(ctx))
				cb.set(ctx, false)
				require.Equal(t, cref.Unset, cref.Installed(ctx.Pointer(), cb.which))
				require.False(t, cb.isSet(ctx))
			}
			for _, other := range three {
				require.Equal(t, cref.Unset, cref.Installed(ctx.Pointer(), other.which), other.name)
			}
		})
	}
}

func TestSetters_NilUninstallsWithTheLastConnection(t *testing.T) {
	for _, e := range engines {
		for _, cb := range three {
			t.Run(e.name+" SSLs/"+cb.name, func(t *testing.T) {
				client, ctx := newClient(t), modes[0].server(t)
				cb.set(ctx, true)
				one, two := e.link(t, client, ctx, nil), e.link(t, client, ctx, nil)
				one.session.Release()
				two.session.Release()
				cb.set(ctx, false)
				require.False(t, cb.isSet(ctx))
				one.close(true)
				require.Equal(t, cref.Others, cref.Installed(ctx.Pointer(), cb.which), "a connection lives")
				two.close(true)
				require.Equal(t, cref.Unset, cref.Installed(ctx.Pointer(), cb.which))

				l := e.link(t, client, ctx, nil)
				l.session.Release()
				cb.set(ctx, true)
				cb.set(ctx, false)
				cb.set(ctx, true)
				l.close(true)
				require.Equal(t, cref.Others, cref.Installed(ctx.Pointer(), cb.which), "set again in time")
				require.True(t, cb.isSet(ctx))
			})
		}
	}
}

// A function that C installs after the nil is C's, and stays.
func TestSetters_NilLeavesWhatCInstalledLater(t *testing.T) {
	for _, cb := range three {
		t.Run(cb.name, func(t *testing.T) {
			client, ctx := newClient(t), modes[0].server(t)
			cb.set(ctx, true)
			l := linkC(t, client, ctx, nil)
			l.session.Release()
			cb.set(ctx, false)
			c, err := cref.Install(ctx.Pointer(), cb.which)
			require.NoError(t, err)
			defer c.Free()
			l.close(true)
			require.Equal(t, cref.Ours, cref.Installed(ctx.Pointer(), cb.which))
			require.NoError(t, ctx.Close())
		})
	}
}

// After nil no callback is called, also where a C function was installed and connections live.
func TestSetters_NilSilencesWhatCInstalled(t *testing.T) {
	for _, cb := range three {
		t.Run(cb.name, func(t *testing.T) {
			client, ctx := newClient(t), modes[0].server(t)
			ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
			c, err := cref.Install(ctx.Pointer(), cb.which)
			require.NoError(t, err)
			defer c.Free()
			require.True(t, cb.isSet(ctx))
			l := linkC(t, client, ctx, nil)
			before := calls(c)
			cb.set(ctx, false)
			require.False(t, cb.isSet(ctx))
			again := linkC(t, client, ctx, l.session)
			again.session.Release()
			again.close(false)
			require.Equal(t, before, calls(c))
			l.session.Release()
			l.close(true)
			require.Equal(t, cref.Unset, cref.Installed(ctx.Pointer(), cb.which))
			require.NoError(t, ctx.Close())
		})
	}
}

func calls(c *cref.Callbacks) int {
	news, gets, removes := c.Calls()
	return news + gets + removes
}

// F1.13 of docs/semantics.md: with a remove callback, stateless tickets fill the internal cache. Taking the handler
// away must therefore take the C pointer.
func TestSetSessRemove_NilStopsFillingTheCache(t *testing.T) {
	client, ctx := newClient(t), modes[2].server(t)
	full := func() {
		t.Helper()
		linkC(t, client, ctx, nil).closed().session.Release()
	}
	full()
	require.Zero(t, ctx.Stats().Number)
	three[2].set(ctx, true)
	full()
	require.Equal(t, 1, ctx.Stats().Number)
	three[2].set(ctx, false)
	full()
	require.Equal(t, 1, ctx.Stats().Number)
}
