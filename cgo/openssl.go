package cgo

/*
#cgo pkg-config: libssl libcrypto

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/opensslv.h>
#include <openssl/ssl.h>

#if defined(LIBRESSL_VERSION_NUMBER) || defined(OPENSSL_IS_BORINGSSL) || defined(OPENSSL_IS_AWSLC)
#error "libssl works with OpenSSL only: LibreSSL, BoringSSL and AWS-LC have other session semantics. Point PKG_CONFIG_PATH at OpenSSL 1.1.1 or later."
#elif !defined(OPENSSL_VERSION_NUMBER) || OPENSSL_VERSION_NUMBER < 0x10101000L
#error "libssl needs OpenSSL 1.1.1 or later. Point PKG_CONFIG_PATH at one."
#endif

static unsigned long scb_version_num(void) { return OpenSSL_version_num(); }
static const char *scb_version_text(void) { return OpenSSL_version(OPENSSL_VERSION); }
static const char *scb_header_version_text(void) { return OPENSSL_VERSION_TEXT; }
// Error texts exist only once the library is initialised, and this may be the first call into it.
static const char *scb_err_lib(unsigned long code)
{
    OPENSSL_init_ssl(OPENSSL_INIT_LOAD_SSL_STRINGS | OPENSSL_INIT_LOAD_CRYPTO_STRINGS, NULL);
    return ERR_lib_error_string(code);
}
static const char *scb_err_reason(unsigned long code) { return ERR_reason_error_string(code); }
*/
import "C"

// Version returns the name, version and date of the OpenSSL library in this
// process, which may be newer than the headers it was compiled with.
func Version() string { return C.GoString(C.scb_version_text()) }

// HeaderVersion returns the name, version and date of the OpenSSL headers that
// this process was compiled with.
func HeaderVersion() string { return C.GoString(C.scb_header_version_text()) }

// VersionNumber returns OpenSSL_version_num: 0x1010117f is 1.1.1w, 0x30000130
// is 3.0.19.
func VersionNumber() uint64 { return uint64(C.scb_version_num()) }

// ErrorText names the library and the reason of an OpenSSL error code. A part
// without a text in OpenSSL is empty.
func ErrorText(code uint64) (library, reason string) {
	return C.GoString(C.scb_err_lib(C.ulong(code))), C.GoString(C.scb_err_reason(C.ulong(code)))
}
