package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/libssl-go/libssl"
)

func (r results) values(server, row string, of func(sample) float64) (v []float64) {
	for _, x := range r[cell{server, row}] {
		v = append(v, of(x))
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// ratio is the median of the ratios to the reference, round by round; "" where there is none.
func (r results) ratio(server, row string, of func(sample) float64) string {
	own, other := r.values(server, row, of), r.values(reference, row, of)
	if server == reference || len(other) != len(own) {
		return ""
	}
	for i := range own {
		own[i] /= other[i]
	}
	return fmt.Sprintf(" (%.2f)", median(own))
}

func (s *settings) printCosts(r results) {
	of := func(x sample) float64 { return x.cost }
	s.print("CPU of the server, µs a connection (ratio to nginx). "+s.how(s.clients), r, func(server, row string) string {
		return fmt.Sprintf("%.0f%s", median(r.values(server, row, of)), r.ratio(server, row, of))
	})
	s.print("Connections a second in the same runs (cores that the server and the client kept busy).", r, func(server, row string) string {
		of := func(f func(sample) float64) float64 { return median(r.values(server, row, f)) }
		return fmt.Sprintf("%.0f (%.2f, %.2f)", of(func(x sample) float64 { return x.rate }),
			of(func(x sample) float64 { return x.busy }), of(func(x sample) float64 { return x.clientBusy }))
	})
}

func (s *settings) printLatencies(r results) {
	of := func(x sample) float64 { return x.p99 * 1e3 }
	s.print(fmt.Sprintf("p99 from connect to the end of the handshake, ms (ratio to nginx). Connections start at %.0f %% of the throughput of each server. %s",
		utilisation*100, s.how(pacedThreads)), r, func(server, row string) string {
		return fmt.Sprintf("%.2f%s", median(r.values(server, row, of)), r.ratio(server, row, of))
	})
}

// how says where the server ran and where the client did, with so many threads.
func (s *settings) how(clients int) string {
	runs := fmt.Sprintf("Rounds: %d, connections in each: %d.", s.rounds, s.n)
	if s.serverCPUs == "" {
		return fmt.Sprintf("Server and client on all cores, %d client threads. %s", clients, runs)
	}
	return fmt.Sprintf("The server, and its Redis, on core %s, %d client threads on core %s. %s", s.serverCPUs, clients, s.clientCPUs, runs)
}

// print prints a table with a line for each server and a column for each row.
func (s *settings) print(caption string, r results, value func(server, row string) string) {
	fmt.Printf("\n%s\n\n| |", caption)
	for _, row := range s.rows {
		fmt.Printf(" %s |", row.title)
	}
	fmt.Printf("\n|%s\n", strings.Repeat(" --- |", len(s.rows)+1))
	for _, sv := range s.servers {
		fmt.Printf("| %s |", sv.title)
		for _, row := range s.rows {
			text := "FAILED"
			if sv.lacks == row.name {
				text = "-"
			} else if len(r[cell{sv.name, row.name}]) > 0 {
				text = value(sv.name, row.name)
			}
			fmt.Printf(" %s |", text)
		}
		fmt.Println()
	}
}

// ---- what the figures depend on ----

func environment(client string) string {
	version, _ := exec.Command(client, "version").Output()
	load, _ := os.ReadFile("/proc/loadavg")
	average, _, _ := strings.Cut(string(load), " ")
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	_, rest, _ := strings.Cut(string(cpuinfo), "\nmodel name")
	model, _, _ := strings.Cut(rest, "\n")
	return fmt.Sprintf("%s, %s, %s/%s, %d CPUs (%s), load average at the start %s. The client: %s. RSA-2048, X25519, AES-128-GCM.", runtime.Version(), libssl.Version(),
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), strings.TrimLeft(model, "\t :"), average, strings.TrimSpace(string(version)))
}

// versions are the first lines that the installed programs print about themselves.
func versions(chosen []server) string {
	var lines []string
	add := func(path string) {
		out, _ := exec.Command(path, "-v").CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, sv := range chosen {
		if path, err := lookPath(sv.program); sv.program != "" && err == nil {
			add(path)
		}
		if path, err := redis(); strings.Contains(sv.name, "redis") && err == nil {
			add(path)
		}
	}
	return strings.Join(lines, "; ")
}
