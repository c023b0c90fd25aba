package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

func testPutGet(t *testing.T, s store.Store) {
	// Every value of a byte, and an odd length.
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

// testIDs uses ids that a store must not confuse. They have lengths from 1 to 32, zero bytes at the end, bytes that mean
// something to a text protocol or to SQL, and the same letters in both cases.
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
		randomBytes(600), randomBytes(store.MaxData - 1), randomBytes(store.MaxData),
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
	for _, size := range []int{store.MaxData + 1, 100_000} {
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

	// A replaced or deleted record leaves the slices that Get returned unchanged.
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

// testConcurrent has goroutines put, get and delete the same few records. Each record repeats one byte as often as the byte's
// value, so the test recognises a mixture of two records.
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
