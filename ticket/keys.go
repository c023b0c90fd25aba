package ticket

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

// Key is one key of a Ring, for code that composes rings. Printing it shows its id and never its secret. The zero Key is
// invalid.
type Key struct{ k *key }

// NewKey returns a fresh random key that seals from notBefore on, cut to the second. With the zero time it seals at once.
func NewKey(notBefore time.Time) (Key, error) {
	var secret [KeySize]byte
	rand.Read(secret[:]) // never fails: the runtime ends the process first
	k, err := newKey(secret)
	if err != nil {
		return Key{}, err
	}
	k.notBefore = notBefore.Truncate(time.Second)
	return Key{k}, nil
}

// NotBefore returns the time from which the key seals. The zero time means always.
func (k Key) NotBefore() time.Time { return k.k.notBefore }

// String returns the key's id. The id is derived from the secret and reveals nothing about it: equal ids mean equal keys.
func (k Key) String() string { return hex.EncodeToString(k.k.id[:]) }

// Keys returns the ring's keys, newest first.
func (r *Ring) Keys() []Key {
	var all []Key
	for _, k := range r.keys() {
		all = append(all, Key{k})
	}
	return all
}

// RingOf returns a ring of the given keys, newest first. Like ParseRing it refuses an empty list, more than MaxKeys keys, a
// repeated key, and keys that all start sealing in the future.
func RingOf(keys []Key) (*Ring, error) {
	switch {
	case len(keys) == 0:
		return nil, errNoKey
	case len(keys) > MaxKeys:
		return nil, fmt.Errorf("ticket: %d keys, and a ring has at most %d", len(keys), MaxKeys)
	}
	list := make([]*key, len(keys))
	seen := map[[keyIDSize]byte]bool{}
	first := keys[0].NotBefore()
	for i, k := range keys {
		if seen[k.k.id] {
			return nil, fmt.Errorf("ticket: key %v comes twice", k)
		}
		seen[k.k.id], list[i] = true, k.k
		if k.NotBefore().Before(first) {
			first = k.NotBefore()
		}
	}
	if first.After(time.Now()) {
		return nil, fmt.Errorf("ticket: no key of the ring seals before %s: is the clock right?", first.Format(time.RFC3339))
	}
	return ringOf(list), nil
}
