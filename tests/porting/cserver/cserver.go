// Package cserver is a TLS server that is all C: threads, SSL_CTX, SSLs and session callbacks. Go tests attach to it.
package cserver

/*
#cgo pkg-config: libssl libcrypto

#include <stdlib.h>
#include "cserver.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// Server is one such server.
type Server struct {
	Addr string // once it serves

	c *C.cserver
	n C.long
}

// New makes a server for one protocol version, with session callbacks of its own, or none.
func New(certFile, keyFile string, version uint16, cached bool) (*Server, error) {
	cert, key := C.CString(certFile), C.CString(keyFile)
	defer C.free(unsafe.Pointer(cert))
	defer C.free(unsafe.Pointer(key))
	var with C.int
	if cached {
		with = 1
	}
	c := C.cserver_new(cert, key, C.int(version), with)
	if c == nil {
		return nil, errors.New("cserver: cannot be made")
	}
	return &Server{c: c}, nil
}

// Context is its SSL_CTX.
func (s *Server) Context() unsafe.Pointer { return unsafe.Pointer(C.cserver_ctx(s.c)) }

// Serve begins, with a pool of threads.
func (s *Server) Serve(threads int) error {
	port := C.cserver_serve(s.c, C.int(threads))
	if port == 0 {
		return errors.New("cserver: cannot serve")
	}
	s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	return nil
}

// Await waits until as many more connections have ended.
func (s *Server) Await(n int) {
	s.n += C.long(n)
	C.cserver_await(s.c, s.n)
}

// BeRude has connections end without a close_notify, or with one again.
func (s *Server) BeRude(yes bool) {
	var rude C.int
	if yes {
		rude = 1
	}
	C.cserver_be_rude(s.c, rude)
}

// Trace is what C's callbacks were called since the last time, in order: N, G, R.
func (s *Server) Trace() string {
	t := C.cserver_trace(s.c)
	defer C.free(unsafe.Pointer(t))
	return C.GoString(t)
}

// ServeForked serves one connection in the child of a fork, and returns what that says on standard error.
func (s *Server) ServeForked() (string, error) {
	t := C.cserver_fork(s.c)
	if t == nil {
		return "", errors.New("cserver: the child came to no good end")
	}
	defer C.free(unsafe.Pointer(t))
	return C.GoString(t), nil
}

// SetAsync sets SSL_MODE_ASYNC.
func (s *Server) SetAsync() {
	C.SSL_CTX_ctrl(C.cserver_ctx(s.c), C.SSL_CTRL_MODE, C.SSL_MODE_ASYNC, nil)
}

// Looks are the results that OpenSSL's getters return for the SSL_CTX. A callback is 0 for none, 1 for C's, 2 for another's.
type Looks struct {
	New, Get, Remove, KeyLog int
	PaddingArg               bool
	Mode                     int
	Options                  uint64
	MaxEarlyData             int
}

// Look asks them.
func (s *Server) Look() Looks {
	l := C.cserver_look(s.c)
	return Looks{int(l.new_cb), int(l.get_cb), int(l.remove_cb), int(l.keylog_cb), l.padding_arg != 0, int(l.mode), uint64(l.options), int(l.max_early_data)}
}

// LogKeys installs a key log callback.
func (s *Server) LogKeys() { C.cserver_log_keys(s.c) }

// CopyCallbacks installs the callbacks of another server.
func (s *Server) CopyCallbacks(from *Server) { C.cserver_copy_callbacks(s.c, from.c) }

// Close ends the threads and frees all.
func (s *Server) Close() { C.cserver_free(s.c) }
