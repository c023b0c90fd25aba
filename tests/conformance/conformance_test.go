package conformance

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	Child()
	os.Exit(m.Run())
}

func TestFacts_HoldInCAndInGo(t *testing.T) {
	for _, f := range Facts() {
		t.Run(f.ID, func(t *testing.T) {
			res, err := Run(context.Background(), []Fact{f}, nil)
			require.NoError(t, err)
			r := res.Facts[0]
			t.Logf("%s\nC:  %s\nGo: %s\n%s %s", r.Says, r.C, r.Go, r.Verdict, r.Why)
			require.NotEqual(t, Deviation, r.Verdict, r.Why)
		})
	}
}

// Every fact of SEMANTICS has its place, run or not, in the order of the numbers.
func TestFacts_AreAllThere(t *testing.T) {
	var want, got []string
	for section, n := range []int{14, 16, 12, 6, 10, 9, 8, 6} {
		for i := range n {
			want = append(want, fmt.Sprintf("F%d.%d", section+1, i+1))
		}
	}
	for _, f := range Facts() {
		got = append(got, f.ID)
	}
	require.Equal(t, want, got)
}
