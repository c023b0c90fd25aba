/*
 * ssl_io.c: one C call per I/O step. The caller lends input and output for the
 * call. Result, SSL_get_error and the error queue come back together, so Go need
 * not stay on one thread between them.
 */
#include "bridge.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

/* ---- a flat BIO over the buffers of the step ----------------------------- */

static int scb_bio_read_cb(BIO *b, char *buf, int len)
{
    scb_conn *c = BIO_get_data(b);
    size_t n = len < 0 ? 0 : (size_t)len;

    BIO_clear_retry_flags(b);
    if (c == NULL || c->in_len == 0) {
        /* Go reports the end of the stream. If OpenSSL learnt of it, it would
         * remove the session. */
        BIO_set_retry_read(b);
        return -1;
    }
    if (n > c->in_len)
        n = c->in_len;
    memcpy(buf, c->in, n);
    c->in += n;
    c->in_len -= n;
    return (int)n;
}

/* Takes all output: the part that does not fit is spilt. So no SSL_write ever
 * has to be repeated with the same arguments. */
static int scb_bio_write_cb(BIO *b, const char *buf, int len)
{
    scb_conn *c = BIO_get_data(b);
    size_t n = len < 0 ? 0 : (size_t)len, fits;

    BIO_clear_retry_flags(b);
    if (c == NULL)
        return -1;
    fits = c->spill_len > 0 ? 0 : c->out_cap - c->out_len;
    if (fits > n)
        fits = n;
    if (fits > 0) {
        memcpy(c->out + c->out_len, buf, fits);
        c->out_len += fits;
    }
    if (n > fits) {
        size_t need = c->spill_len + (n - fits);

        if (need > c->spill_cap) {
            unsigned char *grown = OPENSSL_realloc(c->spill, need * 2);

            if (grown == NULL)
                return -1;
            c->spill = grown;
            c->spill_cap = need * 2;
        }
        memcpy(c->spill + c->spill_len, buf + fits, n - fits);
        c->spill_len = need;
    }
    return len;
}

