/*
 * policy.c: a digest of the settings that a session of an SSL_CTX was agreed
 * under.
 */
#include "bridge.h"

#include <openssl/evp.h>

static int scb_hash_cert(EVP_MD_CTX *md, X509 *x)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;

    return X509_digest(x, EVP_sha256(), digest, &len) && EVP_DigestUpdate(md, digest, len);
}

static int scb_hash_certs(EVP_MD_CTX *md, SSL_CTX *ctx)
{
    X509 *current = SSL_CTX_get0_certificate(ctx);
    int ok = 1;

    if (current == NULL)
        return 1;
    for (long op = SSL_CERT_SET_FIRST; ok && SSL_CTX_set_current_cert(ctx, op); op = SSL_CERT_SET_NEXT)
        ok = scb_hash_cert(md, SSL_CTX_get0_certificate(ctx));
    SSL_CTX_select_current_cert(ctx, current);
    return ok;
}

typedef struct scb_digest {
    unsigned char b[32];
} scb_digest;

static int scb_compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(scb_digest));
}

/* Hashes the CAs of a store in the order of their digests: the order in the store
 * depends on additions and lookups. */
static int scb_hash_cas(EVP_MD_CTX *md, X509_STORE *store)
{
    scb_digest *all;
    size_t n = 0;
    int ok = 1, num;
    STACK_OF(X509_OBJECT) *objects;

#ifdef SCB_HAVE_GET1_OBJECTS
    objects = X509_STORE_get1_objects(store);
    if (objects == NULL)
        return 0;
#else
    X509_STORE_lock(store);
    objects = X509_STORE_get0_objects(store);
#endif
    num = sk_X509_OBJECT_num(objects);
    all = num <= 0 ? NULL : OPENSSL_malloc((size_t)num * sizeof(*all));
    for (int i = 0; ok && i < num; i++) {
        X509 *x = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));

        ok = all != NULL && (x == NULL || X509_digest(x, EVP_sha256(), all[n].b, NULL));
        n += x != NULL;
    }
#ifdef SCB_HAVE_GET1_OBJECTS
    sk_X509_OBJECT_pop_free(objects, X509_OBJECT_free);
#else
    X509_STORE_unlock(store);
#endif
    if (ok && n > 0) {
        qsort(all, n, sizeof(*all), scb_compare_digests);
        ok = EVP_DigestUpdate(md, all, n * sizeof(*all));
    }
    OPENSSL_free(all);
    return ok;
}

/*
 * The digest covers the certificates, the policy on client certificates with its
 * CAs, and the ciphers. Contexts with equal digests may resume each other's
 * sessions. Each part starts with its own byte, so that no part can pass for
 * another.
 */
int scb_ctx_policy(SSL_CTX *ctx, unsigned char digest[32])
{
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ctx);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char mode = (unsigned char)SSL_CTX_get_verify_mode(ctx);
    int ok;

    scb_clear_errs();
    ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) && EVP_DigestUpdate(md, "k", 1)
         && scb_hash_certs(md, ctx) && EVP_DigestUpdate(md, "v", 1) && EVP_DigestUpdate(md, &mode, 1);
    if (ok && (mode & SSL_VERIFY_PEER))
        ok = scb_hash_cas(md, SSL_CTX_get_cert_store(ctx));
    ok = ok && EVP_DigestUpdate(md, "c", 1);
    for (int i = 0; ok && i < sk_SSL_CIPHER_num(ciphers); i++) {
        uint16_t id = SSL_CIPHER_get_protocol_id(sk_SSL_CIPHER_value(ciphers, i));
        unsigned char wire[2] = { (unsigned char)(id >> 8), (unsigned char)id };

        ok = EVP_DigestUpdate(md, wire, sizeof(wire));
    }
    ok = ok && EVP_DigestFinal_ex(md, digest, NULL);
    EVP_MD_CTX_free(md);
    scb_clear_errs();
    return ok;
}
