/*
 * ssl_io.c: one C call per I/O step. The caller lends input and output for the
 * call; operation, SSL_get_error and the error queue come back together, so
 * that nobody has to hold a thread between them.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

/* The steps running on this thread, innermost first, for handlers that call
 * back into their own connection. */
static __thread scb_conn *scb_stepping;

/* ---- a flat BIO over the buffers of the step ------------------------------- */

static int scb_bio_read_cb(BIO *b, char *buf, int len)
{
    scb_conn *c = BIO_get_data(b);
    size_t n = len < 0 ? 0 : (size_t)len;

    BIO_clear_retry_flags(b);
    if (c == NULL || c->in_len == 0) {
        /* The end of the stream is Go's to report: told to OpenSSL, it would
         * cost the peer its session. */
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

/* Never refuses: what does not fit is spilt, so no SSL_write ever has to be
 * repeated with the same arguments. */
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

/* ---- connections ----------------------------------------------------------- */

static int scb_conn_expect_name(SSL *ssl, const char *name, int kind)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (kind == SCB_NAME_IP)
        return X509_VERIFY_PARAM_set1_ip_asc(param, name);
    if (kind != SCB_NAME_DNS)
        return 1;
    /* As crypto/tls: whole-label wildcards only, and never the common name. */
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    /* From 4.0 on what is no host name is refused here, before it can fail to
     * match; that is nothing to a client that verifies nothing. */
    if (!X509_VERIFY_PARAM_set1_host(param, name, 0) && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
        return 0;
    return SSL_set_tlsext_host_name(ssl, name);
}

scb_made scb_conn_new(SSL_CTX *ctx, uint64_t handle, int client, const char *name, int name_kind)
{
    scb_made made = { NULL, NULL };
    scb_conn *c;
    BIO *bio = NULL;

    scb_clear_errs();
    c = OPENSSL_zalloc(sizeof(*c));
    if (c == NULL || !CRYPTO_THREAD_run_once(&scb_bio_once, scb_bio_init) || scb_bio_method == NULL)
        goto fail;
    c->handle = handle;
    c->ssl = scb_ssl_new(ctx);
    if (c->ssl == NULL)
        goto fail;
    bio = BIO_new(scb_bio_method);
    if (bio == NULL)
        goto fail;
    BIO_set_data(bio, c);
    SSL_set_bio(c->ssl, bio, bio);
    /* Not on the SSL_CTX: its own SSLs may have other habits. */
    SSL_set_mode(c->ssl, SSL_MODE_AUTO_RETRY | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Go cannot run on the stack of a job, nor promise it the same thread again
     * (SEMANTICS F6.8). */
    SSL_clear_mode(c->ssl, SSL_MODE_ASYNC);
    if (client) {
        SSL_set_connect_state(c->ssl);
        if (!scb_conn_expect_name(c->ssl, name, name_kind))
            goto fail;
    } else {
        SSL_set_accept_state(c->ssl);
    }
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
    SSL_CTX *outer = scb_enter(NULL);

    scb_clear_errs();
    /* Without a close_notify sent, SSL_free takes the session away from the
     * whole fleet (SEMANTICS F3.1). */
    if (!abort)
        SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    scb_ssl_free(c->ssl);
    scb_leave(outer);
    OPENSSL_clear_free(c->spill, c->spill_cap);
    scb_errs_free(c->errs);
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
        /* Every record that is already here, but no call just to hear that
         * there is none. */
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

void scb_step(scb_conn *c, int op, unsigned char *buf, size_t len, const unsigned char *in, size_t in_len,
              unsigned char *out, size_t out_cap)
{
    SSL_CTX *outer = scb_enter(NULL);
    int ret = 1;

    c->outer = scb_stepping;
    scb_stepping = c;
    c->in = in;
    c->in_len = in_len;
    c->out = out;
    c->out_cap = out_cap;
    c->out_len = 0;
    c->n = 0;
    c->err = SSL_ERROR_NONE;
    if (c->spill_len > 0)
        scb_drain(c);
    scb_clear_errs();
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
    if (ret <= 0) {
        c->err = SSL_get_error(c->ssl, ret);
        if (c->err == SSL_ERROR_SSL || c->err == SSL_ERROR_SYSCALL) {
            long verify = SSL_get_verify_result(c->ssl);

            scb_take_errs(&c->errs);
            if (verify != X509_V_OK && c->errs != NULL)
                for (int i = 0; i < c->errs->n; i++)
                    if (ERR_GET_REASON(c->errs->e[i].code) == SSL_R_CERTIFICATE_VERIFY_FAILED
                        && ERR_GET_LIB(c->errs->e[i].code) == ERR_LIB_SSL)
                        OPENSSL_strlcpy(c->errs->e[i].data, X509_verify_cert_error_string(verify),
                                        sizeof(c->errs->e[i].data));
        }
    }
    scb_clear_errs();
    c->in = NULL;
    c->out = NULL;
    scb_leave(outer);
    scb_stepping = c->outer;
}

int scb_conn_stepping(scb_conn *c)
{
    for (scb_conn *s = scb_stepping; s != NULL; s = s->outer)
        if (s == c)
            return 1;
    return 0;
}

void scb_abandon_steps(void)
{
    scb_stepping = NULL;
}

/* An ex_data slot would say the same, later: all callbacks of a connection come
 * inside one of its steps. */
uint64_t scb_ssl_conn_handle(SSL *ssl)
{
    for (scb_conn *s = scb_stepping; s != NULL; s = s->outer)
        if (s->ssl == ssl)
            return s->handle;
    return 0;
}

uint64_t scb_stepping_handle(void)
{
    return scb_stepping == NULL ? 0 : scb_stepping->handle;
}

/* ---- what a connection knows ------------------------------------------------- */

scb_conn_info scb_conn_get_info(scb_conn *c)
{
    scb_conn_info info;
    const SSL_CIPHER *cipher = SSL_get_current_cipher(c->ssl);

    memset(&info, 0, sizeof(info));
    info.server_name = SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name);
    SSL_get0_alpn_selected(c->ssl, &info.alpn, &info.alpn_len);
    info.version = (uint16_t)SSL_version(c->ssl);
    info.cipher = cipher == NULL ? 0 : SSL_CIPHER_get_protocol_id(cipher);
    info.reused = SSL_session_reused(c->ssl);
#ifdef SCB_HAVE_NEGOTIATED_GROUP
    switch (SSL_get_negotiated_group(c->ssl)) {
    case NID_X9_62_prime256v1: info.group = 23; break;
    case NID_secp384r1: info.group = 24; break;
    case NID_secp521r1: info.group = 25; break;
    case NID_X25519: info.group = 29; break;
    default:
        /* Groups without a NID come as TLSEXT_nid_unknown and their number. */
        if (SSL_get_negotiated_group(c->ssl) & TLSEXT_nid_unknown)
            info.group = (uint16_t)SSL_get_negotiated_group(c->ssl);
    }
#endif
    scb_clear_errs();
    return info;
}

static size_t scb_put_cert(X509 *x, unsigned char *out)
{
    int len = i2d_X509(x, NULL);

    if (len <= 0)
        return 0;
    if (out != NULL) {
        out[0] = (unsigned char)(len >> 24);
        out[1] = (unsigned char)(len >> 16);
        out[2] = (unsigned char)(len >> 8);
        out[3] = (unsigned char)len;
        out += 4;
        i2d_X509(x, &out);
    }
    return 4 + (size_t)len;
}

static size_t scb_put_certs(X509 *leaf, STACK_OF(X509) *chain, unsigned char *out)
{
    size_t len = 0;

    if (leaf != NULL)
        len = scb_put_cert(leaf, out);
    for (int i = 0; i < sk_X509_num(chain); i++)
        len += scb_put_cert(sk_X509_value(chain, i), out == NULL ? NULL : out + len);
    return len;
}

size_t scb_conn_certs(scb_conn *c, int which, unsigned char **out)
{
    STACK_OF(X509) *chain;
    X509 *leaf = NULL;
    size_t len;

    if (which == SCB_CERTS_VERIFIED) {
        /* A client looks for a chain even where it is told not to insist. */
        chain = (SSL_get_verify_mode(c->ssl) & SSL_VERIFY_PEER) && SSL_get_verify_result(c->ssl) == X509_V_OK
                    ? SSL_get0_verified_chain(c->ssl) : NULL;
    } else {
        chain = SSL_get_peer_cert_chain(c->ssl);
        /* The chain has the leaf on the client only, and nothing has it after
         * a resumption but the session. */
        if (SSL_is_server(c->ssl) || sk_X509_num(chain) <= 0)
#ifdef SCB_HAVE_GET1_PEER_CERT
            leaf = SSL_get1_peer_certificate(c->ssl);
#else
            leaf = SSL_get_peer_certificate(c->ssl);
#endif
    }
    *out = NULL;
    len = scb_put_certs(leaf, chain, NULL);
    if (len > 0) {
        *out = OPENSSL_malloc(len);
        if (*out == NULL)
            len = 0;
        else
            scb_put_certs(leaf, chain, *out);
    }
    X509_free(leaf);
    scb_clear_errs();
    return len;
}

SSL_SESSION *scb_conn_get1_session(scb_conn *c)
{
    return SSL_get1_session(c->ssl);
}

int scb_conn_set_session(scb_conn *c, SSL_SESSION *s)
{
    int ret;

    scb_clear_errs();
    c->err = SSL_ERROR_NONE;
    ret = SSL_set_session(c->ssl, s);
    if (ret <= 0)
        scb_take_errs(&c->errs);
    scb_clear_errs();
    return ret > 0 ? SCB_OK : SCB_FAIL;
}

uint32_t scb_conn_early_limit(scb_conn *c)
{
    SSL_SESSION *s = SSL_get0_session(c->ssl);

    return s == NULL ? 0 : SSL_SESSION_get_max_early_data(s);
}

int scb_conn_early_accepted(scb_conn *c)
{
    return SSL_get_early_data_status(c->ssl) == SSL_EARLY_DATA_ACCEPTED;
}
