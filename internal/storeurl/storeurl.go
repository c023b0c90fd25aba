// Package storeurl opens the stores that URLs name, for the command line and the C library, whose users write configuration
// rather than Go.
package storeurl

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
	"github.com/libssl-go/libssl/store/tiered"
	"github.com/libssl-go/libssl/store/valkeystore"
)

// Forms lists the supported URLs, for error and help texts.
const Forms = "memory:, sqlite:PATH, valkey://[user:pass@]host:port/db[?password_file=FILE], valkeys://, redis://, rediss://, memcached://host:port, " +
	"tiered: before one of the last five, or env:NAME for the URL in an environment variable"

// Error reports that a URL is wrong, as opposed to a failure of the store that it names.
type Error string

func (e Error) Error() string { return string(e) }

const errNoScheme = Error("this is no store URL, which begins with a scheme: " + Forms)

func errorf(format string, args ...any) error { return Error(fmt.Sprintf(format, args...)) }

// Open opens the store that rawURL names. Unless create is set, a store in a missing file is an error. No error shows a URL that may
// hold a password, for which a mistyped part of it can be taken.
func Open(rawURL string, create bool) (st store.Store, closeStore func() error, err error) {
	if name, ok := strings.CutPrefix(rawURL, "env:"); ok {
		if rawURL, ok = os.LookupEnv(name); !ok {
			return nil, nil, errorf("environment variable %s, which holds the store's URL, is not set", name)
		}
	}
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok {
		return nil, nil, errNoScheme
	}
	switch scheme {
	case "memory":
		if rest != "" {
			return nil, nil, errorf("%q: nothing may follow memory:", rawURL)
		}
		return memstore.New(memstore.Options{}), func() error { return nil }, nil
	case "sqlite":
		if rest == "" {
			return nil, nil, errorf("%q: the path is missing", rawURL)
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
	case "tiered":
		far, closeFar, err := openServer(rest)
		if err != nil {
			return nil, nil, err
		}
		return tiered.New(far, tiered.Options{}), closeFar, nil
	}
	return openServer(rawURL)
}

// openServer opens a store that several hosts share.
func openServer(rawURL string) (st store.Store, closeStore func() error, err error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	switch scheme {
	case "valkey", "valkeys", "redis", "rediss":
		s, err := valkeystore.Open(rawURL, valkeystore.Options{})
		if errors.Is(err, valkeystore.ErrURL) {
			return nil, nil, Error(err.Error())
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
	if !ok || strings.Contains(scheme, "@") || strings.Contains(rest, "@") && !strings.HasPrefix(rest, "//") {
		return nil, nil, errNoScheme
	}
	return nil, nil, errorf("unknown store scheme %q: %s", scheme, Forms)
}

// memcachedAddr returns host:port. Its errors do not quote the URL, which may contain a password.
func memcachedAddr(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", errorf("a memcached URL is memcached://host:port and nothing else")
	}
	port := u.Port()
	if port == "" {
		port = "11211"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
