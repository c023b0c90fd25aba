// Package ticket keeps the keys that protect TLS sessions outside the process that made them: the entries of a session
// store, and tickets held by clients.
//
// A Ring is a short list of 32-byte keys, newest first. The newest seals, all of them open, so that keys can be replaced
// while sessions sealed under the older ones live on. Servers that share sessions share a ring, usually as a file:
//
//	# newest first; a key may name the time from which on it seals
//	6cc1...64 hexadecimal digits in all... 2026-11-25T10:00:00Z
//	90b2...
//
// To rotate the keys of a fleet write a file with a fresh key in front (see RotateAt) and give it to every server, which
// may watch it (see WatchRing). A key opens as soon as a server has it and seals from its time on, so that servers which
// reload at different moments agree. Package store/sharedring keeps a ring in the store that the servers share, where they
// rotate it themselves.
//
// No method prints or marshals a key, except WriteTo and Save, whose purpose it is.
package ticket

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// KeySize is the length of a ring's keys in bytes.
	KeySize = 32

	// MaxKeys is how many keys a ring may have.
	MaxKeys = 16

	// RotatedKeys is how many keys Rotate leaves in a ring, the fresh one included. With sessions that live a day
	// and a rotation a day, two would do; four forgive a server that learns of a new key late.
	RotatedKeys = 4
)

// Ring is a list of 1 to 16 keys, newest first. It is safe for concurrent use.
// Make one with NewRing, ParseRing, LoadRing, WatchRing, RingFromEnv or FromKey; the zero Ring holds no key, opens nothing
// and panics when it must seal.
type Ring struct {
	list atomic.Pointer[keyList]

	mu       sync.Mutex
	onChange []*func()
}

// keyList is immutable once a Ring points to it: readers load it once and need no lock.
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

// FromKey returns a ring of one given key of KeySize bytes, such as a store.Embedded has. It keeps no reference to secret.
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

// ParseRing reads a ring in the format of key files: one key a line in 64 hexadecimal digits, newest first, each followed by the
// time from which on it seals, in RFC 3339, or by nothing. Blank lines and lines that begin with # are skipped. A key that
// appears twice is an error, since the second is surely a slip of the editor, and so are no key at all, more than MaxKeys,
// and keys that all wait for their time. Errors name the line and never quote a key.
func ParseRing(text []byte) (*Ring, error) {
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, err
	}
	return RingOf(keys)
}

// ParseKeys is ParseRing for keys that are yet to become a ring: they may all wait for their time.
func ParseKeys(text []byte) ([]Key, error) {
	var keys []Key
	var lines []int // where each of keys was
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
			_, err := hex.Decode(secret[:], digits) // whose error would quote a digit
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

// RingFromEnv reads a ring from an environment variable, in the format of ParseRing, where commas may stand for line ends.
func RingFromEnv(name string) (*Ring, error) {
	text, ok := os.LookupEnv(name)
	if !ok {
		return nil, fmt.Errorf("ticket: the environment has no %s", name)
	}
	r, err := ParseRing([]byte(strings.ReplaceAll(text, ",", "\n")))
	if err != nil {
		return nil, fmt.Errorf("key ring of the environment's %s: %w", name, err)
	}
	return r, nil
}

// LoadRing reads a ring from a file in the format of ParseRing. It refuses a file that others than its owner can read or write.
func LoadRing(path string) (*Ring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("ticket: key ring: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("ticket: key ring: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("ticket: key ring %s: mode %04o lets others than its owner at the keys; make it 0600", path, mode)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("ticket: key ring: %w", err)
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

// RotateAt puts a fresh random key in front, which seals from notBefore on, to the second, and drops the oldest ones beyond
// RotatedKeys. What they sealed can then no longer be opened by this ring. Calls that run meanwhile use the keys from
// before or after. For a fleet notBefore is when every server has the new ring: whoever learns of the key later cannot
// open what it sealed.
//
// One key should not seal more than 2^32 times, the bound for random nonces in AES-GCM.
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

// Replace puts the keys of another ring in the place of r's.
func (r *Ring) Replace(with *Ring) {
	r.list.Store(with.list.Load())
	r.changed()
}

// OnChange has f called after each change of the keys, on the goroutine that made it, until stop is called.
func (r *Ring) OnChange(f func()) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = append(r.onChange[:len(r.onChange):len(r.onChange)], &f) // changed may walk the old one
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

// sealing is the newest key whose time has come. Where a clock was set back and none is left, it is the oldest.
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

// String returns the number of keys and their ids, which tell nothing about the keys.
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

// Format prints what String returns whatever the verb, so that no verb finds its way to the keys.
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

// Save writes the keys to the file path with mode 0600. A file that is there is replaced in one step: whoever loads it
// meanwhile, or after a crash, finds the old keys or the new ones.
func (r *Ring) Save(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ticket: saving key ring: %w", err)
		}
	}()
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
	_, err = r.WriteTo(f)
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
	// The new name is on disk only once the folder is.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
