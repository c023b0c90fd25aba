package english

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func found(t *testing.T, name, source string) []string {
	t.Helper()
	all, err := Check(name, source)
	require.NoError(t, err)
	var rules []string
	for _, f := range all {
		rules = append(rules, f.Rule)
	}
	return rules
}

func TestSentences_EndOnlyAtRealEnds(t *testing.T) {
	for text, want := range map[string][]string{
		"One. Two! Three? Four; five": {"One.", "Two!", "Three?", "Four;", "five"},
		"See ssl_sess.c, F5.2 and OpenSSL 1.1.1, e.g. on Debian (i.e. bookworm). It ends.": {
			"See ssl_sess.c, F5.2 and OpenSSL 1.1.1, e.g. on Debian (i.e. bookworm).", "It ends."},
		"A colon: no end. \"Quoted.\" (In parentheses.) After": {"A colon: no end.", "Quoted.\"", "In parentheses.)", "After"},
		"NAME... is repeated, (x...) too":                      {"NAME... is repeated, (x...) too"},
		"https://go.dev/dl/?a.b;c is one word":                 {"https://go.dev/dl/?a.b;c is one word"},
		"":                                                     nil,
	} {
		var got []string
		for _, s := range sentences([]line{{1, text}}) {
			got = append(got, s.text)
		}
		assert.Equal(t, want, got)
	}
	assert.Equal(t, []line{{3, "One two."}, {4, "Three four."}}, sentences([]line{{3, "One"}, {4, "two. Three"}, {5, "four."}}))
}

func TestBlocks_OnlyParagraphsAreProse(t *testing.T) {
	comment := "Prose that\ngoes on:\n\n\tcode()\n    a table\n- an item\n2. another\n| a | row |\n# Heading\nhttps://go.dev/x\nProse again.\n\nAnd more."
	var prose [][]line
	other := 0
	for _, b := range blocks(numbered(1, comment)) {
		if b.prose {
			prose = append(prose, b.lines)
		} else {
			other += len(b.lines)
		}
	}
	assert.Equal(t, [][]line{{{1, "Prose that"}, {2, "goes on:"}}, {{11, "Prose again."}}, {{13, "And more."}}}, prose)
	assert.Equal(t, 7, other)
}

func TestRules_EachFindsItsHabit(t *testing.T) {
	for rule, texts := range map[string][]string{
		"pronoun":    {"Nobody asks.", "It is somebody's.", "at once, whoever is about to call it.", "- nobody in a list"},
		"possessive": {"one operation of the store's.", "It is of C's.", "a name of a peer's", "across\n// lines of the\n// client's."},
		"riddle":     {"What it gives.", "Good. Who asks is told.", "Whoever's is it.", "Which is why.", "(Whatever the status.)"},
		"name":       {"It is a guest of the Context.", "the far store", "as in c.c.c"},
	} {
		for _, text := range texts {
			assert.Contains(t, found(t, "x.go", "package x\n\n// "+text+"\n"), rule, text)
		}
	}
	assert.Equal(t, []string{"name"}, found(t, "x.go", "package x\n\nvar shookHands = true\n\nfunc f() bool { return shookHands }\n"))
	for _, text := range []string{
		"What does it give?", "What's more? It says what it is.", "of today's date", "the client's id", "of its bodies", "Sits in the room, seldom.",
		"The store's operations are those which return.", "nobodyCalled is a name.",
	} {
		assert.Empty(t, found(t, "x.go", "package x\n\n// "+text+"\n"), text)
	}
}

