/*
 * peer.c: the client certificate of a session that is to be resumed, which the
 * handshake will not ask for again.
 */
#include "bridge.h"

#include <openssl/asn1.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <time.h>

/* Would a full handshake end without a client certificate? */
static int scb_peer_required(SSL *ssl)
{
    int mode = SSL_get_verify_mode(ssl);

    if (!(mode & SSL_VERIFY_PEER) || !(mode & SSL_VERIFY_FAIL_IF_NO_PEER_CERT))
        return 0;
    /* Such a server asks later, and on a resumed connection too. */
    return !(mode & SSL_VERIFY_POST_HANDSHAKE) || SSL_version(ssl) != TLS1_3_VERSION;
}

/* At the time at which this SSL verifies chains. A verify callback may let an
 * expired certificate in, but only in a full handshake. */
static int scb_peer_in_time(SSL *ssl, X509 *peer)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    unsigned long flags = X509_VERIFY_PARAM_get_flags(param);
    time_t at = flags & X509_V_FLAG_USE_CHECK_TIME ? X509_VERIFY_PARAM_get_time(param) : time(NULL);
    int begun, ended;

    if (flags & X509_V_FLAG_NO_CHECK_TIME)
        return 1;
    /* The last second counts. -2 is a time that cannot be read. */
    begun = ASN1_TIME_cmp_time_t(X509_get0_notBefore(peer), at);
    ended = ASN1_TIME_cmp_time_t(X509_get0_notAfter(peer), at);
    return (begun == -1 || begun == 0) && (ended == 0 || ended == 1);
}

/* ---- verifying a chain as a full handshake would --------------------------- */

static X509_STORE *scb_verify_store(SSL *ssl)
{
    X509_STORE *store = NULL;

#ifdef SCB_HAVE_VERIFY_STORE
    SSL_get0_verify_cert_store(ssl, &store);
#endif
    return store != NULL ? store : SSL_CTX_get_cert_store(SSL_get_SSL_CTX(ssl));
}

/* The settings that OpenSSL itself verifies a client with, in the same order:
 * the last one that is set prevails. */
static int scb_verify_as(SSL *ssl, X509_STORE_CTX *chain)
{
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(chain);
    SSL_verify_cb callback = SSL_get_verify_callback(ssl);

    X509_VERIFY_PARAM_set_auth_level(param, SSL_get_security_level(ssl));
    X509_STORE_CTX_set_flags(chain, (unsigned long)SSL_set_cert_flags(ssl, 0) & SSL_CERT_FLAG_SUITEB_128_LOS);
    if (!X509_STORE_CTX_set_ex_data(chain, SSL_get_ex_data_X509_STORE_CTX_idx(), ssl)
        || !X509_STORE_CTX_set_default(chain, "ssl_client") || !X509_VERIFY_PARAM_set1(param, SSL_get0_param(ssl)))
        return 0;
    if (callback != NULL)
        X509_STORE_CTX_set_verify_cb(chain, callback);
    return 1;
}

/* The verify result of a session, -1 if it cannot be told. OpenSSL has no getter:
 * it is the field [5] of the DER, and absent for X509_V_OK. */
static long scb_verify_result(SSL_SESSION *s)
{
    unsigned char *der = NULL;
    int tag, class, len = i2d_SSL_SESSION(s, &der);
    const unsigned char *p = der, *end = der + (len > 0 ? len : 0);
    long n, result = X509_V_OK;
    ASN1_INTEGER *value = NULL;

    if (len <= 0 || ASN1_get_object(&p, &n, &tag, &class, end - p) & 0x80)
        result = -1;
    while (result == X509_V_OK && p < end && !(ASN1_get_object(&p, &n, &tag, &class, end - p) & 0x80)) {
        if (class == V_ASN1_CONTEXT_SPECIFIC && tag == 5) {
            value = d2i_ASN1_INTEGER(NULL, &p, n);
            result = value == NULL ? -1 : ASN1_INTEGER_get(value);
            break;
        }
        p += n;
    }
    ASN1_INTEGER_free(value);
    OPENSSL_clear_free(der, len > 0 ? (size_t)len : 0);
    return result;
}

/* Where a verify callback lets a chain in that does not verify, the application may
 * refuse it by SSL_get_verify_result, which a resumption takes from the session. */
static int scb_peer_verifies(SSL *ssl, SSL_SESSION *s, X509 *peer)
{
    X509_STORE_CTX *chain = X509_STORE_CTX_new();
    int ok, result;

    ok = chain != NULL && X509_STORE_CTX_init(chain, scb_verify_store(ssl), peer, NULL) && scb_verify_as(ssl, chain)
         && X509_verify_cert(chain) > 0;
    if (ok) {
        result = X509_STORE_CTX_get_error(chain);
        ok = result == X509_V_OK || result == scb_verify_result(s);
    }
    X509_STORE_CTX_free(chain);
    return ok;
}

static int scb_has_raw_key(SSL_SESSION *s)
{
#ifdef SCB_HAVE_RAW_KEYS
    return SSL_SESSION_get0_peer_rpk(s) != NULL;
#else
    (void)s;
    return 0;
#endif
}

int scb_peer_resumes(SSL *ssl, SSL_SESSION *s)
{
    X509 *peer = SSL_SESSION_get0_peer(s);

    if (peer == NULL)
        return !scb_has_raw_key(s) && !scb_peer_required(ssl);
    /* A server that asks for no certificate must not seem to have seen one. */
    return (SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER) && scb_peer_in_time(ssl, peer) && scb_peer_verifies(ssl, s, peer);
}

int64_t scb_peer_until(SSL_SESSION *s)
{
    X509 *peer = SSL_SESSION_get0_peer(s);
    time_t now = time(NULL);
    int days, seconds;
    ASN1_TIME *from;
    int64_t until = 1;

    if (peer == NULL)
        return 0;
    from = ASN1_TIME_set(NULL, now);
    if (from != NULL && ASN1_TIME_diff(&days, &seconds, from, X509_get0_notAfter(peer)))
        until = (int64_t)now + (int64_t)days * 86400 + seconds;
    ASN1_TIME_free(from);
    return until;
}
