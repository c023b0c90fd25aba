//go:build asan

package spacemonkey_test

func init() { goFlags = append(goFlags, "-asan") }
