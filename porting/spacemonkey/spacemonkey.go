// Package spacemonkey brings the session callbacks and the stores of libssl to
// programs on github.com/spacemonkeygo/openssl or one of its forks, such as
// github.com/libp2p/go-openssl and github.com/mendersoftware/openssl. Their
// Listener, Conn and configuration stay as they are:
//
//	ctx, err := openssl.NewCtxFromFiles("cert.pem", "key.pem")
//	...
//	c, err := spacemonkey.Attach(ctx)
//	...
//	cache, err := c.UseStore(st, nil)
//	...
//	l, err := openssl.Listen("tcp", ":8443", ctx)
//
// It imports none of these packages, so a program links only the one it uses.
// docs/porting.md lists the limits, and has a table for moving on to libssl.
package spacemonkey

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/libssl-go/libssl"
)

// Attach makes a libssl.Context of the SSL_CTX inside an *openssl.Ctx. Any other
// value, including a Ctx with an unknown layout, is an error.
//
// Ownership: the Context takes its own reference to the SSL_CTX, and Close
// releases it. Handlers stay installed as long as the SSL_CTX lives (see
// libssl.AttachContext). Keep the *openssl.Ctx reachable while any code makes
// connections with it: some of these packages keep only its address in C, for
// their own callbacks, and nothing that keeps it alive. The SSL_CTX may be freed
// in a finalizer of such a package; the remove handler then runs there for
// sessions that are still cached.
//
// Order: configure the Ctx first. libssl does not see a session id context that
// was set with Ctx.SetSessionId: use libssl.Context.SetSessionIDContext. After
// UseStore, do not call Ctx.SetSessionCacheMode and do not clear NoTicket: both
// undo settings that the store needs.
//
// Locks and threads: a Conn of these packages holds its lock and an OS thread
// while a handler or a store is busy.
func Attach(ctx any) (*libssl.Context, error) {
	p, err := find(ctx)
	if err != nil {
		return nil, err
	}
	c, err := libssl.AttachContext(p)
	runtime.KeepAlive(ctx) // its finalizer frees the SSL_CTX
	return c, err
}

// sslCtxType is the name that cgo gives to struct ssl_ctx_st, the type of SSL_CTX.
const sslCtxType = "_Ctype_struct_ssl_ctx_st"

// find reads the field ctx of the Ctx struct, which all forks have. It checks
// the type of the struct and of the field before it reads.
func find(ctx any) (unsafe.Pointer, error) {
	v := reflect.ValueOf(ctx)
	if !v.IsValid() || v.Type().String() != "*openssl.Ctx" || v.Type().Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("spacemonkey: attach: %T is no *openssl.Ctx", ctx)
	}
	if v.IsNil() {
		return nil, errors.New("spacemonkey: attach: nil *openssl.Ctx")
	}
	field := v.Elem().FieldByName("ctx")
	if !field.IsValid() {
		return nil, fmt.Errorf("spacemonkey: attach: the Ctx of %s has no field ctx", v.Type().Elem().PkgPath())
	}
	if t := field.Type(); t.Kind() != reflect.Pointer || t.Elem().Name() != sslCtxType {
		return nil, fmt.Errorf("spacemonkey: attach: the field ctx of %s.Ctx is %s, want *C.SSL_CTX", v.Type().Elem().PkgPath(), t)
	}
	if field.IsNil() {
		return nil, errors.New("spacemonkey: attach: the Ctx has no SSL_CTX")
	}
	return field.UnsafePointer(), nil
}
