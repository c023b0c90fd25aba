package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
)

// These fail to compile if an interface gets lost.
var (
	_ store.Store    = (*Store)(nil)
	_ store.Taker    = (*Store)(nil)
	_ store.Swapper  = (*Store)(nil)
	_ store.Batcher  = (*Store)(nil)
	_ store.Embedded = (*Store)(nil)
	_ store.Lister   = (*Store)(nil)
	_ store.Purger   = (*Store)(nil)
)

var ctx = context.Background()

func newPath(tb testing.TB) string { return filepath.Join(tb.TempDir(), "sessions.db") }

func mustOpen(tb testing.TB, path string) *Store {
	tb.Helper()
	s, err := Open(path)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()) })
	return s
}

func newID(n int) store.ID {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	id, err := store.IDFromBytes(b[:])
	if err != nil {
		panic(err)
	}
	return id
}

func record(n int) store.Record {
	return store.Record{ID: newID(n), Data: fmt.Appendf(nil, "record %d", n), Expires: time.Now().Add(time.Hour)}
}

// raw opens the file without this package, with one connection, so that transactions are easy.
func raw(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite3", path)
	require.NoError(tb, err)
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { db.Close() })
	return db
}

func execute(tb testing.TB, db *sql.DB, statement string) {
	tb.Helper()
	_, err := db.Exec(statement)
	require.NoError(tb, err)
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return mustOpen(t, newPath(t)) })
}

// pair is two Stores of one file in turn.
type pair struct {
	*Store
	other *Store
}

func (p pair) Put(ctx context.Context, r store.Record) error { return p.other.Put(ctx, r) }

func (p pair) PutAll(ctx context.Context, records []store.Record) (int, error) {
	return p.other.PutAll(ctx, records)
}

// A Store finds the records of another Store of the file.
func TestStore_TwoOpen(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		path := newPath(t)
		return pair{mustOpen(t, path), mustOpen(t, path)}
	})
}

func TestOpen_KeepsRecords(t *testing.T) {
	path := newPath(t)
	s, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, s.Put(ctx, record(1)))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "closing twice")
	_, err = s.Get(ctx, newID(1))
	require.Error(t, err)
	require.NotErrorIs(t, err, store.ErrNotFound, "a closed store does not know")

	got, err := mustOpen(t, path).Get(ctx, newID(1))
	require.NoError(t, err)
	assert.Equal(t, "record 1", string(got.Data))
}

func TestOpen_Private(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	require.NoError(t, s.Put(ctx, record(1)))
	_, err := s.SealingKey()
	require.NoError(t, err)
	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		info, err := f.Info()
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o600), info.Mode(), f.Name())
		names = append(names, f.Name())
	}
	assert.ElementsMatch(t, []string{"sessions.db", "sessions.db-wal", "sessions.db-shm", "sessions.db.key"}, names, "and no temporary ones")
}

func TestOpen_Settings(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "1", "secure_delete": "1", "busy_timeout": "5"} {
		var got string
		require.NoError(t, s.now.Load().db.QueryRow("PRAGMA "+pragma).Scan(&got))
		assert.Equal(t, want, got, pragma)
	}
}

// Names that mean something to SQLite or in its URLs.
func TestOpen_OddNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"plain", ":memory:", "file:x", "a?mode=memory", "b#c", "d%41", "e f", "ü.db"} {
		mustOpen(t, name)
		_, err := os.Stat(name)
		assert.NoError(t, err, "%q is elsewhere", name)
	}
}

func TestOpen_Refuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	database := func(name string, statements ...string) {
		require.NoError(t, os.WriteFile(at(name), nil, 0o600))
		db := raw(t, at(name))
		for _, st := range statements {
			execute(t, db, st)
		}
		require.NoError(t, db.Close())
	}
	require.NoError(t, os.WriteFile(at("text"), []byte(strings.Repeat("no database, just text\n", 100)), 0o600))
	require.NoError(t, os.WriteFile(at("readable"), nil, 0o644))
	database("foreign", "CREATE TABLE cars (id)")
	database("foreign id", "PRAGMA application_id = 7")
	database("future", fmt.Sprintf("PRAGMA application_id = %d", applicationID), "PRAGMA user_version = 2")

	for _, c := range []struct{ path, says string }{
		{"", "no file name"},
		{dir, "not a regular file"},
		{at("absent/file"), "no such file"},
		{at("text/file"), "not a directory"},
		{at("text"), "not a database"},
		{at("readable"), "0644"},
		{at("foreign"), "another application"},
		{at("foreign id"), "another application"},
		{at("future"), "version 2"},
		{"/dev/null", "not a regular file"},
	} {
		t.Run(c.path, func(t *testing.T) {
			before, _ := os.ReadFile(c.path)
			_, err := Open(c.path)
			require.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, c.path)
			assert.NotContains(t, err.Error(), "\n")
			after, _ := os.ReadFile(c.path)
			assert.Equal(t, before, after, "a file that is refused must not be changed")
		})
	}
}

