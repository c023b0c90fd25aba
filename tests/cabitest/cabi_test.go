package cabitest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libssl-go/libssl/tests/cabitest"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(cabitest.Main(m)) }

// One program, as C and as C++, on the shared and on the static library.
func TestCABI_KeepsItsHeadersPromises(t *testing.T) {
	lib := cabitest.Build(t)
	cert, key := tlstest.NewCA(t, "ca").LeafFiles(t, "127.0.0.1")
	source := filepath.Join("testdata", "api.c")
	for name, program := range map[string]string{
		"C, shared":   lib.Compile(t, "gcc", source, lib.Shared(t)...),
		"C, static":   lib.Compile(t, "gcc", source, lib.Static(t)...),
		"C++, shared": lib.Compile(t, "g++", source, append([]string{"-x", "none"}, lib.Shared(t)...)...),
		"C++, static": lib.Compile(t, "g++", source, append([]string{"-x", "none"}, lib.Static(t)...)...),
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program, cert, key, filepath.Join(t.TempDir(), "sessions.db"))
			var out, said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &said
			require.NoError(t, cmd.Run(), "%s", said.String())
			require.Equal(t, "ok\n", out.String())
			require.Equal(t, 1, strings.Count(said.String(), "was forked from one in which Go runs"), "said once, by the child: %s", said.String())
		})
	}
}

// The library shows its functions and nothing else: a program may have an SQLite, or another library in Go, of its own.
func TestCABI_ExportsNothingElse(t *testing.T) {
	lib := cabitest.Build(t)
	want := []string{"lssl_abi_version", "lssl_close", "lssl_error", "lssl_fd", "lssl_origin", "lssl_revoke", "lssl_stats", "lssl_use_store"}
	for file, args := range map[string][]string{
		"liblssl.so": {"-D", "--defined-only", "--format=just-symbols"},
		"liblssl.a":  {"--extern-only", "--defined-only", "--format=just-symbols"},
	} {
		out, err := exec.Command("nm", append(args, filepath.Join(lib.Dir, "lib", file))...).Output()
		require.NoError(t, err)
		var names []string
		for _, name := range strings.Fields(string(out)) {
			if name, _, _ = strings.Cut(name, "@"); strings.HasPrefix(name, "lssl_") {
				names = append(names, name)
			} else if name != "LSSL_1" && !strings.HasSuffix(name, ".o:") {
				t.Errorf("%s shows %s", file, name)
			}
		}
		assert.ElementsMatch(t, want, names, file)
	}
}

func TestCABI_Installs(t *testing.T) {
	dest := t.TempDir()
	cmd := exec.Command("make", "-C", "../..", "install-cabi", "PREFIX=/opt/lssl", "DESTDIR="+dest)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, file := range []string{"lib/liblssl.so.1", "lib/liblssl.a", "include/lssl.h"} {
		assert.FileExists(t, filepath.Join(dest, "opt/lssl", file))
	}
	link, err := os.Readlink(filepath.Join(dest, "opt/lssl/lib/liblssl.so"))
	require.NoError(t, err)
	assert.Equal(t, "liblssl.so.1", link)
	pc, err := os.ReadFile(filepath.Join(dest, "opt/lssl/lib/pkgconfig/lssl.pc"))
	require.NoError(t, err)
	assert.Contains(t, string(pc), "prefix=/opt/lssl\n")
	header, err := exec.Command("readelf", "-d", filepath.Join(dest, "opt/lssl/lib/liblssl.so.1")).Output()
	require.NoError(t, err)
	assert.Contains(t, string(header), "[liblssl.so.1]")
}
