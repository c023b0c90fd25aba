/*
 * origin.c: the random name of the full handshake behind a connection. All
 * sessions of that handshake and their renewals carry it.
 */
#include "bridge.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

typedef struct scb_origin {
    unsigned char random[SSL3_RANDOM_SIZE]; /* of the ClientHello that this is about */
    unsigned char fresh[SCB_ORIGIN_SIZE];   /* for a full handshake */
    unsigned char offered[SCB_ORIGIN_SIZE]; /* of the session that OpenSSL was given */
    int has_offered;
} scb_origin;

static int scb_origin_idx = -1;

static void scb_origin_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    OPENSSL_free(ptr);
}

/* SSL_dup makes another connection. */
static int scb_origin_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx, long argl,
                             void *argp)
{
    (void)to, (void)from, (void)idx, (void)argl, (void)argp;
    *(void **)from_d = NULL;
    return 1;
}

int scb_origin_init(void)
{
    scb_origin_idx = SSL_get_ex_new_index(0, NULL, NULL, scb_origin_dup_cb, scb_origin_free_cb);
    return scb_origin_idx > 0;
}

void scb_origin_forget(SSL *ssl)
{
    OPENSSL_free(SSL_get_ex_data(ssl, scb_origin_idx));
    SSL_set_ex_data(ssl, scb_origin_idx, NULL);
}

/* NULL if memory or random bytes are short. An SSL that was cleared serves another
 * handshake, and C may have replaced the hook that would tell: the ClientHello's
 * random bytes tell too. */
static scb_origin *scb_origin_get(SSL *ssl)
{
    scb_origin *o = SSL_get_ex_data(ssl, scb_origin_idx);
    unsigned char random[SSL3_RANDOM_SIZE];

    SSL_get_client_random(ssl, random, sizeof(random));
    if (o != NULL && memcmp(o->random, random, sizeof(random)) == 0)
        return o;
    scb_origin_forget(ssl);
    if ((o = OPENSSL_zalloc(sizeof(*o))) == NULL)
        return NULL;
    memcpy(o->random, random, sizeof(random));
    if (scb_random(SSL_get_SSL_CTX(ssl), o->fresh, sizeof(o->fresh)) && SSL_set_ex_data(ssl, scb_origin_idx, o))
        return o;
    OPENSSL_free(o);
    return NULL;
}

const unsigned char *scb_origin_of(SSL *ssl)
{
    scb_origin *o = scb_origin_get(ssl);

    if (o == NULL)
        return NULL;
    /* A session that was offered counts only once OpenSSL resumes it: the client
     * may not know its secret, and make a full handshake after all. */
    return o->has_offered && SSL_session_reused(ssl) ? o->offered : o->fresh;
}

int scb_origin_offer(SSL *ssl, const unsigned char *origin)
{
    scb_origin *o = scb_origin_get(ssl);

    if (o == NULL)
        return SCB_FAIL;
    memcpy(o->offered, origin, sizeof(o->offered));
    o->has_offered = 1;
    return SCB_OK;
}
