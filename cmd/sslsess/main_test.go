package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asCommand makes the test binary behave as the command, so that the race
// detector and AddressSanitizer check the command too. Child processes inherit
// it, which the demo needs: it starts itself.
const asCommand = "SSLSESS_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		watchInterval = 50 * time.Millisecond
		main()
	}
	os.Setenv(asCommand, "1")
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0") // otherwise every command takes a second to end
	}
	code := m.Run()
	for range 100 { // other goroutines may still be releasing theirs
		if live := libssl.LiveResources(); live == (libssl.Resources{}) || code != 0 {
			os.Exit(code)
		}
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "FAIL: resources left behind: %+v\n", libssl.LiveResources())
	os.Exit(1)
}

// patience is the time limit for events that come at once unless something is broken.
const patience = 30 * time.Second

type result struct {
	stdout, stderr string
	status         int
}

// sslsess runs the command to its end.
func sslsess(t testing.TB, args ...string) result {
	t.Helper()
	return sslsessReading(t, nil, args...)
}

func sslsessReading(t testing.TB, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "sslsess %v does not end", args)
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err)
	}
	assert.NotContains(t, stderr.String(), "goroutine ", "a stack trace")
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// requireFailure requires the status, and one line on standard error that names
// the command and contains says.
func requireFailure(t testing.TB, r result, status int, says string) {
	t.Helper()
	require.Equal(t, status, r.status, "stdout: %s\nstderr: %s", r.stdout, r.stderr)
	require.Regexp(t, `\Asslsess[^\n]*\n\z`, r.stderr, "not one line")
	require.Contains(t, r.stderr, says)
}

func requireOK(t testing.TB, r result) {
	t.Helper()
	require.Equal(t, 0, r.status, "stdout: %s\nstderr: %s", r.stdout, r.stderr)
}

// process is a running command.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	lines  chan string // of standard output
	exited chan struct{}

	mu     sync.Mutex
	stderr bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) { // standard error
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *process) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// says waits until standard error contains text, and returns the rest of that
// line.
func (p *process) says(text string) (after string) {
	p.t.Helper()
	eventually(p.t, "the command says "+text, func() bool {
		_, rest, ok := strings.Cut(p.errors(), text)
		line, _, complete := strings.Cut(rest, "\n")
		after = line
		return ok && complete
	})
	return after
}

// start starts the command and ends it, at the latest, with the test.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0], args...), lines: make(chan string, 1000), exited: make(chan struct{})}
	p.cmd.Stderr = p
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		for s := bufio.NewScanner(stdout); s.Scan(); {
			p.lines <- s.Text()
		}
		close(p.lines)
		p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("sslsess %v said: %s", args, p.errors())
		}
	})
	return p
}

// line returns the next line of standard output.
func (p *process) line() string {
	p.t.Helper()
	select {
	case l, ok := <-p.lines:
		require.True(p.t, ok, "the command ended: %s", p.errors())
		return l
	case <-time.After(patience):
		require.Fail(p.t, "no line", "stderr: %s", p.errors())
		return ""
	}
}

// end sends sig and returns the exit status.
func (p *process) end(sig os.Signal) int {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(sig))
	return p.status()
}

func (p *process) status() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.Fail(p.t, "the command does not end", "stderr: %s", p.errors())
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually waits until f reports that another process has done something.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, patience, 5*time.Millisecond, what)
}

// node is a server process.
type node struct {
	*process
	addr string
}

// testFleet is the certificate that the servers of a test share, and a client Context that trusts it.
type testFleet struct {
	t         testing.TB
	ca        *tlstest.CA
	cert, key string
	caFile    string
}

func newFleet(t testing.TB) *testFleet {
	t.Helper()
	f := &testFleet{t: t, ca: tlstest.NewCA(t, "ca")}
	f.cert, f.key = f.ca.LeafFiles(t, "localhost", "127.0.0.1")
	f.caFile = filepath.Join(filepath.Dir(f.cert), "ca.pem")
	require.NoError(t, os.WriteFile(f.caFile, f.ca.PEM, 0o600))
	return f
}

// serve starts a server with the certificate of the fleet on a free port.
func (f *testFleet) serve(args ...string) *node {
	f.t.Helper()
	return serveOn(f.t, append([]string{"-cert", f.cert, "-key", f.key}, args...)...)
}

func serveOn(t testing.TB, args ...string) *node {
	t.Helper()
	p := start(t, append([]string{"serve", "-listen", "127.0.0.1:0"}, args...)...)
	addr, ok := strings.CutPrefix(p.line(), "listening on ")
	require.True(t, ok)
	return &node{p, addr}
}

