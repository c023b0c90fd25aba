/*
 * policy.c: a digest of the settings that a session of an SSL_CTX was agreed
 * under.
 */
#include "bridge.h"

#include <openssl/evp.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

typedef struct scb_digest {
    unsigned char b[EVP_MAX_MD_SIZE]; /* zero behind the SHA-256 */
} scb_digest;

/* A set of names, CAs or CRLs. Their order on an SSL_CTX depends on additions and
 * lookups, and must not count. */
typedef struct scb_set {
    const EVP_MD *sha256;
    scb_digest *all;
    size_t n, cap;
} scb_set;

/* Returns the place for one more digest, NULL if memory is short. */
static unsigned char *scb_set_add(scb_set *set)
{
    scb_digest *grown;

    if (set->n == set->cap) {
        size_t cap = set->cap == 0 ? 8 : 2 * set->cap;

        if ((grown = OPENSSL_realloc(set->all, cap * sizeof(*grown))) == NULL)
            return NULL;
        set->all = grown;
        set->cap = cap;
    }
    memset(&set->all[set->n], 0, sizeof(*set->all));
    return set->all[set->n++].b;
}

static int scb_compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(scb_digest));
}

/* Hashes the set, each of its elements once, and frees it. */
static int scb_hash_set(EVP_MD_CTX *md, scb_set *set)
{
    int ok = 1;

    if (set->n > 1)
        qsort(set->all, set->n, sizeof(*set->all), scb_compare_digests);
    for (size_t i = 0; ok && i < set->n; i++)
        if (i == 0 || scb_compare_digests(&set->all[i - 1], &set->all[i]) != 0)
            ok = EVP_DigestUpdate(md, &set->all[i], sizeof(*set->all));
    OPENSSL_free(set->all);
    return ok;
}

static int scb_hash_number(EVP_MD_CTX *md, int64_t n)
{
    unsigned char b[8];

    for (int i = 0; i < 8; i++)
        b[i] = (unsigned char)((uint64_t)n >> 8 * i);
    return EVP_DigestUpdate(md, b, sizeof(b));
}

/* ---- certificates ---------------------------------------------------------- */

static int scb_add_names(void *arg, X509 *x)
{
    scb_set *set = arg;
    unsigned char *place = scb_set_add(set), *der;
    GENERAL_NAMES *names;
    int ok = place != NULL && X509_NAME_digest(X509_get_subject_name(x), set->sha256, place, NULL), len;

    names = ok ? X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL) : NULL;
    for (int i = 0; ok && i < sk_GENERAL_NAME_num(names); i++) {
        der = NULL;
        len = i2d_GENERAL_NAME(sk_GENERAL_NAME_value(names, i), &der);
        place = scb_set_add(set);
        ok = len > 0 && place != NULL && EVP_Digest(der, (size_t)len, place, NULL, set->sha256, NULL);
        OPENSSL_free(der);
    }
    GENERAL_NAMES_free(names);
    return ok;
}

/* The names of the certificates, so that a renewed certificate keeps its sessions. */
static int scb_hash_names(EVP_MD_CTX *md, SSL_CTX *ctx)
{
    scb_set set = { scb_sha256(ctx), NULL, 0, 0 };
    int ok = scb_ctx_each_leaf(ctx, scb_add_names, &set);

    return scb_hash_set(md, &set) && ok;
}

/* ---- what client certificates are verified by ------------------------------- */

static STACK_OF(X509_OBJECT) *scb_lock_objects(X509_STORE *store)
{
#ifdef SCB_HAVE_GET1_OBJECTS
    return X509_STORE_get1_objects(store);
#else
    X509_STORE_lock(store);
    return X509_STORE_get0_objects(store);
#endif
}

static void scb_unlock_objects(X509_STORE *store, STACK_OF(X509_OBJECT) *objects)
{
#ifdef SCB_HAVE_GET1_OBJECTS
    (void)store;
    sk_X509_OBJECT_pop_free(objects, X509_OBJECT_free);
#else
    (void)objects;
    X509_STORE_unlock(store);
#endif
}

