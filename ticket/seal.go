package ticket

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An envelope is
//
//	version  1 byte
//	key id   8 bytes
//	salt    16 bytes, random
//	nonce   12 bytes, random
//	AES-256-GCM ciphertext, as long as the plaintext
//	tag     16 bytes
//
// and authenticates version, key id, salt and the caller's additional data, in this order. The AES key is derived from the
// ring's key and the salt. Under one AES key random nonces are safe for 2^32 envelopes only, which a fleet makes in days. So
// each process has salts of its own, and takes a new one after sealsPerSalt envelopes.
const (
	envelopeVersion = 2
	keyIDSize       = 8
	saltSize        = 16
	headerSize      = 1 + keyIDSize + saltSize

	sealsPerSalt = 1 << 31
	maxSalts     = 256 // of other processes, whose ciphers a key keeps

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
	ids       cipher.Block // hides the names in ids

	seal, tags prf

	own    atomic.Pointer[sealer]
	mu     sync.RWMutex
	others map[[saltSize]byte]cipher.AEAD // by the salts of envelopes that were authentic
}

// sealer is the cipher of one salt of this process.
type sealer struct {
	salt  [saltSize]byte
	aead  cipher.AEAD
	seals atomic.Uint64
}

// prf is HMAC-SHA256 under one key, for inputs of 16 bytes. All its inputs have a fixed length, so they fit on the stack;
// crypto/hmac would allocate.
type prf struct {
	inner, outer [sha256.BlockSize]byte // the padded keys of the two hashes
}

func newPRF(key []byte) (p prf) {
	copy(p.inner[:], key)
	copy(p.outer[:], key)
	for i := range p.inner {
		p.inner[i] ^= 0x36
		p.outer[i] ^= 0x5c
	}
	return p
}

func (p *prf) sum(input []byte) [sha256.Size]byte {
	var in [sha256.BlockSize + 16]byte
	copy(in[:], p.inner[:])
	copy(in[sha256.BlockSize:], input)
	sum := sha256.Sum256(in[:])

	var out [sha256.BlockSize + sha256.Size]byte
	copy(out[:], p.outer[:])
	copy(out[sha256.BlockSize:], sum[:])
	return sha256.Sum256(out[:])
}

func newKey(secret [KeySize]byte) (*key, error) {
	k := &key{secret: secret}
	id, err := k.derive("libssl ticket 1 key id", keyIDSize)
	if err != nil {
		return nil, err
	}
	copy(k.id[:], id)

	seal, err := k.derive("libssl ticket 2 seal", sha256.Size)
	if err != nil {
		return nil, err
	}
	k.seal = newPRF(seal)

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
	k.tags = newPRF(tag)
	return k, nil
}

func (k *key) derive(info string, size int) ([]byte, error) {
	return hkdf.Key(sha256.New, k.secret[:], nil, info, size)
}

// sealer returns the sealer for one more envelope.
func (k *key) sealer() *sealer {
	s := k.own.Load()
	if s == nil || s.seals.Add(1) > sealsPerSalt {
		s = new(sealer)
		rand.Read(s.salt[:])
		s.aead = k.aead(s.salt)
		k.own.Store(s)
	}
	return s
}

// opener returns the cipher of a salt. known is false if the salt was not seen yet.
func (k *key) opener(salt [saltSize]byte) (aead cipher.AEAD, known bool) {
	if s := k.own.Load(); s != nil && s.salt == salt {
		return s.aead, true
	}
	k.mu.RLock()
	aead = k.others[salt]
	k.mu.RUnlock()
	if aead != nil {
		return aead, true
	}
	return k.aead(salt), false
}

// keep keeps the cipher of a salt whose envelope was authentic: a store that makes up salts fills no memory.
func (k *key) keep(salt [saltSize]byte, aead cipher.AEAD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.others == nil || len(k.others) >= maxSalts {
		k.others = map[[saltSize]byte]cipher.AEAD{}
	}
	k.others[salt] = aead
}

func (k *key) aead(salt [saltSize]byte) cipher.AEAD {
	sum := k.seal.sum(salt[:])
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		panic(err) // not for 32 bytes
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // not for AES
	}
	return aead
}

// tag returns the tag of random, which has TagSize bytes.
func (k *key) tag(random []byte) [TagSize]byte {
	sum := k.tags.sum(random)
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
	s := k.sealer()
	dst = append(dst, s.salt[:]...)

	buf := additionalPool.Get().(*[]byte)
	defer additionalPool.Put(buf)
	*buf = append(append((*buf)[:0], dst[header:]...), additional...)
	return s.aead.Seal(dst, nil, plaintext, *buf)
}

// Open decrypts an envelope, appends the plaintext to dst and returns the extended slice. It finds the key by the id in
// the envelope. The error is ErrMalformed, ErrUnknownKey or ErrForged. The spare capacity of dst must not overlap envelope
// or additional.
func (r *Ring) Open(dst, envelope, additional []byte) ([]byte, error) {
	if len(envelope) < Overhead || envelope[0] != envelopeVersion {
		return nil, ErrMalformed
	}
	header, body := envelope[:headerSize], envelope[headerSize:]
	k := r.find(header[1 : 1+keyIDSize])
	if k == nil {
		return nil, ErrUnknownKey
	}
	buf := additionalPool.Get().(*[]byte)
	defer additionalPool.Put(buf)
	*buf = append(append((*buf)[:0], header...), additional...)
	salt := [saltSize]byte(header[1+keyIDSize:])
	aead, known := k.opener(salt)
	plaintext, err := aead.Open(dst, nil, body, *buf)
	if err != nil {
		return nil, ErrForged
	}
	if !known {
		k.keep(salt, aead)
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
