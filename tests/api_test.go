package tests

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var writeAPI = flag.Bool("api", false, "write docs/api.txt")

// docs/api.txt lists what programs compile against, so that a change of it is seen in the change that makes it.
func TestAPI_IsTheListing(t *testing.T) {
	var text strings.Builder
	for _, dir := range publicFolders(t) {
		if decls := exported(t, dir); len(decls) > 0 {
			folder, err := filepath.Rel("..", dir)
			require.NoError(t, err)
			text.WriteString("==== " + filepath.ToSlash(folder) + "\n\n" + strings.Join(decls, "\n\n") + "\n\n")
		}
	}
	const listing = "../docs/api.txt"
	if *writeAPI {
		require.NoError(t, os.WriteFile(listing, []byte(text.String()), 0o644))
	}
	want, err := os.ReadFile(listing)
	require.NoError(t, err)
	if text.String() != string(want) {
		was, is := strings.Split(string(want), "\n\n"), strings.Split(text.String(), "\n\n")
		t.Errorf("docs/api.txt differs; what breaks programs belongs in CHANGELOG.md, and go test ./tests -api writes the file\ngone: %q\nnew: %q",
			without(was, is), without(is, was))
	}
}

func without(all, others []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(others, s) })
}

// publicFolders are those whose packages other modules can import and are meant to.
func publicFolders(t *testing.T) (dirs []string) {
	t.Helper()
	own := []string{"internal", "tests", "bench", "cmd", "examples", "cabi", "docs", "docker", "testdata"}
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != ".." && (strings.HasPrefix(name, ".") || slices.Contains(own, name)) {
			return filepath.SkipDir
		}
		dirs = append(dirs, path)
		return nil
	}))
	return dirs
}

// exported are the exported declarations of the package in a folder, in the order of their texts.
func exported(t *testing.T, dir string) (decls []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		if f.Name.Name == "main" || !ast.FileExports(f) {
			continue
		}
		for _, decl := range f.Decls {
			if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.IMPORT {
				continue
			}
			if fn, ok := decl.(*ast.FuncDecl); ok {
				if fn.Body = nil; !ofExported(fn) {
					continue
				}
			}
			var b bytes.Buffer
			require.NoError(t, (&printer.Config{Mode: printer.UseSpaces, Tabwidth: 4}).Fprint(&b, set, decl))
			decls = append(decls, b.String())
		}
	}
	slices.Sort(decls)
	return slices.Compact(decls)
}

// ofExported reports whether fn is a function, or a method of an exported type.
func ofExported(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	name := fn.Recv.List[0].Type
	for {
		switch typ := name.(type) {
		case *ast.StarExpr:
			name = typ.X
		case *ast.IndexExpr:
			name = typ.X
		case *ast.Ident:
			return typ.IsExported()
		}
	}
}
