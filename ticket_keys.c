/*
 * ticket_keys.c: stateless tickets sealed with the keys of a ring. The keys are
 * copied into C, so that no handshake calls into Go for them.
 */
#include "bridge.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <time.h>
#ifdef SCB_HAVE_TICKET_EVP
#include <openssl/core_names.h>
typedef EVP_MAC_CTX scb_mac_ctx;
#else
typedef HMAC_CTX scb_mac_ctx;
#endif

/* Belongs to an SSL_CTX with ticket keys, and is freed with it. */
typedef struct scb_tickets {
    CRYPTO_RWLOCK *lock;
    scb_ticket_key *keys; /* newest first */
    size_t n;
    int64_t lifetime;     /* seconds from the full handshake on, over all renewals */
} scb_tickets;

static int scb_tickets_idx = -1;

static void scb_tickets_free(scb_tickets *t)
{
    OPENSSL_clear_free(t->keys, t->n * sizeof(*t->keys));
    CRYPTO_THREAD_lock_free(t->lock);
    OPENSSL_free(t);
}

static void scb_tickets_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (ptr != NULL)
        scb_tickets_free(ptr);
}

int scb_tickets_init(void)
{
    scb_tickets_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, scb_tickets_free_cb);
    return scb_tickets_idx > 0;
}

#define SCB_AES_BLOCK 16

