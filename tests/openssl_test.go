package tests

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/libssl-go/libssl"
)

// The matrix sets the OpenSSL version that it tests. A build that links another version by mistake must fail.
func TestOpenSSL_IsTheOneTheMatrixAskedFor(t *testing.T) {
	want := os.Getenv("LIBSSL_TEST_OPENSSL")
	if want == "" {
		t.Skip("only the matrix asks for a version")
	}
	assert.Contains(t, libssl.Version(), "OpenSSL "+want+" ")
}
