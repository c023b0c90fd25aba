//go:build asan

package cabitest

import (
	"os/exec"
	"strings"
)

// sanitize are the flags of go build with which the library is built as the test binary was.
var sanitize = []string{"-asan"}

// Preload is the environment in which a program that is not ours, and not sanitized, has object preloaded. The sanitizer's
// runtime must be the first library there; leaks would be the program's own.
func Preload(object string) ([]string, error) {
	asan, err := exec.Command("gcc", "-print-file-name=libasan.so").Output()
	return []string{"LD_PRELOAD=" + strings.TrimSpace(string(asan)) + ":" + object, "ASAN_OPTIONS=detect_leaks=0"}, err
}
