package cref

// #include <stdlib.h>
// #include "cref.h"
import "C"

import "unsafe"

// NewLibCtx makes an OSSL_LIB_CTX with the providers of a configuration file, nil if that fails. It stays: OpenSSL keeps
// state of it for each thread that has used it, and the threads of Go do not end.
func NewLibCtx(config string) unsafe.Pointer {
	name := C.CString(config)
	defer C.free(unsafe.Pointer(name))
	return C.cref_libctx_new(name)
}

// SetDefaultProperties sets what all algorithms of the default library context must match.
func SetDefaultProperties(query string) bool {
	q := C.CString(query)
	defer C.free(unsafe.Pointer(q))
	return C.cref_default_properties(q) == 1
}
