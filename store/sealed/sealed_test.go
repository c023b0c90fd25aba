package sealed

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memcachestore"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
	"github.com/libssl-go/libssl/store/valkeystore"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/libssl-go/libssl/ticket"
)

func newRing(t *testing.T) *ticket.Ring {
	t.Helper()
	r, err := ticket.NewRing()
	require.NoError(t, err)
	return r
}

func over(t *testing.T, inner store.Store, keys *ticket.Ring) store.Store {
	t.Helper()
	s, err := New(inner, keys)
	require.NoError(t, err)
	return s
}

func record(t *testing.T, id string) store.Record {
	t.Helper()
	parsed, err := store.ParseID(id)
	require.NoError(t, err)
	return store.Record{ID: parsed, Data: []byte("secret " + id), Expires: time.UnixMilli(time.Now().Add(time.Hour).UnixMilli())}
}

func memory() *memstore.Store { return memstore.New(memstore.Options{}) }

func TestStore(t *testing.T) {
	keys := newRing(t)
	storetest.Run(t, func(t *testing.T) store.Store { return over(t, memory(), keys) })
}

func TestStore_OfServers(t *testing.T) {
	keys := newRing(t)
	redis, memcached := servertest.Redis(t, "redis-server"), servertest.Memcached(t)
	type closable interface {
		store.Store
		Close() error
	}
	for name, open := range map[string]func() (closable, error){
		"valkeystore":   func() (closable, error) { return valkeystore.Open("redis://"+redis.Addr, valkeystore.Options{}) },
		"memcachestore": func() (closable, error) { return memcachestore.Open(memcached.Addr, memcachestore.Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			storetest.RunServer(t, storetest.Server{Open: func(t *testing.T) store.Store {
				inner, err := open()
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, inner.Close()) })
				return over(t, inner, keys)
			}})
		})
	}
}

func TestNew_KeepsWhatTheStoreCan(t *testing.T) {
	keys := newRing(t)
	type deleter struct {
		store.Store
		store.ConditionalDeleter
	}
	mem := memory()
	for _, c := range []struct {
		name           string
		inner          store.Store
		takes, deletes bool
	}{
		{"all", mem, true, true},
		{"none", struct{ store.Store }{mem}, false, false},
		{"deletes", deleter{mem, mem}, false, true},
		{"takes", &storetest.Faulty{Store: mem}, false, false}, // it could lose what it cannot open
	} {
		s := over(t, c.inner, keys)
		_, takes := s.(store.Taker)
		_, deletes := s.(store.ConditionalDeleter)
		assert.Equal(t, c.takes, takes, c.name)
		assert.Equal(t, c.deletes, deletes, c.name)
		_, embedded := s.(store.Embedded)
		assert.False(t, embedded, c.name)
	}
}

func TestNew_RefusesNoKeys(t *testing.T) {
	for _, keys := range []*ticket.Ring{nil, {}} {
		_, err := New(memory(), keys)
		assert.ErrorContains(t, err, "without keys")
	}
}

func TestStore_HidesTheData(t *testing.T) {
	inner, r := memory(), record(t, "01")
	require.NoError(t, over(t, inner, newRing(t)).Put(t.Context(), r))
	kept, err := inner.Get(t.Context(), r.ID)
	require.NoError(t, err)
	assert.NotContains(t, string(kept.Data), "secret")
	assert.Len(t, kept.Data, len(r.Data)+overhead)
	assert.True(t, kept.Expires.Equal(r.Expires))
}

