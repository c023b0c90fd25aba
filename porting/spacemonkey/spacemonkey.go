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
// It imports none of these packages, so a program links the one that it has.
// docs/porting.md has the limits, and a table for those who move on to libssl.
package spacemonkey

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/libssl-go/libssl"
)

// Attach makes a libssl.Context of the SSL_CTX inside an *openssl.Ctx. Anything
// else, a Ctx of an unknown make included, is an error.
//
// Ownership: the Context takes a reference of its own, which Close gives back;
// the handlers last as long as the SSL_CTX (see libssl.AttachContext). Keep the
// *openssl.Ctx for as long as connections are made, whoever makes them: some of
// these packages leave its address, and nothing that keeps it alive, in C for
// their own callbacks. The end of the SSL_CTX, and with it a remove handler for
// what is still cached, may come in a finalizer of theirs.
//
// Order: configure the Ctx first. A session id context set with its
// SetSessionId is not seen here: use libssl.Context.SetSessionIDContext. Their
// SetSessionCacheMode, and clearing NoTicket, would undo what UseStore has set.
//
// Locks and threads: their Conn holds its lock and an OS thread while a handler
// or a store is busy.
func Attach(ctx any) (*libssl.Context, error) {
	p, err := find(ctx)
	if err != nil {
		return nil, err
	}
	c, err := libssl.AttachContext(p)
	runtime.KeepAlive(ctx) // its finalizer frees the SSL_CTX
	return c, err
}

// cgo's name for what SSL_CTX is: struct ssl_ctx_st.
const sslCtxType = "_Ctype_struct_ssl_ctx_st"

// find reads the field ctx of the struct that all forks have. Nothing is read
// whose type is not what it should be.
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