static int scb_mac_init(scb_mac_ctx *mac, scb_ticket_key *key)
{
#ifdef SCB_HAVE_TICKET_EVP
    char digest[] = "SHA256";
    OSSL_PARAM params[3];

    params[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->hmac, sizeof(key->hmac));
    params[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
    params[2] = OSSL_PARAM_construct_end();
    return EVP_MAC_CTX_set_params(mac, params);
#else
    return HMAC_Init_ex(mac, key->hmac, sizeof(key->hmac), EVP_sha256(), NULL);
#endif
}

/* The newest key whose not_before has passed. If none has, because a clock was
 * set back, the oldest. */
static scb_ticket_key *scb_sealing_key(scb_tickets *t)
{
    int64_t now = (int64_t)time(NULL);

    for (size_t i = 0; i < t->n; i++)
        if (t->keys[i].not_before <= now)
            return &t->keys[i];
    return &t->keys[t->n - 1];
}

static int scb_seal_ticket(SSL_CTX *ctx, scb_tickets *t, unsigned char name[16], unsigned char *iv,
                           EVP_CIPHER_CTX *cipher, scb_mac_ctx *mac)
{
    scb_ticket_key *key = scb_sealing_key(t);

    memcpy(name, key->name, sizeof(key->name));
    if (!scb_random(ctx, iv, SCB_AES_BLOCK) || EVP_EncryptInit_ex(cipher, scb_aes_cbc(ctx), NULL, key->aes, iv) != 1
        || scb_mac_init(mac, key) != 1)
        return -1;
    return 1;
}

/* The answer 2 makes OpenSSL give the client a new ticket, under the key that
 * seals now. TLS 1.2 has it renew only what an older key has sealed. */
static int scb_open_ticket(SSL_CTX *ctx, scb_tickets *t, const unsigned char name[16], const unsigned char *iv,
                           EVP_CIPHER_CTX *cipher, scb_mac_ctx *mac)
{
    for (size_t i = 0; i < t->n; i++) {
        scb_ticket_key *key = &t->keys[i];

        if (CRYPTO_memcmp(name, key->name, sizeof(key->name)) != 0)
            continue;
        if (EVP_DecryptInit_ex(cipher, scb_aes_cbc(ctx), NULL, key->aes, iv) != 1 || scb_mac_init(mac, key) != 1)
            return -1;
        return key == scb_sealing_key(t) ? 1 : 2;
    }
    return 0; /* the ticket is from another fleet, or its key has left the ring: a full handshake */
}

static int scb_ticket_key_cb(SSL *ssl, unsigned char name[16], unsigned char *iv, EVP_CIPHER_CTX *cipher,
                             scb_mac_ctx *mac, int sealing)
{
    SSL_CTX *ctx = scb_ssl_origin(ssl);
    scb_tickets *t = ctx == NULL ? NULL : SSL_CTX_get_ex_data(ctx, scb_tickets_idx);
    int ret;

    if (t == NULL)
        return 0;
    ERR_set_mark();
    scb_read_lock(t->lock);
    ret = sealing ? scb_seal_ticket(ctx, t, name, iv, cipher, mac) : scb_open_ticket(ctx, t, name, iv, cipher, mac);
    scb_unlock(t->lock);
    ERR_pop_to_mark();
    return ret;
}

/* ---- what a ticket must fulfil besides its seal ---------------------------- */

/* The keys of the SSL_CTX that ssl was made with, NULL if it has none. */
static scb_tickets *scb_tickets_of_ssl(SSL *ssl)
{
    SSL_CTX *ctx = scb_ssl_origin(ssl);

    return ctx == NULL ? NULL : SSL_CTX_get_ex_data(ctx, scb_tickets_idx);
}

/* The full handshake's time and name and the client's intermediates go into the
 * ticket. A session that was resumed brings them with it, also to its renewal. */
static int scb_ticket_made_cb(SSL *ssl, void *arg)
{
    SSL_SESSION *s = SSL_get_session(ssl);
    const unsigned char *origin = NULL;

    (void)arg;
    if (scb_tickets_of_ssl(ssl) != NULL && (origin = scb_origin_of(ssl)) == NULL)
        return 0;
    return scb_session_keep(ssl, s, origin);
}

static int scb_ticket_is_young(scb_tickets *t, SSL *ssl, SSL_SESSION *s)
{
    int64_t made, lifetime;
    const unsigned char *origin = scb_session_made(s, &made);

    if (origin == NULL || !scb_origin_offer(ssl, origin))
        return 0;
    scb_read_lock(t->lock);
    lifetime = t->lifetime;
    scb_unlock(t->lock);
    return (int64_t)time(NULL) - made < lifetime;
}

/* Clients use a ticket of TLS 1.3 once (RFC 8446 C.4), so each one is renewed.
 * One that must not resume is as good as none. */
static SSL_TICKET_RETURN scb_ticket_opened_cb(SSL *ssl, SSL_SESSION *s, const unsigned char *name, size_t name_len,
                                              SSL_TICKET_STATUS status, void *arg)
{
    scb_tickets *t = scb_tickets_of_ssl(ssl);
    int resumes;

    (void)name, (void)name_len, (void)arg;
    if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    ERR_set_mark();
    resumes = scb_name_resumes(ssl, s) && scb_hello_fits(ssl, s) && scb_peer_resumes(ssl, s)
              && (t == NULL || scb_ticket_is_young(t, ssl, s));
    ERR_pop_to_mark();
    if (!resumes)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    return status == SSL_TICKET_SUCCESS_RENEW || SSL_version(ssl) == TLS1_3_VERSION ? SSL_TICKET_RETURN_USE_RENEW
                                                                                    : SSL_TICKET_RETURN_USE;
}

void scb_ctx_hook_tickets(SSL_CTX *ctx)
{
    /* Makes room for the keys: OpenSSL must not have to move the slots while handshakes read them. */
    if (SSL_CTX_get_ex_data(ctx, scb_tickets_idx) == NULL)
        SSL_CTX_set_ex_data(ctx, scb_tickets_idx, NULL);
    SSL_CTX_set_session_ticket_cb(ctx, scb_ticket_made_cb, scb_ticket_opened_cb, NULL);
}

/* ---- setting the keys ------------------------------------------------------ */

static scb_tickets *scb_tickets_of(SSL_CTX *ctx)
{
    scb_tickets *t = SSL_CTX_get_ex_data(ctx, scb_tickets_idx);

    if (t != NULL || (t = OPENSSL_zalloc(sizeof(*t))) == NULL)
        return t;
    t->lifetime = 24 * 3600;
    if ((t->lock = CRYPTO_THREAD_lock_new()) != NULL && SSL_CTX_set_ex_data(ctx, scb_tickets_idx, t))
        return t;
    scb_tickets_free(t);
    return NULL;
}

int scb_ctx_set_ticket_keys(SSL_CTX *ctx, const scb_ticket_key *keys, size_t n, scb_errs **errs)
{
    scb_tickets *t;
    scb_ticket_key *copy, *old;
    size_t old_n;

    ERR_clear_error();
    if ((t = scb_tickets_of(ctx)) == NULL || (copy = OPENSSL_memdup(keys, n * sizeof(*keys))) == NULL) {
        scb_take_errs(errs);
        return SCB_FAIL;
    }
    scb_write_lock(t->lock);
    old = t->keys;
    old_n = t->n;
    t->keys = copy;
    t->n = n;
    scb_unlock(t->lock);
    OPENSSL_clear_free(old, old_n * sizeof(*old));
    scb_ctx_hook_tickets(ctx);
#ifdef SCB_HAVE_TICKET_EVP
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, scb_ticket_key_cb);
#else
    SSL_CTX_set_tlsext_ticket_key_cb(ctx, scb_ticket_key_cb);
#endif
    return SCB_OK;
}

int scb_ctx_set_ticket_lifetime(SSL_CTX *ctx, int64_t seconds, scb_errs **errs)
{
    scb_tickets *t;

    ERR_clear_error();
    if ((t = scb_tickets_of(ctx)) == NULL) {
        scb_take_errs(errs);
        return SCB_FAIL;
    }
    scb_write_lock(t->lock);
    t->lifetime = seconds;
    scb_unlock(t->lock);
    return SCB_OK;
}
