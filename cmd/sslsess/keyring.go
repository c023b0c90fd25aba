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

	"github.com/libssl-go/libssl/ticket"
)

var keyringCommand = command{
	name:  "keyring",
	about: "make and rotate the keys that seal a store",
	long: `A key ring is a file of 32-byte keys in hexadecimal, one a line, newest first, with
mode 0600. The newest key seals, all of them open. Give every server of a fleet the
same file; to rotate its keys, rotate one copy and give that to all. A running serve
follows its file. A ring that changes rarely can also be the secret under which servers
keep another, which they rotate themselves, in their store: serve -keyring store:FILE.

With rotate -after the fresh key seals only once that time has gone by, which is when
every server should have the file.`,
	subs: []command{
		{name: "new", args: "[FILE]", about: "make a ring of one fresh key, on standard output unless FILE says where", flags: keyringNew},
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
		// Never Ring.Save, which replaces: the sessions of a fleet would be lost
		// with its keys.
		f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and is left alone: sslsess keyring rotate adds a key to it", args[0])
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
		unlock, err := lockFile(args[0])
		if err != nil {
			return err
		}
		defer unlock()
		ring, err := ticket.LoadRing(args[0])
		if err != nil {
			return err
		}
		if err := ring.RotateAt(notBefore); err != nil {
			return err
		}
		if err := ring.Save(args[0]); err != nil {
			return err
		}
		fmt.Fprintf(std.err, "%s: %v\n", args[0], ring)
		return nil
	}
}

// lockFile keeps other rotations out, which would lose the key of one of them. What is locked is the file that has the
// name: a rotation gives the name to another.
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
