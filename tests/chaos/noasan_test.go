//go:build !asan

package chaos_test

const mayGoexit = true