// Old keys open, the newest seals, and hosts that have a rotated ring already go together with those that have not.
func TestStore_Rotates(t *testing.T) {
	inner, keys := memory(), newRing(t)
	s, before, after := over(t, inner, keys), record(t, "01"), record(t, "02")
	old, err := ticket.RingOf(keys.Keys())
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), before))

	require.NoError(t, keys.RotateAt(time.Now().Add(time.Hour)))
	require.NoError(t, s.Put(t.Context(), after))
	for _, host := range []store.Store{s, over(t, inner, old)} {
		for _, r := range []store.Record{before, after} {
			got, err := host.Get(t.Context(), r.ID)
			require.NoError(t, err)
			assert.Equal(t, r, got)
		}
	}

	require.NoError(t, keys.Rotate())
	require.NoError(t, s.Put(t.Context(), after))
	got, err := s.Get(t.Context(), before.ID)
	require.NoError(t, err)
	assert.Equal(t, before, got)
	_, err = over(t, inner, old).Get(t.Context(), after.ID)
	assert.ErrorIs(t, err, ticket.ErrUnknownKey)
}

// unopened checks that s finds nothing under id, for the given reason, and leaves what is there.
func unopened(t *testing.T, inner *memstore.Store, s store.Store, want store.Record, reason error) {
	t.Helper()
	kept, err := inner.Get(t.Context(), want.ID)
	require.NoError(t, err)
	_, err = s.Get(t.Context(), want.ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
	assert.ErrorIs(t, err, reason)
	_, err = s.(store.Taker).Take(t.Context(), want.ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
	assert.ErrorIs(t, err, reason)
	done, err := s.(store.ConditionalDeleter).DeleteIf(t.Context(), want)
	assert.NoError(t, err)
	assert.False(t, done)
	still, err := inner.Get(t.Context(), want.ID)
	require.NoError(t, err)
	assert.Equal(t, kept, still)
}

func TestStore_LeavesWhatItCannotOpen(t *testing.T) {
	inner, r := memory(), record(t, "01")
	ours, theirs := over(t, inner, newRing(t)), over(t, inner, newRing(t))
	require.NoError(t, theirs.Put(t.Context(), r))
	unopened(t, inner, ours, r, ticket.ErrUnknownKey)
	got, err := theirs.(store.Taker).Take(t.Context(), r.ID)
	require.NoError(t, err)
	assert.Equal(t, r, got)

	require.NoError(t, theirs.Put(t.Context(), r))
	require.NoError(t, ours.Put(t.Context(), r)) // Put replaces,
	_, err = ours.Get(t.Context(), r.ID)
	assert.NoError(t, err)
	require.NoError(t, theirs.Delete(t.Context(), r.ID)) // and Delete deletes
	assert.Zero(t, inner.Len())
}

func TestStore_Tampering(t *testing.T) {
	inner, keys, r, other := memory(), newRing(t), record(t, "01"), record(t, "0100")
	s := over(t, inner, keys)
	require.NoError(t, s.Put(t.Context(), r))
	kept, err := inner.Get(t.Context(), r.ID)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		spoil  func(*store.Record)
		reason error
	}{
		"empty":             {func(r *store.Record) { r.Data = nil }, ticket.ErrMalformed},
		"not sealed":        {func(r *store.Record) { r.Data = []byte("secret 01") }, ticket.ErrMalformed},
		"other format":      {func(r *store.Record) { r.Data[0] = 1 }, ticket.ErrMalformed},
		"cut":               {func(r *store.Record) { r.Data = r.Data[:len(r.Data)-1] }, ticket.ErrForged},
		"a bit":             {func(r *store.Record) { r.Data[len(r.Data)-1] ^= 1 }, ticket.ErrForged},
		"other id":          {func(r *store.Record) { r.ID = other.ID }, ticket.ErrForged},
		"other id, as long": {func(r *store.Record) { r.ID = record(t, "02").ID }, ticket.ErrForged},
		"prolonged":         {func(r *store.Record) { r.Expires = r.Expires.Add(time.Hour) }, ticket.ErrForged},
		"a millisecond":     {func(r *store.Record) { r.Expires = r.Expires.Add(-time.Millisecond) }, ticket.ErrForged},
		"libssl's entry": {func(r *store.Record) {
			r.Data = append([]byte{format}, keys.Seal(nil, []byte("x"), []byte{1, 1, 1})...)
		}, ticket.ErrForged},
	} {
		t.Run(name, func(t *testing.T) {
			bad := kept
			bad.Data = bytes.Clone(kept.Data)
			c.spoil(&bad)
			require.NoError(t, inner.Put(t.Context(), bad))
			unopened(t, inner, s, store.Record{ID: bad.ID, Data: r.Data, Expires: bad.Expires}, c.reason)
		})
	}
}

// hooked runs a hook once, between what a Take looks at and what it deletes.
type hooked struct {
	*memstore.Store
	hook func()
}

func (s *hooked) DeleteIf(ctx context.Context, r store.Record) (bool, error) {
	if hook := s.hook; hook != nil {
		s.hook = nil
		hook()
	}
	return s.Store.DeleteIf(ctx, r)
}

// What is put between the two steps of a Take or DeleteIf is not lost.
func TestStore_ReplacedMeanwhile(t *testing.T) {
	ctx := t.Context()
	inner := &hooked{Store: memory()}
	keys, was, next := newRing(t), record(t, "01"), record(t, "01")
	next.Data = []byte("newer")
	s, same, others := over(t, inner, keys), over(t, inner.Store, keys), over(t, inner.Store, newRing(t))
	put := func(s store.Store, r store.Record) { require.NoError(t, s.Put(ctx, r)) }

	put(s, was)
	inner.hook = func() { put(same, next) }
	got, err := s.(store.Taker).Take(ctx, was.ID)
	require.NoError(t, err)
	assert.Equal(t, next, got, "what was there when it was taken")

	put(s, was)
	inner.hook = func() { put(others, next) }
	_, err = s.(store.Taker).Take(ctx, was.ID)
	assert.ErrorIs(t, err, ticket.ErrUnknownKey)
	got, err = others.Get(ctx, was.ID)
	require.NoError(t, err)
	assert.Equal(t, next, got)

	put(s, was)
	inner.hook = func() { put(same, next) }
	done, err := s.(store.ConditionalDeleter).DeleteIf(ctx, was)
	require.NoError(t, err)
	assert.False(t, done)
	_, err = s.Get(ctx, was.ID)
	assert.NoError(t, err)

	put(s, was)
	inner.hook = func() { put(same, was) } // the same record under another seal
	done, err = s.(store.ConditionalDeleter).DeleteIf(ctx, was)
	require.NoError(t, err)
	assert.True(t, done)

	put(s, was)
	inner.hook = func() { inner.Delete(ctx, was.ID) }
	_, err = s.(store.Taker).Take(ctx, was.ID)
	assert.ErrorIs(t, err, store.ErrNotFound)
}

// failing fails to delete.
type failing struct {
	*memstore.Store
	err error
}

func (s failing) DeleteIf(context.Context, store.Record) (bool, error) { return false, s.err }

func TestStore_PassesFailuresOn(t *testing.T) {
	boom := errors.New("boom")
	r := record(t, "01")
	s := over(t, &storetest.Faulty{
		OnGet:    func(context.Context, store.ID) (store.Record, error) { return store.Record{}, boom },
		OnPut:    func(context.Context, store.Record) error { return boom },
		OnDelete: func(context.Context, store.ID) error { return boom },
	}, newRing(t))
	_, err := s.Get(t.Context(), r.ID)
	assert.ErrorIs(t, err, boom)
	assert.NotErrorIs(t, err, store.ErrNotFound)
	assert.ErrorIs(t, s.Put(t.Context(), r), boom)
	assert.ErrorIs(t, s.Delete(t.Context(), r.ID), boom)

	s = over(t, failing{memory(), boom}, newRing(t))
	require.NoError(t, s.Put(t.Context(), r))
	_, err = s.(store.Taker).Take(t.Context(), r.ID)
	assert.ErrorIs(t, err, boom)
	_, err = s.(store.ConditionalDeleter).DeleteIf(t.Context(), r)
	assert.ErrorIs(t, err, boom)
	_, err = s.Get(t.Context(), r.ID)
	assert.NoError(t, err)
}
