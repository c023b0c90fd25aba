package libssl

// #include "bridge.h"
import "C"

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
