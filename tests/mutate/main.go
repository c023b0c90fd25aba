// Mutate breaks this module on purpose, one change at a time, in a copy of what is committed, and reports which tests
// notice.
//
// Its first mode breaks rules and runs the conformance suite. The mutations are the diffs in
// tests/conformance/MUTATIONS.md: in each, the lines that begin with "-" stand once in the file that the fence names, and
// are replaced by those that begin with "+". Arguments are the numbers of the mutations to try; without any all are
// tried. The exit status is 1 where one goes unnoticed.
//
//	go run ./tests/mutate 3 7
//
// With -random it changes the named Go and C files anywhere: it swaps operators, negates conditions, returns zero values,
// drops statements, and moves constants by one. -seed chooses -n of all the changes that compile. Its tests are those of
// the package that holds the file, then those of the top folder and tests/callbacks, and for a file of the top folder those of
// tests/conformance in the end; a mutant goes no further than the first that fail. The report is the share that was
// noticed, and the changes that were not. Some of those change nothing that a test could notice: a person has to judge.
//
//	go run ./tests/mutate -random -seed 1 -n 200 breaker.go session.c
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const list = "tests/conformance/MUTATIONS.md"

type mutation struct {
	number, title, file string
	before, after       string
}

func main() {
	var c campaign
	random := flag.Bool("random", false, "change the files that are named, at random")
	flag.Uint64Var(&c.seed, "seed", 1, "what -random chooses by")
	flag.IntVar(&c.n, "n", 100, "how many mutants -random tries")
	flag.IntVar(&c.workers, "workers", 2, "how many -random tries at a time, each in a copy of the tree")
	flag.DurationVar(&c.timeout, "timeout", 5*time.Minute, "after which -random takes a package's tests for hanging")
	flag.Parse()
	run := listed
	if *random {
		run = c.run
	}
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// clone copies the last commit. Work that is not committed is neither tried nor touched.
func clone(tree string) (string, error) {
	if out, err := exec.Command("git", "clone", "-q", "--local", ".", tree).CombinedOutput(); err != nil {
		return "", fmt.Errorf("git clone: %w: %s", err, out)
	}
	return tree, nil
}

// goTest runs tests in tree. An error other than an exec.ExitError is one of this machine.
func goTest(tree string, args ...string) (out string, err error) {
	cmd := exec.Command("go", append([]string{"test", "-count=1"}, args...)...)
	cmd.Dir = tree
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func listed(numbers []string) error {
	all, err := read(list)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree, err := clone(filepath.Join(dir, "tree"))
	if err != nil {
		return err
	}
	noticed, tried := 0, 0
	for _, m := range all {
		if len(numbers) > 0 && !slices.Contains(numbers, m.number) {
			continue
		}
		tried++
		by, err := m.try(tree)
		switch {
		case err != nil:
			return fmt.Errorf("mutation %s: %w", m.number, err)
		case len(by) == 0:
			fmt.Printf("%3s  UNNOTICED  %s\n", m.number, m.title)
		default:
			noticed++
			fmt.Printf("%3s  noticed    %s: %s\n", m.number, m.title, strings.Join(by, ", "))
		}
	}
	fmt.Printf("mutate: %d tried, %d noticed\n", tried, noticed)
	if tried == 0 || noticed < tried {
		return errors.New("a rule can be broken without a case that fails")
	}
	return nil
}

var heading = regexp.MustCompile(`^### (\d+)\. (.*)$`)

func read(path string) (all []mutation, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var m mutation
	inside := false
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		switch h := heading.FindStringSubmatch(line); {
		case h != nil:
			m = mutation{number: h[1], title: h[2]}
		case strings.HasPrefix(line, "```diff "):
			inside, m.file = true, strings.TrimPrefix(line, "```diff ")
		case line == "```" && inside:
			inside = false
			all = append(all, m)
		case inside && strings.HasPrefix(line, "-"):
			m.before += line[1:] + "\n"
		case inside && strings.HasPrefix(line, "+"):
			m.after += line[1:] + "\n"
		case inside:
			return nil, fmt.Errorf("%s: mutation %s: neither - nor +: %q", path, m.number, line)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no mutations", path)
	}
	return all, nil
}

// apply makes the mutation in the text of its file.
func (m mutation) apply(text string) (string, error) {
	if n := strings.Count(text, m.before); m.before == "" || n != 1 {
		return "", fmt.Errorf("its lines stand %d times in %s", n, m.file)
	}
	return strings.Replace(text, m.before, m.after, 1), nil
}

// try returns the tests that notice the mutation.
func (m mutation) try(tree string) (by []string, err error) {
	path := filepath.Join(tree, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	broken, err := m.apply(string(text))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, []byte(broken), 0o666); err != nil {
		return nil, err
	}
	defer os.WriteFile(path, text, 0o666)
	out, err := goTest(tree, "-timeout=4m", "./tests/conformance/...")
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	if strings.Contains(out, "[build failed]") {
		return nil, fmt.Errorf("it does not compile:\n%s", out)
	}
	return noticers(out, err != nil), nil
}

var failure = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// noticers are the innermost tests that failed, or how else the run ended.
func noticers(out string, failed bool) (by []string) {
	names := failure.FindAllStringSubmatch(out, -1)
	for _, n := range names {
		inner := slices.ContainsFunc(names, func(o []string) bool { return strings.HasPrefix(o[1], n[1]+"/") })
		if !inner {
			by = append(by, n[1])
		}
	}
	if len(by) == 0 && failed {
		how := "the run failed"
		for _, sign := range []string{"SIGSEGV", "SIGABRT", "test timed out", "left behind", "double free"} {
			if strings.Contains(out, sign) {
				how = sign
				break
			}
		}
		by = append(by, how)
	}
	const most = 6
	if len(by) > most {
		by = append(by[:most:most], fmt.Sprintf("and %d more", len(by)-most))
	}
	return by
}
