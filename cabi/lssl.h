/*
 * lssl.h - a TLS session cache that servers share, for any program that serves
 * with OpenSSL
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
 * After that call clients resume their sessions on every server that uses the
 * same store, certificate and policy: TLS 1.2 by session id, TLS 1.3 by tickets
 * that are ids. No failure of the store fails a handshake; it costs a full one.
 *
 * THREADS
 *
 * Every function may be called from any thread, those that take an SSL only from
 * the one that is using it.
 *
 * GO, FORKS AND SIGNALS
 *
 * The library is written in Go, and a Go runtime with threads of its own starts
 * when it is loaded. It does not survive fork(2): a process that forks and does
 * not call exec(3) must fork first and load the library, with dlopen(3), in the
 * child. In the child of a process that had it loaded, every function fails with
 * LSSL_EFORK, and sessions are neither stored nor resumed, which the child says
 * once on standard error. Go handles the signals SIGSEGV, SIGBUS, SIGFPE, SIGPROF
 * and SIGURG; others are the program's. A handler that the program installs must
 * have SA_ONSTACK, since it may run on a thread of Go's; and as those threads do
 * not have the program's signal mask, sigwait(3) works and signalfd(2) does not.
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
 * The version of this interface. It changes when programs have to be compiled
 * anew; functions, flags and fields at the end of structs come without that.
 * lssl_abi_version is that of the library at run time.
 */
#define LSSL_ABI_VERSION 1
int lssl_abi_version(void);

/* What the functions answer. */
#define LSSL_OK 0
#define LSSL_EINVAL 1       /* an argument, an option or the URL is wrong */
#define LSSL_EBUSY 2        /* the SSL_CTX has a session callback, or a store */
#define LSSL_ESTORE 3       /* the store cannot be opened */
#define LSSL_EKEYS 4        /* a store of several hosts, and neither key ring nor LSSL_PLAINTEXT; or the ring cannot be read */
#define LSSL_EUNSUPPORTED 5 /* this store, or this SSL_CTX, cannot do that */
#define LSSL_EFORK 6        /* in the child of a fork; see above */
#define LSSL_ELOST 7        /* closed, but not everything reached the store */
#define LSSL_EFAIL 8        /* anything else */

/*
 * Why the last call of this thread failed, in one line. It is valid until the
 * thread's next call.
 */
const char *lssl_error(void);

/* ---- options ----------------------------------------------------------------- */

/*
 * LSSL_PARK: for event loops. A handshake does not wait for the store: see
 * lssl_fd. New sessions are then written behind, which LSSL_WRITE_BEHIND says too.
 *
 * LSSL_WRITE_BEHIND: a handshake does not wait until its new session is stored.
 * A client that comes back at once may have to make a full handshake.
 *
 * LSSL_SINGLE_USE: a TLS 1.3 session resumes once, by whichever server is first.
 * Not with memcached. It is on, asked for or not, where the SSL_CTX allows early
 * data, which would otherwise be replayed.
 *
 * LSSL_PLAINTEXT: sessions are not sealed: who can read the store can read the
 * traffic, and who can write it can be anybody.
 */
#define LSSL_PARK 0x1u
#define LSSL_WRITE_BEHIND 0x2u
#define LSSL_SINGLE_USE 0x4u
#define LSSL_PLAINTEXT 0x8u

/*
 * Begin with LSSL_OPTIONS_INIT and set what you need; 0 is the default of each.
 */
struct lssl_options {
    size_t struct_size;             /* sizeof(struct lssl_options), by which a library knows the fields there are */
    unsigned int flags;             /* LSSL_PARK and the others */
    unsigned int lookup_timeout_ms; /* how long a handshake waits for a lookup: 50 */
    unsigned int put_timeout_ms;    /* how long for a new session to be stored: 50 */
    unsigned int max_lifetime_s;    /* a session's life, over all renewals: 86400 */
    /*
     * A file of keys that all servers of the store have, made by `sslsess keyring
     * new`. It is followed: keys that are added or taken away take effect without
     * a restart. memory: and sqlite: have a key of their own where it is NULL.
     */
    const char *keyring;
    /*
     * Sessions are good only within their id context, at most 32 bytes. NULL: one
     * computed from certificate, policy on client certificates and ciphers, so
     * that servers which differ there do not resume each other's. What
     * SSL_CTX_set_session_id_context(3) has set cannot be read and is replaced.
     */
    const void *id_context;
    size_t id_context_len;
    /*
     * Told what no handshake may see: the store failed, an entry was lost. It is
     * called on threads of the library's, several at once, with a text that is
     * valid during the call. It must not block and must not call lssl_close.
     */
    void (*on_error)(void *arg, const char *text);
    void *on_error_arg;
};
#define LSSL_OPTIONS_INIT { sizeof(struct lssl_options), 0, 0, 0, 0, NULL, NULL, 0, NULL, NULL }

