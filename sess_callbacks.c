/*
 * sess_callbacks.c: the ex_data slots, the trampolines that OpenSSL calls, and
 * putting them in and out of an SSL_CTX.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/async.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#include <pthread.h>
#include <unistd.h>

/* A union converts between function and data pointers without a cast. */
typedef union scb_fn {
    void *p;
    int (*new_cb)(SSL *, SSL_SESSION *);
    SSL_SESSION *(*get_cb)(SSL *, const unsigned char *, int, int *);
    void (*remove_cb)(SSL_CTX *, SSL_SESSION *);
    void (*keylog_cb)(const SSL *, const char *);
} scb_fn;

/*
 * What hangs on an SSL_CTX that has a Context. Freed by the ex_data free hook,
 * which runs once, after the last possible callback (SEMANTICS F8.1). SSLs
 * point at the one of the SSL_CTX they were made with: they hold a reference
 * on it, and after an SNI switch SSL_get_SSL_CTX would name another (F1.11).
 */
typedef struct scb_ctx {
    uint64_t handle;
    SSL_CTX *ssl_ctx;
    CRYPTO_RWLOCK *lock;
    long live;              /* SSLs that exist, and calls under way that may call remove */
    unsigned int leaving;   /* trampolines to take out with the last SSL */
    unsigned int emptied;   /* trampolines that were: the pointer is NULL by our doing */
    scb_fn before[SCB_KINDS]; /* what C had installed before the trampoline */
    unsigned char *alpn;
    size_t alpn_len;
    struct scb_ctx *next, **link; /* in scb_all */
} scb_ctx;

static CRYPTO_RWLOCK *scb_all_lock; /* taken before any other */
static scb_ctx *scb_all;

/*
 * From 3.2 on an SSL does not know its SSL_CTX yet when the ex_data hook runs
 * for it. It points here until one of its callbacks, or our own SSL_new, tells.
 */
static scb_ctx scb_unknown;
static long scb_unknowns;   /* such SSLs: atomic */
static long scb_leavers;    /* contexts with trampolines to take out: atomic */

static int scb_ctx_idx = -1;
static int scb_ssl_ctx_idx = -1;

/* Remove handlers running on this thread, innermost first. */
typedef struct scb_frame {
    SSL_CTX *removing;      /* the context whose lock may be held, or NULL */
    struct scb_frame *up;
} scb_frame;
static __thread scb_frame *scb_frames;
/* The context whose own removal call, which holds no lock, is under way. */
static __thread SSL_CTX *scb_unlocked;

/* ---- where Go cannot run --------------------------------------------------- */

static int scb_forked;

static void scb_fork_child(void)
{
    scb_forked = 1;
}

/* As early as the library is loaded: it may be forked before Go's runtime has
 * come to scb_init. */
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
    (void)n; /* it may be closed */
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

/* ---- handles ------------------------------------------------------------ */

static int scb_sess_new_cb(SSL *ssl, SSL_SESSION *sess);
static SSL_SESSION *scb_sess_get_cb(SSL *ssl, const unsigned char *id, int len, int *copy);
static void scb_sess_remove_cb(SSL_CTX *ctx, SSL_SESSION *sess);
static void scb_keylog_cb(const SSL *ssl, const char *line);

static scb_fn scb_fn_of(SSL_CTX *ctx, int which)
{
    scb_fn f;

    f.p = NULL;
    if (which == SCB_SESS_NEW)
        f.new_cb = SSL_CTX_sess_get_new_cb(ctx);
    else if (which == SCB_SESS_GET)
        f.get_cb = SSL_CTX_sess_get_get_cb(ctx);
    else if (which == SCB_SESS_REMOVE)
        f.remove_cb = SSL_CTX_sess_get_remove_cb(ctx);
    else
        f.keylog_cb = SSL_CTX_get_keylog_callback(ctx);
    return f;
}

static void scb_set_fn(SSL_CTX *ctx, int which, scb_fn f)
{
    if (which == SCB_SESS_NEW)
        SSL_CTX_sess_set_new_cb(ctx, f.new_cb);
    else if (which == SCB_SESS_GET)
        SSL_CTX_sess_set_get_cb(ctx, f.get_cb);
    else if (which == SCB_SESS_REMOVE)
        SSL_CTX_sess_set_remove_cb(ctx, f.remove_cb);
    else
        SSL_CTX_set_keylog_callback(ctx, f.keylog_cb);
}

