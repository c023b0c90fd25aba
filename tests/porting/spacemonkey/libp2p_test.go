package spacemonkey_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/cgo"
)

// The fork is tested as this test is.
var goFlags []string

// The test with the libp2p fork is a module of its own, to spare libssl the dependency on that fork.
func TestAttach_Libp2p(t *testing.T) {
	cmd := exec.Command("go", append(append([]string{"test", "-count=1"}, goFlags...), "./...")...)
	cmd.Dir = "../../../porting/spacemonkey/libp2p"
	out, err := cmd.CombinedOutput()
	if cgo.VersionNumber()>>28 >= 4 {
		require.Error(t, err)
		assert.Contains(t, string(out), "ASN1_STRING", "it does not compile because structs are opaque in 4.0; else docs/porting.md is stale")
		return
	}
	require.NoError(t, err, "%s", out)
}
