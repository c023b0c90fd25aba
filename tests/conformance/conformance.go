// Package conformance shows what OpenSSL does around the session callbacks: fact by fact, in plain C and through
// libssl's public Go API, in one process on one libssl. docs/semantics.md explains its facts, F1.1 to F8.6.
//
// A fact's scenario runs twice: in tests/internal/cref, written in C, and here. Each run leaves observations, lines
// "case: text". C has to say what the fact says of this release; Go has to say the same, or what the fact names as a
// deliberate difference.
//
// Scenarios that may crash, and on some releases must, run in a process of their own: a program that runs facts calls
// Child first thing in main.
package conformance

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// release is the part of a version that behaviour may depend on: 1.1.1 is 10101, 3.5 is 30500.
type release int

const (
	v111 release = 10101
	v30  release = 30000
	v32  release = 30200
	v35  release = 30500
	v36  release = 30600
	v40  release = 40000
)

// Fact is one numbered fact of SEMANTICS.
type Fact struct {
	ID   string
	Says string // in one line
	// NotRun is the reason why the fact is not run; the fields below are then empty.
	NotRun string
	Cases  []Case
	// Go leaves the same observations as the scenario in C of that name. It is nil where no case is for Go.
	Go func(o *observer)
	// Children are the cases that run in a process of their own: in C as "F2.10 blank 1.3", and, where the function
	// is not nil, in Go too. The observation is "crash" if the process dies.
	Children map[string]func(o *observer)
}

// Case is the text that one observation must have. Several cases of the same name and release are alternatives: some
// builds carry a behaviour that was ported back, and no version number tells.
type Case struct {
	Name string
	C    string // absent: C has no such case
	Go   string // "": the same as C; absent: Go has no such case
	Why  string // why Go differs, where it does
	// From and Before bound the releases that the case is for; 0 leaves a bound open.
	From, Before release
}

const absent = "-"

// byDesign says whether Go has to differ.
func (c Case) byDesign() bool { return c.Go != "" && c.Go != c.C }

func (c Case) inGo() string {
	if c.Go == "" {
		return c.C
	}
	return c.Go
}

func (c Case) isFor(r release) bool {
	return (c.From == 0 || r >= c.From) && (c.Before == 0 || r < c.Before)
}

// Verdict is the outcome of a fact.
type Verdict string

const (
	Same      Verdict = "same"      // C shows the fact, Go the same
	ByDesign  Verdict = "by-design" // C shows the fact, Go the difference that is meant
	Deviation Verdict = "deviation" // one of them shows something else
	NotRun    Verdict = "not-run"
)

// Result is the outcome of a fact on this OpenSSL.
type Result struct {
	ID      string  `json:"id"`
	Says    string  `json:"says"`
	C       string  `json:"c"`  // observations, joined by "; "
	Go      string  `json:"go"` // likewise
	Verdict Verdict `json:"verdict"`
	// Why is the reason of a difference, of a deviation, or of not being run.
	Why string `json:"why,omitempty"`
}

// Report is a run of all facts.
type Report struct {
	OpenSSL string   `json:"openssl"`
	Facts   []Result `json:"facts"`
	// Detected is behaviour that was ported back to some builds of a release: probed, not guessed from the version.
	Detected []Detected `json:"detected"`
}

// Detected is one such behaviour.
type Detected struct {
	What  string `json:"what"`
	Fact  string `json:"fact"`
	Found string `json:"found"` // as C showed it
}

// Facts are all facts, in the order of their numbers.
func Facts() []Fact {
	var all []Fact
	for _, section := range [][]Fact{
		newFacts, getFacts, removeFacts, threadFacts, tls13Facts, helloFacts, serialFacts, exdataFacts,
	} {
		all = append(all, section...)
	}
	return all
}

// Run runs the facts one after the other and reports each result as soon as it is known. It ends early with ctx's error.
func Run(ctx context.Context, facts []Fact, each func(Result)) (Report, error) {
	r := Report{OpenSSL: libssl.Version()}
	for _, f := range facts {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		res := f.run(currentRelease())
		r.Facts = append(r.Facts, res)
		if each != nil {
			each(res)
		}
	}
	r.Detected = detect(r.Facts)
	return r, nil
}

