//go:build race

package spacemonkey_test

func init() { goFlags = append(goFlags, "-race") }