// SQLite's locks on the file must survive another Open in this process.
func TestOpen_KeepsLocks(t *testing.T) {
	path := newPath(t)
	mustOpen(t, path).Close()
	db := raw(t, path)
	execute(t, db, "PRAGMA locking_mode = EXCLUSIVE")
	execute(t, db, "BEGIN IMMEDIATE")
	locked := func() {
		_, stderr, err := child(t, "lock", path).wait()
		require.Error(t, err)
		require.Contains(t, stderr, "locked")
	}
	locked()
	require.NoError(t, os.Chmod(path, 0o644))
	_, err := Open(path)
	require.Error(t, err)
	locked()
	require.NoError(t, db.Close())
	_, stderr, err := child(t, "lock", path).wait()
	require.NoError(t, err, stderr)
}

func TestPut_WaitsForALock(t *testing.T) {
	path := newPath(t)
	s, db := mustOpen(t, path), raw(t, path)
	require.NoError(t, s.Put(ctx, record(1)))
	execute(t, db, "BEGIN IMMEDIATE")

	for name, call := range map[string]func(ctx context.Context) error{
		"put":    func(ctx context.Context) error { return s.Put(ctx, record(2)) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, newID(1)) },
		"take":   func(ctx context.Context) error { _, err := s.Take(ctx, newID(1)); return err },
		"purge":  func(ctx context.Context) error { _, err := s.Purge(ctx, false); return err },
	} {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		err := call(short)
		cancel()
		assert.ErrorIs(t, err, context.DeadlineExceeded, name)

		cancelled, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- call(cancelled) }()
		cancel()
		assert.ErrorIs(t, <-done, context.Canceled, name)
	}
	_, err := s.Get(ctx, newID(1))
	assert.NoError(t, err, "reading needs no lock")

	// A Put that waits goes on when the lock is released.
	done := make(chan error)
	go func() { done <- s.Put(ctx, record(2)) }()
	for len(s.writer) == 0 { // until the Put is under way
		time.Sleep(time.Millisecond)
	}
	execute(t, db, "COMMIT")
	require.NoError(t, <-done)
	_, err = s.Get(ctx, newID(2))
	assert.NoError(t, err)
}

// On a full disk writes fail with an error that says so. Records can be read, and deleted, which makes room.
func TestPut_DiskIsFull(t *testing.T) {
	s := mustOpen(t, newPath(t))
	s.now.Load().db.SetMaxOpenConns(1) // the bound that stands for the disk is per connection
	large := record(1)
	large.Data = make([]byte, store.MaxData)
	require.NoError(t, s.Put(ctx, large))
	var pages int
	require.NoError(t, s.now.Load().db.QueryRow("PRAGMA max_page_count = 1").Scan(&pages)) // as many as there are
	more := large
	more.ID = newID(2)
	for range 3 {
		err := s.Put(ctx, more)
		require.ErrorContains(t, err, "sqlitestore: put: database or disk is full")
		require.NotErrorIs(t, err, store.ErrNotFound)
	}
	_, err := s.Get(ctx, more.ID)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Take(ctx, large.ID)
	require.NoError(t, err)
	require.NoError(t, s.Put(ctx, more))
}

func TestStore_BoundsThreads(t *testing.T) {
	path := newPath(t)
	s, db := mustOpen(t, path), raw(t, path)
	require.NoError(t, s.Put(ctx, record(0)))
	before := pprof.Lookup("threadcreate").Count()
	execute(t, db, "BEGIN IMMEDIATE")
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() { s.Put(short, record(i)) })
		wg.Go(func() { s.Get(short, newID(i)) })
	}
	wg.Wait()
	assert.Less(t, pprof.Lookup("threadcreate").Count()-before, 32)
}

