// Package storetest is the test suite that every back end of package store must pass, whoever wrote it:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return mystore.New() })
//	}
//
// Stores of a server that hosts share take RunServer in place of Run. Run either with -race. The package uses the standard
// library only. Faulty, for tests of what uses a store, is here too.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Run tests the store that open returns, once per subtest. The optional interfaces that it implements are tested, those that
// it lacks are not. open closes what it opened with t.Cleanup, and may return the same store again and again, but nobody else may use it
// meanwhile: where the store is a Purger, it is purged. It must have room for 100 records.
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
	if _, ok := s.(store.ConditionalDeleter); ok {
		t.Run("DeleteIf", func(t *testing.T) { testDeleteIf(t, open(t)) })
		t.Run("DeleteIfRace", func(t *testing.T) { testDeleteIfRace(t, open(t)) })
		t.Run("DeleteIfOnce", func(t *testing.T) { testDeleteIfOnce(t, open(t)) })
	}
	if _, ok := s.(store.Swapper); ok {
		t.Run("Swap", func(t *testing.T) { testSwap(t, open(t)) })
		t.Run("SwapExpired", func(t *testing.T) { testSwapExpired(t, open(t)) })
		t.Run("SwapRace", func(t *testing.T) { s := open(t); testSwapRace(t, s, s) })
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

func testPutGet(t *testing.T, s store.Store) {
	// Bytes of every value, in an odd number.
	data := make([]byte, 257)
	for i := range data {
		data[i] = byte(i)
	}
	r := store.Record{ID: newID(t, 32), Data: data, Expires: inAnHour()}
	put(t, s, r)
	wantFound(t, s, r)
	wantFound(t, s, r) // reading does not take
}

func testAbsent(t *testing.T, s store.Store) {
	id := newID(t, 32)
	wantAbsent(t, s, id)
	if err := s.Delete(ctx(t), id); err != nil {
		t.Errorf("Delete of an absent record: %v, want no error", err)
	}
	wantAbsent(t, s, store.ID{})
	if err := s.Delete(ctx(t), store.ID{}); err != nil {
		t.Errorf("Delete of the zero id: %v, want no error", err)
	}
}

func testReplace(t *testing.T, s store.Store) {
	r := newRecord(t)
	put(t, s, r)
	for _, size := range []int{1000, 3, 0} { // longer, shorter, empty
		r.Data = randomBytes(size)
		r.Expires = r.Expires.Add(time.Minute)
		put(t, s, r)
		wantFound(t, s, r)
	}
	r.Expires = inAnHour().Add(-30 * time.Minute) // sooner than before
	put(t, s, r)
	wantFound(t, s, r)
}

func testDelete(t *testing.T, s store.Store) {
	r, other := newRecord(t), newRecord(t)
	put(t, s, r)
	put(t, s, other)
	for range 2 {
		if err := s.Delete(ctx(t), r.ID); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		wantAbsent(t, s, r.ID)
	}
	wantFound(t, s, other)
	put(t, s, r)
	wantFound(t, s, r)
}

// testIDs uses ids that a store must not confuse: lengths from 1 to 32, zero bytes at the end, bytes that mean something to a
// text protocol or to SQL, and the same letters in both cases.
func testIDs(t *testing.T, s store.Store) {
	var ids [][]byte
	for n := 1; n <= store.MaxIDLen; n++ {
		ids = append(ids, make([]byte, n), bytes.Repeat([]byte{0xff}, n))
	}
	for _, text := range []string{"a", "A", "a ", " a", "a\r\n", "a\n", "get a", "'", "\"", "%", "*", "?", "a/b", "..", "\\", "{a}", ":", "61"} {
		ids = append(ids, []byte(text))
	}
	records := make([]store.Record, len(ids))
	for i, b := range ids {
		id, err := store.IDFromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		records[i] = store.Record{ID: id, Data: fmt.Appendf(nil, "record %d", i), Expires: inAnHour()}
		put(t, s, records[i])
	}
	for _, r := range records {
		wantFound(t, s, r)
	}
	for i, r := range records {
		if err := s.Delete(ctx(t), r.ID); err != nil {
			t.Fatalf("Delete of id %s: %v", r.ID, err)
		}
		wantAbsent(t, s, r.ID)
		if i+1 < len(records) {
			wantFound(t, s, records[i+1])
		}
	}
}

func testData(t *testing.T, s store.Store) {
	for _, data := range [][]byte{
		nil, {}, {0}, {0, 0, 0}, []byte("\r\nEND\r\n"), []byte("'; --"), bytes.Repeat([]byte{0xff}, 1000),
		randomBytes(600), randomBytes(maxData(s) - 1), randomBytes(maxData(s)),
	} {
		r := newRecord(t)
		r.Data = data
		put(t, s, r)
		wantFound(t, s, r)
	}
}

func testRefused(t *testing.T, s store.Store) {
	r := newRecord(t)
	put(t, s, r)
	for _, size := range []int{maxData(s) + 1, 100_000} {
		big := r
		big.Data = make([]byte, size)
		if err := s.Put(ctx(t), big); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Put of %d bytes: %v, want ErrTooLarge", size, err)
		}
		wantFound(t, s, r)
	}
	if err := s.Put(ctx(t), store.Record{Data: []byte("x"), Expires: inAnHour()}); !errors.Is(err, store.ErrZeroID) {
		t.Errorf("Put of the zero id: %v, want ErrZeroID", err)
	}
	wantAbsent(t, s, store.ID{})
}

