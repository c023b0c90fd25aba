/*
 * slots.c: the ex_data slots that say which Context an SSL_CTX or an SSL
 * belongs to, and when a trampoline may be taken out of an SSL_CTX.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/crypto.h>

static CRYPTO_RWLOCK *scb_all_lock; /* taken before any other */
static scb_ctx *scb_all;

/*
 * From 3.2 on an SSL does not know its SSL_CTX yet when the ex_data hook runs
 * for it. Its slot points here until one of its callbacks, or scb_ssl_new,
 * finds the SSL_CTX.
 */
static scb_ctx scb_unknown;
static long scb_unknowns;       /* SSLs whose slot points there: atomic */
static long scb_uninstalling;   /* SSL_CTXs with trampolines to take out: atomic */
static int scb_lost;            /* an SSL got no slot, for want of memory: atomic */

static int scb_ctx_idx = -1;
static int scb_ssl_ctx_idx = -1;

static const scb_fn *scb_trampolines; /* SCB_KINDS of them */

/* Does scb_ssl_new run on this thread? */
static __thread int scb_making;

/* ---- callbacks of an SSL_CTX --------------------------------------------- */

static scb_fn scb_get_fn(SSL_CTX *ctx, int which)
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

void scb_set_fn(SSL_CTX *ctx, int which, scb_fn f)
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

scb_installed_fn scb_installed(SSL_CTX *ctx, int which, void **fn)
{
    *fn = scb_get_fn(ctx, which).p;
    if (*fn == NULL)
        return SCB_INSTALLED_NONE;
    return *fn == scb_trampolines[which].p ? SCB_INSTALLED_OURS : SCB_INSTALLED_FOREIGN;
}

int scb_changed_by_c(scb_ctx *c, int which, void **fn)
{
    scb_installed_fn now = scb_installed(c->ssl_ctx, which, fn);

    return now == SCB_INSTALLED_FOREIGN || (now == SCB_INSTALLED_NONE && !(c->uninstalled & 1u << which));
}

void scb_install(scb_ctx *c, int which)
{
    void *fn;

    if (scb_changed_by_c(c, which, &fn))
        c->before[which].p = fn;
    c->uninstalled &= ~(1u << which);
    scb_set_fn(c->ssl_ctx, which, scb_trampolines[which]);
}

/* Takes out trampolines only: a function that C has put over one stays. */
static void scb_uninstall(scb_ctx *c, unsigned int kinds)
{
    scb_fn none = { NULL };
    void *fn;

    for (int which = 0; which < SCB_KINDS; which++)
        if (kinds & 1u << which && scb_installed(c->ssl_ctx, which, &fn) == SCB_INSTALLED_OURS) {
            scb_set_fn(c->ssl_ctx, which, none);
            c->uninstalled |= 1u << which;
        }
}

/* The caller holds the lock. An SSL that is made meanwhile either is counted,
 * here or among the unknown ones, or finds the pointer NULL. */
static void scb_uninstall_if_idle(scb_ctx *c)
{
    if (scb_in_fork() || c->to_uninstall == 0 || c->uses > 0
        || __atomic_load_n(&scb_unknowns, __ATOMIC_SEQ_CST) > 0)
        return;
    scb_uninstall(c, c->to_uninstall);
    c->to_uninstall = 0;
    __atomic_sub_fetch(&scb_uninstalling, 1, __ATOMIC_SEQ_CST);
}

void scb_uninstall_when_idle(scb_ctx *c, int which)
{
    if (c->to_uninstall == 0)
        __atomic_add_fetch(&scb_uninstalling, 1, __ATOMIC_SEQ_CST);
    c->to_uninstall |= 1u << which;
    scb_uninstall_if_idle(c);
}

void scb_keep_installed(scb_ctx *c, int which)
{
    if (c->to_uninstall != 0 && (c->to_uninstall &= ~(1u << which)) == 0)
        __atomic_sub_fetch(&scb_uninstalling, 1, __ATOMIC_SEQ_CST);
}

/* ---- uses of an SSL_CTX -------------------------------------------------- */

void scb_begin_use(scb_ctx *c)
{
    scb_write_lock(c->lock);
    c->uses++;
    scb_unlock(c->lock);
}

