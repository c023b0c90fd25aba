/*
 * sess_callbacks.c: the trampolines that OpenSSL calls, and setting, detaching
 * and calling callbacks.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/err.h>
#include <openssl/rand.h>

/* ---- the trampolines ----------------------------------------------------- */

/*
 * Each leaves the error queue as it found it, most by a mark to which it pops:
 * on 1.1.1 to 3.5 an entry that a handler leaves behind fails a good handshake.
 * Where Go cannot run each answers as OpenSSL does without a callback.
 */
static int scb_sess_new_cb(SSL *ssl, SSL_SESSION *sess)
{
    scb_ctx *c;
    int keep;

    if (!scb_may_call_go() || (c = scb_ctx_of_ssl(ssl)) == NULL)
        return 0;
    ERR_set_mark();
    /* A session that is in the internal cache may be in use elsewhere already. */
    if (SSL_is_server(ssl) && SSL_CTX_get_session_cache_mode(c->ssl_ctx) & SSL_SESS_CACHE_NO_INTERNAL_STORE)
        scb_session_keep(ssl, sess, NULL);
    keep = scbGoSessNew(c->handle, scb_ssl_conn_handle(ssl), ssl, sess);
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
    /* Go has dealt with the handler's flag: sess comes with one reference. */
    *copy = 0;
    return sess;
}

/* OpenSSL calls it in the middle of failures, whose reasons are in the queue. A
 * mark would not protect them from a handler that clears the queue. */
static void scb_sess_remove_cb(SSL_CTX *ctx, SSL_SESSION *sess)
{
    scb_errs *held = NULL;
    scb_removal r;

    if (!scb_may_call_go())
        return;
    scb_begin_removal(&r, ctx, sess);
    if (ERR_peek_error() != 0)
        scb_take_errs(&held);
    scbGoSessRemove(scb_ctx_handle(ctx), scb_stepping_handle(), ctx, sess);
    scb_clear_errs();
    if (held != NULL) {
        scb_put_errs(held);
        scb_errs_free(held);
    }
    scb_end_removal(&r);
}

static void scb_keylog_cb(const SSL *ssl, const char *line)
{
    if (scb_may_call_go())
        scbGoKeyLog(scb_ssl_ctx_handle((SSL *)ssl), scb_ssl_conn_handle((SSL *)ssl), (char *)line);
}

static int scb_generate_id_cb(SSL *ssl, unsigned char *id, unsigned int *len)
{
    if (!scb_may_call_go())
        return scb_random(SSL_get_SSL_CTX(ssl), id, *len);
    return scbGoGenerateID(scb_ssl_ctx_handle(ssl), (unsigned char *)scb_origin_of(ssl), id, len);
}

int scb_init(void)
{
    static const scb_fn trampolines[SCB_KINDS] = {
        [SCB_SESS_NEW] = { .new_cb = scb_sess_new_cb },
        [SCB_SESS_GET] = { .get_cb = scb_sess_get_cb },
        [SCB_SESS_REMOVE] = { .remove_cb = scb_sess_remove_cb },
        [SCB_KEYLOG] = { .keylog_cb = scb_keylog_cb },
    };

    return scb_slots_init(trampolines);
}

/* ---- setting and detaching ----------------------------------------------- */

void scb_set_callback(SSL_CTX *ctx, int which, int on)
{
    scb_ctx *c = scb_ctx_of(ctx);
    void *fn;

    scb_write_lock(c->lock);
    if (on) {
        scb_keep_installed(c, which);
        scb_install(c, which);
    } else if (scb_installed(ctx, which, &fn) != SCB_INSTALLED_NONE) {
        /* A running handshake tests the pointer and then reads it again to call
         * it (F4.2), so the pointer becomes NULL only while no SSL exists. Until
         * then the trampoline answers as OpenSSL does without a callback. It
         * also replaces a function that C has installed. */
        scb_install(c, which);
        scb_uninstall_when_idle(c, which);
    }
    scb_unlock(c->lock);
}

void scb_ctx_detach(SSL_CTX *ctx)
{
    scb_ctx *c = scb_ctx_of(ctx);
    void *fn;

    scb_write_lock(c->lock);
    for (int which = 0; which < SCB_KINDS; which++) {
        if (scb_changed_by_c(c, which, &fn))
            continue;
        if (c->before[which].p == NULL) {
            if (fn != NULL)
                scb_uninstall_when_idle(c, which);
        } else {
            /* C's function replaces ours directly. A handshake that has already
             * tested the pointer may call either; both are valid. */
            scb_keep_installed(c, which);
            scb_set_fn(ctx, which, c->before[which]);
            c->before[which].p = NULL;
        }
    }
    c->uninstalled = 0;
    if (SSL_CTX_get_record_padding_callback_arg(ctx) == c)
        SSL_CTX_set_record_padding_callback_arg(ctx, NULL);
    scb_unlock(c->lock);
}

/* OpenSSL has no getter for the generator, so scb_set_callback, which keeps the
 * function that C had installed, cannot deal with it. */
void scb_ctx_hook_ids(SSL_CTX *ctx, int on)
{
    SSL_CTX_set_generate_session_id(ctx, on ? scb_generate_id_cb : NULL);
}

/* A handler cannot know the name that its answer would resume under, nor which
 * certificates this SSL accepts. */
int scb_sess_resumes(SSL *ssl, SSL_SESSION *sess)
{
    return scb_name_resumes(ssl, sess) && scb_peer_resumes(ssl, sess);
}

/* ---- calling callbacks that C has installed ------------------------------ */

int scb_sess_call_new(void *fn, SSL *ssl, SSL_SESSION *sess)
{
    scb_fn f;

    f.p = fn;
    return f.new_cb(ssl, sess);
}

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
