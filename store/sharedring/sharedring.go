// Package sharedring keeps the key ring of a fleet in the store that the fleet shares, so that no host needs to be given a file of keys
// and no one has to rotate them: the first host makes the ring, the others find it, and whoever is first to see that its newest
// key is old puts a fresh one in front. Hosts agree by compare-and-set (store.Swapper); no host leads.
//
// The ring is the fleet's secret: who has it can read what is sealed under it and the traffic of the sessions in there, and make
// sessions of its own. In the store it therefore lies sealed itself, under a secret that the operator gives to
// every host, as a file or in the environment (ticket.WatchRing, ticket.RingFromEnv, ticket.FromKey). That secret seals one
// small record a day and need not change as often as the ring does. There is no way to go without it but Options.Plaintext.
//
// # How hosts agree
//
// The record is a set of keys with the dates from which on they seal. A host that reads it adds what it has itself and lacks there, leaves out what
// is too old, and where that differs from the record swaps it for the result. Hosts with different views, after the store
// lost or restored what it held, so come to have one view, and no key is lost on the way. A fresh key seals only four
// polling intervals after it was made: every host then has it, also one that misses a poll, or whose clock differs by as much as
// an interval. Hosts whose clocks differ by more cost each other resumptions, at worst, and are told.
//
// A key stays for as long as sessions under it may live and one rotation period more, which is for hosts that are cut off from the
// store: they go on with the keys they have. What they seal later than that the others may not be able to open.
//
// The record's life is twice that of a session, and it is written anew when half of that is over. A store that evicts it gets it back from
// the first host that looks. To have done with a key that became known stop all hosts and remove the record, or give
// the hosts another secret.
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

// What Open puts in place of zero Options.
const (
	DefaultPoll     = 30 * time.Second
	DefaultRotate   = 24 * time.Hour
	DefaultLifetime = 24 * time.Hour
)

const (
	// A fresh key seals so many polling intervals after it was made.
	settlePolls = 4

	// pollsPer is how many polls there must be at least in a rotation period, and in a lifetime.
	pollsPer = 10

	// maxLifetimes is how many rotation periods a lifetime may have. It leaves room in a ring for keys that are made out of turn, by hosts
	// which find that the store has lost the record before the others do.
	maxLifetimes = 8

	// syncTimeout bounds one look at the store, with all that is written.
	syncTimeout = 5 * time.Second

	// Others may be quicker so many times. Each of them then found something to do, of which there is at most
	// one thing a host.
	maxAttempts = 100
)

// Options are what all hosts of a fleet must have alike.
type Options struct {
	// Secret seals the record. Its newest key whose time has come seals, all of them open, so that it can be rotated: an old key
	// must stay in it until the shared ring was rotated too, which writes the record anew.
	Secret *ticket.Ring

	// Plaintext puts the keys into the store unsealed: whoever can read the store, or a copy of it, has all that is sealed under them,
	// and whoever can write to it can give the fleet keys that he knows.
	Plaintext bool

	Poll     time.Duration // how often a host looks at the store; a tenth of the others at most
	Rotate   time.Duration // the age at which the newest key gets a successor
	Lifetime time.Duration // how long what is sealed may live (StoreOptions.MaxLifetime of package libssl); 8 times Rotate at most

	// OnError, which may be nil, hears what went wrong while the ring was followed, on a goroutine of the ring's: each time, as
	// long as it lasts. The ring keeps its keys.
	OnError func(error)
}

// Open returns the ring that hosts share in st, which must be a store.Swapper, and makes it if there is none. The ring follows the store
// until stop is called, which returns when that has ended; leave it to that, and do not call its Rotate or Replace. Open waits
// for the store for as long as ctx says, and five seconds at most.
//
// The error says in one line what is wrong: a store that does not answer, or a record that is sealed under another secret, is no ring,
// or is one of the future, by this host's clock.
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

