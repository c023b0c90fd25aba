package sqlitestore

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libssl-go/libssl/internal/ownfile"
)

const keySize = 32

// SealingKey implements store.Embedded. The key is in the file PATH.key, in the format of a key ring with one key: 64
// hexadecimal digits. The first call makes the file, with mode 0600. SealingKey refuses a file that other users can read or
// write, or may have put there, or that holds anything else. Without the key the store's records are lost; without the store the key has no use.
func (s *Store) SealingKey() ([]byte, error) {
	path := s.path + ".key"
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := make([]byte, keySize)
		rand.Read(fresh)
		text := append(hex.AppendEncode(nil, fresh), '\n')
		defer clear(text)
		if err = createOnce(path, text); err == nil {
			key, err = readKey(path) // ours, or that of a faster process
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: sealing key: %w", err)
	}
	return key, nil
}

func readKey(path string) ([]byte, error) {
	text, err := ownfile.Self().ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer clear(text)
	digits := bytes.TrimSpace(text)
	key := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(key, digits); err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%s: the key must be %d hexadecimal digits", path, hex.EncodedLen(keySize)) // without the content, which may be a key
	}
	return key, nil
}

// createOnce makes the file path with the given content and mode 0600, unless it exists. The file appears under its name complete,
// also if several processes try at once.
func createOnce(path string, content []byte) error {
	if err := ownfile.Self().Folder(path); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync() // before the link: a crash must not leave an empty key
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
