/*
 * session.c: SSL_SESSION from and to DER, its fields, and the checks of an entry
 * from a store before OpenSSL sees it.
 */
#include "bridge.h"

#include <openssl/asn1.h>
#include <openssl/err.h>

SSL_SESSION *scb_session_parse(const unsigned char *der, size_t len, scb_errs **errs)
{
    const unsigned char *p = der;
    SSL_SESSION *s;

    scb_clear_errs();
    /* A new object each time: a failure would leave an existing one half filled. */
    s = d2i_SSL_SESSION(NULL, &p, (long)len);
    if (s != NULL && p != der + len) {
        SSL_SESSION_free(s);
        s = NULL;
    }
    if (s == NULL && errs != NULL)
        scb_take_errs(errs);
    scb_clear_errs();
    return s;
}

scb_der scb_session_der(SSL_SESSION *s, size_t headroom, scb_errs **errs)
{
    scb_der der = { NULL, 0 };
    int len;

    scb_clear_errs();
    len = i2d_SSL_SESSION(s, NULL);
    if (len > 0 && (der.p = OPENSSL_malloc(headroom + (size_t)len)) != NULL) {
        unsigned char *p = der.p + headroom;

        if (i2d_SSL_SESSION(s, &p) == len) {
            der.len = headroom + (size_t)len;
        } else {
            OPENSSL_free(der.p);
            der.p = NULL;
        }
    }
    if (der.len == 0 && errs != NULL)
        scb_take_errs(errs);
    scb_clear_errs();
    return der;
}

void scb_wipe(void *p, size_t len)
{
    OPENSSL_clear_free(p, len);
}

void scb_session_up_ref(SSL_SESSION *s)
{
    SSL_SESSION_up_ref(s);
}

int scb_session_hand_over(SSL_SESSION *s, int copy)
{
    return SSL_SESSION_get0_cipher(s) != NULL && (!copy || SSL_SESSION_up_ref(s));
}

void scb_session_free(SSL_SESSION *s)
{
    SSL_SESSION_free(s);
}

SSL_SESSION *scb_session_dup(SSL_SESSION *s, scb_errs **errs)
{
    SSL_SESSION *dup;

    scb_clear_errs();
    dup = SSL_SESSION_dup(s);
    if (dup == NULL)
        scb_take_errs(errs);
    scb_clear_errs();
    return dup;
}

static int64_t scb_session_time(const SSL_SESSION *s)
{
#ifdef SCB_HAVE_TIME_EX
    return SSL_SESSION_get_time_ex(s);
#else
    return SSL_SESSION_get_time(s);
#endif
}

scb_session_info scb_session_get_info(SSL_SESSION *s)
{
    scb_session_info info;
    const SSL_CIPHER *cipher = SSL_SESSION_get0_cipher(s);

    memset(&info, 0, sizeof(info));
    info.id = SSL_SESSION_get_id(s, &info.id_len);
    info.sid_ctx = SSL_SESSION_get0_id_context(s, &info.sid_ctx_len);
    SSL_SESSION_get0_alpn_selected(s, &info.alpn, &info.alpn_len);
    info.hostname = SSL_SESSION_get0_hostname(s);
    info.time = scb_session_time(s);
    info.timeout = SSL_SESSION_get_timeout(s);
    info.lifetime_hint = SSL_SESSION_get_ticket_lifetime_hint(s);
    info.max_early_data = SSL_SESSION_get_max_early_data(s);
    info.version = (uint16_t)SSL_SESSION_get_protocol_version(s);
    info.cipher = cipher == NULL ? 0 : SSL_CIPHER_get_protocol_id(cipher);
    info.resumable = SSL_SESSION_is_resumable(s);
    info.has_ticket = SSL_SESSION_has_ticket(s);
    return info;
}

