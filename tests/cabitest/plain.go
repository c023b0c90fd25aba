//go:build !asan

package cabitest

var sanitize []string

// Preload is the environment in which a program has object preloaded.
func Preload(object string) ([]string, error) { return []string{"LD_PRELOAD=" + object}, nil }