void scb_end_use(scb_ctx *c)
{
    scb_write_lock(c->lock);
    c->uses--;
    scb_uninstall_if_idle(c);
    scb_unlock(c->lock);
}

static void scb_end_unknown(void)
{
    if (__atomic_sub_fetch(&scb_unknowns, 1, __ATOMIC_SEQ_CST) > 0
        || __atomic_load_n(&scb_uninstalling, __ATOMIC_SEQ_CST) == 0)
        return;
    scb_read_lock(scb_all_lock);
    for (scb_ctx *c = scb_all; c != NULL; c = c->next) {
        scb_write_lock(c->lock);
        scb_uninstall_if_idle(c);
        scb_unlock(c->lock);
    }
    scb_unlock(scb_all_lock);
}

/* ---- changes of settings ------------------------------------------------- */

/* Not a lock of pthreads: Go may end a change on another thread. */
void scb_settings_read(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);

    pthread_mutex_lock(&c->gate);
    while (c->changing)
        pthread_cond_wait(&c->passed, &c->gate);
    c->readers++;
    pthread_mutex_unlock(&c->gate);
}

void scb_settings_end_read(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);

    pthread_mutex_lock(&c->gate);
    if (--c->readers == 0 && c->changing)
        pthread_cond_broadcast(&c->passed);
    pthread_mutex_unlock(&c->gate);
}

void scb_settings_change(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);

    pthread_mutex_lock(&c->gate);
    c->changing = 1;
    while (c->readers > 0)
        pthread_cond_wait(&c->passed, &c->gate);
    pthread_mutex_unlock(&c->gate);
}

void scb_settings_end_change(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);

    pthread_mutex_lock(&c->gate);
    c->changing = 0;
    pthread_cond_broadcast(&c->passed);
    pthread_mutex_unlock(&c->gate);
}

/* ---- ex_data hooks ------------------------------------------------------- */

static void scb_ctx_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_ctx *c = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (c == NULL || scb_in_fork()) /* OpenSSL calls this for every SSL_CTX of the process (F8.3) */
        return;
    scbGoCtxFree(c->handle);
    scb_write_lock(scb_all_lock);
    *c->link = c->next;
    if (c->next != NULL)
        c->next->link = c->link;
    scb_unlock(scb_all_lock);
    if (c->to_uninstall != 0)
        __atomic_sub_fetch(&scb_uninstalling, 1, __ATOMIC_SEQ_CST);
    CRYPTO_THREAD_lock_free(c->lock);
    pthread_mutex_destroy(&c->gate);
    pthread_cond_destroy(&c->passed);
    OPENSSL_free(c->alpn);
    sk_X509_NAME_pop_free(c->ca_names, X509_NAME_free);
    X509_STORE_free(c->former_store);
    OPENSSL_free(c);
}

static void scb_made_by_c(scb_ctx *c)
{
    if (!scb_making)
        __atomic_or_fetch(&c->made, SCB_MADE_BY_C, __ATOMIC_SEQ_CST);
}

static void scb_ssl_new_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    SSL_CTX *ctx = SSL_get_SSL_CTX((SSL *)parent);
    scb_ctx *c = ctx == NULL ? &scb_unknown : SSL_CTX_get_ex_data(ctx, scb_ctx_idx);

    (void)ptr, (void)argl, (void)argp;
    if (c == NULL)
        return;
    if (!CRYPTO_set_ex_data(ad, idx, c)) {
        __atomic_store_n(&scb_lost, 1, __ATOMIC_SEQ_CST);
    } else if (c == &scb_unknown) {
        __atomic_add_fetch(&scb_unknowns, 1, __ATOMIC_SEQ_CST);
    } else {
        scb_made_by_c(c);
        scb_begin_use(c);
    }
}

static void scb_ssl_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_ctx *c = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (c == &scb_unknown)
        scb_end_unknown();
    else if (c != NULL)
        scb_end_use(c);
}

/* SSL_dup makes an SSL, which is counted, and then copies the pointer. */
static int scb_ssl_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx, long argl,
                          void *argp)
{
    (void)from, (void)argl, (void)argp;
    *(void **)from_d = CRYPTO_get_ex_data(to, idx);
    return 1;
}