func TestLong_CountsWordsOfProse(t *testing.T) {
	five := "one two - three four five "
	thirtyFive := five + five + five + five + five + five + five
	assert.Empty(t, found(t, "x.sh", "# "+thirtyFive+"\n"))
	assert.Empty(t, found(t, "x.sh", "# "+thirtyFive+". More words.\n"))
	assert.Equal(t, []string{"long"}, found(t, "x.sh", "# "+thirtyFive+"\n# six.\n"))
	assert.Empty(t, found(t, "x.sh", "# - "+thirtyFive+"six\n"))
	assert.Empty(t, found(t, "x.sh", "#\t"+thirtyFive+"six\n"))
	assert.Empty(t, found(t, "x.go", "package x\n\nconst help = \""+thirtyFive+"six\"\n"))
}

func TestCheck_FindsCommentsAndTextsByLanguage(t *testing.T) {
	for name, c := range map[string]struct {
		source string
		lines  []int
	}{
		"x.go": {"package x\n\n/*\n// nobody in a preamble\nchar *nobody = \"nobody is told\";\n*/\nimport \"C\"\n\n//go:generate nobody\n\n" +
			"var nobody = 1 // nobody\n\nvar err = errors.New(\"nobody is there\")\n\nvar key = \"nobody\"\n\n// Example.\n//\n//\tnobody in code\n\n" +
			"// Output:\n// nobody\n", []int{4, 5, 11, 13, 19}},
		"x.c": {"/* nobody\n * nobody\n */\nint nobody; // nobody\n// nobody,\n// whoever\nputs(\"// nobody is there\"); /* a */ f('\"'); // nobody\n",
			[]int{1, 1, 4, 5, 5, 7, 7}},
		"x.sh":     {"#!/bin/nobody\n# nobody\necho nobody '#nobody' # nobody\n#include <nobody>\n# last\n", []int{2, 3}},
		"Makefile": {"x: ## nobody\n\techo nobody\n", []int{1}},
	} {
		got, err := Check(name, c.source)
		require.NoError(t, err)
		var lines []int
		for _, f := range got {
			assert.Equal(t, "pronoun", f.Rule)
			lines = append(lines, f.Line)
		}
		assert.ElementsMatch(t, c.lines, lines, name)
	}
}

// The pairs by which the project's English was decided. A bad one without a rule is one that no pattern can find.
func TestRules_OnTheExamplesOfTheStyle(t *testing.T) {
	for _, c := range []struct{ bad, rule, good string }{
		{"On that stand connections and stores through which a fleet of servers resumes each other's sessions.", "",
			"On top of it are connections that implement net.Conn and a store layer that lets a fleet of servers resume each other's sessions."},
		{"libssl-dev and pkg-config, and redis-server and memcached for the tests, are installed where they are missing and you may, otherwise you are told what to install.", "",
			"make installs the rest (libssl-dev, pkg-config; redis-server and memcached for the tests) if you may run apt-get, and otherwise lists it."},
		{"Who is never asked for is never reported as expired.", "riddle",
			"OpenSSL notices that a session has expired only when a client offers it."},
		{"Hosts that share a store have clocks that differ. Each goes by its own for what has expired: it must not drop, on a Get, what another may still see.", "",
			"Clocks of hosts differ. A store decides by the local clock whether a record has expired, but Get must not delete it: on another host it may still be valid."},
		{"Prompt is implemented by stores that know when they can be trusted with their caller's goroutine.", "",
			"Prompt is implemented by stores whose calls return when their context ends."},
		{"From one function to another: at once, whoever is about to call it.", "pronoun",
			"C's function replaces ours directly. A handshake that has already tested the pointer may call either; both are valid."},
		{"request is one operation of the store's. It is no func, which would be on the heap.", "possessive",
			"request is one store operation. A struct, not a closure, to save an allocation."},
		{"checkDates reports a key that only a host whose clock is wrong can have made.", "",
			"checkDates reports a newest key that starts sealing too far in the future: some host's clock is wrong."},
	} {
		if c.rule != "" {
			assert.Equal(t, []string{c.rule}, found(t, "x.go", "package x\n\n// "+c.bad+"\n"))
		}
		assert.Empty(t, found(t, "x.go", "package x\n\n// "+c.good+"\n"))
	}
}
