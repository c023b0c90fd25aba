package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
)

// remote is a Faulty without faults, whose methods end with their context like those of a store behind a network.
func remote() *storetest.Faulty {
	mem := memstore.New(memstore.Options{})
	f := &storetest.Faulty{Store: mem}
	f.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
		if ctx.Err() != nil {
			return store.Record{}, ctx.Err()
		}
		return mem.Get(ctx, id)
	}
	f.OnPut = func(ctx context.Context, r store.Record) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return mem.Put(ctx, r)
	}
	f.OnDelete = func(ctx context.Context, id store.ID) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return mem.Delete(ctx, id)
	}
	f.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
		if ctx.Err() != nil {
			return store.Record{}, ctx.Err()
		}
		return mem.Take(ctx, id)
	}
	return f
}

// broken has stores with one fault each. The key is the subtest that must find it.
var broken = map[string]func() store.Store{
	"PutGet": func() store.Store {
		f := remote()
		get := f.OnGet
		f.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			r, err := get(ctx, id)
			r.Expires = r.Expires.Truncate(time.Minute)
			return r, err
		}
		return f
	},
	"Absent": func() store.Store {
		f := remote()
		del := f.OnDelete
		f.OnDelete = func(ctx context.Context, id store.ID) error {
			if _, err := f.OnGet(ctx, id); err != nil {
				return err
			}
			return del(ctx, id)
		}
		return f
	},
	"Replace": func() store.Store {
		f := remote()
		put := f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			if _, err := f.OnGet(ctx, r.ID); err == nil {
				return nil
			}
			return put(ctx, r)
		}
		return f
	},
	"Delete": func() store.Store {
		f := remote()
		f.OnDelete = func(context.Context, store.ID) error { return nil }
		return f
	},
	"IDs": func() store.Store { // pads ids to 32 bytes
		f := remote()
		get, put := f.OnGet, f.OnPut
		pad := func(id store.ID) store.ID {
			padded, _ := store.IDFromBytes(append(id.Bytes(), make([]byte, store.MaxIDLen-id.Len())...))
			return padded
		}
		f.OnPut = func(ctx context.Context, r store.Record) error {
			if r.ID.IsZero() {
				return store.ErrZeroID
			}
			r.ID = pad(r.ID)
			return put(ctx, r)
		}
		f.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			r, err := get(ctx, pad(id))
			r.ID = id
			return r, err
		}
		return f
	},
	"Data": func() store.Store {
		f := remote()
		put := f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			r.Data = bytes.TrimRight(r.Data, "\x00")
			return put(ctx, r)
		}
		return f
	},
	"Refused": func() store.Store {
		f := remote()
		put := f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			r.Data = r.Data[:min(len(r.Data), store.MaxData)]
			return put(ctx, r)
		}
		return f
	},
	"Aliasing": func() store.Store {
		f := remote()
		var mu sync.Mutex
		held := map[store.ID][]byte{}
		get, put := f.OnGet, f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			mu.Lock()
			defer mu.Unlock()
			held[r.ID] = r.Data
			return put(ctx, r)
		}
		f.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			mu.Lock()
			defer mu.Unlock()
			r, err := get(ctx, id)
			r.Data = held[id]
			return r, err
		}
		return f
	},
	"ExpiredAtPut": func() store.Store { // ignores records that have expired: they do not replace
		f := remote()
		put := f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			if !time.Now().Before(r.Expires) {
				return nil
			}
			return put(ctx, r)
		}
		return f
	},
	"Expires": func() store.Store { // keeps records a second too long
		f := remote()
		get, put := f.OnGet, f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			r.Expires = r.Expires.Add(time.Second)
			return put(ctx, r)
		}
		f.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			r, err := get(ctx, id)
			r.Expires = r.Expires.Add(-time.Second)
			return r, err
		}
		return f
	},
	"Concurrent": func() store.Store { // writes a record in two steps
		f := remote()
		put := f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			half := r
			half.Data = r.Data[:len(r.Data)/2]
			if err := put(ctx, half); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // lets other goroutines read
			return put(ctx, r)
		}
		return f
	},
	"ContextEnded": func() store.Store {
		f := remote()
		f.OnGet = f.Store.Get
		return f
	},
	"Take": func() store.Store {
		f := remote()
		f.OnTake = f.OnGet
		return f
	},
	"TakeExpired": func() store.Store { // does not check the expiry
		f := remote()
		put := f.OnPut
		f.OnPut = func(ctx context.Context, r store.Record) error {
			r.Expires = r.Expires.Add(time.Second)
			return put(ctx, r)
		}
		get := f.OnGet
		f.OnGet = func(ctx context.Context, id store.ID) (store.Record, error) {
			r, err := get(ctx, id)
			if r.Expires = r.Expires.Add(-time.Second); err != nil || !time.Now().Before(r.Expires) {
				return store.Record{}, store.ErrNotFound
			}
			return r, err
		}
		return f
	},
	"TakeOnce": func() store.Store {
		f := remote()
		f.OnTake = func(ctx context.Context, id store.ID) (store.Record, error) {
			r, err := f.OnGet(ctx, id)
			time.Sleep(time.Millisecond) // lets other goroutines in
			if err == nil {
				err = f.OnDelete(ctx, id)
			}
			return r, err
		}
		return f
	},
	"Swap":          func() store.Store { return swapsAny{memstore.New(memstore.Options{})} },
	"SwapExpired":   func() store.Store { return &swapsOnce{Store: memstore.New(memstore.Options{})} },
	"SwapPutRace":   func() store.Store { return looksFirst{memstore.New(memstore.Options{})} },
	"SwapRace":      func() store.Store { return looksFirst{memstore.New(memstore.Options{})} },
	"PutAll":        func() store.Store { return putsOnce{memstore.New(memstore.Options{})} },
	"PutAllRefused": func() store.Store { return stopsEarly{memstore.New(memstore.Options{})} },
	"SealingKey":    func() store.Store { return freshKeys{memstore.New(memstore.Options{})} },
	"List":          func() store.Store { return listsAll{memstore.New(memstore.Options{})} },
	"Purge":         func() store.Store { return purgesAll{memstore.New(memstore.Options{})} },
}

