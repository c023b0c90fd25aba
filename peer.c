/*
 * peer.c: the peer's certificates of a session that is to be resumed, which the
 * handshake will not ask for again.
 */
#include "bridge.h"

#include <openssl/asn1.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
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

/* ---- what a session keeps in its application data ------------------------- */

/* The time and the name of the full handshake, and the peer's intermediate
 * certificates, which a session loses when it is serialised. The layout: a mark,
 * eight bytes of time, one that says whether all certificates are there, the name,
 * and the DER of the certificates, one behind the other. */
static const unsigned char scb_kept_mark[4] = { 's', 'c', 'b', 1 };
#define SCB_KEPT_HEAD (13 + SCB_ORIGIN_SIZE)
/* A ticket has to fit into a ClientHello. */
#define SCB_KEPT_CHAIN 16384

typedef struct scb_kept {
    int64_t made;
    int whole;
    const unsigned char *origin, *chain;
    size_t len;
} scb_kept;

/* Answers 0 if there is none. *foreign tells of other data. */
static int scb_read_kept(SSL_SESSION *s, scb_kept *k, int *foreign)
{
    void *data;
    const unsigned char *p;
    size_t len;
    uint64_t made = 0;

    *foreign = 0;
    if (!SSL_SESSION_get0_ticket_appdata(s, &data, &len) || len == 0)
        return 0;
    p = data;
    if (len < SCB_KEPT_HEAD || memcmp(p, scb_kept_mark, sizeof(scb_kept_mark)) != 0) {
        *foreign = 1;
        return 0;
    }
    for (int i = 4; i < 12; i++)
        made = made << 8 | p[i];
    k->made = (int64_t)made;
    k->whole = p[12];
    k->origin = p + 13;
    k->chain = p + SCB_KEPT_HEAD;
    k->len = len - SCB_KEPT_HEAD;
    return 1;
}

const unsigned char *scb_session_made(SSL_SESSION *s, int64_t *made)
{
    scb_kept k;
    int foreign;

    if (!scb_read_kept(s, &k, &foreign))
        return NULL;
    *made = k.made;
    return k.origin;
}

/* The DER of a chain from one certificate on, NULL if it is empty or too long. */
static unsigned char *scb_encode_chain(STACK_OF(X509) *chain, int from, size_t *len, int *whole)
{
    unsigned char *der, *p;
    size_t n = 0;

    *len = 0;
    for (int i = from; i < sk_X509_num(chain); i++) {
        int size = i2d_X509(sk_X509_value(chain, i), NULL);

        n = size <= 0 ? SCB_KEPT_CHAIN + 1 : n + (size_t)size;
        if (n > SCB_KEPT_CHAIN)
            break;
    }
    *whole = n <= SCB_KEPT_CHAIN;
    der = p = n == 0 || !*whole ? NULL : OPENSSL_malloc(n);
    *whole = *whole && (n == 0 || der != NULL);
    if (der == NULL)
        return NULL;
    for (int i = from; i < sk_X509_num(chain); i++)
        i2d_X509(sk_X509_value(chain, i), &p);
    *len = n;
    return der;
}

/* chain has the intermediates from one on, and is NULL after a resumption, whose
 * session brings its own. */
static int scb_keep(SSL_SESSION *s, STACK_OF(X509) *chain, int from, const unsigned char *origin)
{
    scb_kept k = { (int64_t)time(NULL), 1, origin, NULL, 0 };
    unsigned char *der, *data;
    int foreign, ours = scb_read_kept(s, &k, &foreign), ok;
    size_t len;

    if (foreign)
        return origin == NULL;
    if (ours ? chain == NULL : origin == NULL && sk_X509_num(chain) <= from)
        return 1;
    der = scb_encode_chain(chain, from, &len, &k.whole);
    data = OPENSSL_zalloc(SCB_KEPT_HEAD + len);
    if (data != NULL) {
        memcpy(data, scb_kept_mark, sizeof(scb_kept_mark));
        for (int i = 0; i < 8; i++)
            data[4 + i] = (unsigned char)((uint64_t)k.made >> (56 - 8 * i));
        data[12] = (unsigned char)k.whole;
        if (k.origin != NULL)
            memcpy(data + 13, k.origin, SCB_ORIGIN_SIZE);
        if (len > 0)
            memcpy(data + SCB_KEPT_HEAD, der, len);
    }
    ok = data != NULL && SSL_SESSION_set1_ticket_appdata(s, data, SCB_KEPT_HEAD + len);
    OPENSSL_free(data);
    OPENSSL_free(der);
    return ok;
}

