package tests

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const architecture = "docs/architecture.md"

// elsewhere are names on the page that this module does not declare.
var elsewhere = []string{"SSL_CTX", "net.Conn", "context.AfterFunc", "libssl"}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	// A name and its file: `conn_io.go: Conn.Read`.
	placeSpan  = regexp.MustCompile(`^([\w/]+\.(?:go|c|h)): (\w[\w.]*)$`)
	nameSpan   = regexp.MustCompile(`^[\w./]+$`)
	sourceFile = regexp.MustCompile(`\b\w+\.(?:go|c|h)\b`)
	cLock      = regexp.MustCompile(`CRYPTO_RWLOCK \*(\w+);`)
	cStruct    = regexp.MustCompile(`(?s)struct (\w+) \{(.*?)\n\}`)
)

// names are the files, folders and declarations that the page may name.
type names struct {
	paths map[string]bool
	// in lists what each file declares: functions, types, variables, and Type.method.
	in map[string]map[string]bool
	// all has the declarations of all files, alone and behind their package, and for each type its members: Type.field.
	all map[string]bool
	// typeOf is the type of a field or variable, by its name in all.
	typeOf map[string]string
	// locks are the fields and variables that are locks.
	locks map[string]bool
}

func repositoryNames(t *testing.T) *names {
	t.Helper()
	n := &names{paths: map[string]bool{".": true}, in: map[string]map[string]bool{}, all: map[string]bool{}, typeOf: map[string]string{}, locks: map[string]bool{}}
	for file, text := range sources(t, ".go", ".c", ".h", ".md") {
		for p := file; p != "."; p = path.Dir(p) {
			n.paths[p] = true
		}
		folder := path.Dir(file)
		switch ext := path.Ext(file); {
		case strings.HasSuffix(file, "_test.go") || ext == ".md":
		case ext == ".go" && (folder == "." || folder == "cgo" || folder == "store" || folder == "ticket" || path.Dir(folder) == "internal"):
			f, err := parser.ParseFile(token.NewFileSet(), file, text, 0)
			require.NoError(t, err)
			n.addGo(file, f)
		case folder == ".":
			n.addC(file, text)
		}
	}
	return n
}

func (n *names) declare(file, name string) {
	if n.in[file] == nil {
		n.in[file] = map[string]bool{}
	}
	n.in[file][name], n.all[name] = true, true
	if pkg := path.Base(path.Dir(file)); pkg != "." {
		n.all[pkg+"."+name] = true
	}
}

func (n *names) addGo(file string, f *ast.File) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = baseType(d.Recv.List[0].Type) + "." + name
			}
			n.declare(file, name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					n.declare(file, spec.Name.Name)
					n.addMembers(file, spec)
				case *ast.ValueSpec:
					for _, id := range spec.Names {
						n.declare(file, id.Name)
						n.addType(id.Name, spec.Type)
					}
				}
			}
		}
	}
}

func (n *names) addMembers(file string, spec *ast.TypeSpec) {
	var members *ast.FieldList
	switch t := spec.Type.(type) {
	case *ast.StructType:
		members = t.Fields
	case *ast.InterfaceType:
		members = t.Methods
	default:
		return
	}
	for _, m := range members.List {
		for _, id := range m.Names {
			member := spec.Name.Name + "." + id.Name
			n.declare(file, member)
			n.addType(member, m.Type)
		}
	}
}

func (n *names) addType(name string, x ast.Expr) {
	n.typeOf[name] = baseType(x)
	if t := n.typeOf[name]; t == "Mutex" || t == "RWMutex" {
		n.locks[name] = true
	}
}

// baseType is the name of a type without its package, pointers and parameters, "" if it has none.
func baseType(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.StarExpr:
		return baseType(x.X)
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.IndexExpr:
		return baseType(x.X)
	}
	return ""
}

func (n *names) addC(file, text string) {
	f := parseC(text)
	for _, fn := range f.functions {
		n.declare(file, fn.name)
	}
	for name := range f.names {
		n.all[name] = true
	}
	for _, m := range cStruct.FindAllStringSubmatch(withoutNoise(text), -1) {
		for _, field := range regexp.MustCompile(`\w+`).FindAllString(m[2], -1) {
			n.all[m[1]+"."+field] = true
		}
		for _, lock := range cLock.FindAllStringSubmatch(m[2], -1) {
			n.locks[m[1]+"."+lock[1]] = true
		}
	}
	for _, lock := range cLock.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(lock[1], "scb_") {
			n.locks[lock[1]] = true
		}
	}
}

// has reports whether name is declared. In Context.id.mu each part is a member of the type of the part before.
func (n *names) has(name string) bool {
	if n.all[name] {
		return true
	}
	i := strings.LastIndex(name, ".")
	if i < 0 {
		return false
	}
	t := n.typeOf[name[:i]]
	return t != "" && n.has(t+name[i:])
}

// unknown lists the code spans of text that name something that does not exist.
func (n *names) unknown(text string) (bad []string) {
	for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
		span := m[1]
		file, name := "", span
		if p := placeSpan.FindStringSubmatch(span); p != nil {
			file, name = p[1], p[2]
		}
		switch {
		case file == "" && strings.Contains(span, ":"):
			bad = append(bad, fmt.Sprintf("%s is not of the form file.go: Name", span))
		case file != "" && !n.in[file][name]:
			bad = append(bad, fmt.Sprintf("%s does not declare %s", file, name))
		case file != "" || slices.Contains(elsewhere, span) || n.paths[span]:
		case strings.HasSuffix(span, "/...") && n.paths[strings.TrimSuffix(span, "/...")]:
		case nameSpan.MatchString(span) && !n.has(span):
			bad = append(bad, fmt.Sprintf("%s is nowhere in the code", span))
		}
	}
	return bad
}

