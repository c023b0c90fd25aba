/*
 * ssl_state.c: reading the state of an SSL, and the session that it offers.
 */
#include "bridge.h"


/* ---- SSLs of handlers ---------------------------------------------------- */

const char *scb_ssl_servername(SSL *ssl)
{
    /* There OpenSSL would say the name of the session. */
    if (SSL_is_server(ssl) && SSL_session_reused(ssl) && SSL_version(ssl) < TLS1_3_VERSION && scb_name_of(ssl) != NULL)
        return scb_name_of(ssl);
    return SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
}

int scb_ssl_version(SSL *ssl)
{
    return SSL_version(ssl);
}

uint64_t scb_ssl_options(SSL *ssl)
{
    return SSL_get_options(ssl);
}

int scb_ssl_reused(SSL *ssl)
{
    return SSL_session_reused(ssl);
}

int scb_ssl_served(SSL *ssl)
{
    return SSL_is_server(ssl) && SSL_is_init_finished(ssl);
}

/* ---- SSLs of connections ------------------------------------------------- */

/* The number of the group in TLS, 0 if none is known. */
static uint16_t scb_ssl_group(SSL *ssl)
{
#ifdef SCB_HAVE_NEGOTIATED_GROUP
    long nid;

    if (SSL_get0_session(ssl) == NULL) /* before a server chooses one SSL_get_negotiated_group follows the pointer */
        return 0;
    nid = SSL_get_negotiated_group(ssl);
    switch (nid) {
    case NID_X9_62_prime256v1: return 23;
    case NID_secp384r1: return 24;
    case NID_secp521r1: return 25;
    case NID_X25519: return 29;
    }
    if (nid & TLSEXT_nid_unknown) /* a group without a NID: its number is in the lower bits */
        return (uint16_t)nid;
#else
    (void)ssl;
#endif
    return 0;
}

scb_conn_info scb_conn_get_info(scb_conn *c)
{
    scb_conn_info info;
    const SSL_CIPHER *cipher = SSL_get_current_cipher(c->ssl);

    memset(&info, 0, sizeof(info));
    info.server_name = scb_ssl_servername(c->ssl);
    SSL_get0_alpn_selected(c->ssl, &info.alpn, &info.alpn_len);
    info.version = (uint16_t)SSL_version(c->ssl);
    info.cipher = cipher == NULL ? 0 : SSL_CIPHER_get_protocol_id(cipher);
    info.reused = SSL_session_reused(c->ssl);
    info.group = scb_ssl_group(c->ssl);
    scb_clear_errs();
    return info;
}

size_t scb_conn_certs(scb_conn *c, int which, unsigned char **out)
{
    STACK_OF(X509) *chain;
    X509 *leaf = NULL;
    size_t len;
    int without_leaf;

    if (c->chain != NULL) { /* the SSL has it later */
        if (which == SCB_CERTS_PEER)
            chain = X509_STORE_CTX_get0_untrusted(c->chain);
        else
            chain = X509_STORE_CTX_get_error(c->chain) == X509_V_OK ? X509_STORE_CTX_get0_chain(c->chain) : NULL;
    } else if (which == SCB_CERTS_VERIFIED) {
        /* A client builds a chain even if it does not verify the peer. */
        chain = SSL_get0_verified_chain(c->ssl);
        if (!(SSL_get_verify_mode(c->ssl) & SSL_VERIFY_PEER) || SSL_get_verify_result(c->ssl) != X509_V_OK)
            chain = NULL;
        else if (chain == NULL && SSL_session_reused(c->ssl))
            chain = scb_peer_verified(c);
    } else {
        chain = SSL_get_peer_cert_chain(c->ssl);
        without_leaf = SSL_is_server(c->ssl) || chain == NULL;
        if (chain == NULL && SSL_session_reused(c->ssl))
            chain = scb_peer_sent(c);
        if (without_leaf)
#ifdef SCB_HAVE_GET1_PEER_CERT
            leaf = SSL_get1_peer_certificate(c->ssl);
#else
            leaf = SSL_get_peer_certificate(c->ssl);
#endif
    }
    len = scb_encode_certs(leaf, chain, out);
    X509_free(leaf);
    scb_clear_errs();
    return len;
}

SSL_SESSION *scb_conn_get1_session(scb_conn *c)
{
    return SSL_get1_session(c->ssl);
}

int scb_conn_set_session(scb_conn *c, SSL_SESSION *s, const char *name, int name_kind, int vetted)
{
    int ret = SCB_FAIL;

    scb_clear_errs();
    c->err = SSL_ERROR_NONE;
    if (SSL_set_session(c->ssl, s) <= 0) {
        scb_take_errs(&c->errs);
    } else if ((ret = scb_peer_offers(c, s, name, name_kind, vetted)) != SCB_OK) {
        SSL_set_session(c->ssl, NULL);
        SSL_set_verify_result(c->ssl, X509_V_OK); /* it was the session's */
    }
    scb_clear_errs();
    return ret;
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
