package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log"
	"text/tabwriter"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/storeurl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

var storeCommand = command{
	name:  "store",
	about: "list, count and remove the sessions in a store",
	long: `A URL is sqlite:PATH, or valkey://, valkeys://, redis:// or rediss:// with
[user:pass@]host:port/db. For memcached://host:port there is only rm, since memcached cannot
list its entries. The sessions in memory: are visible only to their own process. See serve
for password_file and env:NAME, which keep a password off the command line.

rm ends one session, which in TLS 1.3 is one of several tickets. revoke ends all of a full
handshake and their renewals, on servers with serve -revocable, whose answers have the
origin. It leaves a record in the store for as long as these could live.

A key ring in the store (serve -keyring store:FILE) is listed as an entry with the id
6c696273736c206b65792072696e67. If you remove it, the servers that have it put it back.`,
	subs: []command{
		{name: "ls", args: "URL", about: "list the sessions: id, expiry, size", flags: storeLs},
		{name: "stat", args: "URL", about: "count the sessions and their bytes", flags: storeStat},
		{name: "rm", args: "URL ID...", about: "remove sessions, so that they cannot be resumed", flags: storeRm},
		{name: "revoke", args: "URL ORIGIN...", about: "end all sessions and tickets of full handshakes, so that none can be resumed", flags: storeRevoke},
		{name: "purge", args: "URL", about: "remove all sessions, or those that have expired", flags: storePurge},
	},
}

// storeTimeout bounds a whole command. A store of reasonable size needs far less.
const storeTimeout = time.Minute

// withStore opens the store that url names and calls use with it.
func withStore(ctx context.Context, url string, use func(context.Context, store.Store) error) (err error) {
	if url == "memory:" {
		return errors.New("memory: lives in the process that serves, and is not visible from here")
	}
	st, closeStore, err := storeurl.Open(url, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return use(ctx, st)
}

// storeEntry is a line of ls.
type storeEntry struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
	Size    int       `json:"size"`
}

func list(ctx context.Context, st store.Store, f func(storeEntry)) error {
	l, ok := st.(store.Lister)
	if !ok {
		return errors.New("this kind of store cannot list its entries")
	}
	return l.List(ctx, func(id store.ID, size int, expires time.Time) error {
		f(storeEntry{id.String(), expires.UTC(), size})
		return nil
	})
}

func storeLs(fs *flag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 1, 1); err != nil {
			return err
		}
		entries := []storeEntry{}
		err := withStore(ctx, args[0], func(ctx context.Context, st store.Store) error {
			return list(ctx, st, func(e storeEntry) { entries = append(entries, e) })
		})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(std.out, entries)
		}
		tw := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		for _, e := range entries {
			fmt.Fprintf(tw, "%s\t%s\t%d\n", e.ID, e.Expires.Format(time.RFC3339), e.Size)
		}
		return tw.Flush()
	}
}

// storeStats is the output of stat.
type storeStats struct {
	Sessions int        `json:"sessions"`
	Bytes    int        `json:"bytes"`
	First    *time.Time `json:"first_expiry"` // null if there is no session
	Last     *time.Time `json:"last_expiry"`
}

func storeStat(fs *flag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 1, 1); err != nil {
			return err
		}
		var s storeStats
		err := withStore(ctx, args[0], func(ctx context.Context, st store.Store) error {
			return list(ctx, st, func(e storeEntry) {
				s.Sessions++
				s.Bytes += e.Size
				if s.First == nil || e.Expires.Before(*s.First) {
					s.First = &e.Expires
				}
				if s.Last == nil || e.Expires.After(*s.Last) {
					s.Last = &e.Expires
				}
			})
		})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(std.out, s)
		}
		tw := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "sessions\t%d\nbytes\t%d\n", s.Sessions, s.Bytes)
		if s.Sessions > 0 {
			fmt.Fprintf(tw, "first expiry\t%s\nlast expiry\t%s\n", s.First.Format(time.RFC3339), s.Last.Format(time.RFC3339))
		}
		return tw.Flush()
	}
}

