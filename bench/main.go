// Command bench holds libssl against its yardsticks and prints one table: a C program of our own
// (yardstick/), crypto/tls, and github.com/libp2p/go-openssl (libp2p/). bench/run.sh builds all of
// them and runs it; run alone it leaves out the rows whose yardstick it was not given.
//
// A machine's speed changes from one second to the next, so nothing is measured once. The two sides
// of a ratio take short samples in turns. The ratio is the median over such pairs, printed with its
// quartiles. The cost of a handshake is the CPU time of both ends.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
)

const inFlight = 4

func main() {
	runtime.GOMAXPROCS(2)
	var err error
	if len(os.Args) > 2 && os.Args[1] == "child" {
		err = profiled(os.Getenv(profileVariable), func() error { return child(os.Args[2], os.Args[3:]) })
	} else {
		err = bench()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// session is one run of the program.
type session struct {
	rounds    int
	sample    time.Duration
	cert, key []byte
	pemFiles  []string       // the same, for the co-processes
	yardstick *rig.CoProcess // nil: not given
	libp2p    *rig.CoProcess // nil: not given
	noLibp2p  string         // why
	dispatch  string         // the test binary of tests/internal/cref; empty: not given
	rigs      map[string]*rig.Rig
	silent    func() (silent, error) // runs once
}

func bench() error {
	s := &session{rigs: make(map[string]*rig.Rig), silent: sync.OnceValues(func() (all silent, err error) {
		return all, askChild(&all, "silent-server")
	})}
	flag.IntVar(&s.rounds, "rounds", 15, "pairs of samples behind each ratio")
	flag.DurationVar(&s.sample, "sample", 200*time.Millisecond, "length of one sample")
	asJSON := flag.Bool("json", false, "print JSON instead of a table")
	only := flag.String("only", "", "run only the rows whose name matches this regular expression")
	yardstick := flag.String("yardstick", "", "the C program, built from bench/yardstick")
	libp2p := flag.String("libp2p", "", "the program built from bench/libp2p")
	flag.StringVar(&s.noLibp2p, "no-libp2p", "it was not given", "why there is no such program")
	flag.StringVar(&s.dispatch, "dispatch", "", "the test binary built from tests/internal/cref")
	profiles := flag.String("profiles", "", "folder for a CPU profile of each row")
	flag.Parse()
	if flag.NArg() > 0 || s.rounds < 1 || s.sample <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}

	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := s.setUp(dir, *yardstick, *libp2p); err != nil {
		return err
	}
	var results []result
	var failed error // a row that breaks does not take the others with it
	for _, r := range s.rows() {
		if !wanted.MatchString(r.What) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s ...\n", r.What)
		var m measured
		err := profiled(profileName(*profiles, r.What), func() (err error) {
			m, err = r.measure()
			return err
		})
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", r.What, err))
			m = measured{Detail: broken}
		}
		results = append(results, result{r, m, r.verdict(m)})
	}
	for _, p := range []*rig.CoProcess{s.yardstick, s.libp2p} {
		if p != nil {
			failed = errors.Join(failed, p.Close())
		}
	}
	if *asJSON {
		return errors.Join(failed, printJSON(results))
	}
	printTable(results)
	return failed
}