/* ---- a store on an SSL_CTX ----------------------------------------------------- */

struct lssl_cache;

/*
 * lssl_use_store has ctx keep its sessions in the store that url names:
 *
 *     memory:                       this process
 *     sqlite:PATH                   the processes of this host; the key that seals it is in PATH.key
 *     valkey://[user:pass@]host:port/db   and valkeys:// with TLS; redis:// and rediss:// are the same
 *     memcached://host:port
 *     tiered:URL                    a cache in this process before one of the last two: sessions of this
 *                                   process need no round trip, removals by other hosts count after 10 s
 *
 * All SSL_CTXs of a process that name the same URL share one store.
 *
 * Set certificate, ciphers and the policy on client certificates before, and call
 * it before the first SSL_new(3): SSLs that exist already are left alone. It takes
 * over the session callbacks, the ClientHello callback and the session-id
 * generator, sets the cache mode SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL
 * and SSL_OP_NO_TICKET. ctx must have none of the three session callbacks, must be
 * for TLS servers, and must be without SSL_MODE_ASYNC, for Go cannot run in ASYNC
 * jobs: an SSL that has that mode all the same is served without the store.
 *
 * opt may be NULL. *out is the caller's to close; it holds a reference on ctx.
 *
 * Without LSSL_PARK the lookup is made on the thread that handshakes, which waits
 * for it as long as lookup_timeout_ms: for servers with a thread, or a process, a
 * connection.
 */
int lssl_use_store(SSL_CTX *ctx, const char *url, const struct lssl_options *opt, struct lssl_cache **out);

/*
 * lssl_fd is what an event loop waits for when, with LSSL_PARK, a handshake fails
 * and SSL_get_error(3) is SSL_ERROR_WANT_CLIENT_HELLO_CB: a descriptor that becomes
 * readable when the session has been looked up, or given up after
 * lookup_timeout_ms. Then call SSL_do_handshake (SSL_accept, SSL_read ...) again.
 * Calling it earlier does no harm and no good. It may happen twice in a handshake,
 * with a descriptor each.
 *
 * The descriptor is the library's: wait for it, and neither read it nor close it.
 * It is closed by the call that goes on, or by SSL_free(3), and so leaves an
 * epoll(7) set by itself. -1: this SSL waits for nothing.
 *
 * Where no descriptor can be had the session is not looked up, a full handshake.
 * memory: answers at once and never parks.
 */
int lssl_fd(SSL *ssl);

/* Counters since lssl_use_store. Set struct_size before. */
struct lssl_stats {
    size_t struct_size;   /* sizeof(struct lssl_stats) */
    uint64_t hits;        /* sessions found and given to OpenSSL */
    uint64_t misses;      /* the store had none */
    uint64_t errors;      /* the store failed, in any operation */
    uint64_t timeouts;    /* the store was too slow, in any operation */
    uint64_t rejected;    /* entries tampered with, expired, or of another host, policy or version */
    uint64_t undecodable; /* entries of a newer OpenSSL, or under a key that is not in the ring */
    uint64_t untagged;    /* ids that none of these servers made up: never looked up */
    uint64_t suspended;   /* handshakes that were parked */
    uint64_t skipped;     /* operations left out while the store was left alone after failures */
    uint64_t stored;      /* entries written */
    uint64_t removed;     /* entries deleted */
    uint64_t taken;       /* entries taken for single use */
    uint64_t put_back;    /* of those, gone back: the client was not the one */
    uint64_t lost;        /* queued writes given up */
    uint64_t parked;      /* handshakes parked now */
    uint64_t queued;      /* writes queued now */
};
int lssl_stats(const struct lssl_cache *cache, struct lssl_stats *out);

/*
 * lssl_close takes the store off its SSL_CTX, waits at most timeout_ms for what is
 * queued, closes the store with its last SSL_CTX, and frees cache, whatever it
 * answers: LSSL_ELOST says that not everything could be written.
 *
 * The SSL_CTX has its cache mode and options back, as if it had never had a store;
 * but OpenSSL does not tell what the ClientHello callback, the session-id generator
 * and the id context were: set them again if they were yours. Connections go on;
 * call it before or after they and the SSL_CTX are freed. NULL is nothing to do.
 */
int lssl_close(struct lssl_cache *cache, unsigned int timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