func storeRm(fs *flag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 2, -1); err != nil {
			return err
		}
		var ids []store.ID
		for _, arg := range args[1:] {
			id, err := store.ParseID(arg)
			if err != nil {
				return usagef("%q is no session id: %v", arg, err)
			}
			ids = append(ids, id)
		}
		removed := []string{}
		err := withStore(ctx, args[0], func(ctx context.Context, st store.Store) error {
			var errs []error
			for _, id := range ids {
				// Delete ignores an absent id, but here it is probably a typing mistake.
				_, err := st.Get(ctx, id)
				if err == nil {
					err = st.Delete(ctx, id)
				}
				if err == nil {
					removed = append(removed, id.String())
				} else if errors.Is(err, store.ErrNotFound) {
					errs = append(errs, fmt.Errorf("no session %s", id))
				} else {
					return err
				}
			}
			return errors.Join(errs...)
		})
		if *asJSON {
			return errors.Join(printJSON(std.out, map[string][]string{"removed": removed}), err)
		}
		for _, id := range removed {
			fmt.Fprintf(std.out, "removed %s\n", id)
		}
		return err
	}
}

func storeRevoke(fs *flag.FlagSet) action {
	var servers serveFlags
	fs.StringVar(&servers.keyring, "keyring", "", "the `ring` of the servers: a file, env:NAME or store:FILE")
	fs.BoolVar(&servers.plaintext, "plaintext", false, "for servers with -plaintext")
	lifetime := fs.Duration("lifetime", 24*time.Hour, "for the longest `duration` that a session can live (StoreOptions.MaxLifetime)")
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 2, -1); err != nil {
			return err
		}
		if servers.keyring != "" && servers.plaintext {
			return usagef("-keyring and -plaintext exclude each other")
		}
		if *lifetime <= 0 {
			return usagef("-lifetime must be more than 0")
		}
		origins, err := parseOrigins(args[1:])
		if err != nil {
			return err
		}
		revoked := []string{}
		err = withStore(ctx, args[0], func(ctx context.Context, st store.Store) error {
			keys, err := servers.sealingRing(ctx, st, log.New(std.err, "sslsess: ", 0))
			if err != nil {
				return err
			}
			for _, o := range origins {
				id := entry.TombstoneID(entry.Name(o))
				if err := st.Put(ctx, store.Record{ID: id, Data: entry.SealTombstone(keys, id), Expires: time.Now().Add(*lifetime)}); err != nil {
					return err
				}
				revoked = append(revoked, o.String())
			}
			return nil
		})
		if *asJSON {
			return errors.Join(printJSON(std.out, map[string][]string{"revoked": revoked}), err)
		}
		for _, o := range revoked {
			fmt.Fprintf(std.out, "revoked %s\n", o)
		}
		return err
	}
}

func parseOrigins(args []string) (all []libssl.SessionOrigin, err error) {
	for _, arg := range args {
		var o libssl.SessionOrigin
		b, err := hex.DecodeString(arg)
		if err != nil || len(b) != len(o) {
			return nil, usagef("%q is no origin, which has %d hexadecimal digits", arg, hex.EncodedLen(len(o)))
		}
		copy(o[:], b)
		all = append(all, o)
	}
	return all, nil
}

// sealingRing returns the ring that seals the entries of st, nil if they are in plaintext.
func (f *serveFlags) sealingRing(ctx context.Context, st store.Store, logger *log.Logger) (*ticket.Ring, error) {
	if f.plaintext {
		return nil, nil
	}
	if f.keyring != "" {
		ring, stop, err := f.loadRing(ctx, st, logger)
		if err == nil {
			stop()
		}
		return ring, err
	}
	embedded, ok := st.(store.Embedded)
	if !ok {
		return nil, usagef("a store of several hosts needs -keyring, or -plaintext for servers that have it")
	}
	key, err := embedded.SealingKey()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return ticket.FromKey(key)
}

func storePurge(fs *flag.FlagSet) action {
	expired := fs.Bool("expired", false, "only expired sessions")
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 1, 1); err != nil {
			return err
		}
		removed := 0
		err := withStore(ctx, args[0], func(ctx context.Context, st store.Store) (err error) {
			p, ok := st.(store.Purger)
			if !ok {
				return errors.New("this kind of store cannot be purged")
			}
			removed, err = p.Purge(ctx, *expired)
			return err
		})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(std.out, map[string]int{"removed": removed})
		}
		_, err = fmt.Fprintf(std.out, "removed %d\n", removed)
		return err
	}
}
