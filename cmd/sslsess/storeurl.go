package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
)

const storeURLs = "memory: or sqlite:PATH"

// openStore opens the store that a URL of the command line names. Unless create
// is set a store that is not there is an error.
func openStore(url string, create bool) (st store.Store, closeStore func() error, err error) {
	scheme, rest, ok := strings.Cut(url, ":")
	if !ok {
		return nil, nil, usagef("%q is no store URL: %s", url, storeURLs)
	}
	switch scheme {
	case "memory":
		if rest != "" {
			return nil, nil, usagef("%q: nothing may follow memory:", url)
		}
		return memstore.New(memstore.Options{}), func() error { return nil }, nil
	case "sqlite":
		if rest == "" {
			return nil, nil, usagef("%q: the path is missing", url)
		}
		if !create {
			if _, err := os.Stat(rest); err != nil {
				return nil, nil, fmt.Errorf("no store: %w", err)
			}
		}
		s, err := sqlitestore.Open(rest)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	case "valkey", "valkeys", "redis", "rediss", "memcached":
		return nil, nil, usagef("%s: stores are not in this build yet: %s", scheme, storeURLs)
	}
	return nil, nil, usagef("unknown store scheme %q: %s", scheme, storeURLs)
}
