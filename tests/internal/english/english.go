// Package english finds habits of writing that make this project hard to read. The list of them is rules, renamed and
// maxWords below. The rules cover comments, and those string literals of Go and C that are texts. Only the rule on the length
// of a sentence leaves out string literals, lists, code, tables and headings.
package english

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// maxWords is the length of the longest sentence in a comment.
const maxWords = 35

// rule is one habit, and the cure that a finding names.
type rule struct {
	name, cure string
	pattern    *regexp.Regexp
}

var rules = []rule{
	{"pronoun", "name the program, host or caller", regexp.MustCompile(`(?i)\b(nobody|somebody|whoever|whomever)\b`)},
	{"possessive", "write \"in C code\" or \"a store operation\"", regexp.MustCompile(`(?i)\bof ((the|an?|this|that|its) )?\w+'s\b`)},
	{"riddle", "begin with the thing and say what it does", regexp.MustCompile(`^(What|Whatever|Who|Whoever|Which)\b[^?]*$`)},
	{"name", "write \"attached SSL\", \"backing store\", \"ssl\"", regexp.MustCompile(`\b([Gg]uests?|[Ff]ar stores?|c\.c\.c)\b`)},
}

// renamed are identifiers that are gone, and their successors.
var renamed = map[string]string{
	"guest": "attachedSSL", "guests": "attachedSSLs", "shookHands": "handshakeDone", "seldom": "rateLimitedLog",
	"invite": "release", "misused": "withRef", "room": "scratch", "farStore": "backing",
}

// allowed are phrases that rules find and that are right.
var allowed = map[string]string{
	"of today's": "a time, no owner",
	"of one's":   "the idiom \"of one's own\"",
}

// Finding is a place in a file that breaks a rule.
type Finding struct {
	Line             int
	Rule, Text, Cure string
}

func (f Finding) String() string { return fmt.Sprintf("%s: %q: %s", f.Rule, f.Text, f.Cure) }

// Check returns the findings of one file. The name decides how its comments are found.
func Check(name, source string) ([]Finding, error) {
	var comments [][]line
	var found []Finding
	switch path.Ext(name) {
	case ".go":
		file, err := goFile(name, source)
		if err != nil {
			return nil, err
		}
		comments, found = file.comments, file.found
	case ".c", ".h":
		var texts []line
		comments, texts = cFile(numbered(1, source))
		found = checkTexts(texts)
	default:
		comments = shellComments(numbered(1, source))
	}
	for _, c := range comments {
		found = append(found, checkComment(c)...)
	}
	return found, nil
}

// line is a line of text, or the whole of a string literal, and its place in the file.
type line struct {
	n    int
	text string
}

func numbered(first int, text string) []line {
	var lines []line
	for i, s := range strings.Split(text, "\n") {
		lines = append(lines, line{first + i, strings.TrimSuffix(s, "\r")})
	}
	return lines
}

// checkComment checks one comment, without its comment signs.
func checkComment(comment []line) []Finding {
	var found []Finding
	for _, b := range blocks(comment) {
		if !b.prose {
			found = append(found, checkTexts(b.lines)...)
			continue
		}
		for _, s := range sentences(b.lines) {
			found = append(found, match(s)...)
			if n := words(s.text); n > maxWords {
				found = append(found, Finding{s.n, "long", s.text, fmt.Sprintf("%d words: make it two sentences", n)})
			}
		}
	}
	return found
}

// checkTexts checks string literals, list items and other texts whose length is free.
func checkTexts(texts []line) []Finding {
	var found []Finding
	for _, t := range texts {
		for _, s := range sentences([]line{t}) {
			found = append(found, match(s)...)
		}
	}
	return found
}

func match(sentence line) []Finding {
	var found []Finding
	for _, r := range rules {
		for _, m := range r.pattern.FindAllString(sentence.text, -1) {
			if _, ok := allowed[strings.ToLower(m)]; !ok {
				if r.name == "riddle" {
					m = sentence.text
				}
				found = append(found, Finding{sentence.n, r.name, m, r.cure})
			}
		}
	}
	return found
}