static scb_fn scb_trampoline(int which)
{
    scb_fn f;

    f.p = NULL;
    if (which == SCB_SESS_NEW)
        f.new_cb = scb_sess_new_cb;
    else if (which == SCB_SESS_GET)
        f.get_cb = scb_sess_get_cb;
    else if (which == SCB_SESS_REMOVE)
        f.remove_cb = scb_sess_remove_cb;
    else
        f.keylog_cb = scb_keylog_cb;
    return f;
}

int scb_installed(SSL_CTX *ctx, int which, void **fn)
{
    *fn = scb_fn_of(ctx, which).p;
    return *fn == NULL ? 0 : *fn == scb_trampoline(which).p ? 1 : 2;
}

/* Trampolines only: what C installed over one is C's. */
static void scb_uninstall(scb_ctx *c, unsigned int leaving)
{
    scb_fn none = { NULL };
    void *fn;

    for (int which = 0; which < SCB_KINDS; which++)
        if (leaving & 1u << which && scb_installed(c->ssl_ctx, which, &fn) == 1) {
            scb_set_fn(c->ssl_ctx, which, none);
            c->emptied |= 1u << which;
        }
}

static void scb_install(scb_ctx *c, int which)
{
    void *fn;
    int whose = scb_installed(c->ssl_ctx, which, &fn);

    if (whose == 2 || (whose == 0 && !(c->emptied & 1u << which)))
        c->before[which].p = fn;
    c->emptied &= ~(1u << which);
    scb_set_fn(c->ssl_ctx, which, scb_trampoline(which));
}

/* While live is not 0 no callback pointer becomes NULL. */
static void scb_live(scb_ctx *c)
{
    scb_write_lock(c->lock);
    c->live++;
    scb_unlock(c->lock);
}

/* Under the lock, where an SSL born meanwhile is either counted, here or among
 * the unknown, or sees NULL. */
static void scb_leave_if_idle(scb_ctx *c)
{
    if (scb_forked || c->leaving == 0 || c->live > 0 || __atomic_load_n(&scb_unknowns, __ATOMIC_SEQ_CST) > 0)
        return;
    scb_uninstall(c, c->leaving);
    c->leaving = 0;
    __atomic_sub_fetch(&scb_leavers, 1, __ATOMIC_SEQ_CST);
}

/* Under the lock, as scb_leave_if_idle. */
static void scb_let_leave(scb_ctx *c, int which)
{
    if (c->leaving == 0)
        __atomic_add_fetch(&scb_leavers, 1, __ATOMIC_SEQ_CST);
    c->leaving |= 1u << which;
    scb_leave_if_idle(c);
}

static void scb_stay(scb_ctx *c, int which)
{
    if (c->leaving != 0 && (c->leaving &= ~(1u << which)) == 0)
        __atomic_sub_fetch(&scb_leavers, 1, __ATOMIC_SEQ_CST);
}

static void scb_dead(scb_ctx *c)
{
    scb_write_lock(c->lock);
    c->live--;
    scb_leave_if_idle(c);
    scb_unlock(c->lock);
}

static void scb_unknown_gone(void)
{
    if (__atomic_sub_fetch(&scb_unknowns, 1, __ATOMIC_SEQ_CST) > 0
        || __atomic_load_n(&scb_leavers, __ATOMIC_SEQ_CST) == 0)
        return;
    scb_read_lock(scb_all_lock);
    for (scb_ctx *c = scb_all; c != NULL; c = c->next) {
        scb_write_lock(c->lock);
        scb_leave_if_idle(c);
        scb_unlock(c->lock);
    }
    scb_unlock(scb_all_lock);
}

static void scb_ctx_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_ctx *c = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (c == NULL || scb_forked) /* every SSL_CTX of the process comes by (F8.3) */
        return;
    scbGoCtxFree(c->handle);
    scb_write_lock(scb_all_lock);
    *c->link = c->next;
    if (c->next != NULL)
        c->next->link = c->link;
    scb_unlock(scb_all_lock);
    if (c->leaving != 0)
        __atomic_sub_fetch(&scb_leavers, 1, __ATOMIC_SEQ_CST);
    CRYPTO_THREAD_lock_free(c->lock);
    OPENSSL_free(c->alpn);
    OPENSSL_free(c);
}

