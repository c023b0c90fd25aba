package tests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cFile is one .c file of the top folder.
type cFile struct {
	functions []cFunction
	names     map[string]bool // every scb_ name in it, comments and strings aside
	lines     int
}

type cFunction struct {
	name   string
	static bool
	lines  int
}

var (
	cNoise = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"`)
	// A definition starts in the first column and has its brace in the first column of a later line.
	cDefinition = regexp.MustCompile(`(?m)^((?:static )?\w[\w *]*?)\b(\w+)\([^;{}]*\)\n\{(?:.*\n)+?\}\n`)
	cName       = regexp.MustCompile(`\bscb_\w+`)
)

// withoutNoise blanks out comments and strings, and keeps the lines.
func withoutNoise(text string) string {
	return cNoise.ReplaceAllStringFunc(text, func(noise string) string { return strings.Repeat("\n", strings.Count(noise, "\n")) })
}

func parseC(text string) cFile {
	f := cFile{names: map[string]bool{}, lines: strings.Count(text, "\n")}
	text = withoutNoise(text)
	for _, m := range cDefinition.FindAllStringSubmatch(text, -1) {
		f.functions = append(f.functions, cFunction{name: m[2], static: strings.HasPrefix(m[1], "static "), lines: strings.Count(m[0], "\n")})
	}
	for _, name := range cName.FindAllString(text, -1) {
		f.names[name] = true
	}
	return f
}

func cFiles(t *testing.T) map[string]cFile {
	t.Helper()
	paths, err := filepath.Glob("../*.c")
	require.NoError(t, err)
	files := map[string]cFile{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		files[filepath.Base(path)] = parseC(string(text))
	}
	return files
}

// callGraph lists, for each file, the files whose functions it names.
func callGraph(files map[string]cFile) map[string][]string {
	definedIn := map[string]string{}
	for file, f := range files {
		for _, fn := range f.functions {
			if !fn.static {
				definedIn[fn.name] = file
			}
		}
	}
	graph := map[string][]string{}
	for file, f := range files {
		callees := map[string]bool{}
		for name := range f.names {
			if other := definedIn[name]; other != "" && other != file {
				callees[other] = true
			}
		}
		graph[file] = slices.Sorted(maps.Keys(callees))
	}
	return graph
}

// circle finds files that call each other in a circle; nil if there is none.
func circle(graph map[string][]string) []string {
	done := map[string]bool{}
	var walk func(path []string) []string
	walk = func(path []string) []string {
		file := path[len(path)-1]
		if i := slices.Index(path[:len(path)-1], file); i >= 0 {
			return path[i:]
		}
		if done[file] {
			return nil
		}
		for _, callee := range graph[file] {
			if found := walk(append(path, callee)); found != nil {
				return found
			}
		}
		done[file] = true
		return nil
	}
	for _, file := range slices.Sorted(maps.Keys(graph)) {
		if found := walk([]string{file}); found != nil {
			return found
		}
	}
	return nil
}

func TestHouse_CFilesCallInNoCircle(t *testing.T) {
	graph := callGraph(cFiles(t))
	// The parser finds calls that are certainly there: an empty graph has no circle either.
	require.Subset(t, graph["sess_callbacks.c"], []string{"errs.c", "slots.c", "thread.c"})
	require.Subset(t, graph["ssl_io.c"], []string{"errs.c", "slots.c", "thread.c"})
	assert.Empty(t, graph["errs.c"])
	assert.Empty(t, graph["thread.c"])
	assert.Empty(t, circle(graph), "these .c files call each other in a circle")
}

func TestHouse_CFunctionsAndFilesStaySmall(t *testing.T) {
	files := cFiles(t)
	require.Contains(t, files, "sess_callbacks.c")
	assert.Less(t, files["sess_callbacks.c"].lines, 250, "sess_callbacks.c holds the trampolines, and setting, detaching and calling callbacks: nothing else")
	for file, f := range files {
		require.NotEmpty(t, f.functions, file)
		for _, fn := range f.functions {
			assert.LessOrEqual(t, fn.lines, 60, "%s: %s has too many lines", file, fn.name)
		}
	}
}

// bridge.h has one section for each .c file. It declares every function that the file shares, and no other file's. The
// sections are in such an order that a file calls only files before its own.
func TestHouse_HeaderFollowsTheFiles(t *testing.T) {
	headers, err := filepath.Glob("../*.h")
	require.NoError(t, err)
	require.Equal(t, []string{"../bridge.h"}, headers)
	text, err := os.ReadFile(headers[0])
	require.NoError(t, err)

	heading := regexp.MustCompile(`(?m)^/\* ---- (\w+\.c): .*$`)
	declaration := regexp.MustCompile(`(?m)^\w[\w *]*?\b(scb_\w+)\([^{}]*?\);`)
	starts := heading.FindAllStringSubmatchIndex(string(text), -1)
	var order []string
	declared := map[string]map[string]bool{}
	for i, m := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		file := string(text[m[2]:m[3]])
		order = append(order, file)
		declared[file] = map[string]bool{}
		for _, d := range declaration.FindAllStringSubmatch(withoutNoise(string(text[m[0]:end])), -1) {
			declared[file][d[1]] = true
		}
	}

	files := cFiles(t)
	assert.ElementsMatch(t, slices.Collect(maps.Keys(files)), order, "the sections of bridge.h")
	for file, f := range files {
		var shared []string
		for _, fn := range f.functions {
			if !fn.static {
				shared = append(shared, fn.name)
			}
		}
		assert.ElementsMatch(t, shared, slices.Collect(maps.Keys(declared[file])), fmt.Sprintf("%s and its section of bridge.h", file))
	}
	for file, callees := range callGraph(files) {
		for _, callee := range callees {
			assert.Less(t, slices.Index(order, callee), slices.Index(order, file), "%s calls %s, whose section comes later", file, callee)
		}
	}
}
