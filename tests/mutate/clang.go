package main

import (
	"bytes"
	"regexp"
	"strings"
)

// cMutator collects the changes of one C file. It knows C only as this repository writes it: the body of a function
// begins and ends with a brace in the first column, and binary operators stand between spaces.
type cMutator struct {
	src  []byte
	code string // src with spaces in the place of comments, literals and preprocessor lines
	all  []change
}

var (
	cHidden    = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?m:^[ \t]*#(?:\\\n|[^\n])*)`)
	cBody      = regexp.MustCompile(`(?ms)^\{$.*?^\}`)
	cOperator  = regexp.MustCompile(` (==|!=|<=|>=|&&|\|\||<<|>>|[-+|&]=|[-+*/%&|^<>]) `)
	cStep      = regexp.MustCompile(`\+\+|--`)
	cNot       = regexp.MustCompile(`![^=]`)
	cConstant  = regexp.MustCompile(`\b(?:0x[0-9a-fA-F]+|[0-9]+)[uUlL]*\b`)
	cCondition = regexp.MustCompile(`\b(?:if|while) \(`)
	cReturn    = regexp.MustCompile(`\breturn ([^;]+);`)
	cJoined    = regexp.MustCompile(`&&|\|\|`)
	cNegatable = regexp.MustCompile(`^!| (?:==|!=|<|>|<=|>=) `)
	cPrefix    = regexp.MustCompile(`^\s*(?:(?:if|while|for|switch) \(|else\b|do\b|case [^:]+:|default:|\w+:)`)
	cEffect    = regexp.MustCompile(`(?s)^(?:\w+\(.*\)|(?:\*|\+\+|--)?[\w.>\[\]-]+ [-+|&]?= .*|.*(?:\+\+|--))$|^(?:\+\+|--)|^(?:break|continue|return|goto \w+)$`)
)

// cChanges are all changes of a C file. Some do not compile.
func cChanges(src []byte) []change {
	m := &cMutator{src: src, code: string(cHidden.ReplaceAllFunc(src, blank))}
	for _, body := range cBody.FindAllStringIndex(m.code, -1) {
		m.operators(body[0], body[1])
		m.conditions(body[0], body[1])
		m.returns(body[0], body[1])
		m.statements(body[0], body[1])
	}
	return m.all
}

// blank is text of the same length and lines without anything in it.
func blank(text []byte) []byte {
	out := bytes.Repeat([]byte{' '}, len(text))
	for i, c := range text {
		if c == '\n' {
			out[i] = c
		}
	}
	return out
}

func (m *cMutator) replace(from, to int, with string) {
	m.all = append(m.all, change{from, to, with})
}

// each calls f with what re, or its group, matches between from and to.
func (m *cMutator) each(re *regexp.Regexp, from, to int, f func(from, to int)) {
	for _, at := range re.FindAllStringSubmatchIndex(m.code[from:to], -1) {
		f(from+at[len(at)-2], from+at[len(at)-1])
	}
}

func (m *cMutator) operators(from, to int) {
	swap := func(from, to int) {
		for _, other := range swaps[m.code[from:to]] {
			m.replace(from, to, other)
		}
	}
	m.each(cOperator, from, to, swap)
	m.each(cStep, from, to, swap)
	m.each(cNot, from, to, func(from, _ int) { m.replace(from, from+1, "") })
	m.each(cConstant, from, to, func(from, to int) {
		if strings.HasSuffix(m.code[:from], "return ") && m.code[to] == ';' {
			return
		}
		m.replace(from, to, "("+m.code[from:to]+" + 1)")
		m.replace(from, to, "("+m.code[from:to]+" - 1)")
	})
}

// closing is the index after the parenthesis that closes the one at open.
func (m *cMutator) closing(open int) int {
	depth := 0
	for i := open; i < len(m.code); i++ {
		switch m.code[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(m.code)
}

// conditions leaves alone what a swapped comparison or a dropped "!" negates.
func (m *cMutator) conditions(from, to int) {
	m.each(cCondition, from, to, func(_, after int) {
		open := after - 1
		end := m.closing(open)
		if cond := m.code[after : end-1]; cJoined.MatchString(cond) || !cNegatable.MatchString(cond) {
			m.replace(open, end, "(!"+string(m.src[open:end])+")")
		}
	})
}

// returns puts 0 in the place of results, and 1 in that of 0: most constants that are returned are truth values.
func (m *cMutator) returns(from, to int) {
	m.each(cReturn, from, to, func(from, to int) {
		switch m.code[from:to] {
		case "NULL":
		case "0", "SCB_FAIL":
			m.replace(from, to, "1")
		default:
			m.replace(from, to, "0")
		}
	})
}

// statements drops those that end with a semicolon and do something.
func (m *cMutator) statements(from, to int) {
	begin := from + 1
	for i := begin; i < to; i++ {
		switch m.code[i] {
		case '(':
			i = m.closing(i) - 1
		case '{', '}':
			begin = i + 1
		case ';':
			m.statement(begin, i)
			begin = i + 1
		}
	}
}

func (m *cMutator) statement(from, to int) {
	for p := cPrefix.FindString(m.code[from:to]); p != ""; p = cPrefix.FindString(m.code[from:to]) {
		from += len(p)
		if strings.HasSuffix(p, "(") {
			from = m.closing(from - 1)
		}
	}
	text := m.code[from:to]
	from += len(text) - len(strings.TrimLeft(text, " \t\n"))
	if from < to && cEffect.MatchString(m.code[from:to]) {
		m.replace(from, to, "")
	}
}
