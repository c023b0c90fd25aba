// Package ticket keeps the keys that protect TLS sessions outside the process that made them: entries in a session store,
// and tickets held by clients.
//
// A Ring is a short list of 32-byte keys, newest first. The newest key seals and every key opens, so that keys can be
// replaced while sessions sealed under older keys live on. Servers that share sessions share a ring, usually as a file:
//
//	# newest first; the time, if any, is when the key starts to seal
//	6cc1...64 hexadecimal digits in all... 2026-11-25T10:00:00Z
//	90b2...
//
// To rotate the keys of a fleet, write a file with a fresh key in front (see RotateAt) and copy it to every server. A server
// may watch its file (see WatchRing). A key opens as soon as a server has it and seals only from its time on, so that
// servers which reload at different moments agree. Package store/sharedring keeps a ring in the store that the servers
// share, and the servers rotate it themselves.
//
// Only WriteTo and Save write keys; no other method prints or marshals one.
package ticket

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl/internal/ownfile"
)

const (
	// KeySize is the length of a key in bytes.
	KeySize = 32

	// MaxKeys is how many keys a ring may have.
	MaxKeys = 16

	// RotatedKeys is how many keys Rotate leaves in a ring, the fresh one included. With sessions that live a day and
	// daily rotation, two would do. Four tolerate a server that gets a new key late.
	RotatedKeys = 4
)

// Ring is a list of 1 to 16 keys, newest first. It is safe for concurrent use.
// Make one with NewRing, ParseRing, LoadRing, WatchRing, RingFromEnv or FromKey. The zero Ring has no key: it opens nothing,
// and Seal panics.
type Ring struct {
	list atomic.Pointer[keyList]

	mu       sync.Mutex
	onChange []*func()
}

// keyList is immutable once a Ring points to it, so readers need no lock.
type keyList struct {
	keys []*key
}

// NewRing returns a ring of one fresh random key.
func NewRing() (*Ring, error) {
	r := new(Ring)
	if err := r.Rotate(); err != nil {
		return nil, err
	}
	return r, nil
}

// FromKey returns a ring of the one key secret, which has KeySize bytes, for example the key of a store.Embedded. It copies
// secret.
func FromKey(secret []byte) (*Ring, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("ticket: a key has %d bytes, not %d", KeySize, len(secret))
	}
	k, err := newKey([KeySize]byte(secret))
	if err != nil {
		return nil, err
	}
	return ringOf([]*key{k}), nil
}

// ParseRing reads a ring in the format of key files: one key a line, newest first. A line has 64 hexadecimal digits and,
// optionally, the time in RFC 3339 from which the key seals. Blank lines and lines that begin with # are skipped. A repeated
// key is an error, since it is surely an editing mistake. So are no key at all, more than MaxKeys keys, and keys that all
// start sealing in the future. Errors name the line and never quote a key.
func ParseRing(text []byte) (*Ring, error) {
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, err
	}
	return RingOf(keys)
}

// ParseKeys is ParseRing for a list of keys that is not a ring yet: all of them may start sealing in the future.
func ParseKeys(text []byte) ([]Key, error) {
	var keys []Key
	var lines []int // the line of each key
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var secret [KeySize]byte
		digits, when, dated := bytes.Cut(line, []byte(" "))
		bad := len(digits) != hex.EncodedLen(KeySize)
		if !bad {
			_, err := hex.Decode(secret[:], digits) // not reported: the error quotes a digit of the key
			bad = err != nil
		}
		if bad {
			return nil, fmt.Errorf("ticket: line %d is not a key of %d hexadecimal digits", n, hex.EncodedLen(KeySize))
		}
		var notBefore time.Time
		if dated {
			var err error
			if notBefore, err = time.Parse(time.RFC3339, string(bytes.TrimSpace(when))); err != nil {
				return nil, fmt.Errorf("ticket: line %d: after the key comes nothing or a time such as 2026-11-25T10:00:00Z", n)
			}
		}
		for i, k := range keys {
			if subtle.ConstantTimeCompare(k.k.secret[:], secret[:]) == 1 {
				return nil, fmt.Errorf("ticket: line %d repeats the key of line %d", n, lines[i])
			}
		}
		if len(keys) == MaxKeys {
			return nil, fmt.Errorf("ticket: line %d: a ring has at most %d keys", n, MaxKeys)
		}
		k, err := newKey(secret)
		if err != nil {
			return nil, err
		}
		k.notBefore = notBefore
		keys, lines = append(keys, Key{k}), append(lines, n)
	}
	if len(keys) == 0 {
		return nil, errNoKey
	}
	return keys, nil
}

var errNoKey = errors.New("ticket: no key in the ring")

// RingFromEnv reads a ring from an environment variable, in the format of ParseRing. Commas may replace the line ends.
func RingFromEnv(name string) (*Ring, error) {
	text, ok := os.LookupEnv(name)
	if !ok {
		return nil, fmt.Errorf("ticket: environment variable %s is not set", name)
	}
	r, err := ParseRing([]byte(strings.ReplaceAll(text, ",", "\n")))
	if err != nil {
		return nil, fmt.Errorf("key ring in environment variable %s: %w", name, err)
	}
	return r, nil
}

