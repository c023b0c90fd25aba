package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/libssl-go/libssl/tests/conformance"
)

var conformCommand = command{
	name:  "conform",
	args:  "[REPORT.json...]",
	about: "the behaviour of this OpenSSL around the session callbacks, shown in C and in Go",
	long: `Runs every fact of the conformance suite, which takes some seconds. Below the table are results that differ between
builds of one release, for example whether this libssl has the unsafe eviction chain. The exit status is 1 if anything
deviates from the known behaviour of the release.

With -markdown the arguments may be reports that -json has written, one for each version. It prints them side by side and
runs nothing.`,
	flags: conform,
}

func conform(fs *flag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print JSON")
	asMarkdown := fs.Bool("markdown", false, "print Markdown")
	verbose := fs.Bool("v", false, "show each observation")
	return func(ctx context.Context, std stdio, args []string) error {
		switch {
		case *asJSON && *asMarkdown:
			return usagef("-json and -markdown exclude each other")
		case *verbose && (*asJSON || *asMarkdown):
			return usagef("-v is for the table: -json and -markdown show everything anyway")
		case len(args) > 0 && !*asMarkdown:
			return usagef("unexpected argument %q: reports are for -markdown", args[0])
		}
		var reports []conformance.Report
		for _, name := range args {
			r, err := readReport(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			reports = append(reports, r)
		}
		if len(args) == 0 {
			ctx, stop := untilSignal(ctx)
			defer stop()
			status := statusLine(std)
			r, err := conformance.Run(ctx, conformance.Facts(), func(r conformance.Result) { status(r.ID) })
			status("")
			if err != nil {
				return err
			}
			reports = append(reports, r)
		}
		var err error
		switch {
		case *asJSON:
			err = printJSON(std.out, reports[0])
		case *asMarkdown:
			err = conformance.Markdown(std.out, reports)
		default:
			err = reports[0].Text(std.out, *verbose)
		}
		if err != nil {
			return err
		}
		for _, r := range reports {
			if r.Deviates() {
				return errReported
			}
		}
		return nil
	}
}

func readReport(name string) (r conformance.Report, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return r, errors.Unwrap(err) // the caller names the file
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if len(r.Facts) == 0 {
		return r, errors.New("this is no report of conform -json")
	}
	return r, nil
}