int scb_session_keep(SSL *ssl, SSL_SESSION *s, const unsigned char *origin)
{
    return scb_keep(s, SSL_get_peer_cert_chain(ssl), 0, origin);
}

void scb_session_keep_server(SSL *ssl, X509_STORE_CTX *chain)
{
    SSL_SESSION *s = SSL_get_session(ssl);
    void *data;
    size_t len;

    if (s != NULL && SSL_SESSION_get0_ticket_appdata(s, &data, &len) && len == 0)
        scb_keep(s, X509_STORE_CTX_get0_untrusted(chain), 1, NULL);
}

/* The intermediates that a session keeps, an empty stack for none. NULL: they
 * cannot be told. */
static STACK_OF(X509) *scb_kept_chain(SSL_CTX *ctx, SSL_SESSION *s)
{
    STACK_OF(X509) *chain = sk_X509_new_null();
    scb_kept k = { 0, 1, NULL, NULL, 0 };
    const unsigned char *p, *end;
    int foreign, ok;
    X509 *x;

    scb_read_kept(s, &k, &foreign);
    p = k.chain;
    end = p + k.len;
    ok = chain != NULL && k.whole;
    while (ok && p < end) {
        x = scb_x509_new(ctx);
        ok = x != NULL && d2i_X509(&x, &p, end - p) != NULL && sk_X509_push(chain, x);
        if (!ok)
            X509_free(x);
    }
    if (ok)
        return chain;
    sk_X509_pop_free(chain, X509_free);
    return NULL;
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

/* The settings that OpenSSL itself verifies a peer with, in the same order: the
 * last one that is set prevails. */
static int scb_verify_as(SSL *ssl, X509_STORE_CTX *chain, SSL_verify_cb callback)
{
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(chain);

    X509_VERIFY_PARAM_set_auth_level(param, SSL_get_security_level(ssl));
    X509_STORE_CTX_set_flags(chain, (unsigned long)SSL_set_cert_flags(ssl, 0) & SSL_CERT_FLAG_SUITEB_128_LOS);
    if (!X509_STORE_CTX_set_ex_data(chain, SSL_get_ex_data_X509_STORE_CTX_idx(), ssl)
        || !X509_STORE_CTX_set_default(chain, SSL_is_server(ssl) ? "ssl_client" : "ssl_server")
        || !X509_VERIFY_PARAM_set1(param, SSL_get0_param(ssl)))
        return 0;
    if (callback != NULL)
        X509_STORE_CTX_set_verify_cb(chain, callback);
    return 1;
}

/* The chain that verifies now, NULL if none does. *result is X509_V_OK, or what the
 * callback has let pass. */
static STACK_OF(X509) *scb_verify_again(SSL *ssl, X509 *of_session, STACK_OF(X509) *sent, SSL_verify_cb callback, int *result)
{
    X509 *leaf = scb_x509_in(SSL_get_SSL_CTX(ssl), of_session);
    X509_STORE_CTX *chain = scb_chain_new(SSL_get_SSL_CTX(ssl));
    STACK_OF(X509) *verified = NULL;

    if (leaf != NULL && chain != NULL && X509_STORE_CTX_init(chain, scb_verify_store(ssl), leaf, sent) && scb_verify_as(ssl, chain, callback)
        && X509_verify_cert(chain) > 0) {
        *result = X509_STORE_CTX_get_error(chain);
        verified = X509_STORE_CTX_get1_chain(chain);
    }
    X509_STORE_CTX_free(chain);
    X509_free(leaf);
    return verified;
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

/* A Conn that resumes shows its peer's certificates as after a full handshake.
 * Takes over both. */
static void scb_show_chains(scb_conn *c, STACK_OF(X509) *sent, STACK_OF(X509) *verified)
{
    if (c != NULL) {
        sk_X509_pop_free(c->sent, X509_free);
        sk_X509_pop_free(c->verified, X509_free);
        c->sent = sent;
        c->verified = verified;
    } else {
        sk_X509_pop_free(sent, X509_free);
        sk_X509_pop_free(verified, X509_free);
    }
}

/* Where a verify callback lets a chain in that does not verify, the application may
 * refuse it by SSL_get_verify_result, which a resumption takes from the session. */
static int scb_peer_verifies(SSL *ssl, SSL_SESSION *s, X509 *peer)
{
    STACK_OF(X509) *sent = scb_kept_chain(SSL_get_SSL_CTX(ssl), s), *verified = NULL;
    int result, ok;

    if (sent != NULL)
        verified = scb_verify_again(ssl, peer, sent, SSL_get_verify_callback(ssl), &result);
    ok = verified != NULL && (result == X509_V_OK || result == scb_verify_result(s));
    scb_show_chains(scb_stepping_conn(ssl), sent, verified);
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

/* ---- what a client offers --------------------------------------------------- */

/* The certificates in the session that c offers or has resumed are verified again.
 * OpenSSL has all that the server sent, unless the session was serialised. */
static int scb_server_verifies(scb_conn *c, SSL_SESSION *s)
{
    STACK_OF(X509) *sent = SSL_get_peer_cert_chain(c->ssl), *kept = NULL, *verified = NULL;
    int result = X509_V_OK;

    if (sent == NULL)
        sent = kept = scb_kept_chain(SSL_get_SSL_CTX(c->ssl), s);
    if (sent != NULL)
        verified = scb_verify_again(c->ssl, SSL_SESSION_get0_peer(s), sent, c->verify, &result);
    if (result != X509_V_OK) {
        sk_X509_pop_free(verified, X509_free);
        verified = NULL;
    }
    scb_show_chains(c, kept, verified);
    return verified != NULL;
}

int scb_peer_offers(scb_conn *c, SSL_SESSION *s, const char *name, int name_kind, int vetted)
{
    X509 *leaf = SSL_SESSION_get0_peer(s);

    scb_show_chains(c, NULL, NULL);
    if (!(SSL_get_verify_mode(c->ssl) & SSL_VERIFY_PEER))
        return SCB_OK;
    if (leaf == NULL || SSL_get_verify_result(c->ssl) != X509_V_OK)
        return SCB_OFFER_UNVERIFIED;
    if (name_kind == SCB_NAME_IP ? X509_check_ip_asc(leaf, name, 0) != 1
                                 : X509_check_host(leaf, name, 0, SCB_HOST_FLAGS, NULL) != 1)
        return SCB_OFFER_OTHER_NAME;
    if (ASN1_TIME_cmp_time_t(X509_get0_notAfter(leaf), time(NULL)) <= 0)
        return SCB_OFFER_REFUSED;
    return vetted || scb_server_verifies(c, s) ? SCB_OK : SCB_OFFER_REFUSED;
}

STACK_OF(X509) *scb_peer_sent(scb_conn *c)
{
    SSL_SESSION *s = SSL_get0_session(c->ssl);

    if (c->sent == NULL && !SSL_is_server(c->ssl) && s != NULL)
        c->sent = scb_kept_chain(SSL_get_SSL_CTX(c->ssl), s);
    return c->sent;
}

STACK_OF(X509) *scb_peer_verified(scb_conn *c)
{
    SSL_SESSION *s = SSL_get0_session(c->ssl);

    if (c->verified == NULL && !SSL_is_server(c->ssl) && s != NULL && SSL_SESSION_get0_peer(s) != NULL)
        scb_server_verifies(c, s);
    return c->verified;
}

int64_t scb_time_of(const ASN1_TIME *t)
{
    time_t now = time(NULL);
    int days, seconds;
    ASN1_TIME *from = ASN1_TIME_set(NULL, now);
    int64_t when = 1;

    if (from != NULL && ASN1_TIME_diff(&days, &seconds, from, t))
        when = (int64_t)now + (int64_t)days * 86400 + seconds;
    ASN1_TIME_free(from);
    return when;
}

int64_t scb_peer_until(SSL_SESSION *s)
{
    X509 *peer = SSL_SESSION_get0_peer(s);

    return peer == NULL ? 0 : scb_time_of(X509_get0_notAfter(peer));
}
