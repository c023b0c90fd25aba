// Package sqlitestore is a store.Store in a SQLite file that all processes of a host share.
package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/libssl-go/libssl/internal/ownfile"
	"github.com/libssl-go/libssl/store"
)

const (
	// applicationID ("lssl") marks a file of this package, schemaVersion the version of its tables.
	applicationID = 0x6c73736c
	schemaVersion = 1

	// SQLite lets one connection write at a time, beside any readers. Each call in progress holds an OS thread.
	maxReaders = 3
	maxConns   = maxReaders + 1

	// While another process writes, SQLite waits inside the call for busyTimeout: it holds a thread and ignores the context.
	// After that do waits without a thread and tries again every busyPause, for maxBusy at most.
	busyTimeout = 5 * time.Millisecond
	busyPause   = 2 * time.Millisecond
	maxBusy     = 5 * time.Second

	// Every sweepEvery-th Put removes up to sweepLimit expired records: four for each Put, so that their number falls,
	// in steps of less than a millisecond.
	sweepEvery = 16
	sweepLimit = 64

	// expectedProcesses is how many processes may put records at once before they exceed the bounds by a few.
	expectedProcesses = 32

	// List and Purge work in batches, so that other calls get their turn.
	batch = 256

	// maxTogether is how many records of Puts one transaction stores, for the same reason.
	maxTogether = 64
)

// Store keeps records in a file. It implements store.Store, store.Taker, store.Swapper, store.Batcher, store.Embedded,
// store.Lister and store.Purger.
//
// Any number of processes of one host may have the file open at once, each with one Store; Take and Swap are atomic across
// them. The file must not be on a network file system, where SQLite's locks do not work.
//
// A process that crashes or is killed loses no record that was put. A crash of the operating system may undo the last
// seconds, because SQLite does not flush each commit to the disk (synchronous=NORMAL). The latest records put may be gone.
// The latest records taken may be back, which matters to single use.
//
// Puts that come while the file is being written share the next transaction. Each returns when that is committed, or when its
// own context ends: then the record may still be stored.
//
// To make room in a full store, Put removes the records that expire first. A Store notices within a second of use that its file was
// removed or replaced, and opens it anew; one call fails and says so.
//
// Expired records are never returned. Later Puts remove them, a few at a time: nothing runs in the background, and an idle
// process does no work. Removed data is overwritten with zeros in the file (secure_delete). It stays in backups, and in the
// write-ahead log beside the file until SQLite reuses that: seal secrets before you put them.
type Store struct {
	path    string
	opts    Options
	readers chan struct{} // a token for each read under way
	writer  chan struct{} // a token while a write is under way
	waiting waiting       // Puts that the next writer commits

	// For the holder of writer.
	crowded   bool   // the last transaction of Puts had several calls
	puts      uint64 // records put
	unchecked int64  // Puts until the bounds are checked again

	now     atomic.Pointer[database]
	checked atomic.Int64 // when path was last seen to lead to the database, as a time.Duration since begin
	begin   time.Time
}

// database is one opened file.
type database struct {
	db   *sql.DB
	info fs.FileInfo

	puts                            putStatements
	get, del, take, add, swap, list *sql.Stmt
}

// putStatements are those of a Put.
type putStatements struct{ put, sweep, totals, evict *sql.Stmt }

// in returns the statements for use in a transaction.
func (p putStatements) in(tx *sql.Tx) putStatements {
	return putStatements{tx.Stmt(p.put), tx.Stmt(p.sweep), tx.Stmt(p.totals), tx.Stmt(p.evict)}
}

// Defaults of Options.
const (
	DefaultMaxEntries = 1_000_000
	DefaultMaxBytes   = 1 << 30
)

// Options bound a Store. Values of zero or less stand for the defaults. All processes that share the file should have the same.
type Options struct {
	// MaxEntries is how many records the store holds at most.
	MaxEntries int

	// MaxBytes is how many bytes of Data the store holds at most, never less than store.MaxData. A record takes about
	// 150 bytes more in the file.
	MaxBytes int64
}

// Open is OpenWith for the default options.
func Open(path string) (*Store, error) { return OpenWith(path, Options{}) }