func testAliasing(t *testing.T, s store.Store) {
	want := newRecord(t)
	r := want
	r.Data = bytes.Clone(want.Data)
	put(t, s, r)
	if !bytes.Equal(r.Data, want.Data) {
		t.Fatal("Put modified its argument")
	}
	clear(r.Data)
	got := get(t, s, want.ID)
	if !bytes.Equal(got.Data, want.Data) {
		t.Fatal("the store kept the slice that Put was given")
	}
	clear(got.Data)
	clear(got.Data[:cap(got.Data)])
	wantFound(t, s, want)

	// What Get returned stays as it is, whatever becomes of the record.
	got = get(t, s, want.ID)
	replaced := want
	replaced.Data = randomBytes(len(want.Data))
	put(t, s, replaced)
	second := get(t, s, want.ID)
	if err := s.Delete(ctx(t), want.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	put(t, s, newRecord(t))
	if !bytes.Equal(got.Data, want.Data) || !bytes.Equal(second.Data, replaced.Data) {
		t.Error("the store changed a slice that Get had returned")
	}
}

func testExpiredAtPut(t *testing.T, s store.Store) {
	for _, expires := range []time.Time{time.Now().Add(-time.Hour), time.Now(), time.Unix(0, 0), {}} {
		r := newRecord(t)
		put(t, s, r)
		r.Expires = expires
		put(t, s, r)
		wantAbsent(t, s, r.ID)
	}
}

func testExpires(t *testing.T, s store.Store) {
	r, stays := newRecord(t), newRecord(t)
	put(t, s, stays)
	r.Expires = time.Now().Add(200 * time.Millisecond)
	put(t, s, r)
	untilExpired(t, s, r)
	wantAbsent(t, s, r.ID)
	wantFound(t, s, stays)
}

// untilExpired looks at a record until it is gone, and fails if that is after its end. A store may drop a record early, so
// that there is no telling whether it was too early.
func untilExpired(t *testing.T, s store.Store, r store.Record) {
	t.Helper()
	for {
		asked := time.Now().Round(0) // the wall clock, as the store has it
		_, err := s.Get(ctx(t), r.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return
		case err != nil:
			t.Fatalf("Get: %v", err)
		case !asked.Before(r.Expires):
			t.Fatalf("Get found a record %v after its end", asked.Sub(r.Expires))
		}
	}
}

// testConcurrent has goroutines put, get and delete the same few records. Each record put is of one repeated byte
// and as many bytes as that, so that one put together from two shows.
func testConcurrent(t *testing.T, s store.Store) {
	ids := make([]store.ID, 3)
	for i := range ids {
		ids[i] = newID(t, 32)
	}
	expires := inAnHour()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				id := ids[(g+i)%len(ids)]
				switch {
				case g%2 == 0:
					b := byte(1 + (g*40+i)%255)
					data := bytes.Repeat([]byte{b}, int(b))
					if err := s.Put(ctx(t), store.Record{ID: id, Data: data, Expires: expires}); err != nil {
						t.Errorf("Put: %v", err)
					}
					clear(data)
				case i%10 == 9:
					if err := s.Delete(ctx(t), id); err != nil {
						t.Errorf("Delete: %v", err)
					}
				default:
					r, err := s.Get(ctx(t), id)
					if errors.Is(err, store.ErrNotFound) {
						continue
					}
					if err != nil {
						t.Errorf("Get: %v", err)
						continue
					}
					if r.ID != id || len(r.Data) == 0 || !bytes.Equal(r.Data, bytes.Repeat(r.Data[:1], int(r.Data[0]))) {
						t.Errorf("Get(%v) = %v, %x: no record that was put", id, r.ID, r.Data)
					}
					clear(r.Data)
				}
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		r := store.Record{ID: id, Data: []byte("last"), Expires: expires}
		put(t, s, r)
		wantFound(t, s, r)
	}
}

