/*
 * alpn.c: the protocols that a context offers, and a server's choice among a
 * client's.
 */
#include "bridge.h"

#include <openssl/crypto.h>

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
            /* chosen may point into our list, which a setter may replace: the
             * answer points into the client's. */
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

int scb_ctx_set_alpn(SSL_CTX *ctx, const unsigned char *wire, size_t len)
{
    scb_ctx *c = scb_ctx_of(ctx);
    unsigned char *copy = len == 0 ? NULL : OPENSSL_memdup(wire, len);

    /* SSL_CTX_set_alpn_protos returns 0 on success. */
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

/* A list that is empty is no list. */
size_t scb_ctx_alpn(SSL_CTX *ctx, unsigned char **copy)
{
    scb_ctx *c = scb_ctx_of(ctx);
    size_t len = 0;

    scb_read_lock(c->lock);
    *copy = c->alpn_len == 0 ? NULL : OPENSSL_memdup(c->alpn, c->alpn_len);
    if (*copy != NULL)
        len = c->alpn_len;
    scb_unlock(c->lock);
    return len;
}

int scb_conn_set_alpn(scb_conn *c, const unsigned char *wire, unsigned int len)
{
    int failed = SSL_set_alpn_protos(c->ssl, wire, len);

    scb_clear_errs();
    return failed ? SCB_FAIL : SCB_OK;
}