static void scb_ssl_new_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    SSL_CTX *ctx = SSL_get_SSL_CTX((SSL *)parent);
    scb_ctx *c = ctx == NULL ? &scb_unknown : SSL_CTX_get_ex_data(ctx, scb_ctx_idx);

    (void)ptr, (void)argl, (void)argp;
    if (c == NULL || !CRYPTO_set_ex_data(ad, idx, c))
        return;
    if (c == &scb_unknown)
        __atomic_add_fetch(&scb_unknowns, 1, __ATOMIC_SEQ_CST);
    else
        scb_live(c);
}

static void scb_ssl_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_ctx *c = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (c == &scb_unknown)
        scb_unknown_gone();
    else if (c != NULL)
        scb_dead(c);
}

/* SSL_dup makes an SSL, which is counted, and then copies the pointer. */
static int scb_ssl_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx, long argl,
                          void *argp)
{
    (void)from, (void)argl, (void)argp;
    *(void **)from_d = CRYPTO_get_ex_data(to, idx);
    return 1;
}

static void scb_ssl_settle(SSL *ssl, scb_ctx *c)
{
    scb_live(c); /* first: it is always counted somewhere */
    SSL_set_ex_data(ssl, scb_ssl_ctx_idx, c);
    scb_unknown_gone();
}

/*
 * The SSL_CTX that an SSL was made with: it copied that one's argument for
 * record padding, which is ours unless C had or has a use for it. Otherwise the
 * one that it has now, which may be another after a switch.
 */
static scb_ctx *scb_ssl_find(SSL *ssl)
{
    void *arg = SSL_get_record_padding_callback_arg(ssl);
    scb_ctx *c = NULL;

    if (arg != NULL) {
        scb_read_lock(scb_all_lock);
        for (c = scb_all; c != NULL && c != arg; c = c->next)
            ;
        scb_unlock(scb_all_lock);
    }
    if (c == NULL && SSL_get_SSL_CTX(ssl) != NULL)
        c = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), scb_ctx_idx);
    if (c != NULL)
        scb_ssl_settle(ssl, c);
    return c;
}

static scb_ctx *scb_ctx_of_ssl(SSL *ssl)
{
    scb_ctx *c = SSL_get_ex_data(ssl, scb_ssl_ctx_idx);

    return c == &scb_unknown ? scb_ssl_find(ssl) : c;
}

int scb_init(void)
{
    scb_ctx_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, scb_ctx_free_cb);
    scb_ssl_ctx_idx = SSL_get_ex_new_index(0, NULL, scb_ssl_new_cb, scb_ssl_dup_cb, scb_ssl_free_cb);
    scb_all_lock = CRYPTO_THREAD_lock_new();
    return scb_ctx_idx > 0 && scb_ssl_ctx_idx > 0 && scb_all_lock != NULL && scb_tickets_init()
        && scb_guests_init();
}

static scb_ctx *scb_ctx_of(SSL_CTX *ctx)
{
    return SSL_CTX_get_ex_data(ctx, scb_ctx_idx);
}

uint64_t scb_ctx_handle(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);

    return c == NULL ? 0 : c->handle;
}

uint64_t scb_ssl_ctx_handle(SSL *ssl)
{
    scb_ctx *c = scb_ctx_of_ssl(ssl);

    return c == NULL ? 0 : c->handle;
}

SSL_CTX *scb_ssl_origin(SSL *ssl)
{
    scb_ctx *c = scb_ctx_of_ssl(ssl);

    return c == NULL ? NULL : c->ssl_ctx;
}

void scb_ctx_attach(SSL_CTX *ctx)
{
    if (SSL_CTX_get_record_padding_callback_arg(ctx) == NULL)
        SSL_CTX_set_record_padding_callback_arg(ctx, scb_ctx_of(ctx)); /* see scb_ssl_find */
}

int scb_ctx_adopt(SSL_CTX *ctx, uint64_t handle, scb_errs **errs)
{
    scb_ctx *c = OPENSSL_zalloc(sizeof(*c));

    if (c != NULL) {
        c->handle = handle;
        c->ssl_ctx = ctx;
        c->lock = CRYPTO_THREAD_lock_new();
        if (c->lock != NULL && SSL_CTX_set_ex_data(ctx, scb_ctx_idx, c)) {
            scb_write_lock(scb_all_lock);
            c->next = scb_all;
            c->link = &scb_all;
            if (scb_all != NULL)
                scb_all->link = &c->next;
            scb_all = c;
            scb_unlock(scb_all_lock);
            scb_ctx_attach(ctx);
            return SCB_OK;
        }
        CRYPTO_THREAD_lock_free(c->lock);
        OPENSSL_free(c);
    }
    scb_take_errs(errs);
    return SCB_FAIL;
}

