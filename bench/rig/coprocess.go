package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// CoProcess is a program that measures handshakes on request, so that its samples and ours can be
// taken in turns. It reads lines "run MODE THREADS SECONDS" and answers "HANDSHAKES CPU_SECONDS".
// The C yardstick's THREADS are threads, a Go program's are handshakes in flight.
type CoProcess struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *bufio.Scanner
}

// StartCoProcess runs the program at path. Its standard error is ours.
func StartCoProcess(path string, args, env []string) (*CoProcess, error) {
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), env...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &CoProcess{cmd: cmd, in: in, answers: bufio.NewScanner(out)}, nil
}

// Ask sends one line and returns the answer.
func (p *CoProcess) Ask(line string) (string, error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return "", errors.Join(err, p.Close())
	}
	if !p.answers.Scan() {
		return "", errors.Join(fmt.Errorf("%s gave no answer to %q", p.cmd.Path, line), p.answers.Err(), p.Close())
	}
	return p.answers.Text(), nil
}

// Run takes one sample.
func (p *CoProcess) Run(mode string, threads int, d time.Duration) (Sample, error) {
	answer, err := p.Ask(fmt.Sprintf("run %s %d %g", mode, threads, d.Seconds()))
	if err != nil {
		return Sample{}, err
	}
	var n int
	var cpu float64
	if _, err := fmt.Sscan(answer, &n, &cpu); err != nil {
		return Sample{}, fmt.Errorf("answer %q: %w", answer, err)
	}
	return Sample{N: n, CPU: time.Duration(cpu * 1e9), Wall: d}, nil
}

// Kill ends the program at once. Ask then fails.
func (p *CoProcess) Kill() { p.cmd.Process.Kill() }

// Close ends the program and reports its failure, if it failed.
func (p *CoProcess) Close() error {
	p.in.Close()
	return p.cmd.Wait()
}

// ServeCommands is the other side: it makes this program a co-process until standard input ends.
// stack sets an implementation up for a mode; it is called once for each mode and number in flight.
func ServeCommands(stack func(mode string) (Stack, error), transport func() (Transport, error)) error {
	rigs := make(map[string]*Rig)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var mode string
		var inFlight int
		var secs float64
		if _, err := fmt.Sscanf(lines.Text(), "run %s %d %g", &mode, &inFlight, &secs); err != nil {
			return fmt.Errorf("%q: %w", strings.TrimSpace(lines.Text()), err)
		}
		key := fmt.Sprint(mode, inFlight)
		if rigs[key] == nil {
			st, err := stack(mode)
			if err != nil {
				return err
			}
			if rigs[key], err = New(st, inFlight, transport); err != nil {
				return err
			}
		}
		s, err := rigs[key].Run(time.Duration(secs * 1e9))
		if err != nil {
			return err
		}
		fmt.Printf("%d %.6f\n", s.N, s.CPU.Seconds())
	}
	return lines.Err()
}
