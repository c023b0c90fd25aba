package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/libssl-go/libssl/internal/ownfile"
	"github.com/libssl-go/libssl/ticket"
)

var keyringCommand = command{
	name:  "keyring",
	about: "make and rotate the keys that seal a store",
	long: `A key ring is a file of 32-byte keys in hexadecimal, one a line, newest first, with
mode 0600. The newest key seals, all of them open. Give every server of a fleet the
same file. To rotate its keys, rotate one copy and give it to all servers. A running
server notices that its file has changed. With serve -keyring store:FILE, the servers
keep another ring in their store and rotate it themselves; FILE is then the secret that
seals it, and rarely changes.

With rotate -after the fresh key seals only after that time, by when every server should
have the file.`,
	subs: []command{
		{name: "new", args: "[FILE]", about: "make a ring of one fresh key, in FILE or on standard output", flags: keyringNew},
		{name: "rotate", args: "FILE", about: "put a fresh key in front and drop the oldest ones", flags: keyringRotate},
	},
}

func keyringNew(*flag.FlagSet) action {
	return func(_ context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 0, 1); err != nil {
			return err
		}
		ring, err := ticket.NewRing()
		if err != nil {
			return err
		}
		if len(args) == 0 {
			_, err := ring.WriteTo(std.out)
			return err
		}
		// Not Ring.Save, which replaces a file: the fleet would lose the keys of its
		// sessions.
		f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and was not changed: sslsess keyring rotate adds a key to it", args[0])
		} else if err != nil {
			return err
		}
		_, err = ring.WriteTo(f)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			os.Remove(args[0])
			return err
		}
		fmt.Fprintf(std.err, "%s: %v\n", args[0], ring)
		return nil
	}
}

func keyringRotate(fs *flag.FlagSet) action {
	after := fs.Duration("after", 0, "let the fresh key seal only after this `duration`")
	return func(_ context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 1, 1); err != nil {
			return err
		}
		if *after < 0 {
			return usagef("-after must not be negative")
		}
		var notBefore time.Time
		if *after > 0 {
			notBefore = time.Now().Add(*after)
		}
		// The ring may belong to the user that serves, and root rotates it.
		owner, err := ownfile.Owner(args[0])
		if err != nil {
			return err
		}
		file, _, err := owner.Find(args[0])
		if err != nil {
			return err
		}
		unlock, err := lockFile(file)
		if err != nil {
			return err
		}
		defer unlock()
		text, err := owner.ReadSecret(file)
		if err != nil {
			return fmt.Errorf("key ring %s: %w", args[0], err)
		}
		defer clear(text)
		ring, err := ticket.ParseRing(text)
		if err != nil {
			return fmt.Errorf("key ring %s: %w", args[0], err)
		}
		if err := ring.RotateAt(notBefore); err != nil {
			return err
		}
		if err := ring.Save(file); err != nil {
			return err
		}
		fmt.Fprintf(std.err, "%s: %v\n", args[0], ring)
		return nil
	}
}

// lockFile keeps out other rotations: of two at once, one would lose its key. It locks the file that has the name now. As
// each rotation replaces the file, lockFile starts again if the name has moved to another file.
func lockFile(path string) (unlock func() error, err error) {
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != nil {
			return nil, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, f.Close())
		}
		locked, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(locked, named) {
			return f.Close, nil
		}
		f.Close()
	}
}
