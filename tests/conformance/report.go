package conformance

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// Counts says how many facts have each verdict.
func (r Report) Counts() map[Verdict]int {
	n := map[Verdict]int{}
	for _, f := range r.Facts {
		n[f.Verdict]++
	}
	return n
}

// Deviates reports whether anything does.
func (r Report) Deviates() bool { return r.Counts()[Deviation] > 0 }

// ---- for a terminal ---------------------------------------------------------------

// Text writes the report as a table: a row a fact, cut to fit a line, or with all set every observation.
func (r Report) Text(w io.Writer, all bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if !all {
		fmt.Fprintln(tw, "FACT\tSAYS\tC\tGO\tVERDICT")
	}
	for _, f := range r.Facts {
		inC, inGo := split(f.C), split(f.Go)
		if !all {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", f.ID, cut(f.Says, 64), cut(glance(inC), 32), cut(glance(differing(inGo, inC)), 32), f.Verdict)
			continue
		}
		fmt.Fprintf(w, "%s  %s: %s\n", f.ID, f.Says, f.Verdict)
		for _, name := range caseNames(inC, inGo) {
			c, g := inC.get(name), inGo.get(name)
			if g == c {
				g = "="
			}
			fmt.Fprintf(tw, "      %s\tC  %s\tGo  %s\n", name, c, g)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	for _, part := range []struct {
		title   string
		verdict Verdict
	}{{"Go differs on purpose", ByDesign}, {"Not run", NotRun}, {"Deviations", Deviation}} {
		for i, f := range r.with(part.verdict) {
			if i == 0 {
				fmt.Fprintf(&b, "\n%s:\n", part.title)
			}
			fmt.Fprintf(&b, "  %-6s %s\n", f.ID, f.Why)
		}
	}
	if len(r.Detected) > 0 {
		fmt.Fprintf(&b, "\nProbed, because builds of one release differ:\n")
	}
	for _, d := range r.Detected {
		fmt.Fprintf(&b, "  %-6s %s: %s\n", d.Fact, d.What, d.Found)
	}
	n := r.Counts()
	fmt.Fprintf(&b, "\n%s: %d facts, %d same, %d by design, %d not run, %d deviations\n",
		r.OpenSSL, len(r.Facts), n[Same], n[ByDesign], n[NotRun], n[Deviation])
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) with(v Verdict) (all []Result) {
	for _, f := range r.Facts {
		if f.Verdict == v {
			all = append(all, f)
		}
	}
	return all
}

func split(joined string) (all observations) {
	if joined == "" {
		return nil
	}
	return parseObservations(strings.ReplaceAll(joined, separator, "\n"))
}

// glance is the first observation, and how many more there are.
func glance(all observations) string {
	switch len(all) {
	case 0:
		return ""
	case 1:
		return all[0].text
	default:
		return fmt.Sprintf("+%d %s", len(all)-1, all[0].text)
	}
}

// differing are the observations of all that are not in others; "=" where all are.
func differing(all, others observations) observations {
	different := slices.DeleteFunc(slices.Clone(all), func(o observation) bool { return others.get(o.name) == o.text })
	if len(different) == 0 && len(all) > 0 {
		return observations{{"", "="}}
	}
	return different
}

func caseNames(sides ...observations) (names []string) {
	for _, side := range sides {
		for _, o := range side {
			if !slices.Contains(names, o.name) {
				names = append(names, o.name)
			}
		}
	}
	return names
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// ---- for CONFORMANCE.md -----------------------------------------------------------

// Markdown writes several versions' reports side by side: facts as rows, versions as columns. Its output depends on
// the observations alone, so that a file of it is either current or stale.
func Markdown(w io.Writer, reports []Report) error {
	var b strings.Builder
	series := make([]string, len(reports))
	var exact []string
	for i, r := range reports {
		fields := strings.Fields(r.OpenSSL + " ? ?")
		exact = append(exact, fields[1])
		series[i] = seriesOf(fields[1])
	}
	b.WriteString("# Conformance\n\nThe behaviour of OpenSSL around the session callbacks, shown in C and through this module's Go API in one process\n" +
		"on one libssl, fact by fact. `make conform` writes this file; `sslsess conform` shows the libssl it runs on.\n" +
		"[docs/semantics.md](docs/semantics.md) explains each fact and its use here.\n\n" +
		"**same**: C shows the fact and Go the same. **by design**: C shows the fact, Go a difference that is meant.\n" +
		"A letter marks versions that do not all show the same; what they show is below the table.\n\n")
	fmt.Fprintf(&b, "%s%s.\n\n", madeOn, strings.Join(exact, ", "))

	row := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(append([]string{"fact", "says"}, series...)...)
	row(slices.Repeat([]string{"---"}, 2+len(series))...)
	var differ, notRun, byDesign, deviations []string
	for _, id := range factIDs(reports) {
		cells := []string{id, ""}
		groups := groupsOf(id, reports)
		for i, r := range reports {
			res, ok := r.fact(id)
			if !ok {
				cells = append(cells, "")
				continue
			}
			cells[1] = escape(res.Says)
			cell := strings.ReplaceAll(string(res.Verdict), "-", " ")
			if len(groups.texts) > 1 {
				cell += " " + groups.letter(i)
			}
			cells = append(cells, cell)
			if res.Why == "" {
				continue
			}
			line := fmt.Sprintf("- **%s** %s", id, escape(res.Why))
			switch res.Verdict {
			case ByDesign:
				byDesign = appendNew(byDesign, line)
			case NotRun:
				notRun = appendNew(notRun, line)
			case Deviation:
				deviations = append(deviations, fmt.Sprintf("- **%s** on %s: %s", id, series[i], escape(res.Why)))
			}
		}
		row(cells...)
		if len(groups.texts) > 1 {
			differ = append(differ, groups.describe(id)...)
		}
	}
	list := func(title, about string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n## %s\n\n%s%s\n", title, about, strings.Join(lines, "\n"))
		}
	}
	list("Deviations", "", deviations)
	list("Where versions differ", "Only the cases that differ; `-` is a case that the version does not have.\n\n", differ)
	list("Where Go differs on purpose", "", byDesign)
	list("Not run", "", notRun)

	b.WriteString("\n## Probed\n\nBuilds of one release differ here, because the change was ported back; no version number tells.\n\n")
	row(append([]string{"fact", "what"}, series...)...)
	row(slices.Repeat([]string{"---"}, 2+len(series))...)
	for _, d := range detections {
		cells := []string{d.fact, d.what}
		for _, r := range reports {
			found := ""
			for _, f := range r.Detected {
				if f.What == d.what {
					found = f.Found
				}
			}
			cells = append(cells, found)
		}
		row(cells...)
	}

	b.WriteString("\n## The manual page of 2001, sentence by sentence\n\nSSL_CTX_sess_set_get_cb, in our words. The facts that show each verdict were run on all versions above.\n\n")
	row("it says", "today", "", "shown by")
	row(slices.Repeat([]string{"---"}, 4)...)
	for _, s := range Manual {
		var shown []string
		for _, id := range s.Facts {
			n := 0
			for _, r := range reports {
				if res, ok := r.fact(id); ok && (res.Verdict == Same || res.Verdict == ByDesign) {
					n++
				}
			}
			if n < len(reports) {
				id += fmt.Sprintf(" (on %d of %d)", n, len(reports))
			}
			shown = append(shown, id)
		}
		row(escape(s.Says), s.Verdict, escape(s.Today), strings.Join(shown, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// madeOn begins the one line that names patch levels: a new one alone makes no file stale.
const madeOn = "Made on OpenSSL "

// seriesOf is 3.0 of 3.0.19, and 1.1.1 of 1.1.1w.
func seriesOf(version string) string {
	version = strings.TrimRight(version, "abcdefghijklmnopqrstuvwxyz")
	if parts := strings.Split(version, "."); len(parts) == 3 && parts[0] != "1" {
		return parts[0] + "." + parts[1]
	}
	return version
}

func escape(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func appendNew(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}

func factIDs(reports []Report) (ids []string) {
	for _, r := range reports {
		for _, f := range r.Facts {
			ids = appendNew(ids, f.ID)
		}
	}
	return ids
}

func (r Report) fact(id string) (Result, bool) {
	for _, f := range r.Facts {
		if f.ID == id {
			return f, true
		}
	}
	return Result{}, false
}

// groups are the versions that show the same, in C and in Go.
type groups struct {
	of    []int // by report: index into texts
	texts []observations
}

func groupsOf(id string, reports []Report) (g groups) {
	var keys []string
	for _, r := range reports {
		res, _ := r.fact(id)
		key := res.C + "\n" + res.Go
		i := slices.Index(keys, key)
		if i < 0 {
			i = len(keys)
			keys = append(keys, key)
			g.texts = append(g.texts, sides(res))
		}
		g.of = append(g.of, i)
	}
	return g
}

// sides are C's observations, and Go's where they are others.
func sides(r Result) (all observations) {
	inC := split(r.C)
	all = append(all, inC...)
	for _, o := range split(r.Go) {
		if inC.get(o.name) != o.text {
			all = append(all, observation{o.name + ", in Go", o.text})
		}
	}
	return all
}

func (g groups) letter(report int) string { return string(rune('a' + g.of[report])) }

// describe is a line for each case that not all groups show alike.
func (g groups) describe(id string) (lines []string) {
	for _, name := range caseNames(g.texts...) {
		var parts []string
		alike := true
		for i, text := range g.texts {
			alike = alike && text.get(name) == g.texts[0].get(name)
			parts = append(parts, fmt.Sprintf("%c: %s", 'a'+i, text.get(name)))
		}
		if !alike {
			lines = append(lines, fmt.Sprintf("- **%s** %s. %s", id, escape(name), escape(strings.Join(parts, " / "))))
		}
	}
	return lines
}
