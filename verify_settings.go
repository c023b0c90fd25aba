package libssl

// #include "bridge.h"
// #include <openssl/x509v3.h>
import "C"

import (
	"fmt"
	"math"
	"strings"
	"unsafe"
)

// AddCRLsPEM adds certificate revocation lists and has the whole chain of each
// peer checked against such lists from then on. A certificate that is revoked, or
// whose issuer has no valid list here, does not verify. Nothing changes unless all
// lists can be read. Corresponds to X509_STORE_set_lookup_crls(3), with
// X509_V_FLAG_CRL_CHECK and X509_V_FLAG_CRL_CHECK_ALL.
//
// It may be called while the Context serves. Of several valid lists of one issuer the
// newest counts, and it takes the place of older ones that end before it. Lists that
// C has added to the X509_STORE count too.
//
// Clients judge sessions that were made before by the new lists, see Conn.SetSession;
// servers do so at each lookup.
func (c *Context) AddCRLsPEM(pem []byte) error {
	return c.set("add CRLs", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_add_crls(p, bytesPtr(pem), C.int(len(pem)), errs)
	})
}

// SetSignatureAlgorithms sets the algorithms that this side accepts and makes
// signatures with, separated by colons and in order of preference, such as
// "ECDSA+SHA256:RSA-PSS+SHA256" or "ed25519". It is an error once a connection was
// made. Corresponds to SSL_CTX_set1_sigalgs_list(3).
func (c *Context) SetSignatureAlgorithms(list string) error {
	return c.setOnce("set signature algorithms", list, func(p *C.SSL_CTX, s *C.char, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_sigalgs(p, s, errs)
	})
}

// SetVerifyDepth limits how many intermediate certificates the chain of a peer may
// have; 0 allows none. Without it OpenSSL's limit of 100 holds. It is an error once a
// connection was made. Corresponds to SSL_CTX_set_verify_depth(3).
func (c *Context) SetVerifyDepth(n int) error {
	if n < 0 || n > math.MaxInt16 {
		return fmt.Errorf("libssl: set verify depth: %d intermediate certificates", n)
	}
	return c.setUnless(C.SCB_MADE_BY_C|C.SCB_MADE_BY_GO, "set verify depth", func(p *C.SSL_CTX, _ **C.scb_errs) C.int {
		return C.scb_ctx_set_verify_depth(p, C.int(n))
	})
}

// VerifyPurpose is what the certificate of a peer must be issued for.
type VerifyPurpose int

const (
	PurposeClient VerifyPurpose = C.X509_PURPOSE_SSL_CLIENT // what a server asks of its clients
	PurposeServer VerifyPurpose = C.X509_PURPOSE_SSL_SERVER // what a client asks of its servers
	PurposeAny    VerifyPurpose = C.X509_PURPOSE_ANY        // whatever the extended key usage says
)

// SetVerifyPurpose sets what the certificates of peers must be issued for, in place of
// what their role demands. Servers that also are clients of each other, as for mail,
// have certificates for servers only: there PurposeServer lets them in. It is an error
// once a connection was made. Corresponds to SSL_CTX_set_purpose(3).
func (c *Context) SetVerifyPurpose(v VerifyPurpose) error {
	if v != PurposeClient && v != PurposeServer && v != PurposeAny {
		return fmt.Errorf("libssl: set verify purpose: there is no purpose %d", v)
	}
	return c.setUnless(C.SCB_MADE_BY_C|C.SCB_MADE_BY_GO, "set verify purpose", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_purpose(p, C.int(v), errs)
	})
}

// SetVerifyNames has a server accept only client certificates that are good for one of
// the DNS names; without any it accepts all names again. They are compared as a client
// compares the name of its server. Resumptions are judged too. A client has the name
// that it dials: there it is ErrUnsupported. It is an error once a connection was made.
// Corresponds to X509_VERIFY_PARAM_set1_host(3) and X509_VERIFY_PARAM_add1_host(3).
func (c *Context) SetVerifyNames(names ...string) error {
	const op = "set verify names"
	if c != nil && c.made && c.role != ServerRole {
		return unsupported("SetVerifyNames on a client's Context: it verifies the name that it dials")
	}
	list := ""
	for _, name := range names {
		if name == "" || strings.ContainsRune(name, 0) {
			return fmt.Errorf("libssl: %s: %q is not a DNS name", op, name)
		}
		if _, ip := addressOf(name); ip {
			return fmt.Errorf("libssl: %s: %q is an address, not a DNS name", op, name)
		}
		list += name + "\x00"
	}
	clist := C.CString(list)
	defer C.free(unsafe.Pointer(clist))
	return c.setUnless(C.SCB_MADE_BY_C|C.SCB_MADE_BY_GO, op, func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		return C.scb_ctx_set_verify_names(p, clist, errs)
	})
}
