package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a server may take to start, and to end.
const patience = 20 * time.Second

// instance is a server that runs, with a folder of its own.
type instance struct {
	server
	site      *site
	dir, addr string
	cores     int
	cpus      string // what taskset takes; "": not pinned
	processes []*process
}

// process is the first process of a group.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// startServer starts a server and waits until it takes connections. The caller stops it, also after an error.
func startServer(ctx context.Context, sv server, s *site, cpus string, cores int) (*instance, error) {
	in := &instance{server: sv, site: s, cores: cores, cpus: cpus}
	var err error
	if in.dir, err = os.MkdirTemp(s.dir, sv.name); err != nil {
		return in, err
	}
	if err = os.Chmod(in.dir, 0o711); err != nil {
		return in, err
	}
	if in.addr, err = freeAddr(); err != nil {
		return in, err
	}
	args, err := in.command(in)
	if err != nil {
		return in, err
	}
	if err := ctx.Err(); err != nil {
		return in, err
	}
	return in, in.start(args, in.addr)
}

func (in *instance) path(name string) string { return filepath.Join(in.dir, name) }

// write makes a file and returns its path.
func (in *instance) write(name, format string, args ...any) (string, error) {
	path := in.path(name)
	return path, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600)
}

// start runs a program in a process group of its own until stop, and waits until addr takes connections.
func (in *instance) start(args []string, addr string) error {
	path, err := lookPath(args[0])
	if err != nil {
		return err
	}
	args = append([]string{path}, args[1:]...)
	if in.cpus != "" {
		args = append([]string{"taskset", "-c", in.cpus}, args...)
	}
	log, err := os.CreateTemp(in.dir, "output")
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(args[0], args[1:]...), exited: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = in.dir, log, log, ownGroup()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	in.processes = append(in.processes, p)
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if nc, err := net.Dial("tcp", addr); err == nil {
			return nc.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s: %v: %s", path, p.cmd.ProcessState, in.said(log.Name()))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not listen on %s: %s", path, addr, in.said(log.Name()))
}

// said returns the last messages that the server wrote.
func (in *instance) said(log string) string {
	text := ""
	for _, file := range []string{log, in.path("errors")} { // the second is where httpd writes
		b, _ := os.ReadFile(file)
		text += string(b[max(0, len(b)-1000):])
	}
	return strings.TrimSpace(text)
}

// stop ends all processes, the last one started first.
func (in *instance) stop() {
	for i := len(in.processes) - 1; i >= 0; i-- {
		p := in.processes[i]
		p.cmd.Process.Signal(syscall.SIGTERM) // nginx and httpd then end their workers
		select {
		case <-p.exited:
		case <-time.After(patience):
		}
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what is left of the group
		<-p.exited
	}
}

// cpu returns the CPU time of each process of the server.
func (in *instance) cpu() (map[int]time.Duration, error) {
	groups, used := map[int]bool{}, map[int]time.Duration{}
	for _, p := range in.processes {
		groups[p.cmd.Process.Pid] = true
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT GROUP; a name may have spaces and brackets.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if group, err := strconv.Atoi(fields[2]); err != nil || !groups[group] {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		if used[pid], err = cpuTime(pid); err != nil {
			return nil, fmt.Errorf("%s: CPU time of process %d: %w", in.name, pid, err)
		}
	}
	return used, nil
}

// spent returns the CPU time between two answers of cpu, which must know the same processes: the time of one that has ended
// would be lost.
func spent(before, after map[int]time.Duration) (sum time.Duration, err error) {
	for pid, used := range after {
		was, ok := before[pid]
		if !ok {
			return 0, fmt.Errorf("process %d is new", pid)
		}
		sum += used - was
	}
	if len(before) != len(after) {
		return 0, errors.New("a process has ended")
	}
	return sum, nil
}

// lookPath also finds what is in /usr/sbin, which is often not in PATH.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", program)); err == nil {
		return path, nil
	}
	return "", err
}

// freeAddr returns a loopback address that nothing listens on. Its port is below those of outgoing connections.
func freeAddr() (string, error) {
	var failed error
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
		failed = err
	}
	return "", failed
}
