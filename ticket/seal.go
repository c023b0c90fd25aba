package ticket

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"slices"
	"sync"
	"time"
)

// An envelope is
//
//	version  1 byte
//	key id   8 bytes
//	nonce   12 bytes, random
//	AES-256-GCM ciphertext, as long as the plaintext
//	tag     16 bytes
//
// and authenticates version, key id and the caller's additional data, in this order.
const (
	envelopeVersion = 1
	keyIDSize       = 8
	headerSize      = 1 + keyIDSize

	// Overhead is how much longer than its plaintext an envelope is.
	Overhead = headerSize + 12 + 16

	// TagSize is the length of a tag, and of the random bytes it is for.
	TagSize = 16

	// NameSize is the length of the name in an id.
	NameSize = 8
)

// Errors of Open; match them with errors.Is.
var (
	// ErrMalformed: the bytes are no envelope of a version this package knows.
	ErrMalformed = errors.New("ticket: not a sealed envelope")

	// ErrUnknownKey: the sealing key is not, or no longer, in the ring. Another server may have it.
	ErrUnknownKey = errors.New("ticket: sealed under a key that is not in the ring")

	// ErrForged: the envelope was changed, or was sealed with other additional data.
	ErrForged = errors.New("ticket: envelope is not authentic")
)

// key is one key of a ring and the values derived from it. Each purpose has its own subkey, so that a leak of one reveals
// nothing about the others.
type key struct {
	secret    [KeySize]byte
	notBefore time.Time // seals from then on; zero: always
	id        [keyIDSize]byte
	aead      cipher.AEAD  // made once: the key schedule costs more than sealing a session
	ids       cipher.Block // hides the names in ids

	// The padded keys of the two hashes in HMAC.
	inner, outer [sha256.BlockSize]byte
}

func newKey(secret [KeySize]byte) (*key, error) {
	k := &key{secret: secret}
	id, err := k.derive("libssl ticket 1 key id", keyIDSize)
	if err != nil {
		return nil, err
	}
	copy(k.id[:], id)

	seal, err := k.derive("libssl ticket 1 seal", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return nil, err
	}
	if k.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, err
	}

	ids, err := k.derive("libssl ticket 1 id", 32)
	if err != nil {
		return nil, err
	}
	if k.ids, err = aes.NewCipher(ids); err != nil {
		return nil, err
	}

	tag, err := k.derive("libssl ticket 1 tag", sha256.Size)
	if err != nil {
		return nil, err
	}
	copy(k.inner[:], tag)
	copy(k.outer[:], tag)
	for i := range k.inner {
		k.inner[i] ^= 0x36
		k.outer[i] ^= 0x5c
	}
	return k, nil
}

func (k *key) derive(info string, size int) ([]byte, error) {
	return hkdf.Key(sha256.New, k.secret[:], nil, info, size)
}

