package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// storeLayer are the files above layer.go.
var storeLayer = map[string]bool{
	"session_cache.go": true, "session_hooks.go": true, "attached_ssl.go": true, "session_stats.go": true,
}

// topFiles parses the top folder's Go files, tests aside.
func topFiles(t *testing.T) (files map[string]*ast.File, set *token.FileSet) {
	t.Helper()
	set = token.NewFileSet()
	files = map[string]*ast.File{}
	paths, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	for _, p := range paths {
		if name := filepath.Base(p); !strings.HasSuffix(name, "_test.go") {
			files[name], err = parser.ParseFile(set, p, nil, 0)
			require.NoError(t, err)
		}
	}
	return files, set
}

// declared lists what a file declares at its top level, without methods: a method is named through a type.
func declared(f *ast.File) (names []string) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name != "init" {
				names = append(names, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, spec.Name.Name)
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// named are the identifiers that f uses by themselves, which is how a package's own names are used.
func named(f *ast.File) map[string]bool {
	found := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			ast.Inspect(n.X, func(x ast.Node) bool {
				if id, ok := x.(*ast.Ident); ok {
					found[id.Name] = true
				}
				return true
			})
			return false
		case *ast.Ident:
			found[n.Name] = true
		}
		return true
	})
	return found
}

func TestHouse_LowerFilesNameNothingOfTheStoreLayer(t *testing.T) {
	files, _ := topFiles(t)
	var names []string
	for name := range storeLayer {
		require.Contains(t, files, name)
		for _, n := range declared(files[name]) {
			if n != "_" && !strings.HasPrefix(n, "scbGo") { // exports, which C calls
				names = append(names, n)
			}
		}
	}
	require.Contains(t, names, "SessionCache")
	require.Contains(t, named(files["session_hooks.go"]), "SessionCache", "uses are found")
	for file, f := range files {
		if storeLayer[file] {
			continue
		}
		uses := named(f)
		for _, n := range names {
			assert.False(t, uses[n], "%s names %s of the store layer: layer.go has the interface", file, n)
		}
		for _, spec := range f.Imports {
			p := strings.Trim(spec.Path.Value, `"`)
			for _, upper := range []string{"internal/lookup", "internal/guarded", "internal/entry", "internal/parking"} {
				assert.NotEqual(t, path.Join(module, upper), p, "%s imports %s", file, upper)
			}
		}
	}
}

// A struct with more fields is several things. CacheStats and the like are excepted: exported fields alone, so a record of
// numbers without a lock or an invariant.
func TestHouse_StructsOfTheTopFolderStaySmall(t *testing.T) {
	files, set := topFiles(t)
	structs := 0
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			structs++
			fields, record := 0, true
			for _, field := range s.Fields.List {
				fields += max(1, len(field.Names))
				for _, n := range field.Names {
					record = record && n.IsExported()
				}
			}
			assert.True(t, record || fields <= 16, "%v: %s has %d fields", set.Position(spec.Pos()), spec.Name.Name, fields)
			return true
		})
	}
	require.Greater(t, structs, 20)
}

// Tests and tables aside, a function fits on a screen.
func TestHouse_FunctionsAndTestFilesStaySmall(t *testing.T) {
	functions := 0
	for file, text := range sources(t, ".go") {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "tests/") {
			assert.LessOrEqual(t, strings.Count(text, "\n"), 700, "%s has too many lines", file)
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, text, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
				functions++
				lines := set.Position(d.End()).Line - set.Position(d.Pos()).Line + 1
				assert.LessOrEqual(t, lines, 60, "%s: %s has too many lines", file, d.Name.Name)
			}
		}
	}
	require.Greater(t, functions, 500)
}
