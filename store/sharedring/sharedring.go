// Package sharedring keeps a fleet's key ring in the fleet's own store: no host needs a file of keys, and the hosts rotate the keys
// themselves. The first host makes the ring, the others find it, and the first host that finds its newest key too old adds a fresh
// one. No host leads: they agree by compare-and-set (store.Swapper).
//
// The ring is the fleet's secret. Its holder can read what is sealed under it, read the traffic of the sessions in there, and forge
// sessions. The ring is therefore itself sealed in the store, under a secret that the operator gives to every host, as a file or in
// the environment (ticket.WatchRing, ticket.RingFromEnv, ticket.FromKey). The secret seals one small record a day, so it may change
// less often than the ring. Only Options.Plaintext does without it.
//
// # How hosts agree
//
// The record is a set of keys, each with the date from which it seals. A host that reads the record adds its own keys that the
// record lacks, drops those that are too old, and swaps the result for the record if they differ. Hosts with different views, after
// the store lost or restored its records, so come to one view without losing a key. A fresh key seals only four polling intervals
// after it was made. By then every host has it, even one that misses a poll, or whose clock is off by an interval. Hosts whose
// clocks differ by more cost each other resumptions, at worst, and report it.
//
// A key stays for as long as sessions under it may live, plus one rotation period for hosts that are cut off from the store: those
// go on with the keys they have. After more than that period the others may not be able to open what such a host seals.
// That costs resumptions of stateless tickets only: its entries do not reach the store either.
//
// The record lives twice as long as a session, and is written again when half of that is over. If the store evicts it, the
// first host that polls puts it back. To remove a compromised key, stop all hosts and remove the record, or give the hosts another
// secret.
package sharedring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// Defaults of Options.
const (
	DefaultPoll     = 30 * time.Second
	DefaultRotate   = 24 * time.Hour
	DefaultLifetime = 24 * time.Hour
)

const (
	// settlePolls is how many polling intervals after it was made a fresh key seals.
	settlePolls = 4

	// pollsPer is how many polls a rotation period and a lifetime must have at least.
	pollsPer = 10

	// maxLifetimes is how many rotation periods a lifetime may have. That leaves room in a ring for extra keys: hosts that find
	// the store without the record make one out of turn.
	maxLifetimes = 8

	// syncTimeout bounds one sync, all reads and writes included.
	syncTimeout = 5 * time.Second

	// maxAttempts is how many Swaps of one sync may fail because another host was faster. Each host has at most one change
	// to make.
	maxAttempts = 100
)

// Options must be the same on all hosts of a fleet.
type Options struct {
	// Secret seals the record. Its newest key whose time has come seals, and all its keys open, so the secret can be rotated. An
	// old key must stay in it until the shared ring has been rotated too, which writes the record again.
	Secret *ticket.Ring

	// Plaintext puts the keys into the store unsealed. Every reader of the store, or of a copy of it, can then open what they
	// seal, and every writer can replace them by keys of its own.
	Plaintext bool

	Poll     time.Duration // how often a host reads the record; at most a tenth of Rotate and of Lifetime
	Rotate   time.Duration // the age at which the newest key gets a successor
	Lifetime time.Duration // how long sealed entries may live (StoreOptions.MaxLifetime of package libssl); at most 8 times Rotate

	// OnError, unless nil, is called with the error of each poll that fails, on the goroutine that polls. The ring keeps its
	// keys.
	OnError func(error)
}

// Open returns the ring that hosts share in st, which must be a store.Swapper, and makes it if there is none. The ring follows the
// store until stop is called; stop returns when the last poll has ended. Do not call the ring's Rotate or Replace. Open waits for
// the store until ctx ends, and for five seconds at most.
//
// Open fails, with an error of one line, if the store does not answer or the record cannot be used. A record cannot be used
// if it is sealed under another secret, is sealed or not against Options, or has no key that seals yet by the clock of this
// host. Any other record that is no ring is damaged: the first host that reads it replaces it and tells OnError, and the others
// add their keys.
func Open(ctx context.Context, st store.Store, opts Options) (r *ticket.Ring, stop func(), err error) {
	return open(ctx, st, opts, time.Now)
}

func open(ctx context.Context, st store.Store, opts Options, now func() time.Time) (*ticket.Ring, func(), error) {
	f := &follower{store: st, ring: new(ticket.Ring), opts: opts, now: now}
	if err := f.prepare(); err != nil {
		return nil, nil, fmt.Errorf("sharedring: %w", err)
	}
	if err := f.sync(ctx); err != nil {
		return nil, nil, fmt.Errorf("sharedring: %w", err)
	}
	following, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.follow(following)
	}()
	return f.ring, func() {
		cancel()
		<-ended
	}, nil
}

// follower keeps one ring equal to the one in the store. Only one goroutine uses it.
type follower struct {
	store   store.Store
	swapper store.Swapper
	ring    *ticket.Ring // without keys until the first sync
	opts    Options
	now     func() time.Time
}

