package conformance

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	shown    = 0
	notShown = 1
	dies     = -1 // of a signal
)

// The programs that go with reports to OpenSSL end as their head comments say: compiled and run with the libssl of this
// test.
func TestUpstream_ReproducersShowWhatTheySay(t *testing.T) {
	chain := notShown
	if inChild("C", "F3.7 re-insertion from remove") == "crash" {
		chain = dies
	}
	mark := notShown
	if currentRelease() < v30 {
		mark = shown
	}
	for _, tt := range []struct {
		source string
		args   []string
		want   int
		says   string
	}{
		{"eviction_chain.c", nil, chain, "now all are evicted"},
		{"eviction_chain.c", []string{"threads"}, chain, "four threads"},
		{"not_resumable.c", nil, mark, "in the internal cache, marked not resumable: resumed yes"},
		{"new_returns_zero.c", nil, shown, "the client comes back: resumed yes"},
	} {
		t.Run(strings.Join(append([]string{tt.source}, tt.args...), " "), func(t *testing.T) {
			out, err := exec.Command(compile(t, tt.source), tt.args...).CombinedOutput()
			require.Equal(t, tt.want, statusOf(t, err), "%s", out)
			require.Contains(t, string(out), tt.says)
		})
	}
}

// compile builds a program with the flags that cgo is given.
func compile(t *testing.T, source string) (program string) {
	t.Helper()
	words := func(name, otherwise string) []string {
		if v, ok := os.LookupEnv(name); ok && v != "" {
			otherwise = v
		}
		return strings.Fields(otherwise)
	}
	pkgConfig := append(words("PKG_CONFIG", "pkg-config"), "--cflags", "--libs", "libssl", "libcrypto")
	flags, err := exec.Command(pkgConfig[0], pkgConfig[1:]...).Output()
	require.NoError(t, err)
	program = filepath.Join(t.TempDir(), strings.TrimSuffix(source, ".c"))
	args := append(words("CC", "gcc"), words("CGO_CFLAGS", "-O2 -g")...)
	args = append(args, "-Wall", "-Wextra", "-Werror", filepath.Join("..", "internal", "cref", "upstream", source), "-o", program)
	args = append(args, strings.Fields(string(flags))...)
	args = append(args, "-lpthread")
	args = append(args, words("CGO_LDFLAGS", "")...)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

func statusOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "%v", err)
	if exit.Sys().(syscall.WaitStatus).Signaled() {
		return dies
	}
	return exit.ExitCode()
}
