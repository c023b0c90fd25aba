//go:build race

package road_test

func init() { goFlags = append(goFlags, "-race") }
