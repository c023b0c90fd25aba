//go:build asan

package cabitest

// sanitize are the flags of go build with which the library is built as the test binary was.
var sanitize = []string{"-asan"}
