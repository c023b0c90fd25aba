package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
)

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

// untilExpired gets a record until it is gone, and fails if Get returns it after its expiry. A store may drop a record early, so
// the test cannot fail for that.
func untilExpired(t *testing.T, s store.Store, r store.Record) {
	t.Helper()
	for {
		asked := time.Now().Round(0) // the wall clock, as in the store
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
