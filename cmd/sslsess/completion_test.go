package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCompletion_KnowsCommandsAndFlags(t *testing.T) {
	root := command{subs: commands}
	for line, want := range map[string]string{
		"sslsess ":                        strings.Join(names(commands), " ") + " help version completion",
		"sslsess s":                       "serve show store",
		"sslsess  pr":                     "probe",
		"sslsess co":                      "conform completion",
		"sslsess help k":                  "keyring",
		"sslsess help store r":            "rm revoke",
		"sslsess store ":                  "ls stat rm revoke purge help",
		"sslsess store ls -j":             "-json",
		"sslsess nothing ":                "",
		"sslsess probe ":                  "",
		"sslsess probe -":                 "-ca -insecure -json -matrix -servername -tls",
		"sslsess probe --m":               "--matrix",
		"sslsess probe -insecure -m":      "-matrix",
		"sslsess probe -ca -m":            "",
		"sslsess probe -tls ":             "any 1.2 1.3",
		"sslsess probe -tls 1.3 -insec":   "-insecure",
		"sslsess serve -tickets state":    "stateful stateless",
		"sslsess serve --tickets statel":  "stateless",
		"sslsess":                         "",
		"":                                "",
		"sslsess probe 127.0.0.1:443 -js": "-json",
	} {
		assert.Equal(t, want, strings.Join(candidates(root, line), " "), "%q", line)
	}
}

// bash gives the line and the position of the cursor in its environment.
func TestCompletion_StopsAtTheCursor(t *testing.T) {
	t.Setenv("COMP_LINE", "sslsess ver -json")
	t.Setenv("COMP_POINT", "11")
	r := sslsess(t, "completion", "sslsess", "ver", "sslsess")
	requireOK(t, r)
	assert.Equal(t, "version\n", r.stdout)
}

func TestCompletion_QuotesTheProgram(t *testing.T) {
	assert.Equal(t, `'/it'\''s here/sslsess'`, shellQuote("/it's here/sslsess"))
}

// The script command provides the terminal on which bash completes the words.
func TestCompletion_Bash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(os.Args[0], filepath.Join(dir, "sslsess")))
	rc := filepath.Join(dir, "rc")
	require.NoError(t, os.WriteFile(rc, []byte(`
PATH="`+dir+`:$PATH"
source <(sslsess completion)
PS1=ready
`), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "script", "--quiet", "--return", "--command", "bash --noprofile --rcfile "+rc+" -i", "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=dumb")
	keys, err := cmd.StdinPipe()
	require.NoError(t, err)
	screen, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer cancel()
	shown := bufio.NewReader(screen)
	until := func(text string) {
		t.Helper()
		seen := ""
		for !strings.HasSuffix(seen, text) {
			b, err := shown.ReadByte()
			require.NoError(t, err, "%q without %q", seen, text)
			seen += string(b)
		}
	}
	for keystrokes, output := range map[string]string{
		"sslsess ver\t\n":                   "(compiled with ",
		"sslsess help ke\trot\t\n":          "usage: sslsess keyring rotate",
		"sslsess show --jso\t/no/session\n": "sslsess show: /no/session: ",
	} {
		until("ready")
		fmt.Fprint(keys, keystrokes)
		until(output)
	}
}
