//go:build asan

package road_test

func init() {
	goFlags = append(goFlags, "-asan")
	cFlags = append(cFlags, "-fsanitize=address")
}
