/*
 * lssl.h - a TLS session cache that servers share, for any server program that
 * uses OpenSSL
 *
 * SYNOPSIS
 *
 *     #include <lssl.h>
 *     cc server.c $(pkg-config --cflags --libs lssl libssl)
 *
 *     struct lssl_cache *cache;
 *     if (lssl_use_store(ctx, "sqlite:/var/lib/app/sessions.db", NULL, &cache) != LSSL_OK)
 *         errx(1, "%s", lssl_error());
 *
 * DESCRIPTION
 *
 * After this call clients can resume their sessions on every server that uses
 * the same store, certificate and policy: TLS 1.2 sessions by session id, TLS 1.3
 * sessions by tickets that contain an id. A failure of the store never fails a
 * handshake; the client makes a full handshake then.
 *
 * THREADS
 *
 * Every function may be called from any thread. A function that takes an SSL may
 * only be called from the thread that is using that SSL.
 *
 * GO, FORKS AND SIGNALS
 *
 * The library is written in Go. Loading it starts a Go runtime, which has its own
 * threads. The runtime does not survive fork(2): a process that forks and does
 * not call exec(3) must fork first and load the library, with dlopen(3), in the
 * child. In a child of a process that had the library loaded, every function
 * fails with LSSL_EFORK, and sessions are neither stored nor resumed. The child
 * reports this once on standard error.
 *
 * Go handles the signals SIGSEGV, SIGBUS, SIGFPE, SIGPROF and SIGURG; all others
 * are left to the program. A signal handler of the program must be installed with
 * SA_ONSTACK, since it may run on a Go thread. Go threads do not have the signal
 * mask of the program: sigwait(3) works, signalfd(2) does not.
 *
 * The library cannot be unloaded.
 *
 * The program and the library must use the same libssl.
 */
#ifndef LSSL_H
#define LSSL_H

#include <stddef.h>
#include <stdint.h>
#include <openssl/ssl.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The version of this interface. It changes when programs have to be recompiled;
 * new functions, flags and fields at the end of structs do not change it.
 * lssl_abi_version returns the version of the library at run time.
 */
#define LSSL_ABI_VERSION 1
int lssl_abi_version(void);

/* Results of the functions. */
#define LSSL_OK 0
#define LSSL_EINVAL 1       /* an argument, an option or the URL is wrong */
#define LSSL_EBUSY 2        /* the SSL_CTX already has a session callback or a store */
#define LSSL_ESTORE 3       /* the store cannot be opened */
#define LSSL_EKEYS 4        /* the key ring cannot be read, or a store of several hosts got neither a ring nor LSSL_PLAINTEXT */
#define LSSL_EUNSUPPORTED 5 /* this store, or this SSL_CTX, cannot do that */
#define LSSL_EFORK 6        /* called in the child of a fork; see above */
#define LSSL_ELOST 7        /* closed, but some queued writes did not reach the store */
#define LSSL_EFAIL 8        /* anything else */

/*
 * lssl_error returns one line of text: why the last call of this thread failed.
 * It is valid until the next call of this thread.
 */
const char *lssl_error(void);

/* ---- options ----------------------------------------------------------------- */

/*
 * LSSL_PARK: for event loops. A handshake does not block while the store looks up
 * its session: see lssl_fd. Includes LSSL_WRITE_BEHIND.
 *
 * LSSL_WRITE_BEHIND: a handshake does not wait until its new session is stored.
 * A client that reconnects at once may have to make a full handshake.
 *
 * LSSL_SINGLE_USE: a TLS 1.3 session resumes only once, on the first server that
 * takes it. Not available with memcached. Always on if the SSL_CTX allows early
 * data, which could otherwise be replayed.
 *
 * LSSL_PLAINTEXT: sessions are not sealed. A reader of the store can decrypt the
 * traffic, and a writer can impersonate any client.
 *
 * LSSL_REVOCABLE: for lssl_revoke. A lookup also asks whether the session was
 * revoked, at the same time. All servers of a store must agree on it.
 */
