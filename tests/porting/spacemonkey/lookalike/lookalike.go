// Package openssl has types that look more or less like the Ctx of the packages
// that spacemonkey attaches to.
package openssl

import "unsafe"

type _Ctype_struct_ssl_ctx_st struct{} // as cgo names it

// Ctx looks like theirs in all that matters.
type Ctx struct{ ctx *_Ctype_struct_ssl_ctx_st }

// New makes a Ctx of an SSL_CTX.
func New(sslCtx unsafe.Pointer) *Ctx { return &Ctx{(*_Ctype_struct_ssl_ctx_st)(sslCtx)} }

// Others are called as they are, and look otherwise.
func Others(sslCtx unsafe.Pointer) map[string]any {
	others := map[string]any{}
	{
		type Ctx struct{ sslCtx *_Ctype_struct_ssl_ctx_st }
		others["has no field ctx"] = &Ctx{(*_Ctype_struct_ssl_ctx_st)(sslCtx)}
	}
	{
		type Ctx struct{ ctx unsafe.Pointer }
		others["want *C.SSL_CTX"] = &Ctx{sslCtx}
	}
	{
		type ssl struct{}
		type Ctx struct{ ctx *ssl }
		others["is *openssl.ssl, want"] = &Ctx{(*ssl)(sslCtx)}
	}
	{
		type Ctx *_Ctype_struct_ssl_ctx_st
		ctx := Ctx((*_Ctype_struct_ssl_ctx_st)(sslCtx))
		others["is no *openssl.Ctx"] = &ctx
	}
	return others
}
