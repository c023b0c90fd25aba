// Package ticket keeps the keys that protect TLS sessions outside the process that made them: the entries of a session
// store, and tickets held by clients.
//
// A Ring is a short list of 32-byte keys, newest first. The newest seals, all of them open, so that keys can be replaced
// while sessions sealed under the older ones live on. Servers that share sessions share a ring, usually as a file:
//
//	# newest first
//	6cc1...64 hexadecimal digits in all...
//	90b2...
//
// To rotate the keys of a fleet write a file with a fresh key in front (see Rotate) and give it to every server.
// No method prints or marshals a key, except WriteTo and Save, whose purpose it is.
package ticket

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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
// Make one with NewRing, ParseRing, LoadRing or FromKey; the zero Ring holds no key, opens nothing and panics when it must seal.
type Ring struct {
	list atomic.Pointer[keyList]
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

// ParseRing reads a ring in the format of key files: one key a line in 64 hexadecimal digits, newest first. Blank lines and lines
// that begin with # are skipped. A key that appears twice is an error, since the second is surely a slip of the
// editor, and so are no key at all and more than MaxKeys. Errors name the line and never quote it.
func ParseRing(text []byte) (*Ring, error) {
	var keys []*key
	var lines []int // where each of keys was
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var secret [KeySize]byte
		bad := len(line) != hex.EncodedLen(KeySize)
		if !bad {
			_, err := hex.Decode(secret[:], line) // whose error would quote a digit
			bad = err != nil
		}
		if bad {
			return nil, fmt.Errorf("ticket: line %d is not a key of %d hexadecimal digits", n, hex.EncodedLen(KeySize))
		}
		for i, k := range keys {
			if subtle.ConstantTimeCompare(k.secret[:], secret[:]) == 1 {
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
		keys, lines = append(keys, k), append(lines, n)
	}
	if len(keys) == 0 {
		return nil, errors.New("ticket: no key in the ring")
	}
	return ringOf(keys), nil
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

// Rotate puts a fresh random key in front and drops the oldest ones beyond RotatedKeys. What they sealed can then no longer
// be opened by this ring. Calls that run meanwhile use the keys from before or after.
//
// One key should not seal more than 2^32 times, the bound for random nonces in AES-GCM.
func (r *Ring) Rotate() error {
	var secret [KeySize]byte
	rand.Read(secret[:]) // never fails: the runtime ends the process first
	fresh, err := newKey(secret)
	if err != nil {
		return err
	}
	for {
		old := r.list.Load()
		next := &keyList{keys: []*key{fresh}}
		if old != nil {
			next.keys = append(next.keys, old.keys[:min(len(old.keys), RotatedKeys-1)]...)
		}
		if r.list.CompareAndSwap(old, next) {
			return nil
		}
	}
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
