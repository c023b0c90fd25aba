package spacemonkey_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/porting/spacemonkey"
	"github.com/libssl-go/libssl/tests/internal/cref"
	openssl "github.com/libssl-go/libssl/tests/porting/spacemonkey/lookalike"
)

func TestAttach_TakesAReferenceOfItsOwn(t *testing.T) {
	sslCtx := cref.NewContext(false)
	theirs := openssl.New(sslCtx)
	ctx, err := spacemonkey.Attach(theirs)
	require.NoError(t, err)
	assert.Equal(t, sslCtx, ctx.Pointer())
	_, err = spacemonkey.Attach(theirs)
	assert.Error(t, err, "one SSL_CTX has one Context")

	destroyed := cref.ContextsDestroyed()
	cref.FreeContext(sslCtx)
	assert.Equal(t, destroyed, cref.ContextsDestroyed())
	require.NoError(t, ctx.Close())
	assert.Equal(t, destroyed+1, cref.ContextsDestroyed())
}

func TestAttach_RefusesWhatItDoesNotKnow(t *testing.T) {
	type Ctx struct{ ctx *int }
	sslCtx := cref.NewContext(false)
	defer cref.FreeContext(sslCtx)
	refused := map[string][]any{
		"is no *openssl.Ctx": {nil, 1, "ctx", sslCtx, Ctx{}, &Ctx{new(int)}, *openssl.New(sslCtx), openssl.Ctx{}},
		"nil *openssl.Ctx":   {(*openssl.Ctx)(nil)},
		"has no SSL_CTX":     {openssl.New(nil)},
	}
	for says, ctx := range openssl.Others(sslCtx) {
		refused[says] = append(refused[says], ctx)
	}
	for says, all := range refused {
		for _, ctx := range all {
			_, err := spacemonkey.Attach(ctx)
			assert.ErrorContains(t, err, says, "%T", ctx)
		}
	}
}