#define LSSL_PARK 0x1u
#define LSSL_WRITE_BEHIND 0x2u
#define LSSL_SINGLE_USE 0x4u
#define LSSL_PLAINTEXT 0x8u
#define LSSL_REVOCABLE 0x10u

/*
 * Initialise with LSSL_OPTIONS_INIT and set the fields you need. 0 means the
 * default, which the comments name.
 */
struct lssl_options {
    size_t struct_size;             /* sizeof(struct lssl_options): tells the library which fields exist */
    unsigned int flags;             /* LSSL_PARK etc. */
    unsigned int lookup_timeout_ms; /* longest wait of a handshake for a lookup: 50 */
    unsigned int put_timeout_ms;    /* longest wait until a new session is stored: 50 */
    unsigned int max_lifetime_s;    /* longest life of a session, including renewals: 86400 */
    /*
     * A key file that all servers of the store share, made by `sslsess keyring
     * new`. The library watches it: added and removed keys take effect without a
     * restart. If it is NULL, memory: and sqlite: use their own key.
     */
    const char *keyring;
    /*
     * A session resumes only within its id context, at most 32 bytes. NULL: one
     * computed from the names of the certificates, the policy on client certificates
     * and the ciphers, so that servers which differ there do not resume each other's
     * sessions. It is an error where something decides that has no getter: a
     * certificate callback, a verify callback, CAs that are loaded when a chain needs
     * them (a CApath). The library cannot read the context that
     * SSL_CTX_set_session_id_context(3) has set, and replaces it.
     */
    const void *id_context;
    size_t id_context_len;
    /*
     * Called with failures that do not fail a handshake: the store failed, an
     * entry was lost. It runs on threads of the library, on several at once. text
     * is valid during the call. It must not block and must not call lssl_close.
     */
    void (*on_error)(void *arg, const char *text);
    void *on_error_arg;
};
#define LSSL_OPTIONS_INIT { sizeof(struct lssl_options), 0, 0, 0, 0, NULL, NULL, 0, NULL, NULL }

/* ---- a store on an SSL_CTX ----------------------------------------------------- */

struct lssl_cache;

/*
 * lssl_use_store makes ctx keep its sessions in the store that url names:
 *
 *     memory:                       shared by this process
 *     sqlite:PATH                   shared by the processes of this host; its sealing key is in PATH.key
 *     valkey://[user:pass@]host:port/db   and valkeys:// with TLS; redis:// and rediss:// are the same
 *                                         ?password_file=FILE reads the password from a file
 *     memcached://host:port
 *     env:NAME                      the URL in the environment variable NAME
 *     tiered:URL                    a cache in this process before a Valkey, Redis or memcached: sessions of
 *                                   this process need no round trip, removals by other hosts count after 10 s
 *
 * All SSL_CTXs of a process that name the same URL share one store.
 *
 * Set the certificate, the ciphers and the policy on client certificates first,
 * and call lssl_use_store before the first SSL_new(3): it does not affect existing
 * SSLs. It sets the session callbacks, the ClientHello callback and the session-id
 * generator, the cache mode SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL and
 * SSL_OP_NO_TICKET. ctx must have none of the three session callbacks and not
 * SSL_MODE_ASYNC, since Go cannot run in ASYNC jobs. An SSL that has this mode
 * nevertheless is served without the store. An SSL_CTX for DTLS, or for clients
 * only, is LSSL_EUNSUPPORTED, whichever of their methods it was made with.
 *
 * opt may be NULL. The caller must close *out, which holds a reference to ctx.
 *
 * Without LSSL_PARK the thread of the handshake makes the lookup and waits for at
 * most lookup_timeout_ms. This is for servers with one thread or process for each
 * connection.
 */
int lssl_use_store(SSL_CTX *ctx, const char *url, const struct lssl_options *opt, struct lssl_cache **out);

