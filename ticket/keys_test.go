package ticket

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeys_MakeTheRingAgain(t *testing.T) {
	r := parse(t, keyB+" 2020-01-01T00:00:00Z", keyA)
	keys := r.Keys()
	require.Len(t, keys, 2)
	assert.Equal(t, "2020-01-01T00:00:00Z", keys[0].NotBefore().Format(time.RFC3339))
	assert.Zero(t, keys[1].NotBefore())
	again, err := RingOf(keys)
	require.NoError(t, err)
	assert.Equal(t, text(t, r), text(t, again))
	assert.Equal(t, fmt.Sprintf("ticket.Ring(2 keys: %v %v)", keys[0], keys[1]), r.String())

	assert.Nil(t, new(Ring).Keys())
}

func TestParseKeys_MayAllBeOfTheFuture(t *testing.T) {
	keys, err := ParseKeys([]byte(keyA + " 2999-01-01T00:00:00Z"))
	require.NoError(t, err)
	_, err = RingOf(keys)
	assert.ErrorContains(t, err, "before 2999-01-01T00:00:00Z")
	old, err := NewKey(time.Time{})
	require.NoError(t, err)
	_, err = RingOf(append(keys, old))
	assert.NoError(t, err)
}

func TestRingOf_Refuses(t *testing.T) {
	_, err := RingOf(nil)
	assert.ErrorContains(t, err, "no key")
	keys := parse(t, many(MaxKeys)).Keys()
	_, err = RingOf(append(keys, parse(t, keyA).Keys()...))
	assert.ErrorContains(t, err, "at most 16")
	_, err = RingOf(append(parse(t, keyA, keyB).Keys(), parse(t, keyA).Keys()...)) // parsed twice, but the same key
	assert.ErrorContains(t, err, "comes twice")
}

func TestNewKey(t *testing.T) {
	at := time.Date(2026, 11, 25, 10, 0, 0, 999, time.UTC)
	a, err := NewKey(at)
	require.NoError(t, err)
	b, err := NewKey(at)
	require.NoError(t, err)
	assert.Equal(t, at.Truncate(time.Second), a.NotBefore())
	assert.NotEqual(t, a.String(), b.String())
}

func TestKey_ShowsNoSecret(t *testing.T) {
	keys := parse(t, keyA).Keys()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		printed := fmt.Sprintf(verb, keys) + fmt.Sprintf(verb, keys[0])
		for _, secret := range []string{"a1a1a1", "161, 161", "161 161", "0xa1, 0xa1"} {
			assert.False(t, strings.Contains(printed, secret), "%s: %s", verb, printed)
		}
	}
}
