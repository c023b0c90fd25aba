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
)

// Errors of Open; match them with errors.Is.
var (
	// ErrMalformed: the bytes are no envelope of a version this package knows.
	ErrMalformed = errors.New("ticket: not a sealed envelope")

	// ErrUnknownKey: sealed under a key that is not, or no longer, in the ring. Another server may have it.
	ErrUnknownKey = errors.New("ticket: sealed under a key that is not in the ring")

	// ErrForged: the envelope was changed, or was sealed with other additional data.
	ErrForged = errors.New("ticket: envelope is not authentic")
)

// key is one key of a ring with all that is derived from it. Each purpose has a subkey of its own, so that nothing one
// of them reveals says anything about another.
type key struct {
	secret    [KeySize]byte
	notBefore time.Time // it seals from then on; zero: always
	id        [keyIDSize]byte
	aead      cipher.AEAD // made once: the key schedule costs more than sealing a session

	// The padded keys of HMAC's two hashes.
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

// tag is HMAC-SHA256 under the key's tag subkey, cut to TagSize. Both hashes have inputs of known length, so they
// are done on the stack; crypto/hmac would allocate. random has TagSize bytes.
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

// additionalPool holds the buffers in which header and additional data are joined. They would be on the stack,
// were they not passed to an interface.
var additionalPool = sync.Pool{New: func() any { return new([]byte) }}

// Seal appends to dst an envelope of plaintext under the newest key of the ring whose time has come, and returns the extended slice. It is
// Overhead bytes longer than plaintext. The same additional data must be given to Open; it is not part of the envelope.
// The spare capacity of dst must not overlap plaintext or additional.
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

// Open appends to dst the plaintext of an envelope and returns the extended slice. It finds the key by the id in the
// envelope. The error is ErrMalformed, ErrUnknownKey or ErrForged. The spare capacity of dst must not overlap envelope or additional.
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

// find returns the key called id, or nil.
func (r *Ring) find(id []byte) *key {
	for _, k := range r.keys() {
		if string(k.id[:]) == string(id) {
			return k
		}
	}
	return nil
}

// Tag returns a keyed tag of random, which must have TagSize bytes: a session id made of both shows whoever has the ring
// that it was issued, without a look into any store. The key is the oldest of the ring, because a rotated ring
// reaches the servers of a fleet one by one, and the oldest key is the one that all have.
func (r *Ring) Tag(random []byte) [TagSize]byte {
	if len(random) != TagSize {
		panic("ticket: Tag of other than 16 bytes")
	}
	keys := r.keys()
	return keys[len(keys)-1].tag(random)
}

// CheckTag reports whether tag is what Tag returned for random, under any key of the ring. It compares in constant
// time; slices of other lengths than TagSize are no tag.
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