// OpenWith opens the store in the file path, which it makes with mode 0600 if there is none. SQLite keeps path-wal and path-shm
// beside it. Open refuses a file that other users can read or write, or may have put there (see ticket.LoadRing). It also refuses
// one that is no SQLite database, that belongs to another application, or whose tables are of another version of this
// package. It fails if the file cannot be written.
func OpenWith(path string, opts Options) (*Store, error) {
	if opts.MaxEntries <= 0 {
		opts.MaxEntries = DefaultMaxEntries
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	opts.MaxBytes = max(opts.MaxBytes, store.MaxData)
	s := &Store{opts: opts, readers: make(chan struct{}, maxReaders), writer: make(chan struct{}, 1), begin: time.Now()}
	var db *database
	err := errors.New("no file name")
	if path != "" {
		if s.path, err = filepath.Abs(path); err == nil {
			db, err = open(s.path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: %s: %w", path, err)
	}
	s.now.Store(db)
	return s, nil
}

func open(path string) (_ *database, err error) {
	// SQLite itself would make the file with mode 0644.
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createOnce(path, nil); err != nil {
			return nil, err
		}
	}
	// The file must not be opened for this: POSIX drops a process's locks on a file when any descriptor of it is closed, and
	// another Store of this process may hold some.
	found, info, err := ownfile.Self().Find(path)
	if err == nil {
		err = ownfile.Self().Secret(info)
	}
	if err != nil {
		return nil, err
	}

	dsn := url.URL{Scheme: "file", OmitHost: true, Path: found, RawQuery: fmt.Sprintf(
		"mode=rw&_busy_timeout=%d&_synchronous=NORMAL&_secure_delete=on&_txlock=immediate", busyTimeout.Milliseconds())}
	db, err := sql.Open("sqlite3", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	s := &database{db: db, info: info}
	defer func() {
		if err != nil {
			db.Close()
		}
	}()

	if err := retry(context.Background(), s.setUp); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare compiles the statements.
func (s *database) prepare() error {
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.get, "SELECT data, expires FROM records WHERE id = ?"},
		{&s.puts.put, "INSERT INTO records (id, data, expires) VALUES (?1, ?2, ?3) " +
			"ON CONFLICT (id) DO UPDATE SET data = ?2, expires = ?3"}, // not REPLACE, which fires no trigger for what it deletes
		{&s.del, "DELETE FROM records WHERE id = ?"},
		{&s.take, "DELETE FROM records WHERE id = ? RETURNING data, expires"},
		{&s.add, "INSERT INTO records (id, data, expires) VALUES (?1, ?2, ?3) " +
			"ON CONFLICT (id) DO UPDATE SET data = ?2, expires = ?3 WHERE expires <= ?4"},
		{&s.swap, "UPDATE records SET data = ?, expires = ? WHERE id = ? AND data = ? AND expires = ?"},
		{&s.puts.sweep, "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE expires <= ? LIMIT ?)"},
		{&s.puts.totals, "SELECT entries, bytes FROM totals"},
		{&s.puts.evict, "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id <> ? ORDER BY expires LIMIT ?)"},
		{&s.list, "SELECT id, length(data), expires FROM records WHERE id > ? AND expires > ? ORDER BY id LIMIT ?"},
	} {
		err := retry(context.Background(), func() (err error) {
			*p.stmt, err = s.db.Prepare(p.text)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// counting keeps the number of the records and of their bytes, which SQLite would have to count. Each Open counts once.
const counting = `
	CREATE TABLE IF NOT EXISTS totals (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), entries INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
	CREATE TRIGGER IF NOT EXISTS records_insert AFTER INSERT ON records BEGIN
		UPDATE totals SET entries = entries + 1, bytes = bytes + length(NEW.data); END;
	CREATE TRIGGER IF NOT EXISTS records_delete AFTER DELETE ON records BEGIN
		UPDATE totals SET entries = entries - 1, bytes = bytes - length(OLD.data); END;
	CREATE TRIGGER IF NOT EXISTS records_update AFTER UPDATE ON records BEGIN
		UPDATE totals SET bytes = bytes - length(OLD.data) + length(NEW.data); END;
	INSERT OR REPLACE INTO totals SELECT 1, count(*), coalesce(sum(length(data)), 0) FROM records`

// setUp makes the tables in an empty file, and checks those of any other.
func (s *database) setUp() (err error) {
	ctx := context.Background()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			conn.ExecContext(ctx, "ROLLBACK") // after a COMMIT it fails and does nothing
		}
	}()

	var application, version, tables int
	const question = "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)"
	if err := conn.QueryRowContext(ctx, question).Scan(&application, &version, &tables); err != nil {
		return err
	}
	switch {
	case application == 0 && version == 0 && tables == 0:
		const schema = `
			CREATE TABLE records (id BLOB NOT NULL PRIMARY KEY, data BLOB NOT NULL, expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
			CREATE INDEX records_expires ON records (expires);
			PRAGMA application_id = %d;
			PRAGMA user_version = %d`
		if _, err := conn.ExecContext(ctx, fmt.Sprintf(schema, applicationID, schemaVersion)); err != nil {
			return err
		}
	case application != applicationID:
		return errors.New("is the database of another application")
	case version != schemaVersion:
		return fmt.Errorf("has tables of version %d, this program needs version %d", version, schemaVersion)
	default:
		// Writes the version that is there, to fail if the file cannot be written: BEGIN IMMEDIATE, and statements without an
		// effect, would succeed.
		if _, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
			return err
		}
	}
	if _, err := conn.ExecContext(ctx, counting); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return err
	}

	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("a write-ahead log is not possible (journal mode %s)", mode)
	}
	return nil
}

// Close closes the file. Calls under way finish or fail.
func (s *Store) Close() error {
	if err := s.now.Load().db.Close(); err != nil {
		return fmt.Errorf("sqlitestore: close: %w", err)
	}
	return nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, id store.ID) (store.Record, error) {
	return s.record(ctx, "get", s.readers, func(db *database) *sql.Stmt { return db.get }, id)
}

// Take implements store.Taker.
func (s *Store) Take(ctx context.Context, id store.ID) (store.Record, error) {
	return s.record(ctx, "take", s.writer, func(db *database) *sql.Stmt { return db.take }, id)
}

// record runs a statement that returns the data and expires of one record.
func (s *Store) record(ctx context.Context, op string, slots chan struct{}, stmt func(*database) *sql.Stmt, id store.ID) (store.Record, error) {
	r := store.Record{ID: id}
	var expires int64
	found := false
	err := s.do(ctx, op, slots, func(db *database) error {
		rows, err := stmt(db).Query(id.Bytes())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := rows.Scan(&r.Data, &expires); err != nil {
				return err
			}
			found = true
		}
		return rows.Err() // comes after the commit: without one the record was not taken
	})
	if err != nil {
		return store.Record{}, err
	}
	if !found || expires <= time.Now().UnixMilli() {
		return store.Record{}, store.ErrNotFound
	}
	r.Expires = time.UnixMilli(expires)
	return r, nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id store.ID) error {
	return s.do(ctx, "delete", s.writer, func(db *database) error {
		_, err := db.del.Exec(id.Bytes())
		return err
	})
}

