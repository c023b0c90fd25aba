package tests

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
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

// documents returns the Markdown files by their path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, file := range tracked(t) {
		if path.Ext(file) == ".md" {
			text, err := os.ReadFile(filepath.Join("..", file))
			require.NoError(t, err)
			found[file] = string(text)
		}
	}
	require.Contains(t, found, "README.md")
	return found
}

// codeBlock is a fenced block of a document.
type codeBlock struct {
	file     string
	line     int // of its first line of code
	language string
	code     string
}

// blocksOf returns the fenced blocks of a document and the text around them.
func blocksOf(file, document string) (blocks []codeBlock, rest string) {
	var b *codeBlock
	n := 0
	for line := range strings.Lines(document) {
		n++
		language, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && b == nil:
			language, _, _ = strings.Cut(language, " ")
			b = &codeBlock{file: file, line: n + 1, language: language}
		case fence:
			blocks, b = append(blocks, *b), nil
		case b != nil:
			b.code += line
		default:
			rest += line
		}
	}
	return blocks, rest
}

// packages are what the Go blocks of documents import where they name no imports.
var packages = map[string]string{
	"libssl": module, "store": module + "/store", "ticket": module + "/ticket", "metrics": module + "/metrics",
	"memstore": module + "/store/memstore", "sqlitestore": module + "/store/sqlitestore", "storetest": module + "/store/storetest",
	"valkeystore": module + "/store/valkeystore", "memcachestore": module + "/store/memcachestore", "tiered": module + "/store/tiered",
	"sharedring": module + "/store/sharedring", "sslhttp": module + "/sslhttp", "spacemonkey": module + "/porting/spacemonkey",
	"context": "context", "expvar": "expvar", "fmt": "fmt", "http": "net/http", "io": "io", "log": "log", "os": "os", "slog": "log/slog", "sync": "sync",
	"testing": "testing", "time": "time", "tls": "crypto/tls", "unsafe": "unsafe",
}

// given are the variables that the Go blocks of documents use without declaring them.
var given = map[string]string{
	"ctx": "*libssl.Context", "conn": "*libssl.Conn", "cache": "*libssl.SessionCache", "l": "*libssl.Listener", "st": "store.Store", "sessions": "store.Store",
	"ring": "*ticket.Ring", "err": "error", "handler": "http.Handler", "srv": "*http.Server", "sslCtx": "unsafe.Pointer", "theirs": "any",
}

// program makes a file of a Go block: a whole file, declarations, or statements.
func (b codeBlock) program() (string, error) {
	if strings.HasPrefix(b.code, "package ") {
		_, code, _ := strings.Cut(b.code, "\n")
		return fmt.Sprintf("package block\n//line %s:%d\n%s", b.file, b.line+1, code), nil
	}
	body, f, err := b.code, (*ast.File)(nil), error(nil)
	if f, err = parser.ParseFile(token.NewFileSet(), b.file, "package block\n"+body, 0); err != nil {
		if f, err = parser.ParseFile(token.NewFileSet(), b.file, "package block\nfunc _() {\n"+body+"}\n", 0); err != nil {
			return "", fmt.Errorf("%s:%d: %w", b.file, b.line, err)
		}
		body = fmt.Sprintf("%s%s}\n", body, used(f.Decls[0].(*ast.FuncDecl).Body))
	}
	isStatements := body != b.code
	imports, variables := map[string]bool{}, map[string]bool{}
	for _, id := range f.Unresolved {
		if typ, ok := given[id.Name]; ok {
			variables["var "+id.Name+" "+typ+"\n"] = true
			imports[strings.TrimLeft(typ[:max(0, strings.Index(typ, "."))], "*")] = true
		} else if packages[id.Name] != "" {
			imports[id.Name] = true
		}
	}
	var text strings.Builder
	text.WriteString("package block\n")
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		if name != "" {
			fmt.Fprintf(&text, "import %s %q\n", name, packages[name])
		}
	}
	for _, v := range slices.Sorted(maps.Keys(variables)) {
		text.WriteString(v)
	}
	if isStatements {
		text.WriteString("func _() {\n")
	}
	fmt.Fprintf(&text, "//line %s:%d\n%s", b.file, b.line, body)
	return text.String(), nil
}

// used makes statements that use what a body declares: an excerpt may end before the use.
func used(body *ast.BlockStmt) (text string) {
	for _, stmt := range body.List {
		if a, ok := stmt.(*ast.AssignStmt); ok && a.Tok == token.DEFINE {
			for _, x := range a.Lhs {
				if name := x.(*ast.Ident).Name; name != "_" {
					text += "_ = " + name + "\n"
				}
			}
		}
	}
	return text
}

