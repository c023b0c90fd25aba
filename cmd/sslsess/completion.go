package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// completion prints what makes bash complete the words of the command line. bash then runs the same command with COMP_LINE,
// and reads the candidates for the last word, each on a line.
func completion(w io.Writer, root command) error {
	line, asked := os.LookupEnv("COMP_LINE")
	if !asked {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		again := shellQuote(program) + " completion"
		// Where there is no candidate, bash completes file names.
		_, err = fmt.Fprintf(w, "complete -o default -C %s sslsess\n", shellQuote(again))
		return err
	}
	if n, err := strconv.Atoi(os.Getenv("COMP_POINT")); err == nil && n >= 0 && n < len(line) {
		line = line[:n] // up to the cursor
	}
	for _, word := range candidates(root, line) {
		if _, err := fmt.Fprintln(w, word); err != nil {
			return err
		}
	}
	return nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// candidates returns what the last word of line, which may be empty, can become.
func candidates(cmd command, line string) []string {
	words := strings.Split(line, " ")
	last := words[len(words)-1]
	words = strings.Fields(strings.Join(words[:len(words)-1], " "))
	if len(words) == 0 {
		return nil // the program itself
	}
	atRoot := true
	for words = words[1:]; cmd.subs != nil; words = words[1:] {
		if len(words) == 0 {
			all := append(names(cmd.subs), "help")
			if atRoot {
				all = append(all, "version", "completion")
			}
			return withPrefix(all, last)
		}
		if words[0] == "help" {
			continue
		}
		var err error
		if cmd, err = find(cmd, words[0]); err != nil {
			return nil
		}
		atRoot = false
	}
	return flagCandidates(cmd, words, last)
}

// flagCandidates completes the flags of a command, and the values of those that take one of a few words.
func flagCandidates(cmd command, words []string, last string) (all []string) {
	fs := newFlagSet()
	cmd.flags(fs)
	if len(words) > 0 && strings.HasPrefix(words[len(words)-1], "-") {
		f := fs.Lookup(strings.TrimLeft(words[len(words)-1], "-"))
		if f != nil && !isBool(f) {
			if c, ok := f.Value.(choice); ok {
				return withPrefix(c.allowed, last)
			}
			return nil
		}
	}
	if !strings.HasPrefix(last, "-") {
		return nil
	}
	dashes := "-"
	if strings.HasPrefix(last, "--") {
		dashes = "--"
	}
	fs.VisitAll(func(f *flag.Flag) { all = append(all, dashes+f.Name) })
	return withPrefix(all, last)
}

// isBool reports whether the flag has no value in the next word.
func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

func withPrefix(words []string, prefix string) (some []string) {
	for _, word := range words {
		if strings.HasPrefix(word, prefix) {
			some = append(some, word)
		}
	}
	return some
}
