package road_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/cgo"
)

// call is a C name of the table, and since when OpenSSL has it: major*256 + minor, 0 for always.
type call struct {
	name  string
	since uint64
}

// table reads the one under "Every call" in docs/porting.md.
func table(t *testing.T) (calls []call, goNames []string) {
	t.Helper()
	text, err := os.ReadFile("../../../docs/porting.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "\n## Every call\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")

	c := regexp.MustCompile("`(\\w+)`(?: \\((\\d+)\\.(\\d+)\\))?")
	goName := regexp.MustCompile("`([A-Z]\\w*(?:\\.[A-Z]\\w*)?)`")
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		for _, m := range c.FindAllStringSubmatch(cells[1], -1) {
			major, _ := strconv.ParseUint(m[2], 10, 64)
			minor, _ := strconv.ParseUint(m[3], 10, 64)
			calls = append(calls, call{m[1], major<<8 | minor})
		}
		found := goName.FindAllStringSubmatch(cells[2], -1)
		assert.True(t, len(found) > 0 || strings.HasPrefix(cells[2], " none: "), "neither a name nor a reason: %s", line)
		for _, m := range found {
			goNames = append(goNames, m[1])
		}
	}
	return calls, goNames
}

// declared is what OpenSSL's header has, as the compiler sees it: functions and macros.
func declared(t *testing.T) (text string) {
	t.Helper()
	pkgConfig := append(words("PKG_CONFIG", "pkg-config"), "--cflags", "libssl")
	flags, err := exec.Command(pkgConfig[0], pkgConfig[1:]...).Output()
	require.NoError(t, err)
	args := append(words("CC", "gcc"), words("CGO_CFLAGS", "-O2 -g")...)
	args = append(args, strings.Fields(string(flags))...)
	cmd := exec.Command(args[0], append(args[1:], "-E", "-dD", "-x", "c", "-")...)
	cmd.Stdin = strings.NewReader("#include <openssl/ssl.h>\n#include <openssl/pem.h>\n#include <openssl/evp.h>\n#include <openssl/store.h>\n")
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

func TestTable_HasEveryCallOfTheHeader(t *testing.T) {
	calls, _ := table(t)
	header := declared(t)
	here := cgo.VersionNumber() >> 28 << 8
	here |= cgo.VersionNumber() >> 20 & 0xff

	inHeader := map[string]bool{}
	for word := range strings.FieldsFuncSeq(header, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		inHeader[word] = true
	}
	inTable := map[string]bool{}
	for _, c := range calls {
		assert.False(t, inTable[c.name], "%s is there twice", c.name)
		inTable[c.name] = true
		assert.Equal(t, here >= c.since, inHeader[c.name], "%s in this OpenSSL's header", c.name)
	}

	// A name that a parenthesis follows, or that is another's by a macro.
	about := `((?:d2i_|i2d_|PEM_\w+_)?SSL_SESSION(?:_\w+)?|SSL_CTX_sess_\w+|SSL_(?:\w*_)?\w*session\w*)`
	scan := regexp.MustCompile(`\b` + about + `\s*\(|#\s*define\s+` + about + `\b`)
	lower := regexp.MustCompile(`[a-z]`)
	n := 0
	for _, m := range scan.FindAllStringSubmatch(header, -1) {
		if name := m[1] + m[2]; lower.MatchString(name) { // else a constant or a type
			assert.True(t, inTable[name], "%s is missing", name)
			n++
		}
	}
	require.Greater(t, n, 80, "the header was not understood")
}

func TestTable_NamesWhatThisModuleHas(t *testing.T) {
	_, goNames := table(t)
	require.NotEmpty(t, goNames)
	files, err := filepath.Glob("../../../*.go")
	require.NoError(t, err)
	has := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				has[receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							has[name.Name] = true
						}
					case *ast.TypeSpec:
						has[spec.Name.Name] = true
					}
				}
			}
		}
	}
	for _, name := range goNames {
		assert.True(t, has[name], "libssl has no %s", name)
	}
}

// receiver is "Context." for a method of *Context, "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	expr := d.Recv.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if name, ok := expr.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}