// program makes a file of a C block, which has statements, behind its includes.
func (b codeBlock) cProgram() string {
	includes, statements := "#include <err.h>\n#include <openssl/ssl.h>\n", ""
	for line := range strings.Lines(b.code) {
		if strings.HasPrefix(line, "#include") {
			includes += line
			line = "\n"
		}
		statements += line
	}
	return fmt.Sprintf("%sint block(SSL_CTX *ctx, SSL *ssl);\nint block(SSL_CTX *ctx, SSL *ssl)\n{\n(void)ctx, (void)ssl;\n#line %d %q\n%sreturn 0;\n}\n",
		includes, b.line, b.file, statements)
}

// Lines of Go or C that stand where no compiler sees them: indented, or in a block that names no language.
var (
	indentedCode = regexp.MustCompile(`(?m)^(?:\t| {4})(?:.*:=.*|.*;|\w+\.[A-Z]\w*\(.*)$`)
	unnamedCode  = regexp.MustCompile(`(?m)^(?:.*:=.*|.*;|package .*|\s*\w+\.[A-Z]\w*\(.*)$`)
)

// Code that is printed is copied, so it must compile.
func TestDocuments_CodeCompiles(t *testing.T) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	dir := t.TempDir()
	overlay, build := map[string]string{}, []string{}
	var cFiles []string
	for file, text := range documents(t) {
		blocks, rest := blocksOf(file, text)
		assert.Empty(t, indentedCode.FindAllString(rest, -1), "%s has code that is not in a block with ```go or ```c", file)
		for _, b := range blocks {
			name := filepath.Join(dir, fmt.Sprintf("block%d_%d", len(build), len(cFiles)))
			switch b.language {
			case "go":
				code, err := b.program()
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(name+".go", []byte(code), 0o600))
				pkg := "tests/documents/" + filepath.Base(name)
				overlay[filepath.Join(root, pkg, "block.go")], build = name+".go", append(build, "./"+pkg)
			case "c":
				require.NoError(t, os.WriteFile(name+".c", []byte(b.cProgram()), 0o600))
				cFiles = append(cFiles, name+".c")
			case "":
				assert.Empty(t, unnamedCode.FindAllString(b.code, -1), "%s:%d: the block has code and names no language", b.file, b.line)
			case "diff": // of tests/mutate
			default:
				t.Errorf("%s:%d: the test compiles no %q", b.file, b.line, b.language)
			}
		}
	}
	require.NotEmpty(t, build)
	require.NotEmpty(t, cFiles)

	config, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), config, 0o600))
	run(t, "go", append([]string{"build", "-overlay", filepath.Join(dir, "overlay.json")}, build...)...)
	flags := strings.Fields(run(t, "pkg-config", "--cflags", "libssl"))
	run(t, "cc", append(append(flags, "-Icabi", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"), cFiles...)...)
}

// run runs a program in the top folder.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

var (
	documentLink = regexp.MustCompile(`\]\(([^)#:]+)\)`)
	testName     = regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz|Example)[A-Z]\w*`)
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz|Example)\w*)\(`)
	makeTarget   = regexp.MustCompile("(?m)(?:`|^    )make ([a-z-]+)")
)

// Links lead to files, and tests and make targets that a document names exist.
func TestDocuments_NameWhatExists(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	functions := map[string]bool{}
	for file, text := range sources(t, ".go") {
		for _, m := range testFunction.FindAllStringSubmatch(text, -1) {
			functions[m[1]] = true
		}
		functions[path.Base(file)] = true
	}
	files := tracked(t)
	for file, text := range documents(t) {
		for _, m := range documentLink.FindAllStringSubmatch(text, -1) {
			to := path.Join(path.Dir(file), m[1])
			assert.True(t, slices.ContainsFunc(files, func(f string) bool { return f == to || strings.HasPrefix(f, to+"/") }), "%s: no %s", file, to)
		}
		for _, name := range testName.FindAllString(text, -1) {
			assert.True(t, functions[name] || name == "TestX" || strings.HasPrefix(name, "TestMain"), "%s: there is no %s", file, name)
		}
		for _, m := range makeTarget.FindAllStringSubmatch(text, -1) {
			assert.Contains(t, "\n"+string(makefile), "\n"+m[1]+":", "%s names make %s", file, m[1])
		}
	}
}