// Swap implements store.Swapper.
func (s *Store) Swap(ctx context.Context, old, next store.Record) (bool, error) {
	if err := next.Validate(); err != nil {
		return false, err
	}
	id, data, expires := next.ID.Bytes(), blob(next.Data), next.Expires.UnixMilli()
	switch old.ID {
	case next.ID:
		return s.changes(ctx, func(db *database) *sql.Stmt { return db.swap }, data, expires, id, blob(old.Data), old.Expires.UnixMilli())
	case store.ID{}:
		return s.changes(ctx, func(db *database) *sql.Stmt { return db.add }, id, data, expires, time.Now().UnixMilli())
	}
	return false, ctx.Err()
}

// changes runs a statement of Swap, and reports whether it changed a record.
func (s *Store) changes(ctx context.Context, stmt func(*database) *sql.Stmt, args ...any) (bool, error) {
	var n int64
	err := s.do(ctx, "swap", s.writer, func(db *database) error {
		res, err := stmt(db).Exec(args...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n > 0, err
}

// blob returns data, but not nil, which the driver would store as NULL.
func blob(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// List implements store.Lister. It lists the records in the order of their ids.
func (s *Store) List(ctx context.Context, f func(id store.ID, size int, expires time.Time) error) error {
	type item struct {
		id      store.ID
		size    int
		expires int64
	}
	last := []byte{}
	for {
		// Read a whole batch before calling f: f may call the store, which it must not do while rows are open.
		var items []item
		err := s.do(ctx, "list", s.readers, func(db *database) error {
			items = items[:0]
			rows, err := db.list.Query(last, time.Now().UnixMilli(), batch)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id sql.RawBytes
				var it item
				if err := rows.Scan(&id, &it.size, &it.expires); err != nil {
					return err
				}
				if it.id, err = store.IDFromBytes(id); err != nil {
					return err
				}
				items = append(items, it)
			}
			return rows.Err()
		})
		if err != nil {
			return err
		}
		for _, it := range items {
			if err := f(it.id, it.size, time.UnixMilli(it.expires)); err != nil {
				return err
			}
		}
		if len(items) < batch {
			return nil
		}
		last = items[len(items)-1].id.Bytes()
	}
}

// Purge implements store.Purger.
func (s *Store) Purge(ctx context.Context, expiredOnly bool) (int, error) {
	until := int64(math.MaxInt64)
	if expiredOnly {
		until = time.Now().UnixMilli()
	}
	total := 0
	for {
		var n int64
		err := s.do(ctx, "purge", s.writer, func(db *database) error {
			res, err := db.puts.sweep.Exec(until, batch)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		total += int(n)
		if err != nil || n < batch {
			return total, err
		}
	}
}

// do waits for a slot and runs f, which makes one short use of the database. It repeats f while another process keeps the
// database busy. All waiting ends with ctx and holds no thread. f itself gets no context: statements take microseconds,
// and database/sql and the driver are slower with statements that can be interrupted.
func (s *Store) do(ctx context.Context, op string, slots chan struct{}, f func(*database) error) error {
	err := s.begins(ctx)
	if err == nil {
		select {
		case slots <- struct{}{}:
			err = s.try(ctx, f)
			<-slots
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("sqlitestore: %s: %w", op, err)
	}
	return nil
}

// begins is the first part of each call.
func (s *Store) begins(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.follow()
}

// try runs f, and runs it again while another process keeps the database busy.
func (s *Store) try(ctx context.Context, f func(*database) error) error {
	err := retry(ctx, func() error { return f(s.now.Load()) })
	if err != nil && !busy(err) {
		s.checked.Store(-int64(checkEvery)) // the file may be gone
	}
	return err
}

// errReplaced tells the caller, and so the log, why the records are gone.
var errReplaced = errors.New("the file was removed or replaced, and was opened anew")

// checkEvery is how often follow looks.
const checkEvery = 500 * time.Millisecond

// follow opens the file anew if another has its name, or none. Otherwise this process would go on with a file that no other process
// can see. The call that finds the change fails with errReplaced.
func (s *Store) follow() error {
	last, now := s.checked.Load(), int64(time.Since(s.begin))
	if now-last < int64(checkEvery) || !s.checked.CompareAndSwap(last, now) {
		return nil
	}
	old := s.now.Load()
	if info, err := os.Stat(s.path); err == nil && os.SameFile(info, old.info) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh, err := open(s.path)
	if err != nil {
		return err
	}
	if !s.now.CompareAndSwap(old, fresh) {
		return fresh.db.Close()
	}
	return errors.Join(errReplaced, old.db.Close())
}

// retry runs f until the database is not busy, ctx ends, or maxBusy has passed.
func retry(ctx context.Context, f func() error) error {
	err := f()
	if !busy(err) {
		return err
	}
	giveUp := time.NewTimer(maxBusy)
	defer giveUp.Stop()
	pause := time.NewTicker(busyPause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-giveUp.C:
			return err
		case <-pause.C:
		}
		if err = f(); !busy(err) {
			return err
		}
	}
}

func busy(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked)
}
