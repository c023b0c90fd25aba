package conformance

import (
	"encoding/hex"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "keep anew, in testdata, the sessions that this OpenSSL writes")

// The kept sessions that F7.3 reads have the fields that this release writes today. With -update the test makes them,
// under tests/with-openssl.sh for each release in turn.
func TestKept_IsWhatThisReleaseWrites(t *testing.T) {
	r := currentRelease()
	series := fmt.Sprintf("%d.%d", r/10000, r/100%100)
	if r < v30 {
		series += fmt.Sprintf(".%d", r%100)
	}
	text, err := cref.Observe("F7.3 sessions")
	require.NoError(t, err)
	written := map[string][]observation{} // by file
	for _, o := range parseObservations(text) {
		writer := series
		if strings.Contains(o.name, "raw public key") {
			writer = "raw-key-" + series
		}
		written[writer] = append(written[writer], o)
	}
	for writer, sessions := range written {
		if *update {
			writeKept(t, writer, sessions)
			continue
		}
		at := -1
		for i, k := range keptSessions {
			if k.writer == writer {
				at = i
			}
		}
		if at < 0 {
			continue // a release that nothing is kept of
		}
		var old [][]byte
		for _, h := range keptSessions[at].handshakes {
			old = append(old, h.server, h.client)
		}
		require.Len(t, old, len(sessions))
		for i, o := range sessions {
			der, err := hex.DecodeString(o.text)
			require.NoError(t, err)
			require.Equal(t, layout(t, old[i]), layout(t, der), "%s, %s", writer, o.name)
		}
	}
}

// layout are the fields that a session has.
func layout(t *testing.T, der []byte) (all []string) {
	t.Helper()
	fields, err := parseFields(der)
	require.NoError(t, err)
	for _, f := range fields {
		all = append(all, fmt.Sprintf("%d %d", f.Class, f.Tag))
	}
	return all
}

func writeKept(t *testing.T, writer string, sessions []observation) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "Sessions as %s writes them: of each handshake the server's, and then the client's.\n", libssl.Version())
	for i, o := range sessions {
		der, err := hex.DecodeString(o.text)
		require.NoError(t, err)
		if i%2 == 0 {
			fmt.Fprintf(&b, "\n%s\n", o.name)
		}
		require.NoError(t, pem.Encode(&b, &pem.Block{Type: "SSL SESSION PARAMETERS", Bytes: der}))
	}
	require.NoError(t, os.WriteFile(filepath.Join(keptFolder, writer+".pem"), []byte(b.String()), 0o666))
}
