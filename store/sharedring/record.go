package sharedring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/ticket"
)

// The record's data is a format byte and the ring as in a key file, sealed or not. The formats differ from those of sessions
// in a store. The format is authenticated with the id and expiry of the record. So an old ring cannot pass as a new one, and a
// session cannot pass as a ring, or a ring as a session, if Secret seals both.
const (
	formatSealed    = 4
	formatPlaintext = 5
)

// recordID is 15 bytes long, so it differs from every id that a server issues: those have 32.
var recordID = func() store.ID {
	id, err := store.IDFromBytes([]byte("libssl key ring"))
	if err != nil {
		panic(err)
	}
	return id
}()

func additional(expires time.Time) []byte {
	b := append([]byte{formatSealed, byte(recordID.Len())}, recordID.Bytes()...)
	return binary.BigEndian.AppendUint64(b, uint64(expires.UnixMilli()))
}

// damagedError reports a record whose bytes no host with this secret has written, or not for this record.
type damagedError struct{ err error }

func (e *damagedError) Error() string {
	return fmt.Sprintf("the ring in the store is damaged: %v", e.err)
}

// read returns the record and its keys, or the zero Record and no keys if there is none. With a damagedError the record is one to
// replace.
func (f *follower) read(ctx context.Context) (store.Record, []ticket.Key, error) {
	kept, err := f.store.Get(ctx, recordID)
	if errors.Is(err, store.ErrDamaged) { // for Swap it counts as present
		if err := f.store.Delete(ctx, recordID); err != nil {
			return store.Record{}, nil, fmt.Errorf("delete a damaged ring: %w", err)
		}
		return store.Record{}, nil, &damagedError{err}
	}
	if errors.Is(err, store.ErrNotFound) {
		return store.Record{}, nil, nil
	}
	if err != nil {
		return store.Record{}, nil, fmt.Errorf("read: %w", err)
	}
	text, err := f.open(kept)
	if errors.Is(err, ticket.ErrMalformed) || errors.Is(err, ticket.ErrForged) {
		return kept, nil, &damagedError{err}
	}
	if err != nil {
		return store.Record{}, nil, fmt.Errorf("the ring in the store cannot be opened: %w", err)
	}
	defer clear(text)
	keys, err := ticket.ParseKeys(text)
	if err != nil {
		return kept, nil, &damagedError{err}
	}
	return kept, merged(nil, keys), nil
}

func (f *follower) open(kept store.Record) ([]byte, error) {
	if len(kept.Data) == 0 {
		return nil, ticket.ErrMalformed
	}
	switch format, rest := kept.Data[0], kept.Data[1:]; {
	case format == formatSealed && f.opts.Secret != nil:
		text, err := f.opts.Secret.Open(nil, rest, additional(kept.Expires))
		if errors.Is(err, ticket.ErrUnknownKey) {
			return nil, errors.New("it is sealed under another secret")
		}
		return text, err
	case format == formatPlaintext && f.opts.Plaintext:
		return bytes.Clone(rest), nil // a copy: the caller wipes it, and needs kept for Swap
	case format == formatSealed:
		return nil, errors.New("it is sealed")
	case format == formatPlaintext:
		return nil, errors.New("it is not sealed: any writer of the store can have put it there")
	}
	return nil, ticket.ErrMalformed
}

// write swaps the record was for one of keys, and reports whether it did.
func (f *follower) write(ctx context.Context, was store.Record, keys []ticket.Key, now time.Time) (bool, error) {
	ring, err := ticket.RingOf(keys)
	if err != nil {
		return false, err
	}
	var text bytes.Buffer
	if _, err := ring.WriteTo(&text); err != nil {
		return false, err
	}
	next := store.Record{ID: recordID, Expires: time.UnixMilli(now.Add(2 * f.opts.Lifetime).UnixMilli())}
	if f.opts.Plaintext {
		next.Data = append([]byte{formatPlaintext}, text.Bytes()...)
	} else {
		next.Data = f.opts.Secret.Seal([]byte{formatSealed}, text.Bytes(), additional(next.Expires))
		clear(text.Bytes())
	}
	swapped, err := f.swapper.Swap(ctx, was, next)
	if err != nil {
		return false, fmt.Errorf("write: %w", err)
	}
	return swapped, nil
}
