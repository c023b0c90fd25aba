package store_test

import (
	"testing"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/storetest"
)

func TestFolder_KeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return Folder(t.TempDir()) })
}
