package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const memory = 8 << 30 // address space of any one process

// campaign is a run of the random mode.
type campaign struct {
	seed    uint64
	n       int
	workers int
	timeout time.Duration // of one package's tests
}

// change puts with in the place of text[from:to].
type change struct {
	from, to int
	with     string
}

// site is one change of one file: a mutant.
type site struct {
	file string
	text []byte // of the file, unchanged
	change
}

func (s site) mutated() []byte {
	return slices.Concat(s.text[:s.from], []byte(s.with), s.text[s.to:])
}

// where is the change's file and line.
func (s site) where() string {
	return fmt.Sprintf("%s:%d", s.file, 1+bytes.Count(s.text[:s.from], []byte("\n")))
}

// diff shows the changed lines, before and after.
func (s site) diff() string {
	begin := bytes.LastIndexByte(s.text[:s.from], '\n') + 1
	rest := len(s.text)
	if n := bytes.IndexByte(s.text[s.to:], '\n'); n >= 0 {
		rest = s.to + n
	}
	after := slices.Concat(s.text[begin:s.from], []byte(s.with), s.text[s.to:rest])
	return marked("-", s.text[begin:rest]) + marked("+", after)
}

func marked(mark string, text []byte) (out string) {
	for line := range bytes.Lines(text) {
		out += mark + strings.TrimRight(string(line), "\n") + "\n"
	}
	return out
}

// sites are all mutants of a file that lies in tree.
func sites(tree, file string) (all []site, err error) {
	text, err := os.ReadFile(filepath.Join(tree, file))
	if err != nil {
		return nil, err
	}
	var changes []change
	switch path.Ext(file) {
	case ".go":
		if changes, err = goChanges(text); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	case ".c":
		changes = cChanges(text)
	default:
		return nil, fmt.Errorf("%s is neither Go nor C", file)
	}
	for _, c := range changes {
		all = append(all, site{file, text, c})
	}
	return all, nil
}

// stages are the packages whose tests may notice a change of file, the cheapest first.
func stages(file string) [][]string {
	if dir := path.Dir(file); dir != "." {
		return [][]string{{"./" + dir}, {".", "./tests/callbacks"}}
	}
	return [][]string{{".", "./tests/callbacks"}, {"./tests/conformance/..."}}
}

func (c *campaign) run(files []string) error {
	// A mutant that allocates for ever must not take the machine with it.
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: memory, Max: memory}); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var trees []string
	for i := range c.workers {
		tree, err := clone(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		trees = append(trees, tree)
	}
	var all []site
	for _, file := range files {
		of, err := sites(trees[0], path.Clean(filepath.ToSlash(file)))
		if err != nil {
			return err
		}
		all = append(all, of...)
	}
	if len(all) == 0 {
		return errors.New("no files, or nothing in them to mutate")
	}
	if err := c.pass(trees[0], all); err != nil {
		return err
	}
	fmt.Printf("mutate: seed %d, %d of %d mutants\n", c.seed, min(c.n, len(all)), len(all))
	r := rand.New(rand.NewPCG(c.seed, 0))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return c.try(trees, all)
}

// pass makes sure that the tests pass where nothing is changed.
func (c *campaign) pass(tree string, all []site) error {
	seen := map[string]bool{}
	for _, s := range all {
		for _, packages := range stages(s.file) {
			if key := fmt.Sprint(packages); !seen[key] {
				seen[key] = true
				if out, err := c.testTwice(tree, packages); err != nil {
					return fmt.Errorf("without a mutation: %w\n%s", err, out)
				}
			}
		}
	}
	return nil
}

func (c *campaign) test(tree string, packages []string, more ...string) (out string, err error) {
	args := append([]string{"-failfast", "-vet=off", "-timeout=" + c.timeout.String()}, more...)
	return goTest(tree, append(args, packages...)...)
}

// testTwice has tests that fail by themselves on a busy machine not count: those that fail are run again, and where they
// pass then all are.
func (c *campaign) testTwice(tree string, packages []string) (out string, err error) {
	out, err = c.test(tree, packages)
	var names []string
	for _, f := range failure.FindAllStringSubmatch(out, -1) {
		name, _, _ := strings.Cut(f[1], "/")
		names = append(names, name)
	}
	if len(names) == 0 {
		return out, err
	}
	if _, err := c.test(tree, packages, "-run=^("+strings.Join(names, "|")+")$"); err == nil {
		return c.test(tree, packages)
	}
	return out, err
}

// try has the workers try mutants, in their order, until n have compiled.
func (c *campaign) try(trees []string, all []site) error {
	q := newQueue(all, c.n)
	var workers sync.WaitGroup
	for _, tree := range trees {
		workers.Go(func() {
			for s, ok := q.next(); ok; s, ok = q.next() {
				compiles, by, err := c.one(tree, s)
				q.done(s, compiles, by, err)
			}
		})
	}
	workers.Wait()
	if q.err != nil {
		return q.err
	}
	slices.SortFunc(q.unnoticed, func(a, b site) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.from, b.from))
	})
	fmt.Println("\nUnnoticed:")
	for _, s := range q.unnoticed {
		fmt.Printf("\n%s\n%s", s.where(), s.diff())
	}
	noticed := q.tried - len(q.unnoticed)
	fmt.Printf("\nmutate: %d tried, %d noticed (%.1f%%); %d more did not compile\n",
		q.tried, noticed, 100*float64(noticed)/float64(max(q.tried, 1)), q.broken)
	return nil
}

// one tries one mutant. A test that never ends notices it, by its timeout.
func (c *campaign) one(tree string, s site) (compiles bool, by []string, err error) {
	file := filepath.Join(tree, s.file)
	if err := os.WriteFile(file, s.mutated(), 0o666); err != nil {
		return false, nil, err
	}
	defer func() { err = errors.Join(err, os.WriteFile(file, s.text, 0o666)) }()
	for _, packages := range stages(s.file) {
		out, err := c.testTwice(tree, packages)
		var failed *exec.ExitError
		switch {
		case err == nil:
			continue
		case !errors.As(err, &failed):
			return false, nil, err
		case strings.Contains(out, "[build failed]"):
			return false, nil, nil
		}
		return true, noticers(out, true), nil
	}
	return true, nil, nil
}

// queue hands mutants to the workers. Their order alone decides which are tried: the next one replaces one that does not
// compile.
type queue struct {
	mu     sync.Mutex
	change sync.Cond
	left   []site
	wanted int
	flying int

	tried, broken int
	unnoticed     []site
	err           error
}

func newQueue(all []site, n int) *queue {
	q := &queue{left: all, wanted: n}
	q.change.L = &q.mu
	return q
}

func (q *queue) next() (s site, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && q.tried < q.wanted && q.tried+q.flying >= q.wanted {
		q.change.Wait() // one under way may not compile
	}
	if q.err != nil || q.tried >= q.wanted || len(q.left) == 0 {
		return s, false
	}
	s, q.left = q.left[0], q.left[1:]
	q.flying++
	return s, true
}

func (q *queue) done(s site, compiles bool, by []string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.change.Broadcast()
	q.flying--
	switch {
	case err != nil:
		q.err = fmt.Errorf("%s: %w", s.where(), err)
	case !compiles:
		q.broken++
	case len(by) == 0:
		q.tried++
		q.unnoticed = append(q.unnoticed, s)
		fmt.Printf("%3d  UNNOTICED  %s\n%s", q.tried, s.where(), s.diff()) // in case the run is cut short
	default:
		q.tried++
		fmt.Printf("%3d  noticed    %s: %s\n", q.tried, s.where(), strings.Join(by, ", "))
	}
}
