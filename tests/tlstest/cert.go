// Package tlstest makes certificates and connected sockets for the test suites.
package tlstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA signs certificates for tests.
type CA struct {
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA called name.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	tmpl := template(t, name)
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	ca := &CA{cert: tmpl, key: newKey(t)}
	return ca.issue(t, tmpl, ca.key)
}

// Intermediate makes a CA called name that ca has signed.
func (ca *CA) Intermediate(t testing.TB, name string) *CA {
	t.Helper()
	return ca.IntermediateWith(t, nil, name)
}

// IntermediateWith is Intermediate for a template that edit has changed.
func (ca *CA) IntermediateWith(t testing.TB, edit func(*x509.Certificate), name string) *CA {
	t.Helper()
	tmpl := template(t, name)
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	if edit != nil {
		edit(tmpl)
	}
	return ca.issue(t, tmpl, newKey(t))
}

func (ca *CA) issue(t testing.TB, tmpl *x509.Certificate, key *ecdsa.PrivateKey) *CA {
	t.Helper()
	der := ca.sign(t, tmpl, key)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &CA{cert: cert, key: key, PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// Leaf issues a certificate that serves hosts (names or addresses) and proves
// clients, and returns it with its key, as PEM.
func (ca *CA) Leaf(t testing.TB, hosts ...string) (cert, key []byte) {
	t.Helper()
	return ca.LeafWith(t, nil, hosts...)
}

// LeafWith is Leaf for a template that edit has changed.
func (ca *CA) LeafWith(t testing.TB, edit func(*x509.Certificate), hosts ...string) (cert, key []byte) {
	t.Helper()
	tmpl := template(t, hosts[0])
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	if edit != nil {
		edit(tmpl)
	}
	return ca.leaf(t, tmpl, newKey(t))
}

// LeafWithKey issues a certificate for one host, or client, and a key that is not the usual one.
func (ca *CA) LeafWithKey(t testing.TB, k crypto.Signer, host string) (cert, key []byte) {
	t.Helper()
	tmpl := template(t, host)
	tmpl.DNSNames = []string{host}
	return ca.leaf(t, tmpl, k)
}

func (ca *CA) leaf(t testing.TB, tmpl *x509.Certificate, k crypto.Signer) (cert, key []byte) {
	t.Helper()
	der := ca.sign(t, tmpl, k)
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// CRL is the CA's revocation list with the certificates in it, as PEM.
func (ca *CA) CRL(t testing.TB, revoked ...[]byte) []byte {
	t.Helper()
	return ca.crl(t, time.Hour, revoked)
}

// NewerCRL is CRL made at a later time.
func (ca *CA) NewerCRL(t testing.TB, revoked ...[]byte) []byte {
	t.Helper()
	return ca.crl(t, time.Minute, revoked)
}

// FutureCRL is CRL for a time to come.
func (ca *CA) FutureCRL(t testing.TB, revoked ...[]byte) []byte {
	t.Helper()
	return ca.crl(t, -time.Minute, revoked)
}

func (ca *CA) crl(t testing.TB, age time.Duration, revoked [][]byte) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-age), NextUpdate: time.Now().Add(time.Hour)}
	for _, cert := range revoked {
		block, _ := pem.Decode(cert)
		c, err := x509.ParseCertificate(block.Bytes)
		check(t, err)
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// Pool is the CA as crypto/tls wants it.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// LeafFiles is Leaf, in files of a folder that goes with the test.
func (ca *CA) LeafFiles(t testing.TB, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	cert, key := ca.Leaf(t, hosts...)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	check(t, os.WriteFile(certFile, cert, 0o600))
	check(t, os.WriteFile(keyFile, key, 0o600))
	return certFile, keyFile
}

func (ca *CA) sign(t testing.TB, tmpl *x509.Certificate, key crypto.Signer) []byte {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	check(t, err)
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

func template(t testing.TB, name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(t, err)
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