// follower keeps one ring as the store has it. One goroutine uses it.
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
		return errors.New("a key ring in a store needs Options.Secret to seal it, or Plaintext where its readers may have the keys")
	case o.Secret != nil && o.Plaintext:
		return errors.New("Options.Secret and Plaintext exclude each other")
	case o.Secret != nil && o.Secret.Len() == 0:
		return errors.New("Options.Secret is a ring without keys")
	}
	var ok bool
	if f.swapper, ok = f.store.(store.Swapper); !ok {
		return fmt.Errorf("hosts cannot agree in a %T, which is no store.Swapper", f.store)
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

// sync brings ring and record together.
func (f *follower) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	absent := 0
	for range maxAttempts {
		kept, theirs, err := f.read(ctx)
		if err != nil {
			return err
		}
		now := f.now()
		keys := f.needed(merged(f.ring.Keys(), theirs), now)
		if len(keys) > 0 { // before anything is written, in case that fails: opening more does no harm
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
			return errors.Join(f.adopt(next), f.checkDates(next, now))
		}
		// Somebody was quicker, or there is something that this host can neither see nor replace.
		if !kept.ID.IsZero() {
			absent = 0
		} else if absent++; absent == 3 {
			return errors.New("what the store has in the place of the ring is damaged, or has ended by this host's clock: is it right?")
		}
	}
	return fmt.Errorf("others replaced the ring %d times in a row", maxAttempts)
}

// settle is how long a key must have been known before it seals.
func (f *follower) settle() time.Duration { return settlePolls * f.opts.Poll }

// due reports whether it is time for a fresh key. One that seals in a future which no host with the right time would have
// chosen is as good as none.
func (f *follower) due(keys []ticket.Key, now time.Time) bool {
	for _, k := range keys {
		if ahead := k.NotBefore().Sub(now); ahead <= f.settle()+time.Second {
			return -ahead >= f.opts.Rotate
		}
	}
	return true
}

// firstUse is when a fresh key begins to seal, in whole seconds. The very first serves at once, and is dated back by a whole period: should
// it be that the store has only lost the record, the other hosts' keys are the newer ones and go on to seal, while those who
// have not looked yet cannot open what is sealed under this one. Its successor, soon, is made with notice.
func (f *follower) firstUse(keys []ticket.Key, now time.Time) time.Time {
	if len(keys) == 0 {
		return now.Add(-f.opts.Rotate)
	}
	return now.Add(f.settle() + time.Second - 1).Truncate(time.Second)
}

// needed are those of keys, newest first, that seal or will, or may have sealed what lives.
func (f *follower) needed(keys []ticket.Key, now time.Time) []ticket.Key {
	for i := 1; i < len(keys); i++ {
		// i sealed until i-1 did.
		if now.Sub(keys[i-1].NotBefore()) >= f.opts.Lifetime+f.opts.Rotate {
			keys = keys[:i]
			break
		}
	}
	return keys[:min(len(keys), ticket.MaxKeys)] // alike on all hosts
}

// checkDates reports a key that only a host whose clock is wrong can have made, or only one whose clock is wrong can wonder at.
func (f *follower) checkDates(keys []ticket.Key, now time.Time) error {
	if newest := keys[0].NotBefore(); newest.Sub(now) > 2*f.settle()+time.Second {
		return fmt.Errorf("the ring has a key that seals only from %s: is a clock wrong?", newest.UTC().Format(time.RFC3339))
	}
	return nil
}

// adopt gives the ring these keys.
func (f *follower) adopt(keys []ticket.Key) error {
	if same(keys, f.ring.Keys()) {
		return nil
	}
	fresh, err := ticket.RingOf(keys)
	if err != nil {
		return err
	}
	f.ring.Replace(fresh)
	return nil
}

// merged are the keys of both, newest first, in an order on which all hosts agree.
func merged(a, b []ticket.Key) []ticket.Key {
	all := slices.Clone(b) // those that are in both are b's
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