// LoadRing reads a ring from a file in the format of ParseRing. It refuses a file that others than its owner can access, or
// that another user may have put there. The file, its folder and each link on the way must belong to the effective user or
// root, and no other user may be able to write the file or its folder. A folder with the sticky bit is no exception.
func LoadRing(path string) (*Ring, error) {
	text, err := ownfile.Self().ReadSecret(path)
	if err != nil {
		return nil, fmt.Errorf("ticket: key ring %s: %w", path, err)
	}
	defer clear(text)
	r, err := ParseRing(text)
	if err != nil {
		return nil, fmt.Errorf("key ring %s: %w", path, err)
	}
	return r, nil
}

func ringOf(keys []*key) *Ring {
	r := new(Ring)
	r.list.Store(&keyList{keys: keys})
	return r
}

func (r *Ring) keys() []*key {
	if l := r.list.Load(); l != nil {
		return l.keys
	}
	return nil
}

// Rotate is RotateAt for a key that seals at once.
func (r *Ring) Rotate() error { return r.RotateAt(time.Time{}) }

// RotateAt puts a fresh random key in front, which seals from notBefore on, cut to the second. It drops the oldest keys
// beyond RotatedKeys; this ring can then no longer open their envelopes. Concurrent calls use the keys from before or from
// after the rotation. In a fleet, notBefore should be a time at which every server has the new ring: a server that gets the
// key later cannot, until then, open envelopes sealed with it.
func (r *Ring) RotateAt(notBefore time.Time) error {
	fresh, err := NewKey(notBefore)
	if err != nil {
		return err
	}
	for {
		old := r.list.Load()
		next := &keyList{keys: []*key{fresh.k}}
		if old != nil {
			next.keys = append(next.keys, old.keys[:min(len(old.keys), RotatedKeys-1)]...)
		}
		if r.list.CompareAndSwap(old, next) {
			r.changed()
			return nil
		}
	}
}

// Replace replaces the keys of r with those of another ring. A ring without keys is an error: users of r need a key to seal
// with.
func (r *Ring) Replace(with *Ring) error {
	if with == nil || with.Len() == 0 {
		return errors.New("ticket: replace: a ring without keys")
	}
	r.list.Store(with.list.Load())
	r.changed()
	return nil
}

// OnChange registers f to be called after each change of the keys, on the goroutine that made the change, until stop is
// called.
func (r *Ring) OnChange(f func()) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = append(r.onChange[:len(r.onChange):len(r.onChange)], &f) // a copy: changed may be walking the old slice
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.onChange = slices.DeleteFunc(slices.Clone(r.onChange), func(g *func()) bool { return g == &f })
	}
}

func (r *Ring) changed() {
	r.mu.Lock()
	all := r.onChange
	r.mu.Unlock()
	for _, f := range all {
		(*f)()
	}
}

// sealing returns the newest key whose time has come. If the clock was set back and every key is in the future, it returns
// the oldest.
func (r *Ring) sealing() *key {
	keys := r.keys()
	for _, k := range keys {
		if k.notBefore.IsZero() || !k.notBefore.After(time.Now()) {
			return k
		}
	}
	return keys[len(keys)-1]
}

// Len returns the number of keys.
func (r *Ring) Len() int { return len(r.keys()) }

// String returns the number of keys and their ids, which reveal nothing about the keys.
func (r *Ring) String() string {
	keys := r.keys()
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = hex.EncodeToString(k.id[:])
	}
	noun := "keys"
	if len(keys) == 1 {
		noun = "key"
	}
	return fmt.Sprintf("ticket.Ring(%d %s: %s)", len(keys), noun, strings.Join(ids, " "))
}

// Format prints the result of String for every verb, so that no verb can print the keys.
func (r *Ring) Format(s fmt.State, _ rune) { io.WriteString(s, r.String()) }

// WriteTo writes the keys in the format that ParseRing reads. The method is not called MarshalText, because loggers and
// encoders look for that name and would spread the keys.
func (r *Ring) WriteTo(w io.Writer) (int64, error) {
	var text []byte
	for _, k := range r.keys() {
		text = hex.AppendEncode(text, k.secret[:])
		if !k.notBefore.IsZero() {
			text = append(text, ' ')
			text = k.notBefore.UTC().AppendFormat(text, time.RFC3339)
		}
		text = append(text, '\n')
	}
	defer clear(text)
	n, err := w.Write(text)
	return int64(n), err
}

// Save writes the keys to the file path with mode 0600. It replaces an existing file in one step: a process that loads the
// file meanwhile, or after a crash, gets either the old keys or the new ones. The new file has the owner, group and mode of the old
// one, without access for other users, and its place, if path is a link.
func (r *Ring) Save(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ticket: saving key ring: %w", err)
		}
	}()
	owner, err := ownfile.Owner(path)
	var info fs.FileInfo
	switch {
	case err == nil:
		if path, info, err = owner.Find(path); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if info != nil {
		err = errors.Join(f.Chmod(info.Mode().Perm()&^0o037), ownfile.Keep(f, info))
	}
	if err == nil {
		_, err = r.WriteTo(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The rename survives a crash only once the folder is synced.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
