/*
 * peer.c: the client certificate of a session that is to be resumed, which the
 * handshake will not ask for again.
 */
#include "bridge.h"

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

/* At the time at which this SSL verifies chains. */
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

int scb_peer_resumes(SSL *ssl, SSL_SESSION *s)
{
    X509 *peer = SSL_SESSION_get0_peer(s);

    return peer == NULL ? !scb_peer_required(ssl) : scb_peer_in_time(ssl, peer);
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