type looksFirst struct{ *memstore.Store }

func (s looksFirst) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	if is, _ := s.Get(ctx, next.ID); !store.Same(is, old) {
		return false, nil
	}
	time.Sleep(time.Millisecond) // lets other goroutines in
	return true, s.Put(ctx, next)
}

type swapsAny struct{ *memstore.Store }

func (s swapsAny) Swap(ctx context.Context, _, next store.Record) (bool, error) {
	return true, s.Put(ctx, next)
}

// swapsOnce counts every id that was ever put as present.
type swapsOnce struct {
	*memstore.Store
	ids sync.Map
}

func (s *swapsOnce) Put(ctx context.Context, r store.Record) error {
	s.ids.Store(r.ID, true)
	return s.Store.Put(ctx, r)
}

func (s *swapsOnce) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	if _, known := s.ids.Load(next.ID); known && old.ID.IsZero() {
		return false, nil
	}
	return s.Store.Swap(ctx, old, next)
}

// putsOnce does not replace.
type putsOnce struct{ *memstore.Store }

func (s putsOnce) PutAll(ctx context.Context, records []store.Record) (stored int, err error) {
	for _, r := range records {
		if _, absent := s.Get(ctx, r.ID); absent != nil {
			err = errors.Join(err, s.Put(ctx, r))
		}
	}
	return len(records), err
}

// stopsEarly loses the records after one that fails.
type stopsEarly struct{ *memstore.Store }

func (s stopsEarly) PutAll(ctx context.Context, records []store.Record) (stored int, err error) {
	for i, r := range records {
		if err := s.Put(ctx, r); err != nil {
			return i, err
		}
	}
	return len(records), nil
}

type freshKeys struct{ *memstore.Store }

func (freshKeys) SealingKey() ([]byte, error) { return memstore.New(memstore.Options{}).SealingKey() }

