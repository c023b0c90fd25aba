//go:build !asan

package cabitest

var sanitize []string
