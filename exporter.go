package libssl

// #include "bridge.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

var errNoExtendedSecret = fmt.Errorf("%w: keying material of a TLS 1.2 connection without the extended master secret", ErrUnsupported)

// ExportKeyingMaterial returns length bytes that both ends of the connection can
// compute and no one else (RFC 5705, RFC 8446 section 7.5). label says what they
// are for; context is mixed in. In TLS 1.2 a nil context and an empty one give
// different bytes, as in crypto/tls. Corresponds to
// SSL_export_keying_material(3).
//
// It is an error before the handshake is complete, and, with ErrUnsupported, in
// TLS 1.2 without the extended master secret: other connections could then have
// the same material. The tls.ConnectionState that ConnectionState returns has a
// method of this name too, which cannot work.
func (c *Conn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	if length < 0 {
		return nil, fmt.Errorf("libssl: export keying material: length %d", length)
	}
	if !c.hs.complete() {
		return nil, errors.New("libssl: export keying material before the handshake is complete")
	}
	defer c.tls.unlock(c.tls.lock())
	if c.tls.ssl == nil {
		return nil, ErrClosed
	}
	if C.scb_ssl_version(c.tls.ssl.ssl) != versionTLS13 && C.scb_conn_extms(c.tls.ssl) == 0 {
		return nil, errNoExtendedSecret
	}
	out := make([]byte, length)
	if length == 0 {
		return out, nil
	}
	text := []byte(label)
	var errs *C.scb_errs
	if C.scb_conn_export(c.tls.ssl, bytesPtr(out), C.size_t(length), (*C.char)(unsafe.Pointer(bytesPtr(text))), C.size_t(len(text)),
		bytesPtr(context), C.size_t(len(context)), cbool(context != nil), &errs) != C.SCB_OK {
		return nil, takeError("export keying material", 0, errs)
	}
	return out, nil
}

// unique is the channel binding tls-unique (RFC 5929), nil where there is none. The engine is locked.
func (e *engine) unique() []byte {
	b := make([]byte, 64)
	n := C.scb_conn_unique(e.ssl, bytesPtr(b), C.size_t(len(b)))
	if n == 0 {
		return nil
	}
	return b[:n]
}
