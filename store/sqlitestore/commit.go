package sqlitestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, r store.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	c := &call{records: []store.Record{r}}
	if err := s.commit(ctx, c); err != nil {
		return putError(err)
	}
	return putError(c.err)
}

// PutAll implements store.Batcher. It stores up to 64 records in one transaction.
func (s *Store) PutAll(ctx context.Context, records []store.Record) (stored int, err error) {
	fit := make([]store.Record, 0, len(records))
	for _, r := range records {
		if invalid := r.Validate(); invalid != nil {
			err = errors.Join(err, invalid)
		} else {
			fit = append(fit, r)
		}
	}
	for part := range slices.Chunk(fit, maxTogether) {
		c := &call{records: part}
		if ended := s.commit(ctx, c); ended != nil {
			return stored, errors.Join(err, putError(ended))
		}
		stored += c.stored
		err = errors.Join(err, putError(c.err))
	}
	return stored, err
}

func putError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sqlitestore: put: %w", err)
}

// call is a Put or PutAll that waits for its records to be committed.
type call struct {
	records []store.Record // those without an outcome
	stored  int
	err     error         // of the others
	done    chan struct{} // closed when no record is left

	copied bool // Data is the store's own: the caller may return. For the holder of writer
	left   bool // the caller has returned. Guarded by waiting
}

// outcome is that of the first n records that had none.
func (c *call) outcome(n int, err error) {
	if err == nil {
		c.stored += n
	}
	c.err = errors.Join(c.err, err)
	if c.records = c.records[n:]; len(c.records) == 0 {
		close(c.done)
	}
}

// waiting is the queue of calls.
type waiting struct {
	mu    sync.Mutex
	calls []*call
}

func (w *waiting) add(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c)
}

// leave removes c, whose caller returns, if it waits.
func (w *waiting) leave(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.left = true
	if i := slices.Index(w.calls, c); i >= 0 {
		w.calls = slices.Delete(w.calls, i, i+1)
	}
}

// next removes the calls of the next transaction, in their order. All but the writer's own get copies of their Data, because
// their callers may return meanwhile.
func (w *waiting) next(own *call) (together []*call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, records := 0, 0
	for _, c := range w.calls {
		if records += len(c.records); n > 0 && records > maxTogether {
			break
		}
		n++
		if c == own || c.copied {
			continue
		}
		c.records, c.copied = slices.Clone(c.records), true
		for i := range c.records {
			c.records[i].Data = bytes.Clone(c.records[i].Data)
		}
	}
	together = slices.Clone(w.calls[:n])
	w.calls = slices.Delete(w.calls, 0, n)
	return together
}

// back puts calls without an outcome in front again, for the next writer.
func (w *waiting) back(calls []*call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls = slices.DeleteFunc(calls, func(c *call) bool { return c.left || len(c.records) == 0 })
	w.calls = slices.Insert(w.calls, 0, calls...)
}

// commit returns nil when c has its outcome, or else why it waits no longer. While one call is the writer the others
// wait, and the first to become the next writer commits all of them. So a call that is alone is not held up, and the more there are
// the fewer transactions each takes. No goroutine is needed.
func (s *Store) commit(ctx context.Context, c *call) error {
	if err := s.begins(ctx); err != nil {
		return err
	}
	c.done = make(chan struct{})
	s.waiting.add(c)
	for {
		select {
		case <-c.done:
			return nil
		case <-ctx.Done():
			s.waiting.leave(c)
			return ctx.Err()
		case s.writer <- struct{}{}:
			finished, err := s.write(ctx, c)
			<-s.writer
			if finished || err != nil {
				return err
			}
		}
	}
}

// write commits a batch of the waiting calls, and reports whether own, the writer's, has its outcome. It returns an error if ctx
// ended before that; the rest of the batch is left to the next writer.
func (s *Store) write(ctx context.Context, own *call) (finished bool, err error) {
	if len(own.records) == 0 { // the last writer stored them
		return true, nil
	}
	if s.crowded {
		runtime.Gosched() // so that callers of the last transaction that come again are in this one
	}
	calls := s.waiting.next(own)
	s.crowded = len(calls) > 1
	err = s.together(ctx, calls)
	finished = len(own.records) == 0
	if err != nil {
		s.waiting.leave(own)
		s.waiting.back(calls)
	}
	if finished {
		err = nil
	}
	return finished, err
}

// together stores the records of calls in one transaction. If that fails, it stores each record alone, so that no record fails for
// another's sake. It returns an error only if ctx ended before all had their outcome.
func (s *Store) together(ctx context.Context, calls []*call) error {
	if len(calls) > 1 || len(calls[0].records) > 1 {
		err := s.try(ctx, func(db *database) error { return s.transaction(db, calls) })
		switch {
		case err == nil || busy(err):
			for _, c := range calls {
				c.outcome(len(c.records), err)
			}
			return nil
		case err == ctx.Err():
			return err
		}
	}
	for _, c := range calls {
		for len(c.records) > 0 {
			err := s.try(ctx, func(db *database) error { return s.put(db.puts, c.records[0]) })
			if err != nil && err == ctx.Err() {
				return err
			}
			c.outcome(1, err)
		}
	}
	return nil
}

func (s *Store) transaction(db *database, calls []*call) error {
	tx, err := db.db.Begin()
	if err != nil {
		return err
	}
	if err := s.putInto(db.puts.in(tx), calls); err != nil {
		tx.Rollback() // fails only where SQLite has done it
		return err
	}
	return tx.Commit()
}

func (s *Store) putInto(stmts putStatements, calls []*call) error {
	for _, c := range calls {
		for _, r := range c.records {
			if err := s.put(stmts, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// put stores one record.
func (s *Store) put(stmts putStatements, r store.Record) error {
	if _, err := stmts.put.Exec(r.ID.Bytes(), blob(r.Data), r.Expires.UnixMilli()); err != nil {
		return err
	}
	if s.puts++; s.puts%sweepEvery == 0 {
		stmts.sweep.Exec(time.Now().UnixMilli(), sweepLimit) // an error does not matter: the record is stored, and a later Put sweeps again
	}
	if s.unchecked--; s.unchecked > 0 {
		return nil
	}
	return s.trim(stmts, r.ID)
}

// trim removes records other than the one called id until the bounds are kept: those that expire first, which are the oldest if
// all live equally long. It checks again when processes could have filled a part of the room that is left.
func (s *Store) trim(stmts putStatements, id store.ID) error {
	for {
		var entries, bytes int64
		if err := stmts.totals.QueryRow().Scan(&entries, &bytes); err != nil {
			return err
		}
		over, left := entries-int64(s.opts.MaxEntries), s.opts.MaxBytes-bytes
		if over <= 0 && left >= 0 {
			s.unchecked = min(-over, left/store.MaxData) / expectedProcesses
			return nil
		}
		res, err := stmts.evict.Exec(id.Bytes(), min(max(over, 1), batch))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
	}
}
