//go:build race

package ticket

func init() { raceEnabled = true }
