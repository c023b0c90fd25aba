package libssl

// #include <stdlib.h>
// #include "bridge.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"
)

// OpenCertificate reads a certificate, its chain and its key from one URI: "pkcs11:token=...;object=..." on a token, "file:/path",
// and whatever schemes the providers have that OpenSSL's default library context has loaded. A path without a scheme is a file.
// opt may be nil. Its Passphrase also is the PIN of a token.
//
// The leaf is the first certificate that a key at the URI fits. Its issuers are the chain, in whatever order they are there.
// Other objects are passed over. More than 32 keys or 128 certificates are an error: the URI has to say which it means.
//
// A key in a token stays there, and each handshake signs with it, in OpenSSL, on the thread of its step. The provider of PKCS #11
// logs in to a token once: from then on it asks this process for no PIN, not even a wrong one. It asks on the terminal where a
// token has logged it out; "pkcs11-module-cache-pins = cache" in openssl.cnf has it keep the PIN.
//
// A file has to be as safe as the key of LoadCertificate, and its path is taken as it is, without percent-encoding, as OpenSSL
// does. It may hold what the decoders of all providers read: PEM, PKCS#12, or a PEM reference to a key in a token.
//
// Errors name the URI without its query, where a PIN may be, and so without the details that OpenSSL has. Corresponds to
// OSSL_STORE_open_ex(3) and OSSL_STORE_load(3), for files to OSSL_STORE_attach(3). OpenSSL 1.1.1 has no providers: there it answers
// ErrUnsupported.
func OpenCertificate(uri string, opt *KeyOptions) (*Certificate, error) {
	if C.scb_have_providers() == 0 {
		return nil, unsupported("certificates from a URI: OpenSSL 1.1.1 has no providers")
	}
	u, err := parseURI(uri)
	if err != nil {
		return nil, fmt.Errorf("libssl: open certificate: %w", err)
	}
	defer clear(u.content)
	return u.open(opt)
}

// keyURI is where a certificate and its key are.
type keyURI struct {
	uri     string
	scheme  string
	name    string // uri without what is secret
	content []byte // of a file, else nil
}

func parseURI(uri string) (keyURI, error) {
	if strings.ContainsRune(uri, 0) {
		return keyURI{}, errors.New("the URI has a zero byte")
	}
	scheme, rest, found := strings.Cut(uri, ":")
	if !found || strings.ContainsRune(scheme, '/') {
		return readURI(uri, uri)
	}
	u := keyURI{uri: uri, scheme: scheme, name: withoutSecrets(uri)}
	if !strings.EqualFold(scheme, "file") {
		// OpenSSL would take the file for what the URI names.
		if _, err := os.Lstat(uri); err == nil {
			return keyURI{}, fmt.Errorf("%s: a file has the name of the URI", u.name)
		}
		return u, nil
	}
	if authority, isAuthority := strings.CutPrefix(rest, "//"); isAuthority {
		host, path, _ := strings.Cut(authority, "/")
		if host != "" && !strings.EqualFold(host, "localhost") {
			return keyURI{}, fmt.Errorf("%s: a file of another host", uri)
		}
		rest = "/" + path
	}
	if !strings.HasPrefix(rest, "/") {
		return keyURI{}, fmt.Errorf("%s: the path of a file URI must be absolute", uri)
	}
	return readURI(uri, rest)
}

func readURI(uri, path string) (keyURI, error) {
	content, err := readKeyFile(path)
	if err == nil {
		err = keySource{uri, content}.checkSize()
	}
	if err != nil {
		return keyURI{}, err
	}
	return keyURI{uri: uri, scheme: "file", name: uri, content: content}, nil
}

// withoutSecrets cuts off the query, where the PIN of a token is, and what may be a user's password or a PIN in the wrong place.
func withoutSecrets(uri string) string {
	uri, _, _ = strings.Cut(uri, "?")
	if at := strings.Index(strings.ToLower(uri), "pin-value"); at >= 0 {
		uri = uri[:at]
	}
	scheme, rest, hasAuthority := strings.Cut(uri, "://")
	if !hasAuthority {
		return uri
	}
	authority, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + rest[strings.LastIndexByte(authority, '@')+1:]
}

func (u keyURI) open(opt *KeyOptions) (*Certificate, error) {
	uri, scheme := C.CString(u.uri), C.CString(u.scheme)
	defer C.free(unsafe.Pointer(uri))
	defer C.free(unsafe.Pointer(scheme))
	return readCertificate("open certificate", u.name, u.name, opt, func(passphrase *C.char, n C.size_t) C.scb_cert_read {
		r := C.scb_cert_open(uri, scheme, bytesPtr(u.content), C.size_t(len(u.content)), passphrase, n)
		if u.name != u.uri && r.errs != nil {
			for i := range r.errs.e {
				r.errs.e[i].data[0] = 0 // the URI may be in there
			}
		}
		return r
	})
}
