package libssl

// #include <stdlib.h>
// #include "bridge.h"
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"
)

// ContextOptions say where the algorithms of a Context come from. OpenSSL 1.1.1 has no providers: there NewContextWith answers
// ErrUnsupported if one is set.
//
// All that the Context does follows them: handshakes, records, tickets, the verification of chains, also of sessions that
// resume, and the id context that UseStore computes. CAs and revocation lists are read for them. Certificates are read with the
// default library context, and serve any Context: OpenSSL passes their keys on to the providers of the Context. A key that
// cannot leave its token signs there, where the Properties match its provider; "provider=default" does not, and the handshake fails.
// The key of a SignerCertificate matches "fips=yes". ParseSession uses the default library context too, and only to read.
type ContextOptions struct {
	// Properties is a property query such as "fips=yes" or "provider=default", which every algorithm must match. See property(7).
	Properties string

	// LibCtx is an OSSL_LIB_CTX that C made, or nil for the default one. It is borrowed and must not be freed again: OpenSSL
	// keeps state of it for each thread that has used it, and the threads of Go do not end.
	LibCtx unsafe.Pointer
}

// newSSLCtx makes an SSL_CTX.
func (opt ContextOptions) newSSLCtx(r Role) (*C.SSL_CTX, error) {
	if opt != (ContextOptions{}) && C.scb_have_providers() == 0 {
		return nil, unsupported("context options: OpenSSL 1.1.1 has no providers")
	}
	if strings.ContainsRune(opt.Properties, 0) {
		return nil, errors.New("libssl: new context: the properties have a zero byte")
	}
	var properties *C.char
	if opt.Properties != "" {
		properties = C.CString(opt.Properties)
		defer C.free(unsafe.Pointer(properties))
	}
	libctx := (*C.OSSL_LIB_CTX)(opt.LibCtx)
	var errs *C.scb_errs
	if p := C.scb_ctx_new(cbool(r == ClientRole), libctx, properties, &errs); p != nil {
		return p, nil
	}
	failed := takeError("new context", 0, errs)
	if C.scb_have_providers() == 0 {
		return nil, failed
	}
	asked := fmt.Sprintf("the properties %q", opt.Properties)
	if FIPS() && libctx == nil {
		asked += " and the default fips=yes"
	}
	return nil, fmt.Errorf("%w; OpenSSL has loaded %s, and looked for algorithms with %s: is a module missing, or not activated?",
		failed, loadedProviders(libctx), asked)
}

// loadedProviders names the providers of a library context, for errors.
func loadedProviders(libctx *C.OSSL_LIB_CTX) string {
	all := C.scb_providers(libctx)
	if all.n == 0 {
		return "no provider"
	}
	names := make([]string, all.n)
	for i := range names {
		names[i] = C.GoString(&all.name[i][0])
	}
	return "the providers " + strings.Join(names, ", ")
}

// FIPS reports whether OpenSSL's default library context uses FIPS algorithms only, as with "default_properties = fips=yes" in
// openssl.cnf. It does not say whether the module is there: without it NewContext fails. A Context of NewContextWith may differ.
// Corresponds to EVP_default_properties_is_fips_enabled(3), and on OpenSSL 1.1.1 to FIPS_mode(3), which is 0 but for the
// builds of some vendors.
func FIPS() bool { return C.scb_fips() != 0 }