func TestPut_Sweeps(t *testing.T) {
	path := newPath(t)
	s, db := mustOpen(t, path), raw(t, path)
	count := func() (n int) {
		require.NoError(t, db.QueryRow("SELECT count(*) FROM records").Scan(&n))
		return n
	}
	const old = sweepLimit + 10
	for i := range old {
		execute(t, db, fmt.Sprintf("INSERT INTO records VALUES (x'%04x', x'', %d)", i, i+1))
	}
	for i := range sweepEvery - 1 {
		require.NoError(t, s.Put(ctx, record(i)))
	}
	assert.Equal(t, old+sweepEvery-1, count())
	require.NoError(t, s.Put(ctx, record(sweepEvery)))
	assert.Equal(t, old-sweepLimit+sweepEvery, count(), "bounded")
	for i := range sweepEvery {
		require.NoError(t, s.Put(ctx, record(1000+i)))
	}
	assert.Equal(t, 2*sweepEvery, count(), "all expired ones are gone")
}

func TestListPurge_ManyBatches(t *testing.T) {
	path := newPath(t)
	s, db := mustOpen(t, path), raw(t, path)
	const n = 3 * batch
	execute(t, db, "BEGIN")
	for i := range n {
		execute(t, db, fmt.Sprintf("INSERT INTO records VALUES (x'%08x', x'00', %d)", 2*i, int64(math.MaxInt64)))
		execute(t, db, fmt.Sprintf("INSERT INTO records VALUES (x'%08x', x'00', 1)", 2*i+1))
	}
	execute(t, db, "COMMIT")
	last, listed := "", 0
	require.NoError(t, s.List(ctx, func(id store.ID, _ int, _ time.Time) error {
		assert.Greater(t, id.String(), last)
		last = id.String()
		listed++
		return nil
	}))
	assert.Equal(t, n, listed)
	got, err := s.Purge(ctx, true)
	require.NoError(t, err)
	assert.Equal(t, n, got)
	got, err = s.Purge(ctx, false)
	require.NoError(t, err)
	assert.Equal(t, n, got)
}

func TestDelete_Overwrites(t *testing.T) {
	path := newPath(t)
	s, err := Open(path)
	require.NoError(t, err)
	r := record(1)
	r.Data = []byte(strings.Repeat("a long secret ", 20))
	require.NoError(t, s.Put(ctx, r))
	require.NoError(t, s.Close()) // which empties the log into the file
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(content), "a long secret")

	s, err = Open(path)
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, r.ID))
	require.NoError(t, s.Close())
	content, err = os.ReadFile(path)
	require.NoError(t, err)
	assert.NotContains(t, string(content), "a long secret")
}

func TestSealingKey(t *testing.T) {
	path := newPath(t)
	first, err := mustOpen(t, path).SealingKey()
	require.NoError(t, err)
	second, err := mustOpen(t, path).SealingKey()
	require.NoError(t, err)
	assert.Equal(t, first, second, "the same for all Stores of the file")
	text, err := os.ReadFile(path + ".key")
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%x\n", first), string(text))

	other, err := mustOpen(t, newPath(t)).SealingKey()
	require.NoError(t, err)
	assert.NotEqual(t, first, other)
}

func TestOpen_RefusesWhatOthersMayHavePlanted(t *testing.T) {
	path := newPath(t)
	dir := filepath.Dir(path)
	s := mustOpen(t, path)
	_, err := s.SealingKey()
	require.NoError(t, err)
	link := filepath.Join(t.TempDir(), "link.db")
	require.NoError(t, os.Symlink(path, link))
	mustOpen(t, link)
	refused := func(says string) {
		t.Helper()
		for _, p := range []string{path, link} {
			_, err := Open(p)
			require.ErrorContains(t, err, says)
		}
		_, err := s.SealingKey()
		require.ErrorContains(t, err, says)
	}
	require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
	refused("lets other users change it")
	_, err = Open(filepath.Join(dir, "fresh.db"))
	require.ErrorContains(t, err, "lets other users change it")
	require.NoError(t, os.Chmod(dir, 0o755))
	if os.Geteuid() != 0 {
		return
	}
	for _, name := range []string{path, path + ".key"} {
		require.NoError(t, os.Chown(name, 65534, 65534))
	}
	refused("belongs to user 65534")
	for _, name := range []string{path, path + ".key"} {
		require.NoError(t, os.Chown(name, 0, 0))
	}
	require.NoError(t, os.Lchown(link, 65534, 65534))
	_, err = Open(link)
	require.ErrorContains(t, err, "symbolic link")
}

