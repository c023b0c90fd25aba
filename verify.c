/*
 * verify.c: why the chain of a peer did not verify, and what a user's function
 * says about a connection.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/x509_vfy.h>

/* ---- certificates for Go ------------------------------------------------- */

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

size_t scb_encode_certs(X509 *leaf, STACK_OF(X509) *chain, unsigned char **out)
{
    size_t len = scb_put_certs(leaf, chain, NULL);

    *out = NULL;
    if (len > 0) {
        *out = OPENSSL_malloc(len);
        if (*out == NULL)
            len = 0;
        else
            scb_put_certs(leaf, chain, *out);
    }
    return len;
}

/* ---- why a chain did not verify ------------------------------------------ */

void scb_refusal_free(scb_refusal *r)
{
    if (r == NULL)
        return;
    OPENSSL_free(r->cert);
    OPENSSL_free(r->sent);
    OPENSSL_free(r);
}

static void scb_note_refusal(scb_conn *c, X509_STORE_CTX *chain)
{
    X509 *leaf = X509_STORE_CTX_get0_cert(chain);
    STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(chain);
    scb_refusal *r = OPENSSL_zalloc(sizeof(*r));

    if (r == NULL)
        return;
    r->code = X509_STORE_CTX_get_error(chain);
    r->depth = X509_STORE_CTX_get_error_depth(chain);
    r->cert_len = scb_encode_certs(X509_STORE_CTX_get_current_cert(chain), NULL, &r->cert);
    if (sk_X509_num(sent) > 0 && leaf != NULL && X509_cmp(sk_X509_value(sent, 0), leaf) == 0)
        leaf = NULL; /* it is the first of them */
    r->sent_len = scb_encode_certs(leaf, sent, &r->sent);
    scb_refusal_free(c->refusal);
    c->refusal = r;
}

const char *scb_verify_reason(long code)
{
    return X509_verify_cert_error_string(code);
}

static SSL *scb_chain_ssl(X509_STORE_CTX *chain)
{
    return X509_STORE_CTX_get_ex_data(chain, SSL_get_ex_data_X509_STORE_CTX_idx());
}

/* Asks the function that C has set, and notes why it, or OpenSSL, refuses. */
static int scb_verify_note_cb(int ok, X509_STORE_CTX *chain)
{
    SSL *ssl = scb_chain_ssl(chain);
    scb_conn *c = ssl == NULL ? NULL : scb_stepping_conn(ssl);

    if (c == NULL)
        return 0; /* nothing is known about C's function */
    if (!SSL_is_server(ssl))
        scb_session_keep_server(ssl, chain);
    if (c->verify != NULL)
        ok = c->verify(ok, chain);
    if (!ok)
        scb_note_refusal(c, chain);
    return ok;
}

/* Stands for no callback: SSL_set_verify ignores a NULL. */
static int scb_verify_plain_cb(int ok, X509_STORE_CTX *chain)
{
    (void)chain;
    return ok;
}

void scb_conn_hook_verify(scb_conn *c)
{
    c->verify = SSL_get_verify_callback(c->ssl);
    SSL_set_verify(c->ssl, SSL_get_verify_mode(c->ssl), scb_verify_note_cb);
}

void scb_ssl_set_verify(SSL *ssl, int mode, SSL_verify_cb verify)
{
    scb_conn *c = scb_stepping_conn(ssl);

    if (c != NULL) {
        c->verify = verify;
        verify = scb_verify_note_cb;
    }
    SSL_set_verify(ssl, mode, verify != NULL ? verify : scb_verify_plain_cb);
}

/* ---- what a user's function says ----------------------------------------- */

/* Before a TLS 1.3 server has the client's certificate it has sent its own flight,
 * and only OpenSSL can make an alert from then on. All other handshakes are
 * judged by Go after a step, see scb_conn_settled. */
static int scb_verify_chain_cb(X509_STORE_CTX *chain, void *arg)
{
    SSL *ssl = scb_chain_ssl(chain);
    scb_conn *c = ssl == NULL ? NULL : scb_stepping_conn(ssl);
    int ok = X509_verify_cert(chain);

    (void)arg;
    if (ok <= 0 || c == NULL || !SSL_is_server(ssl) || SSL_version(ssl) != TLS1_3_VERSION)
        return ok;
    c->chain = chain;
    ok = scbGoVerifyConnection(c->handle);
    c->chain = NULL;
    if (!ok)
        X509_STORE_CTX_set_error(chain, X509_V_ERR_CERT_REJECTED); /* the alert is bad_certificate */
    return ok;
}

void scb_ctx_hook_verify(SSL_CTX *ctx)
{
    SSL_CTX_set_cert_verify_callback(ctx, scb_verify_chain_cb, NULL);
}

/* OpenSSL makes our Finished when nothing but the peer's answer is missing, and
 * on a server that asks for a certificate in TLS 1.3 that too. */
int scb_conn_settled(scb_conn *c)
{
    int mode = SSL_get_verify_mode(c->ssl);
    char none[1];

    if (SSL_is_init_finished(c->ssl))
        return 1;
    if (SSL_get_finished(c->ssl, none, 0) == 0)
        return 0;
    return !SSL_is_server(c->ssl) || SSL_version(c->ssl) != TLS1_3_VERSION || SSL_session_reused(c->ssl)
           || !(mode & SSL_VERIFY_PEER) || (mode & SSL_VERIFY_POST_HANDSHAKE);
}

int scb_conn_takes_plain_alert(scb_conn *c)
{
    return !SSL_is_server(c->ssl) || SSL_version(c->ssl) != TLS1_3_VERSION || !SSL_is_init_finished(c->ssl);
}

void scb_conn_drop_spill(scb_conn *c)
{
    OPENSSL_clear_free(c->spill, c->spill_cap);
    c->spill = NULL;
    c->spill_len = c->spill_cap = 0;
}