type listsAll struct{ *memstore.Store }

func (s listsAll) List(ctx context.Context, f func(store.ID, int, time.Time) error) error {
	return s.Store.List(ctx, func(id store.ID, size int, expires time.Time) error {
		f(id, size, expires)
		return nil
	})
}

type purgesAll struct{ *memstore.Store }

func (s purgesAll) Purge(ctx context.Context, _ bool) (int, error) { return s.Store.Purge(ctx, false) }

const brokenEnv = "STORETEST_BROKEN"

// TestBroken runs the suite on each of the broken stores, in another process, and expects the subtest of its name to fail.
func TestBroken(t *testing.T) {
	if name := os.Getenv(brokenEnv); name != "" {
		if open := broken[name]; open != nil {
			storetest.Run(t, func(*testing.T) store.Store { return open() })
		} else {
			storetest.RunServer(t, brokenServers[name]())
		}
		return
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(broken)), slices.Collect(maps.Keys(brokenServers))) {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // two of them wait for seconds
			cmd := exec.Command(os.Args[0], "-test.run=^TestBroken$/^"+name+"$", "-test.v")
			cmd.Env = append(os.Environ(), brokenEnv+"="+name)
			out, err := cmd.CombinedOutput()
			var failed *exec.ExitError
			require.ErrorAs(t, err, &failed, "the suite accepts the store: %s", out)
			assert.Contains(t, string(out), "--- FAIL: TestBroken/"+name)
		})
	}
}

// Without its fault, each of the stores above passes.
func TestRun_Remote(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return remote() })
}

// Run leaves out the optional interfaces that a store lacks.
func TestRun_Minimal(t *testing.T) {
	type minimal struct{ store.Store }
	storetest.Run(t, func(*testing.T) store.Store { return minimal{remote()} })
}

func TestFaulty_PassesThrough(t *testing.T) {
	ctx := context.Background()
	f := &storetest.Faulty{Store: memstore.New(memstore.Options{})}
	id, err := store.ParseID("01")
	require.NoError(t, err)
	r := store.Record{ID: id, Data: []byte("x"), Expires: time.Now().Add(time.Hour)}
	require.NoError(t, f.Put(ctx, r))
	got, err := f.Get(ctx, id)
	require.NoError(t, err)
	assert.Equal(t, r.Data, got.Data)
	_, err = f.Take(ctx, id)
	require.NoError(t, err)
	_, err = f.Get(ctx, id)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, f.Put(ctx, r))
	require.NoError(t, f.Delete(ctx, id))
	_, err = f.Get(ctx, id)
	assert.ErrorIs(t, err, store.ErrNotFound)

	for _, optional := range []bool{is[store.Local](f), is[store.Batcher](f), is[store.Embedded](f), is[store.Lister](f), is[store.Purger](f)} {
		assert.False(t, optional)
	}
}

func is[T any](s store.Store) bool {
	_, ok := s.(T)
	return ok
}

func TestFaulty_Hooks(t *testing.T) {
	ctx := context.Background()
	boom := errors.New("boom")
	id, err := store.ParseID("01")
	require.NoError(t, err)
	f := &storetest.Faulty{
		OnGet:    func(context.Context, store.ID) (store.Record, error) { return store.Record{Data: []byte("wrong")}, nil },
		OnPut:    func(context.Context, store.Record) error { return boom },
		OnDelete: func(context.Context, store.ID) error { panic(boom) },
		OnTake: func(ctx context.Context, _ store.ID) (store.Record, error) {
			<-ctx.Done()
			return store.Record{}, ctx.Err()
		},
	}
	r, err := f.Get(ctx, id)
	require.NoError(t, err)
	assert.Equal(t, "wrong", string(r.Data))
	assert.ErrorIs(t, f.Put(ctx, store.Record{}), boom)
	assert.PanicsWithValue(t, boom, func() { f.Delete(ctx, id) })
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = f.Take(ended, id)
	assert.ErrorIs(t, err, context.Canceled)
}