func (s *session) setUp(dir, yardstick, libp2p string) (err error) {
	if s.cert, s.key, err = certificate(); err != nil {
		return err
	}
	s.pemFiles = []string{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for i, pem := range [][]byte{s.cert, s.key} {
		if err := os.WriteFile(s.pemFiles[i], pem, 0o600); err != nil {
			return err
		}
	}
	if yardstick != "" {
		if s.yardstick, err = rig.StartCoProcess(yardstick, s.pemFiles, nil); err != nil {
			return err
		}
		v, err := s.yardstick.Ask("version")
		if err != nil {
			return err
		}
		if v != libssl.Version() {
			return fmt.Errorf("the yardstick runs on %q and libssl on %q", v, libssl.Version())
		}
	}
	if libp2p != "" {
		s.libp2p, err = rig.StartCoProcess(libp2p, s.pemFiles, []string{"GOMAXPROCS=2", "GODEBUG=cgocheck=0"})
	}
	return err
}

// row is one line of the table.
type row struct {
	What    string
	AtLeast *float64 // what must be reached; nil: the row only informs
	Aim     *float64 // what is wished for
	more    bool     // more is better
	measure func() (measured, error)
}

// measured is a median with its quartiles, or one figure three times.
type measured struct {
	Q1, Median, Q3 float64
	Detail         string
}

type result struct {
	row
	measured
	Verdict string
}

// profileVariable tells a child where to write its profile.
const profileVariable = "BENCH_PROFILE"

func profileName(dir, what string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return '-'
	}, what)+".pprof")
}

// profiled runs f and writes its CPU profile to path, if that is not empty. A child that f starts
// writes its own beside it.
func profiled(path string, f func() error) error {
	if path == "" {
		return f()
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	os.Setenv(profileVariable, strings.TrimSuffix(path, ".pprof")+"-child.pprof")
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, out.Close())
}

func target(f float64) *float64 { return &f }

// verdict compares to two places, as the table shows them.
func (r row) verdict(m measured) string {
	reached := func(t *float64) bool {
		if r.more {
			return m.Median >= *t-0.005
		}
		return m.Median <= *t+0.005
	}
	switch {
	case m.Detail == broken:
		return broken
	case m.nothing():
		return notRun
	case r.AtLeast == nil:
		return ""
	case !reached(r.AtLeast):
		return "MISSED"
	case r.Aim != nil && reached(r.Aim):
		return "aim"
	}
	return "ok"
}

// Detail begins with one of these where nothing was measured.
const (
	notRun = "not run"
	broken = "FAILED"
)

func skipped(why string) (measured, error) { return measured{Detail: notRun + ": " + why}, nil }

func (m measured) nothing() bool { return m.Detail == broken || strings.HasPrefix(m.Detail, notRun) }

// environment is what the figures depend on. On a busy machine the ratios get worse, because the
// Go side needs more threads than the C program, and throughput means little.
func environment() string {
	load, _, _ := strings.Cut(loadAverage, " ")
	return fmt.Sprintf("%s, %s, %s/%s, %d CPUs, GOMAXPROCS %d, load average at the start %s", runtime.Version(),
		libssl.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.GOMAXPROCS(0), load)
}

var loadAverage = func() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return string(b)
}()

func printTable(results []result) {
	fmt.Println(environment())
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tmeasured\tquartiles\tat least\taim\tverdict\t")
	for _, r := range results {
		value, quartiles := "-", "-"
		if !r.nothing() {
			value = fmt.Sprintf("%.2f", r.Median)
			if r.Q1 != r.Q3 {
				quartiles = fmt.Sprintf("%.2f %.2f", r.Q1, r.Q3)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			r.What, value, quartiles, bar(r.AtLeast), bar(r.Aim), r.Verdict, r.Detail)
	}
	w.Flush()
}

func bar(f *float64) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%g", *f)
}

func printJSON(results []result) error {
	type line struct {
		What     string   `json:"what"`
		Measured *float64 `json:"measured"`
		Q1       float64  `json:"q1"`
		Q3       float64  `json:"q3"`
		AtLeast  *float64 `json:"at_least"`
		Aim      *float64 `json:"aim"`
		Verdict  string   `json:"verdict"`
		Detail   string   `json:"detail"`
	}
	out := struct {
		Environment string `json:"environment"`
		Rows        []line `json:"rows"`
	}{Environment: environment(), Rows: []line{}}
	for _, r := range results {
		l := line{r.What, &r.Median, r.Q1, r.Q3, r.AtLeast, r.Aim, r.Verdict, r.Detail}
		if r.nothing() {
			l.Measured = nil
		}
		out.Rows = append(out.Rows, l)
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
