// Mutate breaks the rules of this module on purpose, one at a time, and reports which cases of the conformance suite
// notice. The mutations are the diffs in tests/conformance/MUTATIONS.md: in each, the lines that begin with "-" stand
// once in the file that the fence names, and are replaced by those that begin with "+". Arguments are the numbers of
// the mutations to try; without any all are tried. The exit status is 1 where one goes unnoticed.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const list = "tests/conformance/MUTATIONS.md"

type mutation struct {
	number, title, file string
	before, after       string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(numbers []string) error {
	all, err := read(list)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree") // a clone of the last commit: the working tree stays as it is
	if out, err := exec.Command("git", "clone", "-q", "--local", ".", tree).CombinedOutput(); err != nil {
		return fmt.Errorf("git clone: %w: %s", err, out)
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

// try returns the tests that notice the mutation.
func (m mutation) try(tree string) (by []string, err error) {
	path := filepath.Join(tree, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), m.before); m.before == "" || n != 1 {
		return nil, fmt.Errorf("its lines stand %d times in %s", n, m.file)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), m.before, m.after, 1)), 0o666); err != nil {
		return nil, err
	}
	defer os.WriteFile(path, text, 0o666)
	cmd := exec.Command("go", "test", "-count=1", "-timeout=4m", "./tests/conformance/...")
	cmd.Dir = tree
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	if strings.Contains(string(out), "[build failed]") {
		return nil, fmt.Errorf("it does not compile:\n%s", out)
	}
	return noticers(string(out), err != nil), nil
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
