package libssl

/*
#cgo pkg-config: libssl libcrypto
#include "bridge.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/libssl-go/libssl/cgo"
)

var (
	// ErrClosed is the answer of a closed Context, Conn, Listener or
	// SessionCache. It matches net.ErrClosed.
	ErrClosed error = closedError{}

	// ErrReleased is the answer of a Session whose reference is gone: released,
	// handed over with Transfer, or borrowed by a handler that has returned.
	ErrReleased = errors.New("libssl: the session was released or handed over")

	// ErrReentrant is the answer to a handler that calls back into what it is
	// called from: a remove handler into its own Context, any handler into its
	// own Conn's I/O. OpenSSL would deadlock, fail silently or corrupt its lock
	// there, depending on the version.
	ErrReentrant = errors.New("libssl: called from inside a handler of the same object")

	// ErrUnsupported marks what this OpenSSL, this role or this configuration
	// does not offer. It is wrapped by errors that say what and why.
	ErrUnsupported = errors.New("libssl: unsupported")
)

type closedError struct{}

func (closedError) Error() string        { return "libssl: closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// Error is one failed OpenSSL call with the whole error queue it left behind.
// Use errors.As to get at it.
type Error struct {
	Op    string       // what was tried, e.g. "handshake"
	Code  int          // SSL_get_error for a connection's operations, else 0
	Queue []QueueEntry // oldest first; may be empty: OpenSSL does not queue one for every failure
}

// QueueEntry is one entry of the OpenSSL error queue.
type QueueEntry struct {
	Code    uint64 // as of ERR_get_error
	Library string
	Reason  string
	Func    string
	File    string
	Line    int
	Data    string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("libssl")
	if e.Op != "" {
		b.WriteString(": " + e.Op)
	}
	if len(e.Queue) == 0 {
		b.WriteString(": OpenSSL gave no reason")
		if e.Code != 0 {
			fmt.Fprintf(&b, " (SSL_get_error %d)", e.Code)
		}
		return b.String()
	}
	for i, q := range e.Queue {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(q.String())
	}
	return b.String()
}

// Is reports whether target is an *Error that asks for no more than e has. An
// empty Op, a zero Code and an empty Queue match any. Each entry in the Queue of
// target must have one of the same Code in the Queue of e.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	if !ok || (t.Op != "" && t.Op != e.Op) || (t.Code != 0 && t.Code != e.Code) {
		return false
	}
	for _, want := range t.Queue {
		found := false
		for _, q := range e.Queue {
			found = found || q.Code == want.Code
		}
		if !found {
			return false
		}
	}
	return true
}

// String is the reason, the detail if there is one, and the library.
func (q QueueEntry) String() string {
	s := q.Reason
	if s == "" {
		s = fmt.Sprintf("error %#x", q.Code)
	}
	if q.Data != "" {
		s += ": " + q.Data
	}
	if q.Library != "" {
		s += " (" + q.Library + ")"
	}
	return s
}

// takeError makes an Error of what a C function left, and frees that.
func takeError(op string, code int, errs *C.scb_errs) *Error {
	e := &Error{Op: op, Code: code}
	if errs == nil {
		return e
	}
	for i := range int(errs.n) {
		c := &errs.e[i]
		library, reason := cgo.ErrorText(uint64(c.code))
		e.Queue = append(e.Queue, QueueEntry{
			Code: uint64(c.code), Library: library, Reason: reason, Line: int(c.line),
			Func: C.GoString(&c._func[0]), File: C.GoString(&c.file[0]), Data: C.GoString(&c.data[0]),
		})
	}
	C.scb_errs_free(errs)
	return e
}

// CallbackError is a handler that panicked or broke a rule. The handler counts
// as absent for that call, and the handshake goes on, but for "servername", "signer", "verifyconnection",
// "certificate" and "clientcertificate", which end it: see Context.OnCallbackError.
type CallbackError struct {
	Callback string // "new", "get", "remove", "servername", "signer", "keylog", "verifyconnection", "certificate", "clientcertificate"
	Value    any    // what it panicked with, or an error that says which rule
	Stack    []byte // of the panic or the runtime.Goexit, else nil
}

func (e *CallbackError) Error() string {
	if e.Stack == nil || e.Value == errGoexit {
		return fmt.Sprintf("libssl: %s callback: %v", e.Callback, e.Value)
	}
	return fmt.Sprintf("libssl: %s callback panicked: %v", e.Callback, e.Value)
}

// Unwrap returns the value if it is an error.
func (e *CallbackError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnsupported}, args...)...)
}

// Version is the OpenSSL that this process runs on, as OpenSSL_version says it.
func Version() string { return cgo.Version() }

// HeaderVersion is the OpenSSL whose headers this process was compiled with, in
// the form of Version. The library that it runs on may be newer.
func HeaderVersion() string { return cgo.HeaderVersion() }

var errGoexit = errors.New("the handler called runtime.Goexit and ended OpenSSL's call half way")

var errHasStore = errors.New("libssl: the Context has a store: its session callbacks are taken")

var errNoCipher = errors.New("libssl: the session has no cipher and cannot be resumed")

func badFlag(f CopyFlag) error { return fmt.Errorf("copy flag %d is neither Copy nor Transfer", f) }
