package sqlitestore

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// The tests in this file run the test binary again, as processes that share a file.

const childEnv = "SQLITESTORE_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		if err := runChild(job, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runChild is the main function of a child, which prints a line after each thing that it has done.
func runChild(job, path string) error {
	if job == "key" { // all children at once, when the parent closes their input
		s, err := Open(path)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, os.Stdin)
		key, err := s.SealingKey()
		fmt.Printf("%x\n", key)
		return err
	}
	if job == "lock" {
		db, err := sql.Open("sqlite3", path+"?_busy_timeout=0")
		if err == nil {
			_, err = db.Exec("BEGIN IMMEDIATE")
		}
		return err
	}
	if job == "open" {
		io.Copy(io.Discard, os.Stdin)
	}
	s, err := Open(path)
	if err != nil {
		return err
	}
	switch job {
	case "open":
		return s.Close()
	case "put":
		c, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		return s.Put(c, record(1))
	case "fill": // until it is killed
		for i := 0; ; i++ {
			if err := s.Put(ctx, record(i)); err != nil {
				return err
			}
			fmt.Println(i)
		}
	case "take": // every record of sharedRecords that is still there
		io.Copy(io.Discard, os.Stdin)
		for i := range sharedRecords {
			if err := s.Put(ctx, record(sharedRecords+os.Getpid())); err != nil {
				return err
			}
			_, err := s.Take(ctx, newID(i))
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			fmt.Println(i)
		}
		return s.Close()
	}
	return errors.New("unknown job " + job)
}

const sharedRecords = 200

// process is a child and its pipes. A child that waits for the end of its input goes on when stdin is closed.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	stderr *bytes.Buffer
}

func child(t *testing.T, job, path string) *process {
	t.Helper()
	return start(t, exec.Command(os.Args[0], path), job)
}

func start(t *testing.T, cmd *exec.Cmd, job string) *process {
	t.Helper()
	cmd.Env = append(os.Environ(), childEnv+"="+job)
	p := &process{cmd: cmd, stderr: new(bytes.Buffer)}
	cmd.Stderr = p.stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	return p
}

// wait lets the child run to its end and returns its output.
func (p *process) wait() (stdout, stderr string, err error) {
	p.stdin.Close()
	out, err := io.ReadAll(p.stdout)
	err = errors.Join(err, p.cmd.Wait())
	return string(out), p.stderr.String(), err
}

func TestTake_OnceAcrossProcesses(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	for i := range sharedRecords {
		require.NoError(t, s.Put(ctx, record(i)))
	}
	var children []*process
	for range 4 {
		children = append(children, child(t, "take", path))
	}
	for _, c := range children {
		c.stdin.Close()
	}
	taken := map[int]int{}
	for _, c := range children {
		out, stderr, err := c.wait()
		require.NoError(t, err, stderr)
		for _, line := range strings.Fields(out) {
			i, err := strconv.Atoi(line)
			require.NoError(t, err)
			taken[i]++
		}
	}
	assert.Len(t, taken, sharedRecords)
	for i, n := range taken {
		assert.Equal(t, 1, n, "record %d", i)
	}
}

// Processes that start on an empty folder at the same moment must agree on one file.
func TestOpen_ManyProcessesAtOnce(t *testing.T) {
	path := newPath(t)
	var children []*process
	for range 6 {
		children = append(children, child(t, "open", path))
	}
	for _, c := range children {
		c.stdin.Close()
	}
	for _, c := range children {
		_, stderr, err := c.wait()
		assert.NoError(t, err, stderr)
	}
	require.NoError(t, mustOpen(t, path).Put(ctx, record(1)))
}

func TestSealingKey_OneForAllProcesses(t *testing.T) {
	path := newPath(t)
	mustOpen(t, path)
	var children []*process
	for range 6 {
		children = append(children, child(t, "key", path))
	}
	for _, c := range children {
		c.stdin.Close()
	}
	keys := map[string]bool{}
	for _, c := range children {
		out, stderr, err := c.wait()
		require.NoError(t, err, stderr)
		keys[out] = true
	}
	assert.Len(t, keys, 1)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	require.NoError(t, err)
	assert.Empty(t, left, "temporary files stay behind")
}

func TestStore_SurvivesAKill(t *testing.T) {
	path := newPath(t)
	for range 3 {
		c := child(t, "fill", path)
		said := 0
		for range 50 {
			line, err := c.stdout.ReadString('\n')
			require.NoError(t, err)
			said, err = strconv.Atoi(strings.TrimSpace(line))
			require.NoError(t, err)
		}
		require.NoError(t, c.cmd.Process.Signal(syscall.SIGKILL)) // somewhere in its next Puts
		require.Error(t, c.cmd.Wait())

		s, err := Open(path)
		require.NoError(t, err)
		for i := range said + 1 {
			got, err := s.Get(ctx, newID(i))
			require.NoError(t, err)
			assert.Equal(t, record(i).Data, got.Data)
		}
		require.NoError(t, s.Put(ctx, record(10_000)))
		var verdict string
		require.NoError(t, s.now.Load().db.QueryRow("PRAGMA integrity_check").Scan(&verdict))
		assert.Equal(t, "ok", verdict)
		_, err = s.Purge(ctx, false)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
}

// Open, not the first Put, refuses a folder or file without write permission.
func TestOpen_ReadOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sessions.db")
	s, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	// Root may write anywhere, so the child runs as another user.
	binary := filepath.Join(dir, "binary")
	content, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(binary, content, 0o755))
	asOther := func(path string) *process {
		cmd := exec.Command(binary, path)
		cmd.Dir = dir
		if os.Geteuid() == 0 {
			require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // testing made it private
			require.NoError(t, os.Chown(path, 65534, 65534))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		return start(t, cmd, "put")
	}
	require.NoError(t, os.Chmod(dir, 0o555))
	t.Cleanup(func() { os.Chmod(dir, 0o755) })
	_, stderr, err := asOther(path).wait()
	require.Error(t, err)
	assert.Contains(t, stderr, path)
	assert.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	t.Log(stderr)

	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(path, 0o400))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir, 65534, 65534))
	}
	_, stderr, err = asOther(path).wait()
	require.Error(t, err)
	assert.Contains(t, stderr, path)
	assert.Contains(t, stderr, "readonly")
	t.Log(stderr)
}

// Open, not the first Put, fails on a full disk. The test limits the file size of the process instead, because only a privileged
// process could fill a disk.
func TestOpen_DiskIsFull(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"no file yet": func(*testing.T, string) {},
		"a file":      func(t *testing.T, path string) { require.NoError(t, mustOpen(t, path).Close()) },
		"in use":      func(t *testing.T, path string) { require.NoError(t, mustOpen(t, path).Put(ctx, record(2))) },
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			prepare(t, path)
			c := start(t, exec.Command("prlimit", "--fsize=0", os.Args[0], path), "open")
			_, stderr, err := c.wait()
			require.Error(t, err)
			assert.Contains(t, stderr, path)
			assert.Contains(t, stderr, "file too large")
			assert.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
			t.Log(stderr)

			require.NoError(t, mustOpen(t, path).Put(ctx, record(1)), "there is room again")
		})
	}
}