int scb_session_set_time(SSL_SESSION *s, int64_t t)
{
#ifdef SCB_HAVE_TIME_EX
    SSL_SESSION_set_time_ex(s, (time_t)t);
#else
    SSL_SESSION_set_time(s, (long)t);
#endif
    return SCB_OK;
}

int scb_session_set_timeout(SSL_SESSION *s, int64_t seconds)
{
    return SSL_SESSION_set_timeout(s, (long)seconds) > 0;
}

/* Has a session the extended master secret? OpenSSL has no getter: the flags are
 * the field [13] of the DER. */
static int scb_has_extms(const unsigned char *p, size_t len)
{
    const unsigned char *end = p + len;
    long n;
    int tag, class;

    if (ASN1_get_object(&p, &n, &tag, &class, end - p) & 0x80)
        return 0;
    while (p < end && !(ASN1_get_object(&p, &n, &tag, &class, end - p) & 0x80)) {
        if (class == V_ASN1_CONTEXT_SPECIFIC && tag == 13 && n > 0)
            return p[n - 1] & 1;
        p += n;
    }
    return 0;
}

/* With an extended master secret that is newly offered OpenSSL passes the session
 * over. One that is dropped must fail the handshake (RFC 7627, section 5.3). */
static int scb_is_passed_over(SSL *ssl, const SSL_SESSION *s, const unsigned char *der, size_t len)
{
    const unsigned char *ext;
    size_t n;

    return SSL_SESSION_get_protocol_version(s) < TLS1_3_VERSION
           && SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_extended_master_secret, &ext, &n) && !scb_has_extms(der, len);
}

int scb_session_expired(const SSL_SESSION *s, int64_t now)
{
    int64_t made = scb_session_time(s), timeout = SSL_SESSION_get_timeout(s);

    if (timeout < 0)
        return 0;
    /* The sum of time and timeout may overflow. */
    return now > made && (uint64_t)now - (uint64_t)made > (uint64_t)timeout;
}

scb_checked scb_session_check(SSL *ssl, const unsigned char *der, size_t len, const unsigned char *id, unsigned int id_len,
                              const unsigned char *sid_ctx, unsigned int sid_ctx_len, int64_t now)
{
    SSL_SESSION *s = scb_session_parse(der, len, NULL);
    scb_checked c = { NULL, 0, 0 };
    const unsigned char *p;
    unsigned int n;

    if (s == NULL) {
        c.why = SCB_ENTRY_UNDECODABLE;
        return c;
    }
    if (SSL_SESSION_get0_cipher(s) == NULL)
        c.why = SCB_ENTRY_NO_CIPHER;
    else if (SSL_SESSION_get_protocol_version(s) != SSL_version(ssl))
        c.why = SCB_ENTRY_OTHER_VERSION;
    p = SSL_SESSION_get_id(s, &n);
    if (c.why == 0 && (n != id_len || memcmp(p, id, n) != 0))
        c.why = SCB_ENTRY_OTHER_ID;
    p = SSL_SESSION_get0_id_context(s, &n);
    c.other_context = n != sid_ctx_len || memcmp(p, sid_ctx, n) != 0;
    /* OpenSSL compares it with that of the SSL. Where both are empty and clients are
     * verified, it fails the handshake. */
    if (c.why == 0 && n == 0 && (SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER))
        c.why = SCB_ENTRY_OTHER_CONTEXT;
    if (c.why == 0 && scb_session_expired(s, now))
        c.why = SCB_ENTRY_EXPIRED;
    if (c.why == 0 && !scb_name_resumes(ssl, s))
        c.why = SCB_ENTRY_OTHER_NAME;
    if (c.why == 0 && !scb_peer_resumes(ssl, s))
        c.why = SCB_ENTRY_PEER;
    if (c.why == 0 && (!scb_hello_fits(ssl, s) || scb_is_passed_over(ssl, s, der, len)))
        c.why = SCB_ENTRY_OTHER_HELLO;
    if (c.why == 0)
        c.sess = s;
    else
        SSL_SESSION_free(s);
    return c;
}
