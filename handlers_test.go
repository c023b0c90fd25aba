package libssl_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// methods calls methods of objects from handlers.
type methods struct {
	ending string // the place that calls Close and Abort too
	mu     sync.Mutex
	called map[string]bool
}

// arguments are those of methods that would change what the test needs. All others get a value that fits the type.
func arguments(method string, c *libssl.Context) []any {
	switch method {
	case "SetCiphers":
		return []any{"DEFAULT"}
	case "SetCipherSuites":
		return []any{"TLS_AES_256_GCM_SHA384"}
	case "SetGroups":
		return []any{"X25519:P-256"}
	case "SetOptions", "ClearOptions":
		return []any{libssl.Options(0)}
	case "SetSessionCacheMode":
		return []any{libssl.CacheServer | libssl.CacheClient}
	case "SetSessionCacheSize", "SetNumTickets":
		return []any{2}
	case "SetSessionTimeout", "SetTimeout":
		return []any{time.Hour}
	case "SetTime", "FlushSessions":
		return []any{time.Now()}
	case "SetVerify":
		return []any{libssl.VerifyNone}
	case "SetSessionIDContext":
		return []any{[]byte("methods")}
	case "SetSessNewCallback":
		return []any{c.SessNewCallback()}
	case "SetSessGetCallback":
		return []any{c.SessGetCallback()}
	case "SetSessRemoveCallback":
		return []any{c.SessRemoveCallback()}
	case "SetDeadline", "SetReadDeadline", "SetWriteDeadline":
		return []any{time.Now().Add(time.Minute)}
	}
	return nil
}

// call calls every method of each object. s is an argument of methods.
func (m *methods) call(place string, s *libssl.Session, objects ...any) {
	for _, object := range objects {
		v := reflect.ValueOf(object)
		if v.IsNil() {
			continue
		}
		for i := range v.NumMethod() {
			name := v.Type().Method(i).Name
			end := name == "Close" || name == "Abort"
			replaces := slices.Contains([]string{"SetServerNameCallback", "OnCallbackError", "SetKeyLogWriter"}, name)
			if replaces || end && place != m.ending || name == "Close" && v.Type() == reflect.TypeFor[*libssl.Context]() {
				continue
			}
			c, _ := object.(*libssl.Context)
			in := fitting(v.Method(i).Type(), s, arguments(name, c))
			what := fmt.Sprintf("%s: %s.%s", place, v.Type(), name)
			watch := time.AfterFunc(20*time.Second, func() { panic(what + " hangs") })
			if v.Method(i).Type().IsVariadic() {
				in = in[:len(in)-1]
			}
			out := v.Method(i).Call(in)
			watch.Stop()
			for _, o := range out {
				if got, ok := o.Interface().(*libssl.Session); ok && got != s {
					got.Release()
				}
			}
			m.mu.Lock()
			m.called[what] = true
			m.mu.Unlock()
		}
	}
}

// fitting returns arguments of the types of f, given ones first.
func fitting(f reflect.Type, s *libssl.Session, given []any) (in []reflect.Value) {
	for i := range f.NumIn() {
		switch t := f.In(i); {
		case i < len(given):
			in = append(in, reflect.ValueOf(given[i]))
		case t == reflect.TypeFor[*libssl.Session]():
			in = append(in, reflect.ValueOf(s))
		case t == reflect.TypeFor[context.Context]():
			in = append(in, reflect.ValueOf(context.Background()))
		case t == reflect.TypeFor[[]byte]():
			in = append(in, reflect.ValueOf([]byte("x")))
		default:
			in = append(in, reflect.Zero(t))
		}
	}
	return in
}

// Every method may be called in every place where code of the user runs inside OpenSSL.
func TestHandlers_MayCallEveryMethod(t *testing.T) {
	for _, mode := range askingModes() {
		for _, ending := range []string{"", "server servername", "server get", "server new", "client new"} {
			t.Run(mode.name+"/"+ending, func(t *testing.T) {
				m := &methods{ending: ending, called: map[string]bool{}}
				client, server := mode.pair(t, true)
				server.SetSessionCacheSize(2)
				client.SetSessionCacheMode(libssl.CacheClient)
				server.OnCallbackError(nil) // setters are refused in the handlers that Close runs
				m.install("server", server, makeSession(t, mode))
				m.install("client", client, makeSession(t, mode))
				plainClient, plainServer := mode.pair(t, true)
				offered, _ := offer(t, plainClient, plainServer, nil)
				for _, pair := range [][2]*libssl.Context{{plainClient, server}, {client, plainServer}, {client, server}, {plainClient, server}} {
					cn, sn := tcpPipe(t)
					c, s := wrap(t, cn, sn, pair[0], pair[1])
					require.NoError(t, c.SetSession(offered))
					if err := exchange(c, s); ending == "" {
						require.NoError(t, err)
					}
					closeBoth(c, s)
				}
				for _, ctx := range []*libssl.Context{server, client} { // a removal that holds no lock
					_, err := ctx.RemoveSession(parse(t, derOf(t, offered)))
					require.NoError(t, err)
				}
				want := []string{ending + ": *libssl.Conn.Abort"}
				if ending == "" {
					want = []string{
						"server servername: *libssl.Conn.SetSession", "server get: *libssl.Conn.ConnectionState", "server new: *libssl.SSL.Version",
						"server remove: *libssl.Session.Dup", "server remove: *libssl.Context.AddSession",
						"client new: *libssl.Conn.ConnectionState", "client remove: *libssl.Session.Dup",
					}
				}
				for _, what := range want {
					require.True(t, m.called[what], what)
				}
			})
		}
	}
}

// install sets every handler that the role of ctx has.
func (m *methods) install(role string, ctx *libssl.Context, s *libssl.Session) {
	ctx.SetSessNewCallback(func(ssl *libssl.SSL, lent *libssl.Session) bool {
		m.call(role+" new", s, ssl, ssl.Conn(), ctx, lent)
		return false
	})
	ctx.SetSessRemoveCallback(func(ctx *libssl.Context, lent *libssl.Session) {
		m.call(role+" remove", s, ctx, lent)
	})
	if role == "client" {
		return
	}
	ctx.SetSessGetCallback(func(ssl *libssl.SSL, _ libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		m.call(role+" get", s, ssl, ssl.Conn(), ctx)
		return nil, libssl.Copy
	})
	ctx.SetServerNameCallback(func(ssl *libssl.SSL, _ string) *libssl.Context {
		m.call(role+" servername", s, ssl, ssl.Conn(), ctx)
		return nil
	})
}
