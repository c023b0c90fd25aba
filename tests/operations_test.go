package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const operations = "docs/operations.md"

const tableWanted = "the code has list A, and " + operations + " explains list B under %q: write a row for what is new"

// firstCells are the code spans in the first column of the table under a heading.
func firstCells(t *testing.T, document, heading string) (cells []string) {
	t.Helper()
	_, section, ok := strings.Cut(document, "\n"+heading+"\n")
	require.True(t, ok, "%s has no %q", operations, heading)
	section, _, _ = strings.Cut(section, "\n#")
	for line := range strings.Lines(section) {
		if columns := strings.Split(line, "|"); len(columns) > 2 {
			for _, m := range codeSpan.FindAllStringSubmatch(columns[1], -1) {
				cells = append(cells, m[1])
			}
		}
	}
	return cells
}

// The page is where a reader looks up a record or a metric.
func TestOperations_ExplainsEveryRecordAndMetric(t *testing.T) {
	page := documents(t)[operations]
	records, metrics, values, rejections := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for file, text := range sources(t, ".go") {
		folder := path.Dir(file)
		if strings.HasSuffix(file, "_test.go") || folder != "." && folder != "internal/guarded" && folder != "metrics" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if isLogCall(n) {
					for _, s := range literals(n.Args[1:2]) {
						records[s] = true
					}
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && folder == "metrics" && key.Name == "Label" {
					for _, s := range literals([]ast.Expr{n.Value}) {
						values[s] = true
					}
				} else if ok && folder == "." && strings.HasPrefix(key.Name, "Rejected") {
					for _, s := range literals([]ast.Expr{n.Value}) {
						rejections[s] = true
					}
				}
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && folder == "metrics" && strings.HasPrefix(s, "libssl_") {
					metrics[s] = true
				}
			}
			return true
		})
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(records)), firstCells(t, page, "### Log records"), tableWanted, "Log records")
	assert.ElementsMatch(t, slices.Collect(maps.Keys(rejections)), firstCells(t, page, "### Why entries are rejected"), tableWanted, "Why entries are rejected")
	var named []string
	for _, cell := range firstCells(t, page, "### Metrics") {
		name, label, labelled := strings.Cut(cell, "{")
		named = append(named, name)
		if labelled {
			assert.True(t, values[label[:strings.Index(label, "=")]], "%s: there is no label %s", operations, label)
		}
	}
	slices.Sort(named)
	assert.ElementsMatch(t, slices.Collect(maps.Keys(metrics)), slices.Compact(named), tableWanted, "Metrics")
}

// isLogCall reports whether a call is one of the functions that write a log record: their second argument is its message.
func isLogCall(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (f.Sel.Name == "log" || f.Sel.Name == "Report") && len(call.Args) >= 2
}

// literals are the values of those expressions that are string literals.
func literals(all []ast.Expr) (values []string) {
	for _, x := range all {
		if lit, ok := x.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				values = append(values, s)
			}
		}
	}
	return values
}