static int scb_count_objects(X509_STORE *store)
{
    STACK_OF(X509_OBJECT) *objects = scb_lock_objects(store);
    int n = sk_X509_OBJECT_num(objects);

    scb_unlock_objects(store, objects);
    return n;
}

static int scb_add_crl(scb_set *set, X509_CRL *crl)
{
    unsigned char *place = scb_set_add(set);

    return place != NULL && X509_CRL_digest(crl, set->sha256, place, NULL);
}

/* The CAs and CRLs. */
static int scb_hash_objects(EVP_MD_CTX *md, const EVP_MD *sha256, X509_STORE *store)
{
    STACK_OF(X509_CRL) *crls = scb_store_crls(store);
    STACK_OF(X509_OBJECT) *objects = scb_lock_objects(store);
    scb_set set = { sha256, NULL, 0, 0 };
    unsigned char *place;
    int ok = objects != NULL && crls != NULL;

    for (int i = 0; ok && i < sk_X509_OBJECT_num(objects); i++) {
        X509_OBJECT *object = sk_X509_OBJECT_value(objects, i);
        X509 *ca = X509_OBJECT_get0_X509(object);
        X509_CRL *crl = X509_OBJECT_get0_X509_CRL(object);

        if (crl != NULL) {
            ok = scb_add_crl(&set, crl);
            continue;
        }
        place = scb_set_add(&set);
        ok = place != NULL && (ca == NULL || X509_digest(ca, set.sha256, place, NULL));
    }
    scb_unlock_objects(store, objects);
    for (int i = 0; ok && i < sk_X509_CRL_num(crls); i++)
        ok = scb_add_crl(&set, sk_X509_CRL_value(crls, i));
    sk_X509_CRL_pop_free(crls, X509_CRL_free);
    return scb_hash_set(md, &set) && ok;
}

/* Where a CA of an announced name joins the store only when it is asked for, the
 * store loads lazily, and the CAs in it are not all. OpenSSL has no getter. */
static int scb_loads_lazily(X509_STORE *store, const STACK_OF(X509_NAME) *announced)
{
    X509_STORE_CTX *lookup = X509_STORE_CTX_new();
    int before = scb_count_objects(store);

    if (lookup != NULL && X509_STORE_CTX_init(lookup, store, NULL, NULL))
        for (int i = 0; i < sk_X509_NAME_num(announced); i++) {
            X509_OBJECT *found = X509_OBJECT_new(); /* it does not let go of what it held before */

            if (found != NULL)
                X509_STORE_CTX_get_by_subject(lookup, X509_LU_X509, sk_X509_NAME_value(announced, i), found);
            X509_OBJECT_free(found);
        }
    X509_STORE_CTX_free(lookup);
    return scb_count_objects(store) > before;
}

static int scb_hash_text(EVP_MD_CTX *md, const char *text)
{
    return text == NULL || EVP_DigestUpdate(md, text, strlen(text) + 1);
}

static int scb_hash_param(EVP_MD_CTX *md, X509_VERIFY_PARAM *param)
{
    unsigned long flags = X509_VERIFY_PARAM_get_flags(param);
    int ok;

    ok = scb_hash_number(md, (int64_t)flags) && scb_hash_number(md, X509_VERIFY_PARAM_get_depth(param))
         && scb_hash_number(md, X509_VERIFY_PARAM_get_auth_level(param))
         && scb_hash_number(md, X509_VERIFY_PARAM_get_hostflags(param))
         && (!(flags & X509_V_FLAG_USE_CHECK_TIME) || scb_hash_number(md, X509_VERIFY_PARAM_get_time(param)))
         && EVP_DigestUpdate(md, "n", 1) && scb_hash_text(md, X509_VERIFY_PARAM_get0_name(param));
#ifdef SCB_HAVE_PARAM_NAMES
    char *address = X509_VERIFY_PARAM_get1_ip_asc(param), *host;

    ok = ok && EVP_DigestUpdate(md, "h", 1);
    for (int i = 0; ok && (host = X509_VERIFY_PARAM_get0_host(param, i)) != NULL; i++)
        ok = scb_hash_text(md, host);
    ok = ok && EVP_DigestUpdate(md, "e", 1) && scb_hash_text(md, X509_VERIFY_PARAM_get0_email(param))
         && EVP_DigestUpdate(md, "i", 1) && scb_hash_text(md, address);
    OPENSSL_free(address);
#endif
#ifdef SCB_HAVE_PARAM_PURPOSE
    ok = ok && scb_hash_number(md, X509_VERIFY_PARAM_get_purpose(param));
#endif
    return ok;
}