/*
 * lssl_fd returns the descriptor for an event loop to wait for when a handshake is
 * parked: with LSSL_PARK, SSL_get_error(3) is SSL_ERROR_WANT_CLIENT_HELLO_CB then.
 * The descriptor becomes readable when the lookup has ended, or was given up after
 * lookup_timeout_ms. Then call SSL_do_handshake (SSL_accept, SSL_read ...) again.
 * An earlier call has no effect. A handshake may park twice, each time with its
 * own descriptor.
 *
 * The descriptor belongs to the library: do not read it and do not close it. The
 * call that continues the handshake closes it, or SSL_free(3), and so removes it
 * from an epoll(7) set. -1: this SSL is not parked.
 *
 * If no descriptor is available, the session is not looked up and the handshake is
 * a full one. memory: answers at once and never parks.
 */
int lssl_fd(SSL *ssl);

/*
 * lssl_origin writes the random name of the full handshake behind a connection:
 * its own, or that of the session that it resumed. It is the same after every
 * resumption and renewal, whichever ticket the client used. An FTPS server
 * compares that of a data connection with that of the control connection.
 *
 * ssl must be a server's, from an SSL_CTX with a store, and its handshake must be
 * complete; otherwise the result is LSSL_EINVAL and the name is zero.
 */
#define LSSL_ORIGIN_SIZE 16
int lssl_origin(SSL *ssl, unsigned char origin[LSSL_ORIGIN_SIZE]);

/*
 * lssl_revoke ends every session and ticket of the full handshake with this name,
 * renewals included: no server that shares the store and has LSSL_REVOCABLE
 * resumes one any more. Open connections go on. It waits for the store, at most
 * put_timeout_ms. LSSL_ESTORE: the store failed, and the sessions may still
 * resume. LSSL_EUNSUPPORTED: the cache was made without LSSL_REVOCABLE.
 * LSSL_EINVAL: the name is zero.
 */
int lssl_revoke(struct lssl_cache *cache, const unsigned char origin[LSSL_ORIGIN_SIZE]);

/* Counters since lssl_use_store. Set struct_size before the call. */
struct lssl_stats {
    size_t struct_size;   /* sizeof(struct lssl_stats) */
    uint64_t hits;        /* sessions found and given to OpenSSL */
    uint64_t misses;      /* the store had none */
    uint64_t errors;      /* the store failed, in any operation */
    uint64_t timeouts;    /* the store was too slow, in any operation */
    uint64_t rejected;    /* entries tampered with, expired, or of another host, policy or version */
    uint64_t undecodable; /* entries of a newer OpenSSL, or under a key that is not in the ring */
    uint64_t untagged;    /* ids that none of these servers issued; they are not looked up */
    uint64_t suspended;   /* handshakes that were parked */
    uint64_t skipped;     /* operations skipped during a pause after failures of the store */
    uint64_t stored;      /* entries written */
    uint64_t removed;     /* entries deleted */
    uint64_t taken;       /* entries taken for single use */
    uint64_t put_back;    /* taken entries that went back because the client was not their owner */
    uint64_t lost;        /* queued writes given up */
    uint64_t parked;      /* handshakes parked now */
    uint64_t queued;      /* writes queued now */
    uint64_t too_large;   /* sessions not stored: their client certificates are too large */
};
int lssl_stats(const struct lssl_cache *cache, struct lssl_stats *out);

/*
 * lssl_close removes the store from its SSL_CTX, waits at most timeout_ms for
 * queued writes, and closes the store if no other SSL_CTX uses it. It always frees
 * cache. LSSL_ELOST: some queued writes were lost.
 *
 * It restores the cache mode and the options of the SSL_CTX. It cannot restore the
 * ClientHello callback, the session-id generator and the id context, which OpenSSL
 * does not let it read: set them again if you need them. Connections go on. It may
 * be called before or after they and the SSL_CTX are freed. NULL does nothing.
 */
int lssl_close(struct lssl_cache *cache, unsigned int timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
