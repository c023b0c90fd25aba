package storetest_test

import (
	"testing"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/storetest"
)

// The test of a store, in the tests of its package.
func ExampleRun() {
	TestStore := func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Store { return memstore.New(memstore.Options{}) })
	}
	_ = TestStore // go test calls it
	// Output:
}