/* ---- the trampolines ---------------------------------------------------- */

/*
 * Each leaves the error queue as it found it, most by a mark to which it pops:
 * on 1.1.1 to 3.5 an entry that a handler leaves behind fails a good handshake.
 * Where Go cannot run each answers as OpenSSL does without a callback.
 */
static int scb_sess_new_cb(SSL *ssl, SSL_SESSION *sess)
{
    int keep;

    if (!scb_may_call_go())
        return 0;
    ERR_set_mark();
    keep = scbGoSessNew(scb_ssl_ctx_handle(ssl), scb_ssl_conn_handle(ssl), ssl, sess);
    ERR_pop_to_mark();
    return keep;
}

static SSL_SESSION *scb_sess_get_cb(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    SSL_SESSION *sess;

    if (!scb_may_call_go())
        return NULL;
    ERR_set_mark();
    sess = scbGoSessGet(scb_ssl_ctx_handle(ssl), scb_ssl_conn_handle(ssl), ssl, (unsigned char *)id, len);
    ERR_pop_to_mark();
    /* Whatever the handler's flag was, Go settled it: one reference comes along. */
    *copy = 0;
    return sess;
}

/* It runs in the middle of failures: what the queue holds is why, and a mark
 * would not keep it from a handler whose calls clear the queue. */
static void scb_sess_remove_cb(SSL_CTX *ctx, SSL_SESSION *sess)
{
    scb_errs *held = NULL;
    scb_frame f;
    SSL_CTX *outer;

    if (!scb_may_call_go())
        return;
    outer = scb_enter(NULL); /* it is about this call, not about those of the handler */
    /* Which paths hold the lock differs between versions: all but our own
     * SSL_CTX_remove_session may, so all but that refuse re-entry. */
    f.removing = outer == ctx ? NULL : ctx;
    f.up = scb_frames;
    scb_frames = &f;
    if (ERR_peek_error() != 0)
        scb_take_errs(&held);
    scbGoSessRemove(scb_ctx_handle(ctx), scb_stepping_handle(), ctx, sess);
    scb_clear_errs();
    scb_put_errs(held);
    scb_errs_free(held);
    scb_frames = f.up;
    scb_leave(outer);
}

static int scb_generate_id_cb(SSL *ssl, unsigned char *id, unsigned int *len)
{
    if (!scb_may_call_go())
        return RAND_bytes(id, (int)*len);
    return scbGoGenerateID(scb_ssl_ctx_handle(ssl), id, len);
}

static void scb_keylog_cb(const SSL *ssl, const char *line)
{
    if (scb_may_call_go())
        scbGoKeyLog(scb_ssl_ctx_handle((SSL *)ssl), (char *)line);
}

/* The name is dealt with at the ClientHello; this makes OpenSSL confirm it to
 * the client and note it in the session, where a resumed TLS 1.2 connection has
 * its name from. */
static int scb_servername_cb(SSL *ssl, int *alert, void *arg)
{
    (void)ssl, (void)alert, (void)arg;
    return SSL_TLSEXT_ERR_OK;
}

static int scb_alpn_has(const unsigned char *list, size_t len, const char *proto)
{
    size_t n = strlen(proto);

    for (size_t i = 0; i < len; i += 1u + list[i])
        if (list[i] == n && n < len - i && memcmp(list + i + 1, proto, n) == 0)
            return 1;
    return 0;
}

