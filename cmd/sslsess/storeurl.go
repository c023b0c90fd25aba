package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memcachestore"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/store/sqlitestore"
	"github.com/libssl-go/libssl/store/valkeystore"
)

const storeURLs = "memory:, sqlite:PATH, valkey://[user:pass@]host:port/db, valkeys://, redis://, rediss:// or memcached://host:port"

// openStore opens the store that a URL of the command line names. Unless create
// is set a store that is not there is an error.
func openStore(rawURL string, create bool) (st store.Store, closeStore func() error, err error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok {
		return nil, nil, usagef("%q is no store URL: %s", rawURL, storeURLs)
	}
	switch scheme {
	case "memory":
		if rest != "" {
			return nil, nil, usagef("%q: nothing may follow memory:", rawURL)
		}
		return memstore.New(memstore.Options{}), func() error { return nil }, nil
	case "sqlite":
		if rest == "" {
			return nil, nil, usagef("%q: the path is missing", rawURL)
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
	case "valkey", "valkeys", "redis", "rediss":
		s, err := valkeystore.Open(rawURL, valkeystore.Options{})
		if errors.Is(err, valkeystore.ErrURL) {
			return nil, nil, usageError(err.Error())
		}
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	case "memcached":
		addr, err := memcachedAddr(rawURL)
		if err != nil {
			return nil, nil, err
		}
		s, err := memcachestore.Open(addr, memcachestore.Options{})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	return nil, nil, usagef("unknown store scheme %q: %s", scheme, storeURLs)
}

// memcachedAddr shows nothing of a URL it refuses: somebody may have put a password in.
func memcachedAddr(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", usagef("a memcached URL is memcached://host:port and no more")
	}
	port := u.Port()
	if port == "" {
		port = "11211"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
