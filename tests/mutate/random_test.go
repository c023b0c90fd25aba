package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// afterwards are the texts that changes make of src, without the lines that stay.
func afterwards(src string, all []change) (texts []string) {
	for _, c := range all {
		s := site{"x", []byte(src), c}
		before, after := strings.Split(src, "\n"), strings.Split(string(s.mutated()), "\n")
		for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
			before, after = before[1:], after[1:]
		}
		for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
			before, after = before[:len(before)-1], after[:len(after)-1]
		}
		texts = append(texts, strings.TrimSpace(strings.Join(after, " ")))
	}
	slices.Sort(texts)
	return texts
}

func sorted(texts ...string) []string {
	slices.Sort(texts)
	return texts
}

func TestGoChanges(t *testing.T) {
	for src, want := range map[string][]string{
		"x := a == b":                      {"x := a != b"},
		"x = a < b":                        {"x = a <= b", "x = a >= b", ""},
		"x += y":                           {"x -= y", ""},
		"x++":                              {"x--", ""},
		"_ = y":                            nil,
		"x := 0x1f":                        {"x := (0x1f+1)", "x := (0x1f-1)"},
		"x := true":                        {"x := false"},
		"f(s)":                             {""},
		"defer f(s)":                       {""},
		"if f(s) {\n}":                     {"if !(f(s)) {"},
		"if !ok {\n}":                      {"if ok {"},
		"if a == nil {\n}":                 {"if a != nil {"},
		"if a && b {\n}":                   {"if a || b {", "if !(a && b) {"},
		"for ok {\nbreak\n}":               {"for !(ok) {", ""},
		"switch {\ncase ok:\ng()\n}":       {"case !(ok):", ""},
		"switch x {\ncase y:\ng()\n}":      {""},
		`x := "a == b" // and 1 < 2, true`: nil,
	} {
		file := "package p\n\nfunc f(s []T) {\n" + src + "\n}\n"
		all, err := goChanges([]byte(file))
		require.NoError(t, err)
		require.Equal(t, sorted(want...), afterwards(file, all), src)
	}
	_, err := goChanges([]byte("no Go"))
	require.Error(t, err)
}

func TestGoChanges_ReturnsZeros(t *testing.T) {
	const src = `package p

func f() (n int, err error) {
	g := func() bool { return ok }
	return h(g), e
}

func k() (T, *T, string) { return t, nil, s }
`
	all, err := goChanges([]byte(src))
	require.NoError(t, err)
	require.Equal(t, sorted(
		"g := func() bool { return false }", "g := func() bool { return true }",
		"return 0, e", "return h(g), nil",
		`func k() (T, *T, string) { return t, nil, "" }`,
	), afterwards(src, all))
}

func TestCChanges(t *testing.T) {
	for src, want := range map[string][]string{
		"    if (a == b)\n        f(c);":            {"if (a != b)", ";"},
		"    if (!a)\n        return;":              {"if (a)", ";"},
		"    if (c->on)\n        return b;":         {"if (!(c->on))", "return 0;"},
		"    while (a && f(b))\n        c = d;":     {"while (a || f(b))", "while (!(a && f(b)))", ";"},
		"    a |= 1u << b;":                         {"a &= 1u << b;", "a |= 1u >> b;", "a |= (1u + 1) << b;", "a |= (1u - 1) << b;", ";"},
		"    if (f(&b) != c)\n        ;":            {"if (f(&b) == c)"},
		"    return SCB_FAIL;":                      {"return 1;"},
		"    return NULL;":                          nil,
		"    return 1;":                             {"return 0;"},
		"    return 0;":                             {"return 1;"},
		"    SSL *ssl = f(a);":                      nil,
		"    *c->link = c->next;":                   {";"},
		"    for (; a < b; a++)\n        ;":         {"for (; a <= b; a++)", "for (; a >= b; a++)", "for (; a < b; a--)"},
		"    case X:\n        goto fail;":           {";"},
		"    f(\"a == 1\"); /* 2 < 3 */ // 4":       {"; /* 2 < 3 */ // 4"},
		"#if A == 1\n    (void)a, (void)b;\n#endif": nil,
	} {
		file := "int x = 1;\n\nint f(int a)\n{\n" + src + "\n}\n"
		require.Equal(t, sorted(want...), afterwards(file, cChanges([]byte(file))), src)
	}
}

func TestSite_ShowsItsLines(t *testing.T) {
	s := site{"a.go", []byte("one\n\ttwo(\n\t\tx)\nthree\n"), change{5, 13, "y"}}
	require.Equal(t, "a.go:2", s.where())
	require.Equal(t, "-\ttwo(\n-\t\tx)\n+\ty)\n", s.diff())
}

// The next mutant replaces one that does not compile.
func TestQueue(t *testing.T) {
	var all []site
	for i := range 6 {
		all = append(all, site{"f", make([]byte, 10), change{from: i}})
	}
	q := newQueue(all, 3)
	one, _ := q.next()
	two, _ := q.next()
	three, _ := q.next()
	q.done(two, false, nil, nil)
	four, ok := q.next()
	require.True(t, ok)
	require.Equal(t, 3, four.from)
	q.done(three, true, nil, nil)
	q.done(one, true, []string{"Test"}, nil)
	q.done(four, true, nil, nil)
	_, ok = q.next()
	require.False(t, ok)
	require.Equal(t, []int{3, 1, 2}, []int{q.tried, q.broken, len(q.unnoticed)})

	q = newQueue(all[:1], 3)
	q.next()
	q.done(all[0], true, nil, nil)
	_, ok = q.next()
	require.False(t, ok, "no more mutants")

	q = newQueue(all, 3)
	q.next()
	q.done(all[0], false, nil, errors.New("no disk"))
	_, ok = q.next()
	require.False(t, ok)
	require.Error(t, q.err)
}

func TestSites_KnowsGoAndC(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.go", "a.c", "a.h"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("package p\n"), 0o666))
		_, err := sites(dir, name)
		require.Equal(t, name == "a.h", err != nil)
	}
}

// A mutation whose lines have moved would be found only by the long run.
func TestListed_Fit(t *testing.T) {
	root := filepath.Join("..", "..")
	all, err := read(filepath.Join(root, list))
	require.NoError(t, err)
	for _, m := range all {
		text, err := os.ReadFile(filepath.Join(root, m.file))
		require.NoError(t, err)
		_, err = m.apply(string(text))
		require.NoError(t, err, "mutation %s", m.number)
	}
}
