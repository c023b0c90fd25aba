// Package storetest is the test suite that every back end of package store must pass, also those of other modules:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return mystore.New() })
//	}
//
// For a server that hosts share, use RunServer in place of Run. Run either with -race. The package uses the standard
// library only. It also has Faulty, for tests of code that uses a store.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Run tests the store that open returns, once per subtest, with the optional interfaces that it implements. open closes the
// store with t.Cleanup, or returns the same store each time. The store must have room for 100 records and have no other user
// meanwhile: if it is a Purger, Run purges it.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s store.Store)
	}{
		{"PutGet", testPutGet},
		{"Absent", testAbsent},
		{"Replace", testReplace},
		{"Delete", testDelete},
		{"IDs", testIDs},
		{"Data", testData},
		{"Refused", testRefused},
		{"Aliasing", testAliasing},
		{"ExpiredAtPut", testExpiredAtPut},
		{"Expires", testExpires},
		{"Concurrent", testConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}

	s := open(t)
	if _, ok := s.(store.Local); !ok {
		t.Run("ContextEnded", func(t *testing.T) { testContextEnded(t, open(t)) })
	}
	if _, ok := s.(store.Taker); ok {
		t.Run("Take", func(t *testing.T) { testTake(t, open(t)) })
		t.Run("TakeExpired", func(t *testing.T) { testTakeExpired(t, open(t)) })
		t.Run("TakeOnce", func(t *testing.T) { testTakeOnce(t, open(t)) })
	}
	if _, ok := s.(store.Swapper); ok {
		t.Run("Swap", func(t *testing.T) { testSwap(t, open(t)) })
		t.Run("SwapExpired", func(t *testing.T) { testSwapExpired(t, open(t)) })
		t.Run("SwapRace", func(t *testing.T) { s := open(t); testSwapRace(t, s, s) })
		t.Run("SwapPutRace", func(t *testing.T) { testSwapPutRace(t, open(t)) })
	}
	if _, ok := s.(store.Batcher); ok {
		t.Run("PutAll", func(t *testing.T) { testPutAll(t, open(t)) })
		t.Run("PutAllRefused", func(t *testing.T) { testPutAllRefused(t, open(t)) })
	}
	if _, ok := s.(store.Embedded); ok {
		t.Run("SealingKey", func(t *testing.T) { testSealingKey(t, open(t)) })
	}
	if _, ok := s.(store.Lister); ok {
		t.Run("List", func(t *testing.T) { testList(t, open(t)) })
	}
	if _, ok := s.(store.Purger); ok {
		t.Run("Purge", func(t *testing.T) { testPurge(t, open(t)) })
	}
}

// ctx returns a context that lasts longer than any call of a correct store.
func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func newID(t *testing.T, n int) store.ID {
	t.Helper()
	id, err := store.IDFromBytes(randomBytes(n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newRecord(t *testing.T) store.Record {
	t.Helper()
	return store.Record{ID: newID(t, 32), Data: randomBytes(130), Expires: inAnHour()}
}

func put(t *testing.T, s store.Store, r store.Record) {
	t.Helper()
	if err := s.Put(ctx(t), r); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

func get(t *testing.T, s store.Store, id store.ID) store.Record {
	t.Helper()
	r, err := s.Get(ctx(t), id)
	if err != nil {
		t.Fatalf("Get(%v): %v", id, err)
	}
	return r
}

func wantFound(t *testing.T, s store.Store, want store.Record) {
	t.Helper()
	same(t, get(t, s, want.ID), want)
}

func wantAbsent(t *testing.T, s store.Store, id store.ID) {
	t.Helper()
	if r, err := s.Get(ctx(t), id); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get(%v) = %d bytes, %v, want ErrNotFound", id, len(r.Data), err)
	}
}

func same(t *testing.T, got, want store.Record) {
	t.Helper()
	if got.ID != want.ID {
		t.Errorf("got record %v, want %v", got.ID, want.ID)
	}
	if !bytes.Equal(got.Data, want.Data) {
		t.Errorf("record %v: got %d bytes of data that differ from the %d put", want.ID, len(got.Data), len(want.Data))
	}
	sameTime(t, got.Expires, want.Expires)
}

// sameTime allows for stores that round down to the millisecond.
func sameTime(t *testing.T, got, want time.Time) {
	t.Helper()
	if lost := want.Sub(got); lost < 0 || lost >= time.Millisecond {
		t.Errorf("record expires at %v, want %v", got, want)
	}
}
