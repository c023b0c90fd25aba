// Package libssl provides TLS connections over OpenSSL, and lets every server of a
// fleet resume the sessions of the others.
//
// A full TLS handshake is expensive. A client that comes back resumes the session of
// an earlier handshake instead, if the server still has that session, or gave it to
// the client as an encrypted ticket. OpenSSL keeps sessions in the memory of one
// process. It also has three callbacks, called new, get and remove, with which a
// program keeps them elsewhere. This package implements them over a store, such as a
// file, a Valkey or a memcached, and offers them to Go code that implements them
// itself.
//
// # Two layers
//
// The lower layer is OpenSSL's, name for name. Context is an SSL_CTX, Session
// one reference to an SSL_SESSION, SSL the connection as a callback sees it;
// SetSessNewCallback, SetSessGetCallback and SetSessRemoveCallback take
// closures that run inside the callback, as C functions do. AttachContext does
// the same for an SSL_CTX that C code made and goes on using.
//
// The upper layer is UseStore. Servers that share a store.Store, its keys, the
// certificate and the policy resume each other's sessions. It parks handshakes
// while it looks sessions up, stores new ones before the client can offer them,
// seals what it stores, checks what it reads, and no failure of the store fails a
// handshake.
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
// The code that makes a Context, Session or Conn closes or releases it, once;
// doing it again does no harm. A Session or SSL that a handler is given is dead
// when the handler returns, and then answers ErrReleased instead of touching
// freed memory. The garbage collector gives back forgotten objects, and
// LiveResources counts them.
//
// # Locks and threads
//
// Everything is safe for concurrent use. Handlers of the lower layer run on the
// thread that is inside OpenSSL, and a handler that blocks keeps that thread. A
// remove handler may run with the lock of the SSL_CTX held, so it must not wait
// for another goroutine that uses the same Context. Calls that would deadlock or corrupt
// that lock answer ErrReentrant. A handler that panics counts as absent for that
// call; one that should have chosen the Context ends the handshake. It must not end
// its goroutine with runtime.Goexit: that cannot be stopped and leaves OpenSSL half
// way through a call.
//
// # Versions
//
// OpenSSL 1.1.1, 3.0, 3.5, 3.6 and 4.0. Anything that is not OpenSSL is refused
// when it is compiled. Another prefix than the system's is chosen with
// PKG_CONFIG_PATH.
package libssl