func (f Fact) run(rel release) Result {
	res := Result{ID: f.ID, Says: f.Says, Verdict: NotRun, Why: f.NotRun}
	if f.NotRun != "" {
		return res
	}
	inC, err := f.observeC()
	if err != nil {
		res.Verdict, res.Why = Deviation, "C: "+err.Error()
		return res
	}
	inGo, err := f.observeGo()
	if err != nil {
		res.Verdict, res.Why = Deviation, "Go: "+err.Error()
		return res
	}
	res.C, res.Go = inC.String(), inGo.String()
	res.Verdict, res.Why = f.judge(rel, inC, inGo)
	return res
}

func (f Fact) observeC() (observations, error) {
	var all observations
	if len(f.Children) == 0 || cref.Has(f.ID) { // else every case has a process of its own
		text, err := cref.Observe(f.ID)
		if err != nil {
			return nil, err
		}
		all = parseObservations(text)
	}
	for _, name := range sortedKeys(f.Children) {
		all = append(all, observation{name, inChild("C", f.ID+" "+name)})
	}
	return all, nil
}

func (f Fact) observeGo() (observations, error) {
	var all observations
	if f.Go != nil {
		var err error
		if all, err = observe(f.Go); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(f.Children) {
		if f.Children[name] != nil {
			all = append(all, observation{name, inChild("Go", f.ID+" "+name)})
		}
	}
	return all, nil
}

// judge holds the observations against the cases. Each observation needs a case, each case that is for this release
// an observation, and where there are alternatives one of them must fit both sides.
func (f Fact) judge(rel release, inC, inGo observations) (Verdict, string) {
	verdict, whys := Same, []string(nil)
	deviates := func(format string, args ...any) {
		if verdict != Deviation {
			verdict, whys = Deviation, nil
		}
		whys = append(whys, fmt.Sprintf(format, args...))
	}
	known := map[string]bool{}
	for _, c := range f.Cases {
		if known[c.Name] || !c.isFor(rel) {
			continue
		}
		known[c.Name] = true
		gotC, gotGo := inC.get(c.Name), inGo.get(c.Name)
		fits := func(c Case) bool { return gotC == c.C && gotGo == c.inGo() }
		var wanted []string
		found := false
		for _, alt := range f.Cases {
			if alt.Name != c.Name || !alt.isFor(rel) {
				continue
			}
			wanted = append(wanted, fmt.Sprintf("%q in C and %q in Go", alt.C, alt.inGo()))
			if !fits(alt) || found {
				continue
			}
			found = true
			if alt.byDesign() && verdict != Deviation {
				verdict = ByDesign
				if alt.Why != "" && !contains(whys, alt.Why) {
					whys = append(whys, alt.Why)
				}
			}
		}
		if !found {
			deviates("%s: C shows %q and Go %q, expected %s", c.Name, gotC, gotGo, strings.Join(wanted, ", or "))
		}
	}
	for _, side := range []observations{inC, inGo} {
		for _, o := range side {
			if !known[o.name] {
				deviates("%s: %q was not expected on this release", o.name, o.text)
				known[o.name] = true
			}
		}
	}
	return verdict, strings.Join(whys, "; ")
}

func contains(all []string, s string) bool {
	for _, x := range all {
		if x == s {
			return true
		}
	}
	return false
}

// detections are the cases whose text says what a build does, whatever its version.
var detections = []struct{ what, fact, name string }{
	{"remove runs under the context's lock on eviction", "F3.6", "eviction"},
	{"remove runs under the context's lock on flush", "F3.6", "flush"},
	{"an evicted session that is inserted again breaks the chain of evictions", "F3.7", "re-insertion from remove"},
}

func detect(results []Result) (found []Detected) {
	for _, d := range detections {
		for _, r := range results {
			if r.ID != d.fact {
				continue
			}
			if text := split(r.C).get(d.name); text != absent {
				found = append(found, Detected{What: d.what, Fact: d.fact, Found: text})
			}
		}
	}
	return found
}

// currentRelease reads libssl.Version(), "OpenSSL 3.0.19 27 Jan 2026".
func currentRelease() release {
	fields := strings.Fields(libssl.Version())
	if len(fields) < 2 {
		return 0
	}
	var parts [3]int
	for i, s := range strings.SplitN(fields[1], ".", 3) {
		digits := strings.IndexFunc(s+"x", func(r rune) bool { return r < '0' || r > '9' })
		parts[i], _ = strconv.Atoi(s[:digits])
	}
	if parts[0] >= 3 {
		parts[2] = 0 // a patch level changes no documented behaviour
	}
	return release(parts[0]*10000 + parts[1]*100 + parts[2])
}
