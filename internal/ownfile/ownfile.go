// Package ownfile reads files that decide whom a process trusts: keys, rings of keys, and databases. Only this user and root may be able
// to write such a file, or to put another in its place. A file that another user may have planted is refused, and so is one that
// a planted link leads to.
package ownfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// User is a user whose files count beside those of root.
type User int

// Self is the effective user of this process.
func Self() User { return User(os.Geteuid()) }

// Owner is the user to whom the file path belongs, for programs that change files on behalf of their owners.
func Owner(path string) (User, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if owner, ok := ownerOf(info); ok {
		return User(owner), nil
	}
	return Self(), nil
}

// Find follows path and returns where the file is and its state. The file must be regular. It and its folder must belong to the
// user or root, and no other user may be able to write them. A folder with the sticky bit counts as writable by those who
// can add files. Each link on the way must belong to the user or root.
func (u User) Find(path string) (string, fs.FileInfo, error) {
	found, info, err := u.follow(path)
	if err != nil {
		return "", nil, err
	}
	if !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%s: not a regular file", found)
	}
	if err := u.check(found, info); err != nil {
		return "", nil, err
	}
	return found, info, u.folder(found)
}

// Folder checks the folder in which path is to be made, as Find does.
func (u User) Folder(path string) error {
	dir, _, err := u.follow(filepath.Dir(path))
	if err != nil {
		return err
	}
	return u.folder(filepath.Join(dir, filepath.Base(path)))
}

// Read returns the content of the file that Find finds, and its state.
func (u User) Read(path string) ([]byte, fs.FileInfo, error) {
	found, before, err := u.Find(path)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(found)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !os.SameFile(before, info) {
		return nil, nil, fmt.Errorf("%s: replaced while it was opened", found)
	}
	text, err := io.ReadAll(f)
	return text, info, err
}

// ReadSecret is Read for a file that other users must not be able to read either.
func (u User) ReadSecret(path string) ([]byte, error) {
	text, info, err := u.Read(path)
	if err == nil {
		err = u.Secret(info)
	}
	if err != nil {
		clear(text)
		return nil, err
	}
	return text, nil
}

// Secret returns an error if others than the owner can access the file. The group may read a file of root if the user is another,
// who could not read it otherwise: Kubernetes hands secrets out so.
func (u User) Secret(info fs.FileInfo) error {
	forbidden := fs.FileMode(0o077)
	if owner, ok := ownerOf(info); ok && owner == 0 && u != 0 {
		forbidden = 0o037
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return fmt.Errorf("mode %04o lets other users access it; make it 0600", mode)
	}
	return nil
}

// folder checks the folder of a file.
func (u User) folder(file string) error {
	dir := filepath.Dir(file)
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return u.check(dir, info)
}

// check returns an error if other users own the file or folder, or can write it.
func (u User) check(name string, info fs.FileInfo) error {
	if err := u.owned(name, info); err != nil {
		return err
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 {
		return fmt.Errorf("%s: mode %04o lets other users change it", name, mode.Perm())
	}
	return nil
}

func (u User) owned(name string, info fs.FileInfo) error {
	if owner, ok := ownerOf(info); ok && owner != 0 && User(owner) != u {
		return fmt.Errorf("%s: belongs to user %d, and must belong to user %d or root", name, owner, u)
	}
	return nil
}

// follow resolves the links in path one by one.
func (u User) follow(path string) (string, fs.FileInfo, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	const sep = string(filepath.Separator)
	root := filepath.VolumeName(path) + sep
	found, rest := root, strings.TrimPrefix(path, root)
	info, err := os.Lstat(root)
	if err != nil {
		return "", nil, err
	}
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, sep)
		next := filepath.Join(found, name) // found has no link, so .. is its folder
		if info, err = os.Lstat(next); err != nil {
			return "", nil, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			found = next
			continue
		}
		if links++; links > maxLinks {
			return "", nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("too many symbolic links")}
		}
		if err := u.owned(next, info); err != nil {
			return "", nil, fmt.Errorf("symbolic link %w", err)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", nil, err
		}
		rest = strings.TrimPrefix(target+sep+rest, sep)
		if filepath.IsAbs(target) {
			found = root
		}
		rest = strings.TrimRight(rest, sep)
		if info, err = os.Lstat(found); err != nil {
			return "", nil, err
		}
	}
	return found, info, nil
}