func (f *testFleet) client(version string) *libssl.Context {
	f.t.Helper()
	ctx, err := newClientContext(f.caFile, false, version)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { ctx.Close() })
	return ctx
}

// call makes one connection and one request. The session is released at the end of the test.
func (f *testFleet) call(client *libssl.Context, addr string, offer *libssl.Session) visit {
	f.t.Helper()
	v, err := call(f.t.Context(), client, addr, "localhost", offer)
	require.NoError(f.t, err)
	f.t.Cleanup(v.Session.Release)
	return v
}

// resumed gets a session from one server and resumes it on another. If the store misses its deadline, as may happen on a
// busy machine, it tries again with a new session.
func (f *testFleet) resumed(client *libssl.Context, from, to *node) (full, resumed visit) {
	f.t.Helper()
	eventually(f.t, "a session is resumed", func() bool {
		full = f.call(client, from.addr, nil)
		resumed = f.call(client, to.addr, full.Session)
		return resumed.Resumed
	})
	return full, resumed
}

// dial returns a connection after its handshake.
func (f *testFleet) dial(client *libssl.Context, addr string) *libssl.Conn {
	f.t.Helper()
	c := f.connect(client, addr)
	require.NoError(f.t, c.Handshake())
	return c
}

func (f *testFleet) connect(client *libssl.Context, addr string) *libssl.Conn {
	f.t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(f.t, err)
	c, err := libssl.Client(nc, client, "localhost")
	require.NoError(f.t, err)
	f.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// needOpenSSL returns the path of openssl(1), and skips the test without it, except in CI.
func needOpenSSL(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil && os.Getenv("CI") == "true" {
		require.Fail(t, "the openssl command is missing")
	} else if err != nil {
		t.Skip("the openssl command is missing")
	}
	return path
}

func openssl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, needOpenSSL(t), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "openssl %v: %s", args, out)
	return string(out)
}