// tag returns the HMAC-SHA256 of random, which has TagSize bytes, under the tag subkey, cut to TagSize. Both hash inputs
// have a fixed length, so they fit on the stack; crypto/hmac would allocate.
func (k *key) tag(random []byte) [TagSize]byte {
	var in [sha256.BlockSize + TagSize]byte
	copy(in[:], k.inner[:])
	copy(in[sha256.BlockSize:], random)
	sum := sha256.Sum256(in[:])

	var out [sha256.BlockSize + sha256.Size]byte
	copy(out[:], k.outer[:])
	copy(out[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(out[:])
	return [TagSize]byte(sum[:])
}

// additionalPool holds the buffers that join header and additional data. A local buffer would escape to the heap, because it
// is passed through an interface.
var additionalPool = sync.Pool{New: func() any { return new([]byte) }}

// Seal encrypts plaintext under the newest key of the ring whose time has come. It appends the envelope to dst and returns
// the extended slice. An envelope is Overhead bytes longer than its plaintext. Open needs the same additional data, which
// is not part of the envelope. The spare capacity of dst must not overlap plaintext or additional.
func (r *Ring) Seal(dst, plaintext, additional []byte) []byte {
	k := r.sealing()
	dst = slices.Grow(dst, len(plaintext)+Overhead)
	header := len(dst)
	dst = append(dst, envelopeVersion)
	dst = append(dst, k.id[:]...)

	buf := additionalPool.Get().(*[]byte)
	defer additionalPool.Put(buf)
	*buf = append(append((*buf)[:0], dst[header:]...), additional...)
	return k.aead.Seal(dst, nil, plaintext, *buf)
}

// Open decrypts an envelope, appends the plaintext to dst and returns the extended slice. It finds the key by the id in
// the envelope. The error is ErrMalformed, ErrUnknownKey or ErrForged. The spare capacity of dst must not overlap envelope
// or additional.
func (r *Ring) Open(dst, envelope, additional []byte) ([]byte, error) {
	if len(envelope) < Overhead || envelope[0] != envelopeVersion {
		return nil, ErrMalformed
	}
	header, body := envelope[:headerSize], envelope[headerSize:]
	k := r.find(header[1:])
	if k == nil {
		return nil, ErrUnknownKey
	}
	buf := additionalPool.Get().(*[]byte)
	defer additionalPool.Put(buf)
	*buf = append(append((*buf)[:0], header...), additional...)
	plaintext, err := k.aead.Open(dst, nil, body, *buf)
	if err != nil {
		return nil, ErrForged
	}
	return plaintext, nil
}

// find returns the key with this id, or nil.
func (r *Ring) find(id []byte) *key {
	for _, k := range r.keys() {
		if string(k.id[:]) == string(id) {
			return k
		}
	}
	return nil
}

// Tag returns a keyed tag of random, which must have TagSize bytes. From a session id that consists of random and tag, every
// holder of the ring can tell that a server with this ring issued the id, without asking a store. Tag uses the oldest key
// of the ring: a rotated ring reaches the servers of a fleet one by one, and only the oldest key is on all of them.
func (r *Ring) Tag(random []byte) [TagSize]byte {
	if len(random) != TagSize {
		panic("ticket: Tag of other than 16 bytes")
	}
	keys := r.keys()
	return keys[len(keys)-1].tag(random)
}

// CheckTag reports whether tag is the tag of random under any key of the ring. It compares in constant time. Slices whose
// length is not TagSize never match.
func (r *Ring) CheckTag(random, tag []byte) bool {
	if len(random) != TagSize || len(tag) != TagSize {
		return false
	}
	ok := 0
	for _, k := range r.keys() {
		want := k.tag(random)
		ok |= subtle.ConstantTimeCompare(want[:], tag)
	}
	return ok == 1
}

// NameID makes random, which must have 32 bytes, an id that carries name: the holders of the ring find it with NameIn, and for
// anyone else two ids of one name have nothing in common. The first half of the id is one AES block of the name and eight of
// the random bytes, the second half is its Tag.
func (r *Ring) NameID(random []byte, name [NameSize]byte) {
	if len(random) != 2*TagSize {
		panic("ticket: NameID of other than 32 bytes")
	}
	keys := r.keys()
	k := keys[len(keys)-1]
	copy(random, name[:])
	k.ids.Encrypt(random[:TagSize], random[:TagSize])
	tag := k.tag(random[:TagSize])
	copy(random[TagSize:], tag[:])
}

// NameIn returns the name in an id that NameID has made with any key of the ring. ok is false for all other ids.
func (r *Ring) NameIn(id []byte) (name [NameSize]byte, ok bool) {
	if len(id) != 2*TagSize {
		return name, false
	}
	for _, k := range r.keys() {
		want := k.tag(id[:TagSize])
		if subtle.ConstantTimeCompare(want[:], id[TagSize:]) == 1 {
			var block [TagSize]byte
			k.ids.Decrypt(block[:], id[:TagSize])
			return [NameSize]byte(block[:]), true
		}
	}
	return name, false
}
