package tests

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/libssl-go/libssl"
)

// The matrix says which OpenSSL it means to test: a build that quietly linked another one must not pass for it.
func TestOpenSSL_IsTheOneTheMatrixAskedFor(t *testing.T) {
	want := os.Getenv("LIBSSL_TEST_OPENSSL")
	if want == "" {
		t.Skip("only the matrix asks for a version")
	}
	assert.Contains(t, libssl.Version(), "OpenSSL "+want+" ")
}