func testContextEnded(t *testing.T, s store.Store) {
	r := newRecord(t)
	put(t, s, r)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{cancelled, late} {
		calls := map[string]func() error{
			"Get":    func() error { _, err := s.Get(ctx, r.ID); return err },
			"Put":    func() error { return s.Put(ctx, newRecord(t)) },
			"Delete": func() error { return s.Delete(ctx, newID(t, 32)) },
		}
		if taker, ok := s.(store.Taker); ok {
			calls["Take"] = func() error { _, err := taker.Take(ctx, newID(t, 32)); return err }
		}
		if deleter, ok := s.(store.ConditionalDeleter); ok {
			calls["DeleteIf"] = func() error { _, err := deleter.DeleteIf(ctx, newRecord(t)); return err }
		}
		if swapper, ok := s.(store.Swapper); ok {
			calls["Swap"] = func() error { _, err := swapper.Swap(ctx, store.Record{}, newRecord(t)); return err }
		}
		for name, call := range calls {
			if err := call(); !errors.Is(err, ctx.Err()) {
				t.Errorf("%s: %v, want %v", name, err, ctx.Err())
			}
		}
	}
	wantFound(t, s, r)
}

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

	// What Take returned belongs to the caller.
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
	untilExpired(t, s, r) // so that Take meets a record which ended in the store
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

func testDeleteIf(t *testing.T, s store.Store) {
	deleteIf := s.(store.ConditionalDeleter).DeleteIf
	for _, data := range [][]byte{randomBytes(130), nil} {
		was := newRecord(t)
		was.Data = data
		put(t, s, was)
		otherData, otherExpiry, otherID := was, was, was
		otherData.Data = randomBytes(len(was.Data) + 1)
		otherExpiry.Expires = was.Expires.Add(time.Second)
		otherID.ID = newID(t, 32)
		for what, r := range map[string]store.Record{"data": otherData, "expiry": otherExpiry, "id": otherID} {
			if done, err := deleteIf(ctx(t), r); done || err != nil {
				t.Errorf("DeleteIf of a record of other %s: %v, %v", what, done, err)
			}
			wantFound(t, s, was)
		}
		// What was found may be replaced before it is deleted.
		found, err := s.Get(ctx(t), was.ID)
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		put(t, s, otherData)
		if done, err := deleteIf(ctx(t), found); done || err != nil {
			t.Errorf("DeleteIf of a record that was replaced: %v, %v", done, err)
		}
		wantFound(t, s, otherData)
		put(t, s, was)
		if done, err := deleteIf(ctx(t), found); !done || err != nil {
			t.Errorf("DeleteIf: %v, %v, want true", done, err)
		}
		wantAbsent(t, s, was.ID)
		if done, err := deleteIf(ctx(t), was); done || err != nil {
			t.Errorf("DeleteIf of an absent record: %v, %v", done, err)
		}
	}
}

// testDeleteIfRace has a record replaced while its first state is deleted: whichever comes first, the second state must stay.
func testDeleteIfRace(t *testing.T, s store.Store) {
	for i := range 50 {
		was := newRecord(t)
		put(t, s, was)
		replaced := was
		replaced.Data = randomBytes(50)
		first, second := func() {
			if _, err := s.(store.ConditionalDeleter).DeleteIf(ctx(t), was); err != nil {
				t.Errorf("DeleteIf: %v", err)
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

// testDeleteIfOnce has goroutines delete the same records: each must have been deleted by one of them.
func testDeleteIfOnce(t *testing.T, s store.Store) {
	for range 20 {
		r := newRecord(t)
		put(t, s, r)
		var deleted atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				done, err := s.(store.ConditionalDeleter).DeleteIf(ctx(t), r)
				if err != nil {
					t.Errorf("DeleteIf: %v", err)
				}
				if done {
					deleted.Add(1)
				}
			})
		}
		wg.Wait()
		if deleted.Load() != 1 {
			t.Errorf("%d deleted the record, want 1", deleted.Load())
		}
	}
}

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
		return s.Delete(ctx(t), id) // must not lock up
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
	time.Sleep(time.Until(short.Expires)) // the end of a record is a matter of time only
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

// ctx returns a context that ends well after any sound store has answered.
func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func maxData(s store.Store) int {
	if limited, ok := s.(store.Limited); ok {
		return limited.MaxData()
	}
	return store.MaxData
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

// sameTime allows for stores that keep milliseconds.
func sameTime(t *testing.T, got, want time.Time) {
	t.Helper()
	if lost := want.Sub(got); lost < 0 || lost >= time.Millisecond {
		t.Errorf("record expires at %v, want %v", got, want)
	}
}
