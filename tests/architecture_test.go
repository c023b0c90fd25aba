package tests

import (
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

// docs/architecture.md names files, functions and types. Each must exist, or the page describes an older house.
func TestArchitecture_NamesExist(t *testing.T) {
	text, err := os.ReadFile("../docs/architecture.md")
	require.NoError(t, err)
	files := sources(t, ".go", ".c", ".h")
	words := map[string]bool{"store": true, "SSL_CTX": true}
	bases := map[string]bool{"layer.go": true}
	for file, source := range files {
		bases[path.Base(file)] = true
		for _, w := range regexp.MustCompile(`\w+`).FindAllString(source, -1) {
			words[w] = true
		}
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("`([\\w.]+)`").FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
	}
	require.Greater(t, len(names), 60)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, part := range strings.Split(name, ".") {
			assert.True(t, words[part], "docs/architecture.md names %s, which is nowhere in the code", name)
		}
	}
	for _, file := range regexp.MustCompile(`\b\w+\.(?:go|c|h)\b`).FindAllString(string(text), -1) {
		assert.True(t, bases[file], "docs/architecture.md names the file %s", file)
	}
}
