/*
 * cert_callbacks.c: what the callbacks that choose a certificate are told, and
 * the trampoline of clients. Servers are asked in the ClientHello hook.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/tls1.h>
#include <openssl/x509.h>

/* ---- servers --------------------------------------------------------------- */

scb_hello_lists scb_hello_read(SSL *ssl)
{
    scb_hello_lists l;

    memset(&l, 0, sizeof(l));
    l.legacy_version = SSL_client_hello_get0_legacy_version(ssl);
    l.ciphers_len = SSL_client_hello_get0_ciphers(ssl, &l.ciphers);
#ifdef SCB_HAVE_V2_HELLO
    if (SSL_client_hello_isv2(ssl)) /* which has three bytes for each cipher */
        l.ciphers_len = 0;
#endif
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &l.versions, &l.versions_len))
        l.versions = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_signature_algorithms, &l.sigalgs, &l.sigalgs_len))
        l.sigalgs = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &l.alpn, &l.alpn_len))
        l.alpn = NULL;
    return l;
}

int scb_ssl_set_id_context(SSL *ssl, const unsigned char *sid, unsigned int len)
{
    int ok = SSL_set_session_id_context(ssl, sid, len);

    scb_clear_errs();
    return ok ? SCB_OK : SCB_FAIL;
}

/* ---- clients --------------------------------------------------------------- */

static int scb_client_cert_cb(SSL *ssl, void *arg)
{
    (void)arg;
    if (!scb_may_call_go())
        return SCB_CHOSEN_FAIL;
    return scbGoClientCertificate(scb_ssl_ctx_handle(ssl), scb_ssl_conn_handle(ssl), ssl);
}

void scb_ctx_hook_client_cert(SSL_CTX *ctx, int on)
{
    SSL_CTX_set_cert_cb(ctx, on ? scb_client_cert_cb : NULL, NULL);
}

static size_t scb_put_name(X509_NAME *name, unsigned char *out)
{
    int len = i2d_X509_NAME(name, NULL);

    if (len <= 0)
        return 0;
    if (out != NULL) {
        for (int i = 0; i < 4; i++)
            *out++ = (unsigned char)(len >> (24 - 8 * i));
        i2d_X509_NAME(name, &out);
    }
    return 4 + (size_t)len;
}

size_t scb_ssl_ca_names(SSL *ssl, unsigned char **out)
{
    const STACK_OF(X509_NAME) *names = SSL_get0_peer_CA_list(ssl);
    size_t len = 0, put = 0;

    *out = NULL;
    for (int i = 0; i < sk_X509_NAME_num(names); i++)
        len += scb_put_name(sk_X509_NAME_value(names, i), NULL);
    if (len == 0 || (*out = OPENSSL_malloc(len)) == NULL)
        return 0;
    for (int i = 0; i < sk_X509_NAME_num(names); i++)
        put += scb_put_name(sk_X509_NAME_value(names, i), *out + put);
    return len;
}

int scb_ssl_peer_sigalgs(SSL *ssl)
{
    return SSL_get_sigalgs(ssl, -1, NULL, NULL, NULL, NULL, NULL);
}

uint16_t scb_ssl_peer_sigalg(SSL *ssl, int i)
{
    unsigned char low = 0, high = 0;

    SSL_get_sigalgs(ssl, i, NULL, NULL, NULL, &low, &high);
    return (uint16_t)(high << 8 | low);
}
