// Package servertest runs the servers that store tests are held against, from what Debian's packages install: on free
// loopback ports, for as long as the test runs. Services that a package started by itself are left alone.
//
// A test whose server is not installed fails, and skips only with -short.
package servertest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a server process.
type Server struct {
	Addr string // host:port, the same over all restarts

	t       testing.TB
	program string
	args    []string
	dir     string
	ready   func() bool // nil: it answers a PING
	mu      sync.Mutex  // guards the fields below
	process *os.Process // nil while it is stopped
	exited  chan struct{}
}

// patience is how long a server may take, on a busy machine, to start, to answer or to form a cluster.
const patience = 20 * time.Second

// Redises are the servers of this protocol that are there: redis-server, which must be, and valkey-server, which Debian has
// since its release 13, and for 12 in the backports.
func Redises() []string {
	programs := []string{"redis-server"}
	if _, err := exec.LookPath("valkey-server"); err == nil {
		programs = append(programs, "valkey-server")
	}
	return programs
}

// Redis starts program, one of Redises, which keeps nothing on disk. More arguments go to it.
func Redis(t testing.TB, program string, args ...string) *Server {
	t.Helper()
	s := find(t, program)
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir}, args...)
	s.Start()
	return s
}

// RedisTLS starts program with TLS only, as certFile and keyFile have it.
func RedisTLS(t testing.TB, program, certFile, keyFile string) *Server {
	t.Helper()
	s := find(t, program)
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = []string{"--port", "0", "--tls-port", port, "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-auth-clients", "no",
		"--bind", "127.0.0.1", "--save", "", "--dir", s.dir}
	s.Start()
	return s
}

// Sentinel starts a sentinel that watches master under the name "main".
func Sentinel(t testing.TB, program string, master *Server) *Server {
	t.Helper()
	s := find(t, program)
	_, port, _ := net.SplitHostPort(s.Addr)
	host, masterPort, _ := net.SplitHostPort(master.Addr)
	config := filepath.Join(s.dir, "sentinel.conf") // which the sentinel writes to
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
		port, s.dir, host, masterPort)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = []string{config, "--sentinel"}
	s.Start()
	return s
}

// Memcached starts memcached. More arguments go to it.
func Memcached(t testing.TB, args ...string) *Server {
	t.Helper()
	s := find(t, "memcached")
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = append([]string{"-p", port, "-U", "0", "-l", "127.0.0.1"}, args...)
	if os.Getuid() == 0 { // it refuses to run as root unless it is told to
		s.args = append(s.args, "-u", "root")
	}
	s.Start()
	return s
}

// handedOut holds the UDP ports of the addresses that this process handed out.
var handedOut struct {
	sync.Mutex
	held []net.PacketConn
}

// FreeAddr returns a loopback address that nothing listens on. Its port is below those that systems give to outgoing
// connections and to listeners that ask for any, which could otherwise have it before the server does. No other call returns
// it, in any process, while this one runs, because the UDP port of the same number stays taken.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000))
		hold, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			hold.Close()
			continue
		}
		l.Close()
		handedOut.Lock()
		defer handedOut.Unlock()
		handedOut.held = append(handedOut.held, hold)
		return addr
	}
	t.Fatal("no port is free")
	return ""
}

func find(t testing.TB, program string) *Server {
	t.Helper()
	if testing.Short() {
		t.Skipf("-short: does not start %s", program)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is missing: install it (Debian's package of that name), or test with -short", program)
	}
	s := &Server{Addr: FreeAddr(t), t: t, program: path, dir: t.TempDir()}
	t.Cleanup(s.Stop)
	return s
}

// Start starts a server that was stopped, and waits until it takes connections.
func (s *Server) Start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var output bytes.Buffer
	cmd, exited := exec.Command(s.program, s.args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = &output, &output
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.process, s.exited = cmd.Process, exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-exited:
			s.t.Fatalf("%s ended: %s", s.program, output.String())
		default:
		}
		if s.answers() {
			return
		}
	}
	s.t.Fatalf("%s does not answer on %s", s.program, s.Addr)
}

// answers says whether the server serves: it may listen, and yet end before it does.
func (s *Server) answers() bool {
	if s.ready != nil {
		return s.ready()
	}
	nc, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Second))
	if slices.Contains(s.args, "--tls-port") {
		return tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).Handshake() == nil
	}
	if _, err := io.WriteString(nc, "PING\r\n"); err != nil {
		return false
	}
	_, err = nc.Read(make([]byte, 1)) // an error message is an answer too
	return err == nil
}

// Stop kills the server, frozen or not. Its data is gone.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	s.process.Kill()
	<-s.exited
	s.process = nil
}

// Restart is Stop and Start.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// Freeze stops the server where it is: connections stay and new ones are accepted, but get no answer.
func (s *Server) Freeze() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	s.await("all its threads stand still", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.process.Pid)) // none but on Linux
		return !slices.ContainsFunc(threads, func(file string) bool {
			stat, err := os.ReadFile(file)
			return err == nil && !strings.Contains(string(stat), ") T ")
		})
	})
}

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Cluster starts a cluster of three masters and one replica, and waits until it is whole.
func Cluster(t testing.TB, program string) []*Server {
	t.Helper()
	var nodes []*Server
	for range 4 {
		// The bus has a port of its own, which would be the server's and 10000 where that is none.
		_, bus, _ := net.SplitHostPort(FreeAddr(t))
		nodes = append(nodes, Redis(t, program, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000"))
	}
	first := nodes[0]
	for i, slots := range []string{"0 5460", "5461 10922", "10923 16383"} {
		nodes[i].Command(append([]string{"CLUSTER", "ADDSLOTSRANGE"}, strings.Fields(slots)...)...)
		nodes[i].Command("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
	}
	for _, n := range nodes[1:] {
		host, port, _ := net.SplitHostPort(n.Addr)
		first.Command("CLUSTER", "MEET", host, port, n.args[slices.Index(n.args, "--cluster-port")+1])
	}
	s, master := nodes[3], first.Command("CLUSTER", "MYID")
	s.await("the replica knows its master", func() bool {
		return strings.Contains(s.Command("CLUSTER", "NODES"), master)
	})
	s.Command("CLUSTER", "REPLICATE", master)
	for _, n := range nodes {
		n.await("the cluster is whole", func() bool {
			return strings.Contains(n.Command("CLUSTER", "INFO"), "cluster_state:ok") &&
				strings.Count(n.Command("CLUSTER", "NODES"), "connected") >= 4 && strings.Contains(n.Command("CLUSTER", "NODES"), "slave")
		})
	}
	s.await("the replica is linked", func() bool { return strings.Contains(s.Command("INFO", "replication"), "master_link_status:up") })
	return nodes
}

func (s *Server) await(what string, cond func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s on %s: never: %s", s.program, s.Addr, what)
		}
	}
}
