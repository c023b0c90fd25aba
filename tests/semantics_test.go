package tests

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	factCitation = regexp.MustCompile(`\bF[1-9]\.[0-9]+\b`)
	factHeading  = regexp.MustCompile(`(?m)^### (F[1-9]\.[0-9]+)$`)
	factRow      = regexp.MustCompile(`(?m)^\| (F[1-9]\.[0-9]+) \|`)
)

// notCovered begins a fact's paragraph that says why the conformance suite does not run it.
const notCovered = "\nNot covered by the conformance suite: "

// docs/semantics.md explains the facts, CONFORMANCE.md shows them, and comments and documents cite them by number.
func TestSemantics_AgreesWithTheSuiteAndWithAllThatCiteIt(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(text)
	}
	texts := sources(t, ".go", ".c", ".h", ".md", ".sh")
	assert.Empty(t, factFaults(read("../docs/semantics.md"), read("../CONFORMANCE.md"), texts))
}

// factFaults lists where the three disagree. texts are the files that cite facts, by their path.
func factFaults(semantics, conformance string, texts map[string]string) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }

	table, _, _ := strings.Cut(conformance, "\n## ") // of all facts; later ones repeat some
	var shown []string
	for _, row := range factRow.FindAllStringSubmatch(table, -1) {
		shown = append(shown, row[1])
	}

	var explained []string
	section, number := 0, 0
	headings := factHeading.FindAllStringSubmatchIndex(semantics, -1)
	for i, at := range headings {
		fact, end := semantics[at[2]:at[3]], len(semantics)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		text := semantics[at[1]:end]
		next, first := fmt.Sprintf("F%d.%d", section, number+1), fmt.Sprintf("F%d.%d", section+1, 1)
		switch {
		case slices.Contains(explained, fact):
			fault("docs/semantics.md has %s twice", fact)
		case fact != next && fact != first:
			fault("docs/semantics.md has %s out of order", fact)
		}
		fmt.Sscanf(fact, "F%d.%d", &section, &number)
		explained = append(explained, fact)
		if !strings.Contains(text, "\nHere: ") {
			fault("docs/semantics.md does not say what %s means here", fact)
		}
		covered := !strings.Contains(text, notCovered)
		switch {
		case covered && !slices.Contains(shown, fact):
			fault("%s is in docs/semantics.md and not in CONFORMANCE.md", fact)
		case !covered && slices.Contains(shown, fact):
			fault("%s is marked as not covered and is in CONFORMANCE.md", fact)
		}
	}
	for _, fact := range shown {
		if !slices.Contains(explained, fact) {
			fault("%s is in CONFORMANCE.md and not in docs/semantics.md", fact)
		}
	}
	for file, text := range texts {
		for _, fact := range factCitation.FindAllString(text, -1) {
			if !slices.Contains(explained, fact) {
				fault("%s cites %s, which is not in docs/semantics.md", file, fact)
			}
		}
	}
	return faults
}

func TestSemantics_FaultsAreFound(t *testing.T) {
	fact := func(id string) string { return "\n### " + id + "\n\nA behaviour.\n\nHere: a use.\n" }
	row := func(id string) string { return "| " + id + " | a behaviour | same |\n" }
	const unknown = "F9" + ".9" // in one piece it would be a citation here
	mark := notCovered + "a reason.\n"
	head, probed := "# Conformance\n\n", "\n## Probed\n\n"+row("F1.1")
	explained := fact("F1.1") + fact("F1.2") + fact("F2.1")
	shown := head + row("F1.1") + row("F1.2") + row("F2.1") + probed
	for _, tt := range []struct {
		name, semantics, conformance, cites string
		want                                []string
	}{
		{"sound", explained, shown, "(F1.2, F2.1)", nil},
		{"a citation of no fact", explained, shown, "F1.1 and " + unknown, []string{"a.go cites " + unknown + ", which is not in docs/semantics.md"}},
		{"not explained", fact("F1.1") + fact("F1.2"), shown, "", []string{"F2.1 is in CONFORMANCE.md and not in docs/semantics.md"}},
		{"not shown", explained, head + row("F1.1") + row("F1.2") + probed, "", []string{"F2.1 is in docs/semantics.md and not in CONFORMANCE.md"}},
		{"probed only", explained, head + row("F1.2") + row("F2.1") + probed, "", []string{"F1.1 is in docs/semantics.md and not in CONFORMANCE.md"}},
		{"not shown, and marked", explained + mark, head + row("F1.1") + row("F1.2") + probed, "", nil},
		{"shown, and marked", explained + mark, shown, "", []string{"F2.1 is marked as not covered and is in CONFORMANCE.md"}},
		{"twice", explained + fact("F2.1"), shown, "", []string{"docs/semantics.md has F2.1 twice"}},
		{"out of order", fact("F1.1") + fact("F2.1") + fact("F1.2"), shown, "", []string{"docs/semantics.md has F1.2 out of order"}},
		{"a number left out", fact("F1.1") + fact("F2.1") + fact("F2.3"), head + row("F1.1") + row("F2.1") + row("F2.3"), "",
			[]string{"docs/semantics.md has F2.3 out of order"}},
		{"a section left out", fact("F2.1"), head + row("F2.1") + probed, "", []string{"docs/semantics.md has F2.1 out of order"}},
		{"no use", explained + "\n### F2.2\n\nA behaviour.\n", shown[:len(shown)-len(probed)] + row("F2.2") + probed, "",
			[]string{"docs/semantics.md does not say what F2.2 means here"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, factFaults(tt.semantics, tt.conformance, map[string]string{"a.go": tt.cites}))
		})
	}
}
