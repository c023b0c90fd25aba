package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/libssl-go/libssl"
)

var benchCommand = command{
	name:  "bench",
	args:  "ADDR...",
	about: "load: handshakes with one server or many, and their duration",
	long: `Each client connects to the addresses in turn, makes a handshake and sends one HTTP
request, because TLS 1.3 tickets arrive with the answer. With -mode resumed it offers the
session of the previous connection to the next server: servers that share their sessions
resume it. -mode mixed does this every other time. Times cover the handshake, without the
TCP connection.

The status is 0 only if no handshake failed and every offered session was resumed.`,
	flags: bench,
}

// benchReport is what -json prints.
type benchReport struct {
	Addrs       []string     `json:"addrs"`
	Mode        string       `json:"mode"`
	Concurrency int          `json:"concurrency"`
	Seconds     float64      `json:"seconds"`
	Full        benchTimes   `json:"full"`
	Resumed     benchTimes   `json:"resumed"`
	NotResumed  int64        `json:"not_resumed"` // full handshakes that should have resumed
	Failed      int64        `json:"failed"`
	Errors      []benchError `json:"errors"`
}

// benchTimes are the handshakes of one kind, in milliseconds.
type benchTimes struct {
	Count     int64   `json:"count"`
	PerSecond float64 `json:"per_second"`
	Min       float64 `json:"min_ms"`
	Mean      float64 `json:"mean_ms"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p99_9_ms"`
	Max       float64 `json:"max_ms"`
}

type benchError struct {
	Error string `json:"error"`
	Count int64  `json:"count"`
}

// maxErrors is the number of different error texts in a report. Texts may contain port numbers, so there may be very many.
const maxErrors = 10

// load is one run of the command.
type load struct {
	sslCtx     *libssl.Context
	addrs      []string
	serverName string
	mode       string

	mu            sync.Mutex
	left          int // handshakes that are still to start; negative: until the context ends
	full, resumed *hdrhistogram.Histogram
	notResumed    int64
	failed        int64
	errors        []benchError
}

func bench(fs *flag.FlagSet) action {
	mode := choiceFlag(fs, "mode", "handshakes to make, a `mode`: full, resumed or mixed", "full", "resumed", "mixed")
	version := tlsFlag(fs)
	clients := fs.Int("c", 8, "`N` clients at once")
	n := fs.Int("n", 0, "make `N` handshakes in all (default: as many as -d allows)")
	duration := fs.Duration("d", 10*time.Second, "run for this `duration`, unless -n is given")
	client := addClientFlags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, addrs []string) error {
		if err := client.check(addrs); err != nil {
			return err
		}
		switch {
		case given(fs, "n") && given(fs, "d"):
			return usagef("-n and -d exclude each other")
		case *clients < 1 || *n < 0 || *duration <= 0:
			return usagef("-c, -n and -d must be positive")
		}
		sslCtx, err := client.newContext(*version)
		if err != nil {
			return err
		}
		defer sslCtx.Close()

		l := &load{sslCtx: sslCtx, addrs: addrs, serverName: *client.serverName, mode: *mode, left: -1, errors: []benchError{},
			full: newHistogram(), resumed: newHistogram()}
		ctx, stop := untilSignal(ctx)
		defer stop()
		if *n > 0 {
			l.left = *n
		} else {
			// Not a deadline: a dialler fails a moment before ctx.Err() reports it.
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx)
			defer time.AfterFunc(*duration, cancel).Stop()
		}
		report := l.run(ctx, *clients, statusLine(std))
		if *asJSON {
			err = printJSON(std.out, report)
		} else {
			err = l.print(std.out, report)
		}
		if err != nil {
			return err
		}
		return report.failure()
	}
}

// given reports whether the command line sets the flag.
func given(fs *flag.FlagSet, name string) (found bool) {
	fs.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// failure is the error with which the command ends, nil if every handshake went well.
func (r benchReport) failure() error {
	switch {
	case r.Failed > 0:
		return fmt.Errorf("%d handshakes failed: %s", r.Failed, r.Errors[0].Error)
	case r.NotResumed > 0:
		return fmt.Errorf("%d handshakes should have resumed and were full", r.NotResumed)
	}
	return nil
}

// newHistogram counts times of up to an hour in microseconds, with three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3)
}

func (l *load) run(ctx context.Context, clients int, status func(string)) benchReport {
	begin := time.Now()
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() { l.client(ctx, i) })
	}
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			took := time.Since(begin).Seconds()
			l.mu.Lock()
			full, resumed, failed := l.full.TotalCount(), l.resumed.TotalCount(), l.failed
			l.mu.Unlock()
			status(fmt.Sprintf("%.1f s: %d full, %d resumed, %d failed, %.0f/s", took, full, resumed, failed, float64(full+resumed)/took))
			continue
		case <-ended:
		}
		break
	}
	status("")
	seconds := time.Since(begin).Seconds()
	r := benchReport{Addrs: l.addrs, Mode: l.mode, Concurrency: clients, Seconds: seconds,
		Full: timesOf(l.full, seconds), Resumed: timesOf(l.resumed, seconds),
		NotResumed: l.notResumed, Failed: l.failed, Errors: l.errors}
	return r
}