static long scb_bio_ctrl_cb(BIO *b, int cmd, long num, void *ptr)
{
    (void)b, (void)num, (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

static int scb_bio_create_cb(BIO *b)
{
    BIO_set_init(b, 1);
    return 1;
}

static CRYPTO_ONCE scb_bio_once = CRYPTO_ONCE_STATIC_INIT;
static BIO_METHOD *scb_bio_method;

static void scb_bio_init(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "libssl");

    if (m == NULL)
        return;
    BIO_meth_set_read(m, scb_bio_read_cb);
    BIO_meth_set_write(m, scb_bio_write_cb);
    BIO_meth_set_ctrl(m, scb_bio_ctrl_cb);
    BIO_meth_set_create(m, scb_bio_create_cb);
    scb_bio_method = m;
}

/* ---- connections --------------------------------------------------------- */

static int scb_conn_expect_name(SSL *ssl, const char *name, int kind)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (kind == SCB_NAME_IP)
        return X509_VERIFY_PARAM_set1_ip_asc(param, name);
    if (kind != SCB_NAME_DNS)
        return 1;
    X509_VERIFY_PARAM_set_hostflags(param, SCB_HOST_FLAGS);
    /* From 4.0 on OpenSSL refuses an invalid host name here, before it can fail
     * to match. A client that does not verify may use one. */
    if (!X509_VERIFY_PARAM_set1_host(param, name, 0) && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
        return 0;
    return SSL_set_tlsext_host_name(ssl, name);
}

/* SSL_free runs the ex_data hook first and gives up a broken connection's
 * session afterwards. The SSL_CTX stays in use until that is over. */
static void scb_ssl_free(SSL *ssl)
{
    scb_ctx *c = scb_ctx_of_ssl(ssl);
    SSL_CTX *ctx;

    if (c == NULL) {
        SSL_free(ssl);
        return;
    }
    ctx = c->ssl_ctx;
    SSL_CTX_up_ref(ctx);
    scb_begin_use(c);
    SSL_free(ssl);
    scb_end_use(c);
    SSL_CTX_free(ctx);
}

scb_made scb_conn_new(SSL_CTX *ctx, uint64_t conn_handle, int client, const char *name, int name_kind)
{
    scb_made made = { NULL, NULL };
    scb_conn *c;
    BIO *bio = NULL;
    int set;

    scb_clear_errs();
    c = OPENSSL_zalloc(sizeof(*c));
    if (c == NULL || !CRYPTO_THREAD_run_once(&scb_bio_once, scb_bio_init) || scb_bio_method == NULL)
        goto fail;
    c->handle = conn_handle;
    c->ssl = scb_ssl_new(ctx);
    set = c->ssl == NULL ? 0 : scb_ssl_use_set(c->ssl, ctx);
    if (!set || !scb_ctx_serve(ctx, c->ssl))
        goto fail;
    c->signs = set == SCB_USES_SIGNER;
    bio = BIO_new(scb_bio_method);
    if (bio == NULL)
        goto fail;
    BIO_set_data(bio, c);
    SSL_set_bio(c->ssl, bio, bio);
    /* Not on the SSL_CTX: SSLs that C makes keep its mode. */
    SSL_set_mode(c->ssl, SSL_MODE_AUTO_RETRY | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Go cannot run on the stack of an ASYNC job, and may resume it on another
     * thread (SEMANTICS F6.8). */
    SSL_clear_mode(c->ssl, SSL_MODE_ASYNC);
    if (client) {
        SSL_set_connect_state(c->ssl);
        if (!scb_conn_expect_name(c->ssl, name, name_kind))
            goto fail;
    } else {
        SSL_set_accept_state(c->ssl);
    }
    scb_conn_hook_verify(c);
    made.conn = c;
    return made;

fail:
    scb_take_errs(&made.errs);
    if (c != NULL)
        SSL_free(c->ssl);
    OPENSSL_free(c);
    scb_clear_errs();
    return made;
}

void scb_conn_free(scb_conn *c, int abort)
{
    SSL_CTX *outer = scb_begin_call(NULL);

    scb_clear_errs();
    /* SSL_free removes the session, for the whole fleet, unless a close_notify
     * was sent (SEMANTICS F3.1). */
    if (!abort)
        SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    scb_ssl_free(c->ssl);
    scb_end_call(outer);
    sk_X509_pop_free(c->sent, X509_free);
    sk_X509_pop_free(c->verified, X509_free);
    OPENSSL_clear_free(c->spill, c->spill_cap);
    scb_errs_free(c->errs);
    scb_refusal_free(c->refusal);
    OPENSSL_free(c);
    scb_clear_errs();
}

static int scb_read(scb_conn *c, unsigned char *buf, size_t len)
{
    size_t got;
    int ret;

    do {
        ret = SSL_read_ex(c->ssl, buf + c->n, len - c->n, &got);
        if (ret <= 0)
            return ret;
        c->n += got;
        /* Reads every record that has arrived, and makes no call that would only
         * report that there is none. */
    } while (c->n < len && (c->in_len > 0 || SSL_pending(c->ssl) > 0));
    return ret;
}

static void scb_drain(scb_conn *c)
{
    size_t n = c->out_cap - c->out_len;

    if (n > c->spill_len)
        n = c->spill_len;
    memcpy(c->out + c->out_len, c->spill, n);
    c->out_len += n;
    c->spill_len -= n;
    memmove(c->spill, c->spill + n, c->spill_len);
    if (c->spill_len == 0) {
        OPENSSL_free(c->spill);
        c->spill = NULL;
        c->spill_cap = 0;
    }
}

static int scb_do_op(scb_conn *c, int op, unsigned char *buf, size_t len)
{
    int ret = 1; /* SCB_OP_DRAIN: scb_step has done it */

    switch (op) {
    case SCB_OP_HANDSHAKE:
        ret = SSL_do_handshake(c->ssl);
        c->reused = SSL_session_reused(c->ssl);
        break;
    case SCB_OP_READ_EARLY:
        c->early = SSL_read_early_data(c->ssl, buf, len, &c->n);
        ret = c->early != SSL_READ_EARLY_DATA_ERROR;
        c->reused = SSL_session_reused(c->ssl);
        break;
    case SCB_OP_WRITE_EARLY:
        ret = SSL_write_early_data(c->ssl, buf, len, &c->n);
        c->early_sent += (uint32_t)c->n;
        break;
    case SCB_OP_READ:
        ret = scb_read(c, buf, len);
        c->starved = c->in_len == 0 && SSL_pending(c->ssl) == 0;
        break;
    case SCB_OP_WRITE:
        ret = SSL_write_ex(c->ssl, buf, len, &c->n);
        break;
    case SCB_OP_SHUTDOWN:
        ret = SSL_shutdown(c->ssl) < 0 ? -1 : 1;
        break;
    }
    return ret;
}

/* Takes the error queue. The entry of a failed verification gets the reason. */
static void scb_step_failed(scb_conn *c, int ret)
{
    long verify;

    c->err = SSL_get_error(c->ssl, ret);
    if (c->err != SSL_ERROR_SSL && c->err != SSL_ERROR_SYSCALL)
        return;
    verify = SSL_get_verify_result(c->ssl);
    scb_take_errs(&c->errs);
    if (verify == X509_V_OK || c->errs == NULL)
        return;
    for (int i = 0; i < c->errs->n; i++) {
        scb_err *e = &c->errs->e[i];

        if (ERR_GET_REASON(e->code) == SSL_R_CERTIFICATE_VERIFY_FAILED && ERR_GET_LIB(e->code) == ERR_LIB_SSL) {
            OPENSSL_strlcpy(e->data, X509_verify_cert_error_string(verify), sizeof(e->data));
            c->refused = verify;
        }
    }
}

void scb_step(scb_conn *c, int op, unsigned char *buf, size_t len, const unsigned char *in, size_t in_len,
              unsigned char *out, size_t out_cap)
{
    SSL_CTX *outer = scb_begin_call(NULL);
    int ret;

    scb_begin_step(c);
    c->in = in;
    c->in_len = in_len;
    c->out = out;
    c->out_cap = out_cap;
    c->out_len = 0;
    c->n = 0;
    c->err = SSL_ERROR_NONE;
    c->refused = X509_V_OK;
    if (c->spill_len > 0)
        scb_drain(c);
    scb_clear_errs();
    ret = scb_do_op(c, op, buf, len);
    if (ret <= 0)
        scb_step_failed(c, ret);
    scb_clear_errs();
    c->in = NULL;
    c->out = NULL;
    scb_end_call(outer);
    scb_end_step(c);
}
