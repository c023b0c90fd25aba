package conformance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libssl-go/libssl/tests/internal/cref"
)

type observation struct{ name, text string }

// observations are a scenario's, in its order.
type observations []observation

func (all observations) String() string {
	lines := make([]string, len(all))
	for i, o := range all {
		lines[i] = o.name + ": " + o.text
	}
	return strings.Join(lines, separator)
}

// separator joins observations in a Result; no observation contains it.
const separator = "; "

func (all observations) get(name string) string {
	for _, o := range all {
		if o.name == name {
			return o.text
		}
	}
	return absent
}

func parseObservations(text string) (all observations) {
	for line := range strings.Lines(text) {
		name, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		all = append(all, observation{name, text})
	}
	return all
}

// observer collects the observations of a scenario in Go, and ends the scenario when a call fails that must not. Its
// methods are for the scenario's own goroutine, except say.
type observer struct {
	mu       sync.Mutex
	seen     observations
	cleanups []func()
}

// say leaves an observation. The texts are those of the scenario in C, to the letter.
func (o *observer) say(name, format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, observation{name, fmt.Sprintf(format, args...)})
}

// atEnd has f run when the scenario is over, last come first.
func (o *observer) atEnd(f func()) { o.cleanups = append(o.cleanups, f) }

// scenarioBroken is the panic that ends a scenario early.
type scenarioBroken struct{ err error }

// must ends the scenario if err is not nil.
func (o *observer) must(err error) {
	if err != nil {
		panic(scenarioBroken{err})
	}
}

// mustBe ends the scenario unless ok; what names the condition.
func (o *observer) mustBe(ok bool, what string) {
	if !ok {
		panic(scenarioBroken{fmt.Errorf("not %s", what)})
	}
}

func observe(scenario func(*observer)) (seen observations, err error) {
	o := &observer{}
	defer func() {
		if p := recover(); p != nil {
			broken, ok := p.(scenarioBroken)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("the scenario broke: %w", broken.err)
		}
		for _, f := range slices.Backward(o.cleanups) {
			f()
		}
	}()
	scenario(o)
	return o.seen, nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// ---- scenarios in a process of their own ----------------------------------------

// childVariable names a scenario, "C F2.10 blank 1.3" or "Go F2.10 blank 1.3".
const childVariable = "LIBSSL_CONFORMANCE_SCENARIO"

const childDone = "done: "

// Child runs the scenario that this process was started for, if it was, and exits.
func Child() {
	scenario := os.Getenv(childVariable)
	if scenario == "" {
		return
	}
	os.Unsetenv(childVariable)
	text, err := runScenario(scenario)
	if err != nil {
		fmt.Println(childDone + "broken: " + err.Error())
	} else {
		fmt.Println(childDone + text)
	}
	os.Exit(0)
}

func runScenario(scenario string) (string, error) {
	side, name, _ := strings.Cut(scenario, " ")
	if side == "C" {
		text, err := cref.Observe(name)
		_, text, _ = strings.Cut(strings.TrimSuffix(text, "\n"), ": ")
		return text, err
	}
	id, name, _ := strings.Cut(name, " ")
	for _, f := range Facts() {
		if run := f.Children[name]; f.ID == id && run != nil {
			seen, err := observe(run)
			if err != nil {
				return "", err
			}
			if len(seen) != 1 {
				return "", fmt.Errorf("%d observations instead of one", len(seen))
			}
			return seen[0].text, nil
		}
	}
	return "", fmt.Errorf("no scenario is called %q", scenario)
}

// patience is for scenarios that take a second or two, on a machine that may be busy.
const patience = time.Minute

// inChild runs a scenario that leaves one observation and returns its text: "crash" where the process died of it, "hang"
// where it had to be killed.
func inChild(side, name string) string {
	self, err := os.Executable()
	if err != nil {
		return "broken: " + err.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childVariable+"="+side+" "+name,
		"GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0") // the race detector would wait a second for late reports
	out, err := cmd.Output()
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, childDone); ok && err == nil {
			return strings.TrimSuffix(text, "\n")
		}
	}
	if ctx.Err() != nil {
		return "hang"
	}
	if _, ok := err.(*exec.ExitError); !ok {
		return fmt.Sprintf("broken: %v", err)
	}
	return "crash"
}