static int scb_alpn_cb(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                       unsigned int in_len, void *arg)
{
    scb_ctx *c = scb_ctx_of_ssl(ssl);
    unsigned char *chosen;
    int ret = SSL_TLSEXT_ERR_NOACK;

    (void)arg;
    if (c == NULL)
        return ret;
    scb_read_lock(c->lock);
    if (c->alpn_len > 0) {
        if (SSL_select_next_proto(&chosen, out_len, c->alpn, (unsigned int)c->alpn_len, in, in_len)
            == OPENSSL_NPN_NEGOTIATED) {
            /* It may point at our list, which a setter may replace. */
            for (unsigned int i = 0; i < in_len; i += 1u + in[i])
                if (in[i] == *out_len && memcmp(in + i + 1, chosen, *out_len) == 0)
                    *out = in + i + 1;
            ret = SSL_TLSEXT_ERR_OK;
        } else if (scb_alpn_has(in, in_len, "http/1.1") && scb_alpn_has(c->alpn, c->alpn_len, "h2")) {
            ; /* as crypto/tls: an HTTP/1.1 client may speak to an h2 server without ALPN */
        } else {
            ret = SSL_TLSEXT_ERR_ALERT_FATAL;
        }
    }
    scb_unlock(c->lock);
    return ret;
}

/* ---- in and out ----------------------------------------------------------- */

void scb_set_callback(SSL_CTX *ctx, int which, int on)
{
    scb_ctx *c = scb_ctx_of(ctx);
    void *fn;

    scb_write_lock(c->lock);
    if (on) {
        scb_stay(c, which);
        scb_install(c, which);
    } else if (scb_installed(ctx, which, &fn) != 0) {
        /* A running handshake tests the pointer and then reads it again to
         * call it (F4.2): it may go only while no SSL exists. Until then the
         * trampoline, be it in the place of somebody else's function, answers
         * as C does without a callback. */
        scb_install(c, which);
        scb_let_leave(c, which);
    }
    scb_unlock(c->lock);
}

void scb_ctx_detach(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);
    void *fn;

    scb_write_lock(c->lock);
    for (int which = 0; which < SCB_KINDS; which++) {
        int whose = scb_installed(ctx, which, &fn);

        if (whose == 2 || (whose == 0 && !(c->emptied & 1u << which)))
            continue; /* C has changed it since */
        if (c->before[which].p == NULL) {
            if (whose == 1)
                scb_let_leave(c, which);
        } else {
            /* From one function to another: at once, whoever is about to call it. */
            scb_stay(c, which);
            scb_set_fn(ctx, which, c->before[which]);
            c->before[which].p = NULL;
        }
    }
    c->emptied = 0;
    if (SSL_CTX_get_record_padding_callback_arg(ctx) == c)
        SSL_CTX_set_record_padding_callback_arg(ctx, NULL);
    scb_unlock(c->lock);
}

int scb_sess_call_new(void *fn, SSL *ssl, SSL_SESSION *sess)
{
    scb_fn f;

    f.p = fn;
    return f.new_cb(ssl, sess);
}

/* The reference returned is the caller's, whatever C did with the flag. */
SSL_SESSION *scb_sess_call_get(void *fn, SSL *ssl, const unsigned char *id, int len)
{
    scb_fn f;
    SSL_SESSION *sess;
    int copy = 1;

    f.p = fn;
    sess = f.get_cb(ssl, id, len, &copy);
    if (sess != NULL && copy)
        SSL_SESSION_up_ref(sess);
    return sess;
}

void scb_sess_call_remove(void *fn, SSL_CTX *ctx, SSL_SESSION *sess)
{
    scb_fn f;

    f.p = fn;
    f.remove_cb(ctx, sess);
}

void scb_ctx_hook_hello(SSL_CTX *ctx, int names)
{
    SSL_CTX_set_client_hello_cb(ctx, scb_client_hello_cb, NULL);
    if (names) /* else C may have a callback of its own there, and no getter tells */
        scb_ctx_hook_names(ctx);
}

void scb_ctx_hook_names(SSL_CTX *ctx)
{
    SSL_CTX_set_tlsext_servername_callback(ctx, scb_servername_cb);
}

void scb_ctx_hook_ids(SSL_CTX *ctx, int on)
{
    SSL_CTX_set_generate_session_id(ctx, on ? scb_generate_id_cb : NULL);
}

int scb_ctx_set_alpn(SSL_CTX *ctx, const unsigned char *wire, size_t len)
{
    scb_ctx *c = scb_ctx_of(ctx);
    unsigned char *copy = len == 0 ? NULL : OPENSSL_memdup(wire, len);

    /* This one call of OpenSSL's returns 0 on success. */
    if ((len > 0 && copy == NULL) || SSL_CTX_set_alpn_protos(ctx, wire, (unsigned int)len) != 0) {
        OPENSSL_free(copy);
        scb_clear_errs();
        return SCB_FAIL;
    }
    scb_write_lock(c->lock);
    OPENSSL_free(c->alpn);
    c->alpn = copy;
    c->alpn_len = len;
    scb_unlock(c->lock);
    SSL_CTX_set_alpn_select_cb(ctx, scb_alpn_cb, NULL);
    return SCB_OK;
}