// client makes handshakes until begin returns false. It offers the newest session that it has received.
func (l *load) client(ctx context.Context, number int) {
	var offer *libssl.Session
	defer func() { offer.Release() }()
	offers := l.mode != "full"
	if offers {
		// The handshake that gets the first session is not counted, unless it fails.
		v, err := l.call(ctx, number, nil)
		if err != nil {
			l.note(ctx, v, false, err)
		}
		offer = v.Session
	}
	for turn := 1; l.begin(ctx); turn++ {
		if l.mode == "mixed" {
			offers = turn%2 == 1
		}
		var give *libssl.Session
		if offers {
			give = offer
		}
		v, err := l.call(ctx, number+turn, give)
		l.note(ctx, v, offers, err)
		if l.mode == "full" {
			v.Session.Release()
		} else if v.Session != nil {
			offer.Release()
			offer = v.Session
		}
	}
}

func (l *load) call(ctx context.Context, turn int, offer *libssl.Session) (visit, error) {
	addr := l.addrs[turn%len(l.addrs)]
	return call(ctx, l.sslCtx, addr, nameFor(addr, l.serverName), offer)
}

// begin reports whether there is another handshake to make, and counts it.
func (l *load) begin(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil || l.left == 0 {
		return false
	}
	if l.left > 0 {
		l.left--
	}
	return true
}

func (l *load) note(ctx context.Context, v visit, offered bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		if ctx.Err() != nil {
			return // interrupted by the end of the run
		}
		l.failed++
		for i := range l.errors {
			if l.errors[i].Error == err.Error() {
				l.errors[i].Count++
				return
			}
		}
		if len(l.errors) < maxErrors {
			l.errors = append(l.errors, benchError{err.Error(), 1})
		}
	case v.Resumed:
		l.resumed.RecordValue(v.Took.Microseconds())
	default:
		l.full.RecordValue(v.Took.Microseconds())
		if offered {
			l.notResumed++
		}
	}
}

func timesOf(h *hdrhistogram.Histogram, seconds float64) benchTimes {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	if h.TotalCount() == 0 {
		return benchTimes{}
	}
	return benchTimes{
		Count: h.TotalCount(), PerSecond: float64(h.TotalCount()) / seconds,
		Min: ms(h.Min()), Mean: h.Mean() / 1000,
		P50: ms(h.ValueAtPercentile(50)), P90: ms(h.ValueAtPercentile(90)), P99: ms(h.ValueAtPercentile(99)),
		P999: ms(h.ValueAtPercentile(99.9)), Max: ms(h.Max()),
	}
}

func (l *load) print(w io.Writer, r benchReport) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "HANDSHAKES\tCOUNT\tper s\tMIN ms\tMEAN\tP50\tP90\tP99\tP99.9\tMAX")
	for _, row := range []struct {
		name string
		t    benchTimes
	}{{"full", r.Full}, {"resumed", r.Resumed}} {
		if t := row.t; t.Count > 0 {
			fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\n",
				row.name, t.Count, t.PerSecond, t.Min, t.Mean, t.P50, t.P90, t.P99, t.P999, t.Max)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	if r.Full.Count > 0 {
		draw(&b, "full", l.full)
	}
	if r.Resumed.Count > 0 {
		draw(&b, "resumed", l.resumed)
	}
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "%d x %s\n", e.Count, oneLine(e.Error))
	}
	fmt.Fprintf(&b, "\n%d clients, %.1f s: %d handshakes, %d failed, %d not resumed\n",
		r.Concurrency, r.Seconds, r.Full.Count+r.Resumed.Count, r.Failed, r.NotResumed)
	_, err := io.WriteString(w, b.String())
	return err
}

// draw draws the distribution of the times in rows of equal ratio, from the smallest time to the 99.9th percentile.
func draw(b *strings.Builder, name string, h *hdrhistogram.Histogram) {
	const rows, width = 12, 50
	low, high := float64(h.Min()), float64(h.ValueAtPercentile(99.9))
	step := math.Max(math.Pow(high/math.Max(low, 1), 1.0/rows), 1.01)
	counts := make([]int64, rows+1) // the last one is for all times beyond
	var most int64
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		row := 0
		if v := float64(bar.From); v > low {
			row = min(int(math.Log(v/math.Max(low, 1))/math.Log(step)), rows)
		}
		counts[row] += bar.Count
		most = max(most, counts[row])
	}
	fmt.Fprintf(b, "\n%s, ms\n", name)
	for i, n := range counts {
		if n == 0 && i == rows {
			continue
		}
		from := math.Max(low, 1) * math.Pow(step, float64(i)) / 1000
		bar := strings.Repeat("█", int(math.Ceil(float64(n)*width/float64(most))))
		fmt.Fprintf(b, "%10.2f  %s %d\n", from, bar, n)
	}
}

// statusLine returns a function that shows a progress line on a terminal, and does nothing without one.
func statusLine(std stdio) func(string) {
	f, ok := std.err.(*os.File)
	if !ok {
		return func(string) {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(string) {}
	}
	return func(line string) { fmt.Fprintf(f, "\r\x1b[K%s", line) }
}
