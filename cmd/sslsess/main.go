// Sslsess is the command line of libssl: a TLS server with its sessions in an
// external store, a probe that shows which servers resume them, and tools that
// manage a store.
//
// Each command is one file that declares a variable of type command, plus a line
// in the list below.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/internal/storeurl"
	"github.com/libssl-go/libssl/tests/conformance"
)

var commands = []command{
	demoCommand,
	serveCommand,
	probeCommand,
	doctorCommand,
	benchCommand,
	showCommand,
	storeCommand,
	keyringCommand,
	conformCommand,
}

// command is one word of the command line. It has either flags, for a command
// that runs, or subs, for a command that is followed by another word.
type command struct {
	name  string
	args  string // what follows the flags, for the usage line
	about string // one line for the list of commands
	long  string // the rest of the help text, may be empty
	flags func(fs *flag.FlagSet) action
	subs  []command
}

// action runs a command after its flags are parsed.
type action func(ctx context.Context, std stdio, args []string) error

// stdio are the streams of the process.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// usageError is a mistake on the command line: exit status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// errNoCommand is a command line that ends before the command. The list of commands has been printed.
var errNoCommand = errors.New("a command is missing")

// errReported is a failure that the output of the command already reports.
var errReported = errors.New("reported")

func main() {
	conformance.Child() // conform runs some scenarios in processes of their own
	os.Exit(run(context.Background(), stdio{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

// run runs the command line args and returns the exit status.
func run(ctx context.Context, std stdio, args []string) (status int) {
	path := []string{"sslsess"}
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(std.err, "%s: internal error: %s\n", strings.Join(path, " "), oneLine(fmt.Sprint(p)))
			status = 1
		}
	}()
	err := dispatch(ctx, std, command{about: "sslsess: TLS servers that resume each other's sessions", subs: commands}, &path, args)
	var usage usageError
	var badURL storeurl.Error
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	case errors.Is(err, errNoCommand):
		return 2
	case errors.As(err, &usage) || errors.As(err, &badURL):
		help := append([]string{"sslsess", "help"}, path[1:]...)
		fmt.Fprintf(std.err, "%s: %s (see %s)\n", strings.Join(path, " "), oneLine(err.Error()), strings.Join(help, " "))
		return 2
	default:
		fmt.Fprintf(std.err, "%s: %s\n", strings.Join(path, " "), oneLine(err.Error()))
		return 1
	}
}

// oneLine joins the lines of errors.Join.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

// dispatch finds the command that args name below group and runs it. It appends
// the words of that command to path.
func dispatch(ctx context.Context, std stdio, group command, path *[]string, args []string) error {
	if len(args) == 0 {
		return errors.Join(errNoCommand, printUsage(std.err, group, *path))
	}
	atRoot := len(*path) == 1
	switch word, rest := args[0], args[1:]; {
	case word == "help" || isHelpFlag(word):
		return help(std.out, group, *path, rest)
	case atRoot && (word == "version" || word == "-version" || word == "--version"):
		_, err := fmt.Fprintln(std.out, version())
		return err
	case atRoot && word == "completion":
		return completion(std.out, group)
	default:
		cmd, err := find(group, word)
		if err != nil {
			return err
		}
		*path = append(*path, word)
		if cmd.subs != nil {
			return dispatch(ctx, std, cmd, path, rest)
		}
		fs := newFlagSet()
		act := cmd.flags(fs)
		if err := fs.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return printUsage(std.out, cmd, *path)
		} else if err != nil {
			return usageError(err.Error())
		}
		return act(ctx, std, fs.Args())
	}
}

// newFlagSet is silent: run prints the error, on one line.
func newFlagSet() *flag.FlagSet {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

func isHelpFlag(s string) bool { return s == "-h" || s == "--h" || s == "-help" || s == "--help" }

func find(group command, name string) (command, error) {
	for _, cmd := range group.subs {
		if cmd.name == name {
			return cmd, nil
		}
	}
	return command{}, usagef("unknown command %q: one of %s", name, strings.Join(names(group.subs), ", "))
}

func names(cmds []command) []string {
	var all []string
	for _, cmd := range cmds {
		all = append(all, cmd.name)
	}
	return all
}

func help(w io.Writer, cmd command, path, words []string) error {
	for _, word := range words {
		var err error
		if cmd, err = find(cmd, word); err != nil {
			return err
		}
		path = append(path[:len(path):len(path)], word)
	}
	return printUsage(w, cmd, path)
}

func printUsage(w io.Writer, cmd command, path []string) error {
	var b strings.Builder
	if cmd.subs != nil {
		fmt.Fprintf(&b, "%s\n\nusage: %s COMMAND [flags] [arguments]\n\n", cmd.about, strings.Join(path, " "))
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, sub := range cmd.subs {
			fmt.Fprintf(tw, "  %s\t%s\n", sub.name, sub.about)
		}
		if len(path) == 1 {
			fmt.Fprintf(tw, "  help\twhat a command does and its flags: sslsess help COMMAND\n")
			fmt.Fprintf(tw, "  completion\tcompletion for bash: source <(sslsess completion)\n")
			fmt.Fprintf(tw, "  version\tthe versions of this program and of OpenSSL\n")
		}
		tw.Flush()
	} else {
		fs := newFlagSet()
		cmd.flags(fs)
		flags := ""
		fs.VisitAll(func(*flag.Flag) { flags = "[flags] " })
		fmt.Fprintf(&b, "%s\n\nusage: %s\n", cmd.about, strings.TrimSpace(strings.Join(path, " ")+" "+flags+cmd.args))
		if flags != "" {
			fmt.Fprintln(&b)
			fs.SetOutput(&b)
			fs.PrintDefaults()
		}
	}
	if cmd.long != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(cmd.long))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func version() string {
	v := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		v = info.Main.Version
	}
	return fmt.Sprintf("sslsess %s, %s (compiled with %s)", v, libssl.Version(), libssl.HeaderVersion())
}

// untilSignal ends the returned context at the first SIGINT or SIGTERM. A second
// signal kills the process, in case a clean end takes too long.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// onHangup calls f at each SIGHUP until stop, which waits until f has returned.
func onHangup(f func()) (stop func()) {
	hangups, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer close(ended)
		for range hangups {
			f()
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
		<-ended
	}
}

// choice is a flag that takes one of a few words.
type choice struct {
	value   *string
	allowed []string
}

func (c choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}

func (c choice) Set(s string) error {
	for _, a := range c.allowed {
		if s == a {
			*c.value = s
			return nil
		}
	}
	return errors.New("must be one of " + strings.Join(c.allowed, ", "))
}

func choiceFlag(fs *flag.FlagSet, name, about string, allowed ...string) *string {
	value := allowed[0]
	fs.Var(choice{&value, allowed}, name, about)
	return &value
}

// wantArgs checks the number of arguments after the flags.
func wantArgs(args []string, least, most int) error {
	switch {
	case len(args) < least:
		return usagef("an argument is missing")
	case most >= 0 && len(args) > most:
		if strings.HasPrefix(args[most], "-") {
			return usagef("unexpected argument %q: flags go before arguments", args[most])
		}
		return usagef("unexpected argument %q", args[most])
	}
	return nil
}