func readArchitecture(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../" + architecture)
	require.NoError(t, err)
	return string(text)
}

// split parts the page into its text and its pictures.
func split(page string) (text, pictures string) {
	for i, part := range strings.Split(page, "```") {
		if i%2 == 0 {
			text += part
		} else {
			pictures += part
		}
	}
	return text, pictures
}

// The page names files, functions, types and fields. Each must exist, or the page describes an older house.
func TestArchitecture_NamesExist(t *testing.T) {
	n := repositoryNames(t)
	text, pictures := split(readArchitecture(t))
	for i, line := range strings.Split(text, "\n") {
		require.Zero(t, strings.Count(line, "`")%2, "%s: a code span is not closed on its line: %q (%d)", architecture, line, i)
	}
	spans := codeSpan.FindAllStringSubmatch(text, -1)
	require.Greater(t, len(spans), 200)
	assert.Empty(t, n.unknown(text), architecture)
	for _, file := range sourceFile.FindAllString(pictures, -1) {
		assert.True(t, n.paths[file], "%s: there is no %s in the top folder", architecture, file)
	}
}

func TestArchitecture_MisspeltNamesAreFound(t *testing.T) {
	n := repositoryNames(t)
	for _, span := range []string{
		"conn_io.go: Conn.Raed", "conn.go: Conn.Read", "con_io.go: Conn.Read", "thread.c: scb_may_cal_go", "slots.c: scb_may_call_go",
		"internal/wire/reader.go: Reader.Flil", "internal/wire/writer.go: Reader.Fill",
		"tests/hause_test.go", "con_io.go", "internal/wires", "Conn.Raed", "engine.endVisits", "engine.mux", "guarded.Store.latest",
		"conn_io.go:Conn.Read", "Context.id.mux", "Context.di.mu", "wire.Conn", "takeslot", "scb_setp", "scb_ctx.lok", "ErrReentrand",
	} {
		assert.Len(t, n.unknown("`"+span+"`"), 1, span)
	}
	for _, span := range []string{
		"conn_io.go: Conn.Read", "thread.c: scb_may_call_go", "tests/house_test.go", "internal/wire", "engine.mu", "Context.id.mu",
		"guarded.Store.late", "cgo.Registry.mu", "parking.Place.Ready", "scb_ctx.lock", "*copy = 0",
	} {
		assert.Empty(t, n.unknown("`"+span+"`"), span)
	}
}

// rows are the rows of the tables of one section: the code spans of the first column and those of the second.
func rows(t *testing.T, page, heading string) (all [][2][]string) {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n## "+heading+"\n")
	require.True(t, ok, "%s has no section %q", architecture, heading)
	section, _, _ := strings.Cut(rest, "\n## ")
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		var row [2][]string
		for i := range row {
			for _, m := range codeSpan.FindAllStringSubmatch(cells[i+1], -1) {
				row[i] = append(row[i], m[1])
			}
		}
		all = append(all, row)
	}
	return all
}

// The page gives the subject of every file of the top folder and of every package that it is built from.
func TestArchitecture_EveryFileHasASubject(t *testing.T) {
	page := readArchitecture(t)
	_, pictures := split(page)
	subjects := map[string]bool{}
	for _, row := range rows(t, page, "The rooms") {
		for _, name := range row[0] {
			subjects[name] = true
		}
	}
	for file := range sources(t, ".go", ".c", ".h") {
		folder := path.Dir(file)
		switch {
		case strings.HasSuffix(file, "_test.go"):
		case folder == ".":
			assert.True(t, subjects[file], "%s does not give the subject of %s", architecture, file)
			assert.True(t, strings.Contains(pictures, file), "the picture of %s does not show %s", architecture, file)
		case folder == "cgo" || path.Dir(folder) == "internal":
			assert.True(t, subjects[folder], "%s does not give the subject of %s", architecture, folder)
		}
	}
}

// The table of imports is mayImport.
func TestArchitecture_ImportsAreTheTable(t *testing.T) {
	table := map[string][]string{}
	for _, row := range rows(t, readArchitecture(t), "Imports") {
		for _, name := range row[0] {
			table[name] = row[1]
		}
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(mayImport)), slices.Collect(maps.Keys(table)))
	for name, imports := range mayImport {
		assert.ElementsMatch(t, imports, table[name], name)
	}
}

// A lock that has no place in the order can be taken in any.
func TestArchitecture_EveryLockHasAPlace(t *testing.T) {
	n := repositoryNames(t)
	var order []string
	for _, row := range rows(t, readArchitecture(t), "Locks") {
		order = append(order, row[0]...)
	}
	require.Subset(t, slices.Collect(maps.Keys(n.locks)), []string{"engine.mu", "attaching", "shard.mu", "scb_all_lock", "scb_ctx.lock"})
	for lock := range n.locks {
		listed := slices.ContainsFunc(order, func(l string) bool { return l == lock || strings.HasSuffix(l, "."+lock) })
		assert.True(t, listed, "%s has no place in the order of locks in %s", lock, architecture)
	}
}
