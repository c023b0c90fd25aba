// Package libssl lets Go code own OpenSSL's external session cache: the new,
// get and remove callbacks of a real SSL_CTX, dispatched by thin C trampolines
// into Go closures, with the copy flag and the reference counts settled in C.
// On that stand connections that are net.Conns, and a store layer through which
// a fleet of servers resumes each other's sessions.
//
// # Two layers
//
// The lower layer is OpenSSL's, name for name. Context is an SSL_CTX, Session
// one reference to an SSL_SESSION, SSL the connection as a callback sees it;
// SetSessNewCallback, SetSessGetCallback and SetSessRemoveCallback take
// closures that run inside the callback, as C's do. AttachContext does the same
// to an SSL_CTX that C made and goes on using.
//
// The upper layer is UseStore: hand it a store.Store and every server that
// shares the store, its keys, its certificate and its policy resumes the
// others' sessions. It parks handshakes while it looks sessions up, stores new
// ones before the client learns of them, seals what it stores, checks what it
// reads, and no failure of the store fails a handshake.
//
//	ctx, err := libssl.NewServerContext("cert.pem", "key.pem")
//	...
//	_, err = ctx.UseStore(memstore.New(memstore.Options{}), nil)
//	...
//	l, err := libssl.Listen("tcp", ":8443", ctx)
//	...
//	http.Serve(l, handler)
//
// # Ownership
//
// Context, Session and Conn are closed or released by whoever made them, once;
// doing it again does no harm. What a handler is lent is dead when the handler
// returns, and then answers ErrReleased instead of touching freed memory. The
// collector gives back what was forgotten, and LiveResources counts it.
//
// # Locks and threads
//
// Everything is safe for concurrent use. Handlers of the lower layer run on the
// thread that is inside OpenSSL: one that blocks costs that thread, and a remove
// handler may run with the SSL_CTX's lock held, so it must not wait for another
// goroutine that uses the same Context. Calls that would deadlock or corrupt
// that lock answer ErrReentrant. A handler that panics counts as absent for that
// call; it must not end its goroutine with runtime.Goexit, which nothing can
// stop and which leaves OpenSSL half way.
//
// # Versions
//
// OpenSSL 1.1.1, 3.0, 3.5, 3.6 and 4.0. Anything that is not OpenSSL is refused
// when it is compiled. Another prefix than the system's is chosen with
// PKG_CONFIG_PATH.
package libssl