// block is a paragraph of prose, or lines that are none: code, a table, a heading, an item of a list.
type block struct {
	lines []line
	prose bool
}

var (
	item    = regexp.MustCompile(`^\s*([-*+•]|\d+[.)])\s`)
	notText = regexp.MustCompile(`^(\t|  |#|\||-{3,}|={3,}|\w+://\S+$)`)
)

func blocks(comment []line) []block {
	var all []block
	open := false // the last block is prose that goes on
	for _, l := range comment {
		switch {
		case strings.TrimSpace(l.text) == "":
			open = false
		case item.MatchString(l.text) || notText.MatchString(l.text):
			all, open = append(all, block{lines: []line{l}}), false
		case open:
			last := &all[len(all)-1]
			last.lines = append(last.lines, l)
		default:
			all, open = append(all, block{lines: []line{l}, prose: true}), true
		}
	}
	return all
}

var (
	ending       = regexp.MustCompile("[.!?;][)\\]\"'`”’]*( |$)")
	abbreviation = regexp.MustCompile(`(?i)(\b(e\.g|i\.e|cf|vs|etc|resp|approx|no)|\.\.)\.[)\]]*$`)
)

// sentences joins the lines and splits them where a sentence ends: not inside e.g., 1.1.1 or ssl_sess.c, and not at a colon.
func sentences(lines []line) []line {
	var joined strings.Builder
	starts := make([]int, len(lines)) // of each line in joined
	for i, l := range lines {
		if i > 0 {
			joined.WriteByte(' ')
		}
		starts[i] = joined.Len()
		joined.WriteString(strings.Join(strings.Fields(l.text), " "))
	}
	text := joined.String()

	var all []line
	add := func(from, to int) {
		s := strings.TrimSpace(text[from:to])
		from += strings.Index(text[from:to], s)
		n := lines[0].n
		for i := range lines {
			if starts[i] <= from {
				n = lines[i].n
			}
		}
		if s != "" {
			all = append(all, line{n, strings.TrimLeft(s, "(\"'“")})
		}
	}
	from := 0
	for _, m := range ending.FindAllStringIndex(text, -1) {
		if to := m[1]; !abbreviation.MatchString(strings.TrimSpace(text[from:to])) {
			add(from, to)
			from = to
		}
	}
	add(from, len(text))
	return all
}

var hasWord = regexp.MustCompile(`[\pL\pN]`)

func words(sentence string) int {
	n := 0
	for _, w := range strings.Fields(sentence) {
		if hasWord.MatchString(w) {
			n++
		}
	}
	return n
}

// isText tells a literal that users read from one that programs do.
func isText(literal string) bool { return len(strings.Fields(literal)) >= 3 }

type goSource struct {
	comments [][]line
	found    []Finding // in string literals and identifiers
}

func goFile(name, source string) (goSource, error) {
	var out goSource
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.ParseComments)
	if err != nil {
		return out, err
	}
	lineOf := func(n ast.Node) int { return fset.Position(n.Pos()).Line }
	preambles := map[*ast.CommentGroup]bool{}
	named := map[string]bool{} // once a file is enough
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GenDecl:
			if len(n.Specs) == 1 {
				if s, ok := n.Specs[0].(*ast.ImportSpec); ok && s.Path.Value == `"C"` && n.Doc != nil {
					preambles[n.Doc] = true
				}
			}
		case *ast.Ident:
			if to, ok := renamed[n.Name]; ok && !named[n.Name] {
				named[n.Name] = true
				out.found = append(out.found, Finding{lineOf(n), "name", n.Name, "the name is now " + to})
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				break
			}
			if text, err := strconv.Unquote(n.Value); err == nil && isText(text) {
				for _, b := range blocks(numbered(lineOf(n), text)) {
					out.found = append(out.found, checkTexts(b.lines)...)
				}
			}
		}
		return true
	})
	for _, group := range file.Comments {
		lines := goComment(fset, group)
		if preambles[group] {
			comments, texts := cFile(lines)
			out.comments, out.found = append(out.comments, comments...), append(out.found, checkTexts(texts)...)
		} else {
			out.comments = append(out.comments, withoutOutput(lines))
		}
	}
	return out, nil
}

