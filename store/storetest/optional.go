package storetest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

func testSealingKey(t *testing.T, s store.Store) {
	e := s.(store.Embedded)
	first, err := e.SealingKey()
	if err != nil {
		t.Fatalf("SealingKey: %v", err)
	}
	if len(first) != 32 || bytes.Equal(first, make([]byte, 32)) {
		t.Fatalf("SealingKey returned %d bytes, want 32 random ones", len(first))
	}
	kept := bytes.Clone(first)
	clear(first)
	if again, err := e.SealingKey(); err != nil || !bytes.Equal(again, kept) {
		t.Errorf("SealingKey answers differently the second time (error: %v)", err)
	}
}

func testPutAll(t *testing.T, s store.Store) {
	b := s.(store.Batcher)
	if n, err := b.PutAll(ctx(t), nil); n != 0 || err != nil {
		t.Errorf("PutAll of no records: %d, %v", n, err)
	}
	var records, kept []store.Record
	for range 70 {
		r := newRecord(t)
		kept = append(kept, r)
		r.Data = bytes.Clone(r.Data)
		records = append(records, r)
	}
	again := newRecord(t)
	again.ID, kept[0].Data, kept[0].Expires = records[0].ID, bytes.Clone(again.Data), again.Expires
	records = append(records, again) // replaces the first
	if n, err := b.PutAll(ctx(t), records); n != len(records) || err != nil {
		t.Fatalf("PutAll of %d records: %d, %v", len(records), n, err)
	}
	for _, r := range records {
		clear(r.Data) // which the store must not refer to any more
	}
	for _, r := range kept {
		wantFound(t, s, r)
	}
}

// testPutAllRefused puts records that no store accepts among others.
func testPutAllRefused(t *testing.T, s store.Store) {
	b := s.(store.Batcher)
	first, large, unnamed, last := newRecord(t), newRecord(t), newRecord(t), newRecord(t)
	large.Data, unnamed.ID = make([]byte, store.MaxData+1), store.ID{}
	n, err := b.PutAll(ctx(t), []store.Record{first, large, unnamed, last})
	if n != 2 || !errors.Is(err, store.ErrTooLarge) || !errors.Is(err, store.ErrZeroID) {
		t.Errorf("PutAll of two good records, a large one and one without an id: %d, %v, want 2, ErrTooLarge and ErrZeroID", n, err)
	}
	wantFound(t, s, first)
	wantFound(t, s, last)
	wantAbsent(t, s, large.ID)

	if _, ok := s.(store.Local); ok {
		return
	}
	ended, cancel := context.WithCancel(ctx(t))
	cancel()
	if n, err := b.PutAll(ended, []store.Record{newRecord(t), newRecord(t)}); n == 2 || !errors.Is(err, context.Canceled) {
		t.Errorf("PutAll after its context ended: %d, %v, want context.Canceled", n, err)
	}
}

func testList(t *testing.T, s store.Store) {
	lister := s.(store.Lister)
	want := map[store.ID]store.Record{}
	for i := range 20 {
		r := newRecord(t)
		r.Data = randomBytes(i * 10)
		put(t, s, r)
		want[r.ID] = r
	}
	expired, deleted := newRecord(t), newRecord(t)
	expired.Expires = time.Now().Add(-time.Second)
	put(t, s, expired)
	put(t, s, deleted)
	if err := s.Delete(ctx(t), deleted.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}

	seen := map[store.ID]bool{}
	err := lister.List(ctx(t), func(id store.ID, size int, expires time.Time) error {
		if id == expired.ID || id == deleted.ID {
			t.Errorf("List shows a record that is expired or deleted")
		}
		if seen[id] {
			t.Errorf("List shows %v twice", id)
		}
		seen[id] = true
		if r, ok := want[id]; ok {
			if size != len(r.Data) {
				t.Errorf("List: %v has %d bytes, want %d", id, size, len(r.Data))
			}
			sameTime(t, expires, r.Expires)
		}
		return s.Delete(ctx(t), id) // must not deadlock
	})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for id := range want {
		if !seen[id] {
			t.Errorf("List leaves %v out", id)
		}
		wantAbsent(t, s, id)
	}

	put(t, s, newRecord(t))
	put(t, s, newRecord(t))
	stop, calls := errors.New("stop"), 0
	err = lister.List(ctx(t), func(store.ID, int, time.Time) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("List went on for %d calls after f's error and returned %v", calls, err)
	}
}

func testPurge(t *testing.T, s store.Store) {
	purger := s.(store.Purger)
	live := []store.Record{newRecord(t), newRecord(t), newRecord(t)}
	for _, r := range live {
		put(t, s, r)
	}
	short := newRecord(t)
	short.Expires = time.Now().Add(50 * time.Millisecond)
	put(t, s, short)
	time.Sleep(time.Until(short.Expires)) // no event tells that a record expired
	if _, err := purger.Purge(ctx(t), true); err != nil {
		t.Fatalf("Purge of the expired: %v", err)
	}
	for _, r := range live {
		wantFound(t, s, r)
	}
	n, err := purger.Purge(ctx(t), false)
	if err != nil {
		t.Fatalf("Purge: %v", err)
	}
	if n < len(live) {
		t.Errorf("Purge removed %d records, want %d or more", n, len(live))
	}
	for _, r := range live {
		wantAbsent(t, s, r.ID)
	}
	if n, err := purger.Purge(ctx(t), false); n != 0 || err != nil {
		t.Errorf("Purge of an empty store: %d, %v", n, err)
	}
}
