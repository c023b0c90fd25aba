package main

import (
	"fmt"
	"net"
	"os"

	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startDemo starts the demo with its own folder for temporary files.
func startDemo(t *testing.T) (p *process, tmp string) {
	t.Helper()
	tmp = t.TempDir()
	t.Setenv("TMPDIR", tmp)
	return start(t, "demo"), tmp
}

var nodeLine = regexp.MustCompile(`^  node\d on (\S+), process (\d+)$`)

// requireGone fails if a server that the lines of the demo name still runs.
func requireGone(t *testing.T, lines []string) {
	t.Helper()
	found := 0
	for _, l := range lines {
		if m := nodeLine.FindStringSubmatch(l); m != nil {
			found++
			eventually(t, l+" is still there", func() bool {
				c, err := net.Dial("tcp", m[1])
				if err == nil {
					c.Close()
				}
				return err != nil
			})
		}
	}
	require.Positive(t, found, "the demo names no server")
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func rest(p *process) (lines []string) {
	for l := range p.lines {
		lines = append(lines, l)
	}
	return lines
}

func TestDemo_EverybodyResumes(t *testing.T) {
	needOpenSSL(t)
	begin := time.Now()
	p, tmp := startDemo(t)
	lines := rest(p)
	require.Equal(t, 0, p.status(), "%s\n%s", strings.Join(lines, "\n"), p.errors())
	assert.Less(t, time.Since(begin), time.Minute)
	assert.Equal(t, "demo: ok", lines[len(lines)-1])
	assert.Empty(t, p.errors())

	text := strings.Join(lines, "\n")
	ms := `resumed \d+\.\d\d ms`
	assert.Len(t, regexp.MustCompile(`(?m)^  libssl +full \d+\.\d\d ms +`+ms+` +`+ms+` +`+ms+`$`).FindAllString(text, -1), 2, text)
	assert.Len(t, regexp.MustCompile(`(?m)^  s_client +full +resumed +resumed +resumed$`).FindAllString(text, -1), 2, text)
	assert.Contains(t, text, "node1 was killed (SIGKILL) and started again")
	requireGone(t, lines)
	requireEmpty(t, tmp)
}

// fakeOpenSSL makes a script the openssl command.
func fakeOpenSSL(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "openssl"), []byte("#!/bin/sh\n"+script), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestDemo_FailsWhereSomethingDoesNotResume(t *testing.T) {
	real := needOpenSSL(t)
	for name, c := range map[string]struct{ script, says string }{
		// Drops the session that s_client should offer.
		"not resumed": {fmt.Sprintf(`case "$*" in *sess_in*) exec %s $(echo "$@" | sed 's/-sess_in .*//');; esac; exec %s "$@"`, real, real),
			"TLS 1.2, by session id: s_client on node2: not resumed"},
		"broken": {"echo broken >&2; exit 1", "TLS 1.2, by session id: s_client on node1: openssl s_client: exit status 1: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeOpenSSL(t, c.script)
			p, tmp := startDemo(t)
			lines := rest(p)
			assert.Equal(t, 1, p.status())
			assert.Contains(t, lines[len(lines)-1], "demo: FAILED: "+c.says)
			assert.Contains(t, strings.Join(lines, "\n"), "FAILED")
			requireGone(t, lines)
			requireEmpty(t, tmp)
		})
	}
}

func TestDemo_DoesWithoutOpenSSL(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	p, _ := startDemo(t)
	lines := rest(p)
	assert.Equal(t, 0, p.status())
	assert.Contains(t, lines, "the openssl command is missing: only the libssl client runs")
	assert.Equal(t, "demo: ok", lines[len(lines)-1])
}

// waitForNodes reads lines until two servers run.
func waitForNodes(p *process) (lines []string) {
	for nodes := 0; nodes < 2; {
		l := p.line()
		lines = append(lines, l)
		if nodeLine.MatchString(l) {
			nodes++
		}
	}
	return lines
}

func TestDemo_InterruptedLeavesNothing(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		// Otherwise the demo might end before the signal.
		fakeOpenSSL(t, "exec sleep 60")
		p, tmp := startDemo(t)
		lines := waitForNodes(p)
		require.Equal(t, 1, p.end(sig))
		lines = append(lines, rest(p)...)
		assert.Equal(t, "demo: FAILED: interrupted", lines[len(lines)-1])
		requireGone(t, lines)
		requireEmpty(t, tmp)
	}
}

func TestDemo_KilledLeavesNoServer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends children with their parent")
	}
	fakeOpenSSL(t, "exec sleep 60")
	p, _ := startDemo(t)
	lines := waitForNodes(p)
	p.end(syscall.SIGKILL)
	for _, l := range lines {
		if m := nodeLine.FindStringSubmatch(l); m != nil {
			// Not by its address: an orphaned server also ends when it cannot write its
			// log, which a connection would cause.
			eventually(t, l+" is still there", func() bool {
				cmdline, _ := os.ReadFile("/proc/" + m[2] + "/cmdline")
				return len(cmdline) == 0
			})
		}
	}
}
