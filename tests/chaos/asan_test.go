//go:build asan

package chaos_test

// AddressSanitizer takes the stack that abandoned frames of C leave behind for theirs still.
const mayGoexit = false