/* ---- calls that need the context's lock ----------------------------------- */

int scb_in_handler(void)
{
    return scb_frames != NULL || scb_stepping_handle() != 0;
}

int scb_ctx_in_remove(SSL_CTX *ctx)
{
    for (scb_frame *f = scb_frames; f != NULL; f = f->up)
        if (f->removing == ctx)
            return 1;
    return 0;
}

SSL_CTX *scb_enter(SSL_CTX *unlocked)
{
    SSL_CTX *outer = scb_unlocked;

    scb_unlocked = unlocked;
    return outer;
}

void scb_leave(SSL_CTX *outer)
{
    scb_unlocked = outer;
}

void scb_abandon(void)
{
    scb_frames = NULL;
    scb_unlocked = NULL;
    scb_abandon_steps();
}

int scb_ctx_add_session(SSL_CTX *ctx, SSL_SESSION *s)
{
    SSL_CTX *outer;
    int ret;

    if (scb_ctx_in_remove(ctx))
        return SCB_REENTRANT;
    scb_live(scb_ctx_of(ctx));
    outer = scb_enter(NULL);
    ret = SSL_CTX_add_session(ctx, s);
    scb_leave(outer);
    scb_dead(scb_ctx_of(ctx));
    scb_clear_errs();
    return ret;
}

int scb_ctx_remove_session(SSL_CTX *ctx, SSL_SESSION *s)
{
    SSL_CTX *outer;
    int ret;

    if (scb_ctx_in_remove(ctx))
        return SCB_REENTRANT;
    scb_live(scb_ctx_of(ctx));
    outer = scb_enter(ctx);
    ret = SSL_CTX_remove_session(ctx, s);
    scb_leave(outer);
    scb_dead(scb_ctx_of(ctx));
    scb_clear_errs();
    return ret;
}

int scb_ctx_flush(SSL_CTX *ctx, int64_t at)
{
    SSL_CTX *outer;

    if (scb_ctx_in_remove(ctx))
        return SCB_REENTRANT;
    scb_live(scb_ctx_of(ctx));
    outer = scb_enter(NULL);
#ifdef SCB_HAVE_TIME_EX
    SSL_CTX_flush_sessions_ex(ctx, (time_t)at);
#else
    SSL_CTX_flush_sessions(ctx, (long)at);
#endif
    scb_leave(outer);
    scb_dead(scb_ctx_of(ctx));
    scb_clear_errs();
    return SCB_OK;
}

/* SSL_new, for an SSL_CTX with a Context. */
SSL *scb_ssl_new(SSL_CTX *ctx)
{
    SSL *ssl = SSL_new(ctx);

    if (ssl != NULL && SSL_get_ex_data(ssl, scb_ssl_ctx_idx) == &scb_unknown)
        scb_ssl_settle(ssl, scb_ctx_of(ctx));
    return ssl;
}

/* SSL_free runs the ex_data hook first and gives up a broken connection's
 * session afterwards: the SSL counts until that is over. */
void scb_ssl_free(SSL *ssl)
{
    scb_ctx *c = scb_ctx_of_ssl(ssl);
    SSL_CTX *ctx;

    if (c == NULL) {
        SSL_free(ssl);
        return;
    }
    ctx = c->ssl_ctx;
    SSL_CTX_up_ref(ctx);
    scb_live(c);
    SSL_free(ssl);
    scb_dead(c);
    SSL_CTX_free(ctx);
}

void scb_ctx_up_ref(SSL_CTX *ctx)
{
    SSL_CTX_up_ref(ctx);
}

void scb_ctx_free(SSL_CTX *ctx)
{
    SSL_CTX *outer = scb_enter(NULL);

    SSL_CTX_free(ctx);
    scb_leave(outer);
    scb_clear_errs();
}

/* For a Context nobody closed: no user code may run on the collector's behalf. */
void scb_ctx_forget(SSL_CTX *ctx)
{
    SSL_CTX_sess_set_remove_cb(ctx, NULL);
    scb_ctx_free(ctx);
}