func TestCommand_WrongUsageIsStatus2(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown command":        {[]string{"frobnicate"}, `unknown command "frobnicate"`},
		"help of unknown":        {[]string{"help", "frobnicate"}, `unknown command "frobnicate"`},
		"unknown subcommand":     {[]string{"keyring", "lose"}, "one of new, rotate"},
		"unknown flag":           {[]string{"serve", "-frobnicate"}, "-frobnicate"},
		"no -listen":             {[]string{"serve"}, "-listen is missing"},
		"no port":                {[]string{"serve", "-listen", "localhost"}, "-listen"},
		"argument to serve":      {[]string{"serve", "-listen", ":0", "now"}, `"now"`},
		"flag after argument":    {[]string{"show", "f", "-json"}, "flags go before arguments"},
		"-cert without -key":     {[]string{"serve", "-listen", ":0", "-cert", "c"}, "-cert and -key"},
		"-keyring -plaintext":    {[]string{"serve", "-listen", ":0", "-keyring", "k", "-plaintext"}, "exclude each other"},
		"-keyring env:":          {[]string{"serve", "-listen", ":0", "-keyring", "env:"}, "env: names nothing"},
		"-keyring store:":        {[]string{"serve", "-listen", ":0", "-keyring", "store:"}, "store: names nothing"},
		"no such version":        {[]string{"serve", "-listen", ":0", "-tls", "1.1"}, "1.2, 1.3"},
		"no such tickets":        {[]string{"serve", "-listen", ":0", "-tickets", "some"}, "stateful, stateless, none"},
		"negative -max-conns":    {[]string{"serve", "-listen", ":0", "-max-conns", "-1"}, "-max-conns"},
		"no handshake timeout":   {[]string{"serve", "-listen", ":0", "-handshake-timeout", "0s"}, "-handshake-timeout"},
		"bad -backend":           {[]string{"serve", "-listen", ":0", "-backend", "nowhere"}, "-backend"},
		"no store URL":           {[]string{"serve", "-listen", ":0", "-store", "sessions.db"}, "no store URL"},
		"unknown store":          {[]string{"serve", "-listen", ":0", "-store", "ftp://x"}, `unknown store scheme "ftp"`},
		"valkey without host":    {[]string{"serve", "-listen", ":0", "-store", "valkey://"}, "no host"},
		"valkeys, no database":   {[]string{"store", "ls", "valkeys://h:6379/x"}, "number of a database"},
		"redis with a parameter": {[]string{"store", "ls", "redis://h:6379/0?x=1"}, "parameter"},
		"rediss malformed":       {[]string{"store", "ls", "rediss://u:p%@h:6379/0"}, "malformed"},
		"memcached without host": {[]string{"store", "ls", "memcached:"}, "memcached://host:port"},
		"memcached with user":    {[]string{"store", "ls", "memcached://u:p@h:11211"}, "memcached://host:port"},
		"tiered memory":          {[]string{"serve", "-listen", ":0", "-store", "tiered:memory:"}, "tiered: before one of"},
		"tiered twice":           {[]string{"serve", "-listen", ":0", "-store", "tiered:tiered:valkey://h"}, "tiered: before one of"},
		"tiered without host":    {[]string{"serve", "-listen", ":0", "-store", "tiered:valkey://"}, "no host"},
		"sqlite without path":    {[]string{"store", "ls", "sqlite:"}, "path is missing"},
		"memory with something":  {[]string{"serve", "-listen", ":0", "-store", "memory:x"}, "nothing may follow"},
		"probe nothing":          {[]string{"probe"}, "an argument is missing"},
		"probe without port":     {[]string{"probe", "localhost"}, "missing port"},
		"probe -ca and insecure": {[]string{"probe", "-ca", "f", "-insecure", "h:1"}, "exclude each other"},
		"doctor nothing":         {[]string{"doctor"}, "an argument is missing"},
		"doctor without port":    {[]string{"doctor", "localhost"}, "missing port"},
		"show nothing":           {[]string{"show"}, "an argument is missing"},
		"show two":               {[]string{"show", "a", "b"}, `"b"`},
		"rm without id":          {[]string{"store", "rm", "sqlite:x"}, "an argument is missing"},
		"rm of no id":            {[]string{"store", "rm", "sqlite:x", "xyz"}, "no session id"},
		"rotate nothing":         {[]string{"keyring", "rotate"}, "an argument is missing"},
		"argument to demo":       {[]string{"demo", "now"}, `"now"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := sslsess(t, c.args...)
			requireFailure(t, r, 2, c.says)
			assert.Empty(t, r.stdout)
		})
	}
}

func TestCommand_Helps(t *testing.T) {
	t.Parallel()
	for want, lines := range map[string][][]string{
		"usage: sslsess COMMAND":                     {{"help"}, {"-h"}, {"--help"}},
		"usage: sslsess serve [flags]":               {{"help", "serve"}, {"serve", "-h"}, {"serve", "--help"}},
		"usage: sslsess store COMMAND":               {{"help", "store"}, {"store", "help"}, {"store", "-h"}},
		"usage: sslsess store rm [flags] URL ID...":  {{"help", "store", "rm"}, {"store", "help", "rm"}, {"store", "rm", "-h"}},
		"usage: sslsess keyring rotate [flags] FILE": {{"help", "keyring", "rotate"}},
		"(devel), " + libssl.Version() + " (compiled with " + libssl.HeaderVersion() + ")\n": {{"version"}, {"-version"}, {"--version"}},
		"-handshake-timeout duration": {{"help", "serve"}},
	} {
		for _, args := range lines {
			r := sslsess(t, args...)
			requireOK(t, r)
			assert.Contains(t, r.stdout, want, "%v", args)
			assert.Empty(t, r.stderr, "%v", args)
		}
	}
	all := sslsess(t, "help").stdout
	for _, cmd := range commands {
		assert.Regexp(t, `(?m)^  `+cmd.name+` `, all)
		assert.NotEmpty(t, cmd.about)
	}
}

// Without a command there is a list of them, as help prints it, but on standard error.
func TestCommand_ListsCommandsWhereNoneIsGiven(t *testing.T) {
	t.Parallel()
	for _, words := range [][]string{nil, {"store"}, {"keyring"}} {
		r := sslsess(t, words...)
		assert.Equal(t, 2, r.status)
		assert.Empty(t, r.stdout)
		assert.Equal(t, sslsess(t, append([]string{"help"}, words...)...).stdout, r.stderr)
	}
}

func TestCommand_TakesOneDashOrTwo(t *testing.T) {
	t.Parallel()
	for _, dash := range []string{"-", "--"} {
		p := start(t, "serve", dash+"listen", "127.0.0.1:0", dash+"tls=1.3", dash+"node", "n")
		assert.Contains(t, p.line(), "listening on 127.0.0.1:")
		assert.Equal(t, 0, p.end(syscall.SIGTERM))
	}
}

func TestCommand_PanicsOnOneLine(t *testing.T) {
	var stderr bytes.Buffer
	commands = append(commands, command{name: "panic", flags: func(*flag.FlagSet) action { panic("a\nb") }})
	defer func() { commands = commands[:len(commands)-1] }()
	status := run(t.Context(), stdio{err: &stderr}, []string{"panic"})
	assert.Equal(t, 1, status)
	assert.Equal(t, "sslsess panic: internal error: a; b\n", stderr.String())
}
