package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// shelf is a store that hands out whatever was put on it, expired or not.
type shelf struct {
	mu            sync.Mutex
	records       map[store.ID]store.Record
	gets, deletes int
}

func (sh *shelf) Get(_ context.Context, id store.ID) (store.Record, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.gets++
	r, ok := sh.records[id]
	if !ok {
		return store.Record{}, store.ErrNotFound
	}
	r.Data = bytes.Clone(r.Data)
	return r, nil
}

func (sh *shelf) Put(_ context.Context, r store.Record) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.records == nil {
		sh.records = map[store.ID]store.Record{}
	}
	r.Data = bytes.Clone(r.Data)
	sh.records[r.ID] = r
	return nil
}

func (sh *shelf) Delete(_ context.Context, id store.ID) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.deletes++
	delete(sh.records, id)
	return nil
}

func (sh *shelf) Take(ctx context.Context, id store.ID) (store.Record, error) {
	r, err := sh.Get(ctx, id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.records, id)
	return r, err
}

func (sh *shelf) count(n *int) int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return *n
}

// only returns the one record that a full handshake has left.
func (sh *shelf) only(o *observer) (r store.Record) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	o.mustBe(len(sh.records) == 1, "one record")
	for _, r = range sh.records {
	}
	return r
}

func (o *observer) ring() *ticket.Ring {
	r, err := ticket.NewRing()
	o.must(err)
	return r
}

// useStore gives the shelf, which cannot fail, all the time that a busy machine needs. Without a ring entries are in
// plaintext.
func (o *observer) useStore(ctx *libssl.Context, sh *shelf, ring *ticket.Ring, singleUse bool) *libssl.SessionCache {
	sc, err := ctx.UseStore(sh, &libssl.StoreOptions{
		Keys: ring, Plaintext: ring == nil, LookupTimeout: time.Minute, PutTimeout: time.Minute, SingleUse: singleUse,
	})
	o.must(err)
	o.atEnd(func() { sc.Close(context.Background()) })
	return sc
}

// entry makes an entry from der, sound or not, with a right seal or checksum.
func entry(ring *ticket.Ring, id store.ID, der []byte) []byte {
	const sealed, plaintext = 3, 4
	header := append(binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix())), make([]byte, 16)...)
	body := append(header, der...)
	authentic := func(format byte) []byte { return append([]byte{format}, id.Bytes()...) }
	if ring != nil {
		return ring.Seal([]byte{sealed}, body, authentic(sealed))
	}
	sum := sha256.Sum256(append(authentic(plaintext), body...))
	return append(append([]byte{plaintext}, sum[:8]...), body...)
}

// damaged changes the bytes of an entry of der afterwards: in plaintext to those of bad, sealed in its last byte.
func damaged(entry, der, bad []byte) []byte {
	if bytes.HasSuffix(entry, der) {
		return append(bytes.Clone(entry[:len(entry)-len(der)]), bad...)
	}
	out := bytes.Clone(entry)
	out[len(out)-1] ^= 1
	return out
}
