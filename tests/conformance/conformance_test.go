package conformance

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/internal/leftover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reportFile is where tests/conform.sh has each version's report written.
var reportFile = flag.String("report", "", "write what the facts showed to this file, as JSON")

// TestMain fails a run that leaves anything behind.
func TestMain(m *testing.M) {
	Child()
	os.Exit(leftover.Run(m, func() libssl.Resources {
		return libssl.Resources{ForgottenContexts: forgotten.Load(), ForgottenSessions: forgottenSessions}
	}))
}

func TestFacts_HoldInCAndInGo(t *testing.T) {
	report := Report{OpenSSL: libssl.Version()}
	for _, f := range Facts() {
		t.Run(f.ID, func(t *testing.T) {
			r := f.run(currentRelease())
			report.Facts = append(report.Facts, r)
			t.Logf("%s\nC:  %s\nGo: %s\n%s %s", r.Says, r.C, r.Go, r.Verdict, r.Why)
			require.NotEqual(t, Deviation, r.Verdict, r.Why)
		})
	}
	if *reportFile == "" {
		return
	}
	report.Detected = detect(report.Facts)
	b, err := json.Marshal(report)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(*reportFile, b, 0o666))
}

// Every fact of docs/semantics.md has its place, run or not, in the order of the numbers.
func TestFacts_AreAllThere(t *testing.T) {
	var want, got []string
	for section, n := range []int{14, 16, 12, 6, 10, 9, 8, 6} {
		for i := range n {
			want = append(want, fmt.Sprintf("F%d.%d", section+1, i+1))
		}
	}
	for _, f := range Facts() {
		got = append(got, f.ID)
	}
	require.Equal(t, want, got)
}

func TestFacts_AreWellFormed(t *testing.T) {
	for _, f := range Facts() {
		t.Run(f.ID, func(t *testing.T) {
			require.NotEmpty(t, f.Says)
			require.NotContains(t, f.Says, "\n")
			if f.NotRun != "" {
				require.Empty(t, f.Cases)
				return
			}
			require.NotEmpty(t, f.Cases)
			for _, c := range f.Cases {
				assert.NotContains(t, c.Name, ": ", "it separates name and text")
				for _, text := range []string{c.Name, c.C, c.Go} {
					assert.NotContains(t, text, separator, "it separates observations")
				}
				assert.NotEmpty(t, c.C)
				assert.Equal(t, c.byDesign(), c.Why != "", "%s: a reason is for a difference, and a difference has one", c.Name)
			}
			for name := range f.Children {
				assert.True(t, cref.Has(f.ID+" "+name), "%s runs nowhere in C", name)
			}
		})
	}
}

// ---- the judge ------------------------------------------------------------------

func TestFact_IsJudged(t *testing.T) {
	obs := func(pairs ...string) (all observations) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, observation{pairs[i], pairs[i+1]})
		}
		return all
	}
	same := Case{Name: "a", C: "1"}
	differs := Case{Name: "b", C: "1", Go: "2", Why: "it is meant"}
	goOnly := Case{Name: "c", C: absent, Go: "3", Why: "C has no store"}
	cOnly := Case{Name: "d", C: "4", Go: absent, Why: "Go has no such call"}
	old := Case{Name: "e", C: "old", Before: v30}
	recent := Case{Name: "e", C: "new", From: v30}
	one, other := Case{Name: "f", C: "held"}, Case{Name: "f", C: "free"}
	tests := []struct {
		name     string
		cases    []Case
		c, g     observations
		rel      release
		want     Verdict
		whyNames string
	}{
		{"same", []Case{same}, obs("a", "1"), obs("a", "1"), v30, Same, ""},
		{"C shows something else", []Case{same}, obs("a", "2"), obs("a", "2"), v30, Deviation, `a: C shows "2"`},
		{"Go shows something else", []Case{same}, obs("a", "1"), obs("a", "2"), v30, Deviation, `Go "2"`},
		{"Go shows nothing", []Case{same}, obs("a", "1"), nil, v30, Deviation, `Go "-"`},
		{"C shows nothing", []Case{same}, nil, obs("a", "1"), v30, Deviation, `C shows "-"`},
		{"by design", []Case{differs}, obs("b", "1"), obs("b", "2"), v30, ByDesign, "it is meant"},
		{"the difference is gone", []Case{differs}, obs("b", "1"), obs("b", "1"), v30, Deviation, `Go "1"`},
		{"one by design, one not", []Case{differs, same}, obs("b", "1", "a", "1"), obs("b", "2", "a", "7"), v30, Deviation, `Go "7"`},
		{"Go only", []Case{goOnly}, nil, obs("c", "3"), v30, ByDesign, "no store"},
		{"Go only, missing", []Case{goOnly}, nil, nil, v30, Deviation, `Go "-"`},
		{"C only", []Case{cOnly}, obs("d", "4"), nil, v30, ByDesign, "no such call"},
		{"old release", []Case{old, recent}, obs("e", "old"), obs("e", "old"), v111, Same, ""},
		{"new release", []Case{old, recent}, obs("e", "new"), obs("e", "new"), v40, Same, ""},
		{"new behaviour on an old release", []Case{old, recent}, obs("e", "new"), obs("e", "new"), v111, Deviation, `expected "old"`},
		{"alternative", []Case{one, other}, obs("f", "free"), obs("f", "free"), v30, Same, ""},
		{"no alternative fits both sides", []Case{one, other}, obs("f", "free"), obs("f", "held"), v30, Deviation, ", or "},
		{"unexpected", []Case{same}, obs("a", "1", "x", "y"), obs("a", "1"), v30, Deviation, "x: \"y\" was not expected"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict, why := Fact{Cases: tt.cases}.judge(tt.rel, tt.c, tt.g)
			require.Equal(t, tt.want, verdict, why)
			require.Contains(t, why, tt.whyNames)
		})
	}
}

func TestScenarios_MayBreakAndCrash(t *testing.T) {
	_, err := observe(func(o *observer) { o.mustBe(false, "a handshake") })
	require.ErrorContains(t, err, "not a handshake")
	ended := ""
	_, err = observe(func(o *observer) {
		o.atEnd(func() { ended += "first" })
		o.atEnd(func() { ended += "last" })
		o.must(os.ErrNotExist)
	})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, "lastfirst", ended)

	require.Contains(t, inChild("C", "F0.0 unknown"), "broken: ")
	require.Contains(t, inChild("Go", "F0.0 unknown"), "broken: ")
	require.Equal(t, "crash", inChild("C", "lab crash"))
	require.Equal(t, "as said", inChild("C", "lab sound"))
}

func TestRelease_IsReadFromTheVersion(t *testing.T) {
	r := currentRelease()
	require.GreaterOrEqual(t, r, v111)
	require.True(t, strings.HasPrefix(libssl.Version(), fmt.Sprintf("OpenSSL %d.%d.", r/10000, r/100%100)), libssl.Version())
}
