package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/libssl-go/libssl/ticket"
)

// answer is the body that all servers send, but sslsess, which sends JSON.
const answer = "ok\n"

// site holds the files that all servers share.
type site struct {
	dir             string // everything is in it
	self, sslsess   string // programs
	cert, key, both string // PEM
	keyring         string
	documents       string // a folder with an index.txt
}

func newSite(dir, sslsess string) (*site, error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	s := &site{dir: dir, sslsess: sslsess, cert: in("cert.pem"), key: in("key.pem"), both: in("both.pem"), keyring: in("keys"), documents: in("documents")}
	var err error
	if s.self, err = os.Executable(); err != nil {
		return nil, err
	}
	cert, key, err := certificate()
	if err != nil {
		return nil, err
	}
	ring, err := ticket.NewRing()
	if err != nil {
		return nil, err
	}
	return s, errors.Join(
		os.Chmod(dir, 0o711), // the workers of httpd run as another user
		os.Mkdir(s.documents, 0o755),
		os.WriteFile(filepath.Join(s.documents, "index.txt"), []byte(answer), 0o644),
		os.WriteFile(s.cert, cert, 0o600),
		os.WriteFile(s.key, key, 0o600),
		os.WriteFile(s.both, append(cert, key...), 0o600),
		ring.Save(s.keyring))
}

// certificate makes one with an RSA key of 2048 bits, in PEM.
func certificate() (cert, key []byte, err error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
