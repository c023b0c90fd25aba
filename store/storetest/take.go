package storetest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

func testTake(t *testing.T, s store.Store) {
	taker := s.(store.Taker)
	want, other := newRecord(t), newRecord(t)
	put(t, s, want)
	put(t, s, other)
	got, err := taker.Take(ctx(t), want.ID)
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	same(t, got, want)
	wantAbsent(t, s, want.ID)
	for _, id := range []store.ID{want.ID, newID(t, 32), {}} {
		if _, err := taker.Take(ctx(t), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Take of an absent record: %v, want ErrNotFound", err)
		}
	}
	wantFound(t, s, other)

	// The caller owns the record that Take returned.
	put(t, s, want)
	clear(got.Data[:cap(got.Data)])
	wantFound(t, s, want)

	empty := newRecord(t)
	empty.Data = nil
	put(t, s, empty)
	if got, err = taker.Take(ctx(t), empty.ID); err != nil {
		t.Fatalf("Take: %v", err)
	}
	same(t, got, empty)
}

func testTakeExpired(t *testing.T, s store.Store) {
	taker := s.(store.Taker)
	r := newRecord(t)
	r.Expires = time.Now().Add(-time.Second)
	put(t, s, r)
	if _, err := taker.Take(ctx(t), r.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Take of an expired record: %v, want ErrNotFound", err)
	}

	r.Expires = time.Now().Add(50 * time.Millisecond)
	put(t, s, r)
	untilExpired(t, s, r) // so that Take meets a record that expired in the store
	if _, err := taker.Take(ctx(t), r.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Take of a record that expired: %v, want ErrNotFound", err)
	}
}

// testTakeOnce has goroutines race for the same records: each must go to exactly one of them.
func testTakeOnce(t *testing.T, s store.Store) {
	taker := s.(store.Taker)
	records := make([]store.Record, 50)
	for i := range records {
		records[i] = newRecord(t)
		put(t, s, records[i])
	}
	const takers = 8
	taken := make([]map[store.ID]bool, takers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for g := range taken {
		taken[g] = map[store.ID]bool{}
		wg.Go(func() {
			<-start
			for _, want := range records {
				got, err := taker.Take(ctx(t), want.ID)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err != nil {
					t.Errorf("Take: %v", err)
					continue
				}
				same(t, got, want)
				taken[g][want.ID] = true
			}
		})
	}
	close(start)
	wg.Wait()
	for _, r := range records {
		n := 0
		for g := range taken {
			if taken[g][r.ID] {
				n++
			}
		}
		if n != 1 {
			t.Errorf("record %v was taken %d times", r.ID, n)
		}
	}
}
