package storeurl

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/servertest"
)

func TestOpen_ErrorsShowNoPassword(t *testing.T) {
	for _, url := range []string{"hunter2@host:6379", "user:hunter2@host:6379/0", ":hunter2@host", "hunter2", "hunter2@host", "valky://user:hunter2@host",
		"user:hunter2@host://", "//user:hunter2@host", "tiered:user:hunter2@host", "tiered:hunter2", "valkey:user:hunter2@host",
		"hunter2@valkey://host", "memcached://user:hunter2@host:1", "memcached:hunter2@host"} {
		_, _, err := Open(url, true)
		if assert.Error(t, err, url) {
			assert.NotContains(t, err.Error(), "hunter2", url)
			assert.ErrorAs(t, err, new(Error), url)
		}
		t.Setenv("STORE", url)
		_, _, err = Open("env:STORE", true)
		if assert.Error(t, err, url) {
			assert.NotContains(t, err.Error(), "hunter2", url)
		}
	}
	_, _, err := Open("sqllite:x", true)
	assert.ErrorContains(t, err, `"sqllite"`, "a mistyped scheme is shown")
}

func TestOpen_TakesTheURLFromTheEnvironment(t *testing.T) {
	t.Setenv("STORE", "memory:")
	st, closeStore, err := Open("env:STORE", true)
	require.NoError(t, err)
	defer closeStore()
	require.IsType(t, (*memstore.Store)(nil), st)
	require.NoError(t, os.Unsetenv("STORE"))
	_, _, err = Open("env:STORE", true)
	require.ErrorContains(t, err, "environment variable STORE")
	require.ErrorAs(t, err, new(Error))
}

func TestOpen_TakesThePasswordFromAFile(t *testing.T) {
	srv := servertest.Redis(t, "redis-server", "--requirepass", "hunter2")
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("hunter2\n"), 0o600))
	for _, scheme := range []string{"redis", "tiered:valkey"} {
		_, closeStore, err := Open(scheme+"://"+srv.Addr+"?password_file="+file, true)
		require.NoError(t, err)
		require.NoError(t, closeStore())
	}
	for name, refuse := range map[string]func(){
		"lets other users access it": func() { require.NoError(t, os.Chmod(file, 0o644)) },
		"empty": func() {
			require.NoError(t, os.WriteFile(file, []byte("\n"), 0o600))
			require.NoError(t, os.Chmod(file, 0o600))
		},
		"no such file": func() { require.NoError(t, os.Remove(file)) },
	} {
		require.NoError(t, os.WriteFile(file, []byte("hunter2\n"), 0o600))
		require.NoError(t, os.Chmod(file, 0o600))
		refuse()
		_, _, err := Open("redis://"+srv.Addr+"?password_file="+file, true)
		require.ErrorContains(t, err, name)
	}
	_, _, err := Open("redis://:other@"+srv.Addr+"?password_file="+file, true)
	require.ErrorContains(t, err, "beside password_file")
}