static X509_STORE *scb_ctx_verify_store(SSL_CTX *ctx)
{
    X509_STORE *store = NULL;

#ifdef SCB_HAVE_VERIFY_STORE
    SSL_CTX_get0_verify_cert_store(ctx, &store);
#endif
    return store != NULL ? store : SSL_CTX_get_cert_store(ctx);
}

static int scb_hash_verification(EVP_MD_CTX *md, SSL_CTX *ctx)
{
    X509_STORE *store = scb_ctx_verify_store(ctx);

    return scb_hash_objects(md, scb_sha256(ctx), store) && scb_hash_param(md, X509_STORE_get0_param(store))
           && scb_hash_param(md, SSL_CTX_get0_param(ctx)) && scb_hash_number(md, SSL_CTX_get_security_level(ctx))
           && scb_hash_number(md, SSL_CTX_set_cert_flags(ctx, 0));
}

/* ---- the digest ------------------------------------------------------------ */

/* Does a callback in Go choose the certificates? It gives each server name an id
 * context of its own, so the digest need not tell certificates apart. */
static int scb_chooses(SSL_CTX *ctx)
{
    return __atomic_load_n(&scb_ctx_of(ctx)->asks, __ATOMIC_RELAXED) & SCB_ASKS_CERT;
}

/* A part of the policy that the digest cannot cover, or SCB_OK. */
static int scb_policy_gap(SSL_CTX *ctx)
{
    X509_STORE *store = scb_ctx_verify_store(ctx);

    if (SSL_CTX_get0_certificate(ctx) == NULL && !scb_ctx_has_set(ctx) && !scb_chooses(ctx))
        return SCB_POLICY_NO_CERT;
    if (!(SSL_CTX_get_verify_mode(ctx) & SSL_VERIFY_PEER))
        return SCB_OK;
    if (SSL_CTX_get_verify_callback(ctx) != NULL)
        return SCB_POLICY_CALLBACK;
    if (scb_loads_lazily(store, SSL_CTX_get_client_CA_list(ctx)))
        return SCB_POLICY_LAZY_CAS;
    return scb_count_objects(store) > 0 ? SCB_OK : SCB_POLICY_NO_CAS;
}

/* Each part starts with its own byte, so that no part can pass for another. */
int scb_ctx_policy(SSL_CTX *ctx, unsigned char digest[32])
{
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ctx);
    const EVP_MD *sha256 = scb_sha256(ctx);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char mode = (unsigned char)SSL_CTX_get_verify_mode(ctx);
    int ok;

    scb_clear_errs();
    ok = md != NULL && sha256 != NULL && EVP_DigestInit_ex(md, sha256, NULL) && EVP_DigestUpdate(md, "k", 1)
         && scb_hash_names(md, ctx) && (!scb_chooses(ctx) || EVP_DigestUpdate(md, "f", 1))
         && EVP_DigestUpdate(md, "v", 1) && EVP_DigestUpdate(md, &mode, 1);
    if (ok && (mode & SSL_VERIFY_PEER))
        ok = scb_hash_verification(md, ctx);
    ok = ok && EVP_DigestUpdate(md, "c", 1);
    for (int i = 0; ok && i < sk_SSL_CIPHER_num(ciphers); i++) {
        uint16_t id = SSL_CIPHER_get_protocol_id(sk_SSL_CIPHER_value(ciphers, i));
        unsigned char wire[2] = { (unsigned char)(id >> 8), (unsigned char)id };

        ok = EVP_DigestUpdate(md, wire, sizeof(wire));
    }
    ok = ok && EVP_DigestFinal_ex(md, digest, NULL);
    EVP_MD_CTX_free(md);
    if (ok)
        ok = scb_policy_gap(ctx);
    scb_clear_errs();
    return ok;
}
