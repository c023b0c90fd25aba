package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
)

// versionName returns the name of a protocol version in OpenSSL.
func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return fmt.Sprintf("%#04x", v)
}

var cipherNames = sync.OnceValue(func() map[uint16]string {
	names := map[uint16]string{}
	for _, c := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		names[c.ID] = c.Name
	}
	return names
})

// cipherName is tls.CipherSuiteName, which makes a list of all ciphers for each call.
func cipherName(id uint16) string {
	if name, ok := cipherNames()[id]; ok {
		return name
	}
	return tls.CipherSuiteName(id)
}

func tlsFlag(fs *flag.FlagSet) *string {
	return choiceFlag(fs, "tls", "protocol `version`: 1.2, 1.3 or any", "any", "1.2", "1.3")
}

// setVersions applies the -tls flag.
func setVersions(ctx *libssl.Context, flag string) error {
	switch flag {
	case "1.2":
		return ctx.SetVersions(tls.VersionTLS12, tls.VersionTLS12)
	case "1.3":
		return ctx.SetVersions(tls.VersionTLS13, tls.VersionTLS13)
	}
	return ctx.SetVersions(tls.VersionTLS12, 0)
}

// selfSigned makes a certificate for this machine and the given hosts, valid for
// a month. It is a CA, so that every OpenSSL accepts it as its own root.
func selfSigned(hosts ...string) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "sslsess"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip == nil && h != "" && h != "localhost" {
			t.DNSNames = append(t.DNSNames, h)
		} else if ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, priv.Public(), priv)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}
