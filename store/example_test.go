package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/libssl-go/libssl/store"
)

// Folder is a store that keeps each record in a file. It has no bound, and leaves expired files to another program.
type Folder string

func (f Folder) file(id store.ID) string { return filepath.Join(string(f), id.String()+".session") }

func (f Folder) Put(ctx context.Context, r store.Record) error {
	if err := errors.Join(ctx.Err(), r.Validate()); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(string(f), "new.*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(store.Encode(r))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), f.file(r.ID)) // in one step: a Get finds the old record or the new one
	}
	return err
}

func (f Folder) Get(ctx context.Context, id store.ID) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	b, err := os.ReadFile(f.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return store.Record{}, store.ErrNotFound
	} else if err != nil {
		return store.Record{}, err
	}
	r, err := store.Decode(id, b)
	if err == nil && !time.Now().Before(r.Expires) {
		err = store.ErrNotFound
	}
	return r, err
}

func (f Folder) Delete(ctx context.Context, id store.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Remove(f.file(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// A store of one's own.
func Example() {
	dir, err := os.MkdirTemp("", "sessions")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	var sessions store.Store = Folder(dir)

	id, _ := store.IDFromBytes([]byte{1, 2, 3})
	ctx := context.Background()
	err = sessions.Put(ctx, store.Record{ID: id, Data: []byte("sealed"), Expires: time.Now().Add(time.Hour)})
	fmt.Println(err)
	r, err := sessions.Get(ctx, id)
	fmt.Printf("%v %s %v\n", r.ID, r.Data, err)
	sessions.Delete(ctx, id)
	_, err = sessions.Get(ctx, id)
	fmt.Println(err)
	// Output:
	// <nil>
	// 010203 sealed <nil>
	// store: not found
}