func TestSealingKey_Refuses(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	key := path + ".key"
	digits := strings.Repeat("a1", keySize)
	for _, text := range []string{"", "\n", digits[2:], digits + "a1", digits[1:] + "x", digits + "\n" + digits} {
		require.NoError(t, os.WriteFile(key, []byte(text), 0o600))
		_, err := s.SealingKey()
		require.ErrorContains(t, err, key, "%q", text)
		assert.NotContains(t, err.Error(), "a1a1")
	}
	require.NoError(t, os.WriteFile(key, []byte(digits), 0o600))
	_, err := s.SealingKey()
	require.NoError(t, err)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620} {
		require.NoError(t, os.Chmod(key, mode))
		_, err := s.SealingKey()
		require.ErrorContains(t, err, fmt.Sprintf("%04o", mode))
		assert.ErrorContains(t, err, key)
	}
	require.NoError(t, os.Remove(key))
	require.NoError(t, os.Mkdir(key, 0o700))
	_, err = s.SealingKey()
	assert.ErrorContains(t, err, "not a regular file")
}

func BenchmarkStore(b *testing.B) {
	s := mustOpen(b, newPath(b))
	r := record(1)
	r.Data = make([]byte, 600)
	deadline, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			r.ID = newID(n)
			if err := s.Put(deadline, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(deadline, newID(0)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("put+take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Put(deadline, r); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Take(deadline, r.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestPut_KeepsWithinTheBounds(t *testing.T) {
	path := newPath(t)
	count := func(s *Store) (n, bytes int) {
		require.NoError(t, s.List(ctx, func(_ store.ID, size int, _ time.Time) error { n++; bytes += size; return nil }))
		return n, bytes
	}
	few, err := OpenWith(path, Options{MaxEntries: 3})
	require.NoError(t, err)
	defer few.Close()
	put := func(s *Store, n, size int) {
		r := record(n)
		r.Data, r.Expires = make([]byte, size), time.Now().Add(time.Hour+time.Duration(n)*time.Second)
		require.NoError(t, s.Put(ctx, r))
	}
	for n := range 10 {
		put(few, n, 10)
		put(few, n, 20) // replaces, and is counted once
		entries, _ := count(few)
		require.LessOrEqual(t, entries, 3)
	}
	for n := range 10 {
		_, err := few.Get(ctx, newID(n))
		require.Equal(t, n >= 7, err == nil, "the oldest go: %d", n)
	}
	require.NoError(t, few.Delete(ctx, newID(9)))
	put(few, 10, 10)
	_, err = few.Get(ctx, newID(7))
	require.NoError(t, err, "there was room")

	small, err := OpenWith(path, Options{MaxBytes: 1}) // which is store.MaxData
	require.NoError(t, err)
	defer small.Close()
	for n := range 20 {
		put(small, 20+n, 10_000)
		_, bytes := count(small)
		require.LessOrEqual(t, bytes, store.MaxData)
	}
	entries, _ := count(small)
	require.Equal(t, 6, entries)
	put(small, 50, store.MaxData)
	entries, _ = count(small)
	require.Equal(t, 1, entries)
}

// Without it, processes that run would go on with a file that those started later cannot see.
func TestStore_FollowsItsName(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string){
		"removed": func(t *testing.T, path string) {
			for _, end := range []string{"", "-wal", "-shm"} {
				require.NoError(t, os.Remove(path+end))
			}
		},
		"replaced": func(t *testing.T, path string) {
			other := newPath(t)
			s, err := Open(other)
			require.NoError(t, err)
			require.NoError(t, s.Put(ctx, record(3)))
			require.NoError(t, s.Close())
			require.NoError(t, os.Remove(path+"-wal"))
			require.NoError(t, os.Remove(path+"-shm"))
			require.NoError(t, os.Rename(other, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			a, b := mustOpen(t, path), mustOpen(t, path)
			key, err := a.SealingKey()
			require.NoError(t, err)
			require.NoError(t, a.Put(ctx, record(1)))
			change(t, path)
			begin := time.Now()
			told := map[string]int{}
			for time.Since(begin) < 1100*time.Millisecond {
				for s, opened := range map[string]*Store{"a": a, "b": b} {
					if _, err := opened.Get(ctx, newID(1)); errors.Is(err, errReplaced) {
						told[s]++
					} else if told[s] > 0 {
						require.ErrorIs(t, err, store.ErrNotFound)
					}
				}
				time.Sleep(time.Millisecond)
			}
			require.Equal(t, map[string]int{"a": 1, "b": 1}, told, "once each")
			require.NoError(t, a.Put(ctx, record(2)))
			for _, s := range []*Store{b, mustOpen(t, path)} {
				_, err = s.Get(ctx, newID(2))
				require.NoError(t, err)
			}
			again, err := a.SealingKey()
			require.NoError(t, err)
			require.Equal(t, key, again)
		})
	}
}
