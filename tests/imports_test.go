// Package tests checks rules for the repository as a whole.
package tests

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/libssl-go/libssl"

// pure packages are for everyone: no cgo, nothing but the standard library.
var pure = []string{"store", "store/storetest", "store/memstore", "store/sharedring", "store/tiered", "store/valkeystore/internal/records", "ticket",
	"internal/entry", "internal/guarded", "internal/hello", "internal/lookup", "internal/ownfile", "internal/wire"}

// mayImport lists, for a package, the packages of the module that it may import. "." is the root package. A package that is
// not in the table may import any package that the other tests here allow.
var mayImport = map[string][]string{
	".": {"cgo", "internal/parking", "internal/entry", "internal/guarded", "internal/hello", "internal/lookup", "internal/ownfile", "internal/wire",
		"store", "ticket"},
	"internal/wire":    {},
	"internal/hello":   {"store"},
	"internal/guarded": {"store"},
	"internal/entry":   {"store", "ticket"},
	"internal/lookup":  {"internal/entry", "internal/guarded", "internal/hello", "store", "ticket"},
	"cgo":              {},
	"internal/parking": {},
	"store":            {},
	"store/storetest":  {"store"},
	"store/memstore":   {"store"},
	"store/sharedring": {"store", "ticket"},
	"store/tiered":     {"store", "store/memstore"},
	"ticket":           {"internal/ownfile"},
	"internal/ownfile": {},
	"metrics":          {"."},
	"sslhttp":          {"."},

	"store/valkeystore/internal/records": {"store"},

	"porting/spacemonkey": {"."},
}

// goPackage describes a package in the output of `go list -json`.
type goPackage struct {
	ImportPath    string
	Standard      bool
	Imports, Deps []string
	Module        *struct{ Path string }
}

// name returns the folder of the package in the repository: "." for the root, "" for a package of another module.
func (p goPackage) name() string { return inModule(p.ImportPath) }

func inModule(importPath string) string {
	if importPath == module {
		return "."
	}
	name, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return name
}

// list returns the packages of the main module and all their dependencies.
func list(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps,Module", "./...")
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)

	all := map[string]goPackage{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		all[p.ImportPath] = p
	}
	require.Contains(t, all, module, "go list -deps ./... does not know the root package")
	return all
}

func TestImports_FollowTheTable(t *testing.T) {
	all := list(t)
	for name, allowed := range mayImport {
		importPath := path.Join(module, name)
		if !assert.Contains(t, all, importPath, "the table names a package that does not exist") {
			continue
		}
		for _, imported := range all[importPath].Imports {
			if dep := inModule(imported); dep != "" {
				assert.Contains(t, allowed, dep, "%s imports %s", importPath, imported)
			} else {
				assert.True(t, imported == "C" || all[imported].Standard, "%s imports %s, which is not in the standard library", importPath, imported)
			}
		}
	}
}

func TestImports_BackEndsAndLibsslDoNotMeet(t *testing.T) {
	all := list(t)
	for _, p := range all {
		name := p.name()
		if name == "." {
			for _, dep := range p.Deps {
				assert.False(t, strings.HasPrefix(inModule(dep), "store/"), "libssl depends on back end %s", dep)
			}
		}
		if !strings.HasPrefix(name, "store/") {
			continue
		}
		clients := map[string]bool{}
		for _, imported := range p.Imports {
			if dep := inModule(imported); dep != "" {
				allowed := append([]string{"store", "ticket", "internal/ownfile"}, mayImport[name]...)
				own := strings.HasPrefix(dep, name+"/internal/")
				assert.True(t, own || slices.Contains(allowed, dep), "back end %s imports %s", name, dep)
			} else if m := all[imported].Module; m != nil {
				clients[m.Path] = true
			}
		}
		assert.LessOrEqual(t, len(clients), 1, "back end %s has more than one client library: %v", name, clients)
		for _, dep := range p.Deps {
			assert.NotContains(t, []string{".", "cgo"}, inModule(dep), "back end %s depends on %s", name, dep)
		}
	}
}

func TestImports_OnlyConformanceRunsTheReference(t *testing.T) {
	for _, p := range list(t) {
		for _, imported := range p.Imports {
			if inModule(imported) == "tests/internal/cref" {
				// The second counts what a run of the reference leaves behind.
				assert.Contains(t, []string{"tests/conformance", "tests/internal/leftover"}, p.name(), "%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

func TestImports_PurePackagesBuildWithoutCgo(t *testing.T) {
	args := []string{"build"}
	for _, name := range pure {
		args = append(args, "./"+name)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
}

func TestSources_CgoStaysInItsRooms(t *testing.T) {
	for file := range sources(t, ".go") {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, spec := range f.Imports {
			if spec.Path.Value != `"C"` {
				continue
			}
			folder := path.Dir(file)
			// cabi is a library for C programs, and only a package that imports "C" can export functions to C.
			porting := folder == "cabi" || strings.HasPrefix(folder, "tests/porting") || strings.HasPrefix(folder, "examples/port-from-c")
			if !porting {
				assert.Contains(t, []string{".", "cgo", "tests/internal/cref"}, folder, `%s imports "C"`, file)
			}
		}
	}
}

// The build cache of Go does not notice when a header in another folder changes.
func TestSources_NoIncludeCrossesAFolder(t *testing.T) {
	include := regexp.MustCompile(`(?m)^\s*#\s*include\s*"[^"]*/[^"]*"`)
	elsewhere := regexp.MustCompile(`(?m)^(//)?\s*#cgo\b.*-I\S*\.\.`)
	for file, text := range sources(t, ".go", ".c", ".h") {
		assert.Empty(t, include.FindAllString(text, -1), file)
		assert.Empty(t, elsewhere.FindAllString(text, -1), file)
	}
}

func TestSources_VersionsAreComparedInOnePlace(t *testing.T) {
	number := "OPENSSL_VERSION" + "_NUMBER" // split, so that this file does not match
	for file, text := range sources(t, ".go", ".c", ".h") {
		if file != "bridge.h" && file != "cgo/openssl.go" {
			assert.False(t, strings.Contains(text, number), "%s compares %s: name a feature in bridge.h", file, number)
		}
	}
}

// sources returns the repository's files with these extensions, including those of nested modules, by their slashed path.
func sources(t *testing.T, extensions ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && file != ".." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		for _, ext := range extensions {
			if !d.IsDir() && filepath.Ext(file) == ext {
				text, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				rel, err := filepath.Rel("..", file)
				if err != nil {
					return err
				}
				found[filepath.ToSlash(rel)] = string(text)
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found
}
