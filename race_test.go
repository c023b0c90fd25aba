//go:build race || asan

package libssl_test

func init() { instrumented = true }
