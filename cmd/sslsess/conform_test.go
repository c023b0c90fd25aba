package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/conformance"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One run serves all formats: -markdown reads the output of -json. It is not parallel, because it uses the whole machine,
// and the servers of the other tests have the default time limits of the store.
func TestConform_ShowsWhatThisOpenSSLDoes(t *testing.T) {
	t.Parallel()
	r := sslsess(t, "conform", "-json")
	requireOK(t, r)
	var report conformance.Report
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
	assert.Equal(t, libssl.Version(), report.OpenSSL)
	require.Len(t, report.Facts, len(conformance.Facts()))
	for _, f := range report.Facts {
		assert.Contains(t, []conformance.Verdict{conformance.Same, conformance.ByDesign, conformance.NotRun}, f.Verdict, f.ID)
		assert.NotEmpty(t, f.Says)
		if f.Verdict == conformance.NotRun {
			assert.NotEmpty(t, f.Why, f.ID)
		} else {
			assert.NotEmpty(t, f.C, f.ID)
		}
	}
	require.Len(t, report.Detected, 3)
	for _, d := range report.Detected {
		assert.NotEmpty(t, d.Found, d.What)
	}

	var table strings.Builder
	require.NoError(t, report.Text(&table, false))
	for _, f := range report.Facts {
		assert.Contains(t, table.String(), "\n"+f.ID+" ")
	}
	assert.Contains(t, table.String(), report.Detected[0].What)
	assert.Regexp(t, `: \d+ facts, \d+ same, \d+ by design, \d+ not run, 0 deviations\n$`, table.String())

	file := filepath.Join(t.TempDir(), "report.json")
	require.NoError(t, os.WriteFile(file, []byte(r.stdout), 0o600))
	r = sslsess(t, "conform", "-markdown", file, file)
	requireOK(t, r)
	for _, f := range report.Facts {
		assert.Contains(t, r.stdout, "| "+f.ID+" | ")
	}
	assert.NotContains(t, r.stdout, "Where versions differ", "a version does not differ from itself")
}

func TestConform_PutsVersionsSideBySide(t *testing.T) {
	t.Parallel()
	write := func(r conformance.Report) string {
		b, err := json.Marshal(r)
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "report.json")
		require.NoError(t, os.WriteFile(file, b, 0o600))
		return file
	}
	older := write(conformance.Report{OpenSSL: "OpenSSL 1.1.1w  11 Sep 2023", Facts: []conformance.Result{
		{ID: "F1.1", Says: "one|two", C: "a: 1; b: 2", Go: "a: 1; b: 2", Verdict: conformance.Same},
		{ID: "F1.2", Says: "x", Verdict: conformance.NotRun, Why: "too hard"},
	}})
	newer := conformance.Report{OpenSSL: "OpenSSL 3.5.9 7 Jul 2026", Facts: []conformance.Result{
		{ID: "F1.1", Says: "one|two", C: "a: 1; b: 3", Go: "a: 1; b: 4", Verdict: conformance.ByDesign, Why: "it is meant"},
		{ID: "F1.2", Says: "x", Verdict: conformance.NotRun, Why: "too hard"},
	}}
	r := sslsess(t, "conform", "-markdown", older, write(newer))
	requireOK(t, r)
	for _, line := range []string{
		"| fact | says | 1.1.1 | 3.5 |",
		`| F1.1 | one\|two | same a | by design b |`,
		"| F1.2 | x | not run | not run |",
		"- **F1.1** b. a: 2 / b: 3",
		"- **F1.1** b, in Go. a: - / b: 4",
		"- **F1.1** it is meant",
		"- **F1.2** too hard",
		"Made on OpenSSL 1.1.1w, 3.5.9.",
	} {
		assert.Contains(t, r.stdout, line+"\n")
	}
	assert.NotContains(t, r.stdout, "**F1.1** a.", "alike in both")

	newer.Facts[0].Verdict = conformance.Deviation
	r = sslsess(t, "conform", "-markdown", older, write(newer))
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stdout, "- **F1.1** on 3.5: it is meant\n")
}

func TestConform_RefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("not JSON"), 0o600))
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte("{}"), 0o600))
	requireFailure(t, sslsess(t, "conform", "-json", "-markdown"), 2, "exclude each other")
	requireFailure(t, sslsess(t, "conform", "-json", "-v"), 2, "-v is for the table")
	requireFailure(t, sslsess(t, "conform", garbage), 2, "unexpected argument")
	requireFailure(t, sslsess(t, "conform", "-markdown", garbage), 1, "invalid character")
	requireFailure(t, sslsess(t, "conform", "-markdown", empty), 1, "no report")
	requireFailure(t, sslsess(t, "conform", "-markdown", garbage+".missing"), 1, "no such file")
}