int scb_slots_init(const scb_fn *trampolines)
{
    scb_trampolines = trampolines;
    scb_ctx_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, scb_ctx_free_cb);
    scb_ssl_ctx_idx = SSL_get_ex_new_index(0, NULL, scb_ssl_new_cb, scb_ssl_dup_cb, scb_ssl_free_cb);
    scb_all_lock = CRYPTO_THREAD_lock_new();
    return scb_ctx_idx > 0 && scb_ssl_ctx_idx > 0 && scb_all_lock != NULL;
}

/* ---- from an SSL or SSL_CTX to its Context ------------------------------- */

static void scb_ssl_settle(SSL *ssl, scb_ctx *c)
{
    int unknown = SSL_get_ex_data(ssl, scb_ssl_ctx_idx) != NULL;

    scb_begin_use(c); /* first: the SSL stays counted throughout */
    if (!SSL_set_ex_data(ssl, scb_ssl_ctx_idx, c)) /* a lost one is looked for each time */
        scb_end_use(c);
    if (unknown)
        scb_end_unknown();
}

/*
 * Finds the SSL_CTX that ssl was made with. SSL_new copies the SSL_CTX's argument
 * for record padding; scb_ctx_attach makes that a pointer to the scb_ctx, unless
 * C uses the argument. Without it the answer is the SSL_CTX that ssl has now,
 * which is another one after a switch.
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
    if (c != NULL) {
        scb_made_by_c(c);
        scb_ssl_settle(ssl, c);
    }
    return c;
}

scb_ctx *scb_ctx_of(SSL_CTX *ctx)
{
    return SSL_CTX_get_ex_data(ctx, scb_ctx_idx);
}

/* An SSL without a slot is older than the Context. Once one was lost that is not
 * certain, and none is served without the handlers of its SSL_CTX. */
scb_ctx *scb_ctx_of_ssl(SSL *ssl)
{
    scb_ctx *c = SSL_get_ex_data(ssl, scb_ssl_ctx_idx);

    if (c == &scb_unknown || (c == NULL && __atomic_load_n(&scb_lost, __ATOMIC_SEQ_CST)))
        return scb_ssl_find(ssl);
    return c;
}

SSL *scb_ssl_new(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);
    SSL *ssl;

    scb_making = 1;
    ssl = SSL_new(ctx);
    scb_making = 0;
    if (ssl == NULL || SSL_get_ex_data(ssl, scb_ssl_ctx_idx) == c)
        return ssl;
    scb_ssl_settle(ssl, c); /* the hook did not know the SSL_CTX, or had no memory */
    if (SSL_get_ex_data(ssl, scb_ssl_ctx_idx) == c)
        return ssl;
    SSL_free(ssl);
    return NULL;
}

int scb_ctx_made(SSL_CTX *ctx)
{
    int made = __atomic_load_n(&scb_ctx_of(ctx)->made, __ATOMIC_SEQ_CST);

    if (made == 0 && SSL_CTX_sess_accept(ctx) + SSL_CTX_sess_connect(ctx) > 0)
        made = SCB_MADE_BY_C;
    return made;
}

uint64_t scb_ctx_handle(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);

    return c == NULL ? 0 : c->handle;
}

uint64_t scb_ssl_current_handle(SSL *ssl)
{
    return scb_ctx_handle(SSL_get_SSL_CTX(ssl));
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

/* ---- giving an SSL_CTX a Context ----------------------------------------- */

void scb_ctx_attach(SSL_CTX *ctx)
{
    if (SSL_CTX_get_record_padding_callback_arg(ctx) == NULL)
        SSL_CTX_set_record_padding_callback_arg(ctx, scb_ctx_of(ctx)); /* see scb_ssl_find */
}

int scb_ctx_adopt(SSL_CTX *ctx, uint64_t ctx_handle, scb_errs **errs)
{
    scb_ctx *c = OPENSSL_zalloc(sizeof(*c));

    if (c != NULL) {
        c->handle = ctx_handle;
        c->ssl_ctx = ctx;
        c->lock = CRYPTO_THREAD_lock_new();
        pthread_mutex_init(&c->gate, NULL);
        pthread_cond_init(&c->passed, NULL);
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
