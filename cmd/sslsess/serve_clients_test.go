package main

import (
	"crypto/tls"
	"testing"

	"github.com/libssl-go/libssl/tests/clientcache"
)

// Clients with a cache resume on their own.
func TestServe_ClientsWithACacheResume(t *testing.T) {
	f := newFleet(t)
	for mode, resumes13 := range map[string]bool{"stateful": true, "stateless": true, "none": false} {
		t.Run(mode, func(t *testing.T) {
			s := clientcache.Server{Addr: f.serve("-tickets", mode).addr, Name: "localhost", CA: f.ca.PEM, AtOnce: 50}
			t.Run("1.2", func(t *testing.T) { s.Check(t, tls.VersionTLS12, true) })
			t.Run("1.3", func(t *testing.T) { s.Check(t, tls.VersionTLS13, resumes13) })
		})
	}
}
