/*
 * thread.c: the calls that run on this thread (steps of connections and remove
 * handlers), and the places where Go cannot run: after a fork, in an ASYNC job.
 */
#include "bridge.h"

#include <openssl/async.h>
#include <openssl/crypto.h>

#include <pthread.h>
#include <unistd.h>

/* ---- where Go cannot run ------------------------------------------------- */

static int scb_forked;

static void scb_fork_child(void)
{
    scb_forked = 1;
}

/* This runs when the library is loaded: the process may fork before Go's
 * runtime calls scb_init. */
static void __attribute__((constructor)) scb_loaded(void)
{
    pthread_atfork(NULL, NULL, scb_fork_child);
}

int scb_in_fork(void)
{
    return scb_forked;
}

int scb_may_call_go(void)
{
    static const char text[] = "libssl: this process was forked from one in which Go runs, and Go does not run here: "
                               "its TLS sessions are neither stored nor resumed\n";
    static int told;
    ssize_t n = 0;

    if (!scb_forked)
        return ASYNC_get_current_job() == NULL;
    if (!__atomic_exchange_n(&told, 1, __ATOMIC_SEQ_CST))
        n = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)n; /* standard error may be closed */
    return 0;
}

void scb_read_lock(CRYPTO_RWLOCK *lock)
{
    if (!scb_forked)
        CRYPTO_THREAD_read_lock(lock);
}

void scb_write_lock(CRYPTO_RWLOCK *lock)
{
    if (!scb_forked)
        CRYPTO_THREAD_write_lock(lock);
}

void scb_unlock(CRYPTO_RWLOCK *lock)
{
    if (!scb_forked)
        CRYPTO_THREAD_unlock(lock);
}

/* ---- calls that may remove sessions -------------------------------------- */

/* The remove handlers that run on this thread, innermost first. */
static __thread scb_removal *scb_removals;
/* The SSL_CTX of the removal call under way that holds no lock, or NULL. */
static __thread SSL_CTX *scb_unlocked;

SSL_CTX *scb_begin_call(SSL_CTX *unlocked)
{
    SSL_CTX *outer = scb_unlocked;

    scb_unlocked = unlocked;
    return outer;
}

void scb_end_call(SSL_CTX *outer)
{
    scb_unlocked = outer;
}

void scb_begin_removal(scb_removal *r, SSL_CTX *ctx, SSL_SESSION *sess)
{
    r->unlocked = scb_begin_call(NULL); /* the handler may make other calls, which do hold the lock */
    /* OpenSSL's releases differ in the paths that hold the lock. Only our own
     * SSL_CTX_remove_session never does; all others refuse re-entry. */
    r->locked = r->unlocked != ctx;
    r->ctx = ctx;
    r->sess = sess;
    r->outer = scb_removals;
    scb_removals = r;
}

void scb_end_removal(scb_removal *r)
{
    scb_removals = r->outer;
    scb_end_call(r->unlocked);
}

int scb_ctx_in_remove(SSL_CTX *ctx)
{
    for (scb_removal *r = scb_removals; r != NULL; r = r->outer)
        if (r->locked && r->ctx == ctx)
            return 1;
    return 0;
}

static int scb_is_same(SSL_SESSION *a, SSL_SESSION *b)
{
    unsigned int a_len, b_len;
    const unsigned char *a_id = SSL_SESSION_get_id(a, &a_len), *b_id = SSL_SESSION_get_id(b, &b_len);

    return a == b || (a_len > 0 && a_len == b_len && memcmp(a_id, b_id, a_len) == 0);
}

int scb_session_in_remove(SSL_CTX *ctx, SSL_SESSION *s)
{
    for (scb_removal *r = scb_removals; r != NULL; r = r->outer)
        if (r->ctx == ctx && scb_is_same(r->sess, s))
            return 1;
    return 0;
}

/* ---- steps of connections ------------------------------------------------ */

/* The steps that run on this thread, innermost first: a handler may call back
 * into its own connection. */
static __thread scb_conn *scb_steps;

void scb_begin_step(scb_conn *c)
{
    c->outer = scb_steps;
    scb_steps = c;
}

void scb_end_step(scb_conn *c)
{
    scb_steps = c->outer;
}

int scb_conn_stepping(scb_conn *c)
{
    for (scb_conn *s = scb_steps; s != NULL; s = s->outer)
        if (s == c)
            return 1;
    return 0;
}

/* All callbacks of a connection come inside one of its steps. An ex_data slot
 * would give the same answer more slowly. */
scb_conn *scb_stepping_conn(SSL *ssl)
{
    for (scb_conn *s = scb_steps; s != NULL; s = s->outer)
        if (s->ssl == ssl)
            return s;
    return NULL;
}

uint64_t scb_ssl_conn_handle(SSL *ssl)
{
    scb_conn *c = scb_stepping_conn(ssl);

    return c == NULL ? 0 : c->handle;
}

uint64_t scb_stepping_handle(void)
{
    return scb_steps == NULL ? 0 : scb_steps->handle;
}

SSL_CTX *scb_stepping_ctx(void)
{
    return scb_steps == NULL ? NULL : SSL_get_SSL_CTX(scb_steps->ssl);
}

/* ---- removals and steps -------------------------------------------------- */

int scb_in_handler(void)
{
    return scb_removals != NULL || scb_steps != NULL;
}

void scb_abandon(void)
{
    scb_removals = NULL;
    scb_unlocked = NULL;
    scb_steps = NULL;
}