// goComment is a group's lines without its comment signs and its directives.
func goComment(fset *token.FileSet, group *ast.CommentGroup) []line {
	var lines []line
	for _, c := range group.List {
		n := fset.Position(c.Pos()).Line
		if text, ok := strings.CutPrefix(c.Text, "//"); !ok {
			lines = append(lines, blockComment(numbered(n, c.Text))...)
		} else if text == "" || text[0] == ' ' || text[0] == '\t' {
			lines = append(lines, line{n, strings.TrimPrefix(text, " ")})
		}
	}
	return lines
}

// withoutOutput drops the expected output of an example.
func withoutOutput(comment []line) []line {
	for i, l := range comment {
		if l.text == "Output:" || l.text == "Unordered output:" {
			return comment[:i]
		}
	}
	return comment
}

// blockComment strips the signs of a comment in slashes and stars.
func blockComment(comment []line) []line {
	var out []line
	for i, l := range comment {
		text := strings.TrimSuffix(strings.TrimSpace(l.text), "*/")
		if i == 0 {
			text = strings.TrimLeft(strings.TrimPrefix(text, "/*"), "* ")
		} else if starred, ok := strings.CutPrefix(text, "*"); ok {
			text = strings.TrimPrefix(starred, " ")
		}
		out = append(out, line{l.n, strings.TrimRight(text, " \t")})
	}
	return out
}

// cToken is the next comment, string or character literal.
var cToken = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'`)

// cFile returns the comments and the texts among the string literals of C source.
func cFile(source []line) (comments [][]line, texts []line) {
	var joined []string
	for _, l := range source {
		joined = append(joined, l.text)
	}
	text := strings.Join(joined, "\n")
	wholeLine := 0 // the line of the last comment, when there is nothing else on it
	for _, m := range cToken.FindAllStringIndex(text, -1) {
		start := strings.Count(text[:m[0]], "\n")
		n, tok := source[start].n, text[m[0]:m[1]]
		switch {
		case strings.HasPrefix(tok, "//"):
			l := line{n, strings.TrimPrefix(tok[2:], " ")}
			alone := strings.HasPrefix(strings.TrimSpace(source[start].text), "//")
			if alone && wholeLine == n-1 && len(comments) > 0 {
				comments[len(comments)-1] = append(comments[len(comments)-1], l)
			} else {
				comments = append(comments, []line{l})
			}
			if wholeLine = 0; alone {
				wholeLine = n
			}
		case strings.HasPrefix(tok, "/*"):
			comments = append(comments, blockComment(numbered(n, tok)))
		case tok[0] == '"' && isText(tok):
			texts = append(texts, line{n, strings.Trim(tok, `"`)})
		}
	}
	return comments, texts
}

// shellComments returns the comments of a shell script or a Makefile.
func shellComments(source []line) [][]line {
	var comments [][]line
	wholeLine := 0
	for _, l := range source {
		before, text, ok := strings.Cut(" "+l.text, " #")
		if !ok {
			before, text, ok = strings.Cut(l.text, "\t#")
		}
		text = strings.TrimPrefix(text, "#") // help in a Makefile
		if !ok || (text != "" && text[0] != ' ' && text[0] != '\t') {
			continue
		}
		c := line{l.n, strings.TrimPrefix(text, " ")}
		alone := strings.TrimSpace(before) == ""
		if alone && len(comments) > 0 && wholeLine == l.n-1 {
			comments[len(comments)-1] = append(comments[len(comments)-1], c)
		} else {
			comments = append(comments, []line{c})
		}
		if wholeLine = 0; alone {
			wholeLine = l.n
		}
	}
	return comments
}