func (f *follower) prepare() error {
	o := &f.opts
	for _, d := range []struct {
		name string
		d    *time.Duration
		def  time.Duration
	}{
		{"Poll", &o.Poll, DefaultPoll},
		{"Rotate", &o.Rotate, DefaultRotate},
		{"Lifetime", &o.Lifetime, DefaultLifetime},
	} {
		if *d.d < 0 {
			return fmt.Errorf("Options.%s is negative", d.name)
		}
		*d.d = cmp.Or(*d.d, d.def)
	}
	switch {
	case o.Poll > min(o.Rotate, o.Lifetime)/pollsPer:
		return fmt.Errorf("Options.Poll, %v, is more than a tenth of Rotate or Lifetime", o.Poll)
	case o.Lifetime > maxLifetimes*o.Rotate:
		return fmt.Errorf("Options.Lifetime, %v, is more than %d times Rotate", o.Lifetime, maxLifetimes)
	case o.Secret == nil && !o.Plaintext:
		return errors.New("a key ring in a store needs Options.Secret to seal it, or Plaintext if readers of the store may have the keys")
	case o.Secret != nil && o.Plaintext:
		return errors.New("Options.Secret and Plaintext exclude each other")
	case o.Secret != nil && o.Secret.Len() == 0:
		return errors.New("Options.Secret is a ring without keys")
	}
	var ok bool
	if f.swapper, ok = f.store.(store.Swapper); !ok {
		return fmt.Errorf("hosts cannot agree on a ring in a %T, which is no store.Swapper", f.store)
	}
	return nil
}

func (f *follower) follow(ctx context.Context) {
	tick := time.NewTicker(f.opts.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f.sync(ctx); err != nil && ctx.Err() == nil {
			f.report(err)
		}
	}
}

func (f *follower) report(err error) {
	if f.opts.OnError != nil {
		f.opts.OnError(fmt.Errorf("sharedring: %w", err))
	}
}

// sync merges ring and record, in both places.
func (f *follower) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	absent := 0
	for range maxAttempts {
		kept, theirs, err := f.read(ctx)
		var damaged *damagedError
		if err != nil && !errors.As(err, &damaged) {
			return err
		}
		now := f.now()
		keys := f.needed(merged(f.ring.Keys(), theirs), now)
		if len(keys) > 0 { // before the write, which may fail: a key more to open with does no harm
			if err := f.adopt(keys); err != nil {
				return err
			}
		}
		next := keys
		if f.due(keys, now) {
			fresh, err := ticket.NewKey(f.firstUse(keys, now))
			if err != nil {
				return err
			}
			next = f.needed(merged([]ticket.Key{fresh}, keys), now)
		}
		if same(next, theirs) && kept.Expires.Sub(now) > f.opts.Lifetime {
			return f.checkDates(next, now)
		}
		swapped, err := f.write(ctx, kept, next, now)
		if err != nil {
			return err
		}
		if swapped {
			if damaged != nil {
				f.report(fmt.Errorf("%w: it was replaced", damaged))
			}
			return errors.Join(f.adopt(next), f.checkDates(next, now))
		}
		// Another host was faster, or the store has a record that this host can neither read nor replace.
		if !kept.ID.IsZero() {
			absent = 0
		} else if absent++; absent == 3 {
			return errors.New("the ring in the store is damaged, or expired by this host's clock: is the clock right?")
		}
	}
	return fmt.Errorf("other hosts replaced the ring %d times in a row", maxAttempts)
}

// settle is how long after it was made a fresh key seals.
func (f *follower) settle() time.Duration { return settlePolls * f.opts.Poll }

// due reports whether it is time for a fresh key. It ignores keys that start sealing too far in the future: some host's clock was
// wrong.
func (f *follower) due(keys []ticket.Key, now time.Time) bool {
	for _, k := range keys {
		if ahead := k.NotBefore().Sub(now); ahead <= f.settle()+time.Second {
			return -ahead >= f.opts.Rotate
		}
	}
	return true
}

// firstUse is when a fresh key begins to seal, in whole seconds. The first key of a ring seals at once, and is dated back by a rotation
// period. If the store has only lost the record, the keys of the other hosts are newer then and go on sealing, because hosts that have
// not polled yet cannot open entries of the first key. A key dated back gets its successor at the next poll.
func (f *follower) firstUse(keys []ticket.Key, now time.Time) time.Time {
	if len(keys) == 0 {
		return now.Add(-f.opts.Rotate)
	}
	return now.Add(f.settle() + time.Second - 1).Truncate(time.Second)
}

// needed returns those of keys, newest first, that seal now or later, or may have sealed an entry that still lives.
func (f *follower) needed(keys []ticket.Key, now time.Time) []ticket.Key {
	for i := 1; i < len(keys); i++ {
		// Key i sealed until key i-1 began to.
		if now.Sub(keys[i-1].NotBefore()) >= f.opts.Lifetime+f.opts.Rotate {
			keys = keys[:i]
			break
		}
	}
	return keys[:min(len(keys), ticket.MaxKeys)] // the same on all hosts
}

// checkDates reports a newest key that starts sealing too far in the future: some host's clock is wrong.
func (f *follower) checkDates(keys []ticket.Key, now time.Time) error {
	if newest := keys[0].NotBefore(); newest.Sub(now) > 2*f.settle()+time.Second {
		return fmt.Errorf("the ring has a key that seals only from %s: is a clock wrong?", newest.UTC().Format(time.RFC3339))
	}
	return nil
}

// adopt replaces the keys of the ring.
func (f *follower) adopt(keys []ticket.Key) error {
	if same(keys, f.ring.Keys()) {
		return nil
	}
	fresh, err := ticket.RingOf(keys)
	if err != nil {
		return err
	}
	return f.ring.Replace(fresh)
}

// merged returns the keys of a and b, newest first, in the same order on all hosts.
func merged(a, b []ticket.Key) []ticket.Key {
	all := slices.Clone(b) // with the dates of b
	for _, k := range a {
		if !slices.ContainsFunc(b, func(other ticket.Key) bool { return other.String() == k.String() }) {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b ticket.Key) int {
		return cmp.Or(b.NotBefore().Compare(a.NotBefore()), cmp.Compare(a.String(), b.String()))
	})
	return all
}

func same(a, b []ticket.Key) bool {
	return slices.EqualFunc(a, b, func(a, b ticket.Key) bool {
		return a.String() == b.String() && a.NotBefore().Equal(b.NotBefore())
	})
}
