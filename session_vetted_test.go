package libssl

import (
	"testing"
	"time"
)

// A verdict holds for a minute, on the Context whose settings gave it, as long as these stay.
func TestVetted_HoldsForAMinute(t *testing.T) {
	ctx, err := NewContext(ClientRole)
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.Close()
	now := vetted{ctx: ctx.bound.handle, policy: ctx.resuming.policy.Load(), at: sinceStart()}
	late, soon, other := now, now, now
	late.at -= int64(vettedFor)
	soon.at -= int64(vettedFor - 30*time.Second)
	other.ctx++
	for name, c := range map[string]struct {
		v    vetted
		want bool
	}{"now": {now, true}, "within the minute": {soon, true}, "after it": {late, false}, "another Context": {other, false}, "none": {vetted{}, false}} {
		if c.v.holds(ctx) != c.want {
			t.Errorf("%s: not %t", name, c.want)
		}
	}
	if err := ctx.SetVerifyDepth(3); err != nil {
		t.Fatal(err)
	}
	if now.holds(ctx) {
		t.Error("it outlives the settings")
	}
	now.policy = ctx.resuming.policy.Load()
	if !now.holds(ctx) {
		t.Fatal("it does not hold at all")
	}
	ctx.Pointer()
	if now.holds(ctx) {
		t.Error("it holds although C may change the settings")
	}
}
