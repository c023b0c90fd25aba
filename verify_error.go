package libssl

// #include "bridge.h"
import "C"

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// VerifyError is the error of a handshake, or of a Read after it, whose peer sent
// a certificate chain that does not verify. Clients and servers return it.
//
// errors.As finds in it the *Error of the call into OpenSSL, and, as crypto/tls
// has them, a *tls.CertificateVerificationError and what that wraps: an
// x509.UnknownAuthorityError, x509.HostnameError or x509.CertificateInvalidError
// where OpenSSL's reason is one of theirs.
type VerifyError struct {
	Code        int               // X509_V_ERR_*, see X509_STORE_CTX_get_error(3)
	Depth       int               // of Certificate in the chain: the peer's own is at 0
	Certificate *x509.Certificate // the one that was refused; nil if crypto/x509 cannot parse it
	Err         error             // the *Error of the call

	verification *tls.CertificateVerificationError
}

func (e *VerifyError) Error() string { return e.Err.Error() }

// Unwrap returns Err, and the error in the terms of crypto/tls.
func (e *VerifyError) Unwrap() []error {
	if e.verification == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.verification}
}

// verifyError describes why the chain was refused on which a step has failed. mu is held.
func (e *engine) verifyError(err *Error) error {
	v := &VerifyError{Code: int(e.ssl.refused), Err: err, verification: &tls.CertificateVerificationError{}}
	if r := e.ssl.refusal; r != nil && r.code == C.int(e.ssl.refused) {
		v.Depth = int(r.depth)
		if certs := decodeCertificates(r.cert, r.cert_len); len(certs) > 0 {
			v.Certificate = certs[0]
		}
		v.verification.UnverifiedCertificates = decodeCertificates(r.sent, r.sent_len)
	}
	v.verification.Err = v.asX509(e.conn.serverName)
	return v
}

// asX509 is the error that crypto/x509 has for the same reason. Where it has none it is OpenSSL's text.
func (e *VerifyError) asX509(host string) error {
	cert := e.Certificate
	if cert == nil {
		cert = &x509.Certificate{} // their texts ask it for names
	}
	invalid := func(r x509.InvalidReason) error { return x509.CertificateInvalidError{Cert: cert, Reason: r} }
	text := C.GoString(C.scb_verify_reason(C.long(e.Code)))
	switch C.int(e.Code) {
	case C.X509_V_ERR_HOSTNAME_MISMATCH, C.X509_V_ERR_IP_ADDRESS_MISMATCH:
		return x509.HostnameError{Certificate: cert, Host: host}
	case C.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, C.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
		C.X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, C.X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
		C.X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, C.X509_V_ERR_CERT_UNTRUSTED, C.X509_V_ERR_CERT_SIGNATURE_FAILURE:
		return x509.UnknownAuthorityError{Cert: cert}
	case C.X509_V_ERR_CERT_HAS_EXPIRED, C.X509_V_ERR_CERT_NOT_YET_VALID,
		C.X509_V_ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD, C.X509_V_ERR_ERROR_IN_CERT_NOT_AFTER_FIELD:
		return x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired, Detail: text}
	case C.X509_V_ERR_INVALID_PURPOSE:
		return invalid(x509.IncompatibleUsage)
	case C.X509_V_ERR_INVALID_CA, C.X509_V_ERR_KEYUSAGE_NO_CERTSIGN:
		return invalid(x509.NotAuthorizedToSign)
	case C.X509_V_ERR_PATH_LENGTH_EXCEEDED, C.X509_V_ERR_CERT_CHAIN_TOO_LONG:
		return invalid(x509.TooManyIntermediates)
	case C.X509_V_ERR_PERMITTED_VIOLATION, C.X509_V_ERR_EXCLUDED_VIOLATION:
		return x509.CertificateInvalidError{Cert: cert, Reason: x509.CANotAuthorizedForThisName, Detail: text}
	}
	return errors.New("x509: " + text)
}
