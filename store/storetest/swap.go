package storetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

func testSwap(t *testing.T, s store.Store) {
	for _, data := range [][]byte{randomBytes(130), nil} {
		first, other := newRecord(t), newRecord(t)
		first.Data = data
		put(t, s, other)
		wantSwap(t, s, first, first, false) // there is no record to replace
		wantAbsent(t, s, first.ID)
		wantSwap(t, s, store.Record{}, first, true)
		wantFound(t, s, first)

		second := first
		second.Data, second.Expires = randomBytes(70), first.Expires.Add(-30*time.Minute)
		wantSwap(t, s, store.Record{}, second, false)
		otherData, otherExpiry, otherID := first, first, first
		otherData.Data = randomBytes(len(first.Data) + 1)
		otherExpiry.Expires = first.Expires.Add(time.Second)
		otherID.ID = newID(t, 32)
		for what, old := range map[string]store.Record{"data": otherData, "expiry": otherExpiry, "id": otherID} {
			if done, err := s.(store.Swapper).Swap(ctx(t), old, second); done || err != nil {
				t.Errorf("Swap with an old record of other %s: %v, %v", what, done, err)
			}
			wantFound(t, s, first)
		}
		mine := second
		mine.Data = bytes.Clone(second.Data)
		wantSwap(t, s, first, mine, true)
		clear(mine.Data)
		wantFound(t, s, second)
		wantSwap(t, s, first, first, false)
		wantFound(t, s, second)

		for want, next := range map[error]store.Record{
			store.ErrTooLarge: {ID: second.ID, Data: make([]byte, store.MaxData+1), Expires: inAnHour()},
			store.ErrZeroID:   {Data: []byte("x"), Expires: inAnHour()},
		} {
			for _, old := range []store.Record{{}, second} {
				if done, err := s.(store.Swapper).Swap(ctx(t), old, next); done || !errors.Is(err, want) {
					t.Errorf("Swap: %v, %v, want %v", done, err, want)
				}
			}
		}
		wantFound(t, s, second)

		ended := second
		ended.Expires = time.Now().Add(-time.Second)
		wantSwap(t, s, second, ended, true)
		wantAbsent(t, s, second.ID)
		wantSwap(t, s, store.Record{}, second, true)
		if err := s.Delete(ctx(t), second.ID); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		wantSwap(t, s, second, first, false)
		wantSwap(t, s, store.Record{}, first, true)
		wantFound(t, s, other)
	}
}

// testSwapExpired swaps a record in after another has expired. A store may remove the expired one late.
func testSwapExpired(t *testing.T, s store.Store) {
	r, next := newRecord(t), newRecord(t)
	r.Expires = time.Now().Add(50 * time.Millisecond)
	next.ID = r.ID
	put(t, s, r)
	for began := time.Now(); ; {
		done, err := s.(store.Swapper).Swap(ctx(t), store.Record{}, next)
		if err != nil {
			t.Fatalf("Swap: %v", err)
		}
		if done {
			break
		}
		if time.Since(began) > recovers {
			t.Fatalf("a record is in the way %v after its end", recovers)
		}
		time.Sleep(time.Millisecond)
	}
	wantFound(t, s, next)
}

// testSwapRace has goroutines make one record, which must succeed once, and count in it: no step may be lost.
func testSwapRace(t *testing.T, stores ...store.Store) {
	const goroutines, steps = 4, 15
	id, expires := newID(t, 32), inAnHour()
	counter := func(n uint64) store.Record {
		return store.Record{ID: id, Data: binary.BigEndian.AppendUint64(nil, n), Expires: expires}
	}
	var made atomic.Int32
	var wg sync.WaitGroup
	for g := range goroutines {
		s := stores[g%len(stores)]
		wg.Go(func() {
			done, err := s.(store.Swapper).Swap(ctx(t), store.Record{}, counter(0))
			if err != nil {
				t.Errorf("Swap: %v", err)
			}
			if done {
				made.Add(1)
			}
			for n := 0; n < steps; {
				kept, err := s.Get(ctx(t), id)
				if err != nil {
					t.Errorf("Get: %v", err)
					return
				}
				done, err := s.(store.Swapper).Swap(ctx(t), kept, counter(binary.BigEndian.Uint64(kept.Data)+1))
				if err != nil {
					t.Errorf("Swap: %v", err)
					return
				}
				if done {
					n++
				}
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d made the record, want 1", made.Load())
	}
	wantFound(t, stores[0], counter(goroutines*steps))
}

// testSwapPutRace deletes a record by a Swap while a Put replaces it: whichever comes first, the record put must stay.
func testSwapPutRace(t *testing.T, s store.Store) {
	for i := range 50 {
		was := newRecord(t)
		put(t, s, was)
		replaced, ended := was, was
		replaced.Data = randomBytes(50)
		ended.Expires = time.Now().Add(-time.Second)
		first, second := func() {
			if _, err := s.(store.Swapper).Swap(ctx(t), was, ended); err != nil {
				t.Errorf("Swap: %v", err)
			}
		}, func() {
			if err := s.Put(ctx(t), replaced); err != nil {
				t.Errorf("Put: %v", err)
			}
		}
		if i%2 == 0 { // a busy machine may always run the last one first
			first, second = second, first
		}
		var wg sync.WaitGroup
		wg.Go(first)
		wg.Go(second)
		wg.Wait()
		wantFound(t, s, replaced)
	}
}

// testSwapClockAhead has a host whose clock is ahead: it must not replace a record that has expired by its clock only.
func testSwapClockAhead(t *testing.T, s Server) {
	right, ahead := s.Open(t), s.OpenAt(t, time.Hour)
	r := newRecord(t)
	r.Expires = time.Now().Add(30 * time.Minute)
	put(t, right, r)
	next := r
	next.Expires = time.Now().Add(2 * time.Hour)
	wantSwap(t, ahead, store.Record{}, next, false)
	wantFound(t, right, r)
}

func wantSwap(t *testing.T, s store.Store, old, next store.Record, want bool) {
	t.Helper()
	done, err := s.(store.Swapper).Swap(ctx(t), old, next)
	if err != nil || done != want {
		t.Fatalf("Swap = %v, %v, want %v", done, err, want)
	}
}
