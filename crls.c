/*
 * crls.c: what else a peer is verified by: revocation lists, the algorithms of
 * signatures, depth, purpose and names.
 */
#include "bridge.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <time.h>

/* ---- the lists of a store -------------------------------------------------- */

/* Belongs to an X509_STORE, and is freed with it. An X509_STORE itself gives no list
 * up again: some releases read one that they have found without its lock. */
typedef struct scb_crls {
    CRYPTO_RWLOCK *lock;
    STACK_OF(X509_CRL) *lists;
    X509_STORE_CTX_lookup_crls_fn before; /* the function that C has installed, NULL for OpenSSL's own */
} scb_crls;

static int scb_crls_idx = -1;

static void scb_crls_free(scb_crls *c)
{
    sk_X509_CRL_pop_free(c->lists, X509_CRL_free);
    CRYPTO_THREAD_lock_free(c->lock);
    OPENSSL_free(c);
}

static void scb_crls_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (ptr != NULL)
        scb_crls_free(ptr);
}

int scb_crls_init(void)
{
    scb_crls_idx = X509_STORE_get_ex_new_index(0, NULL, NULL, NULL, scb_crls_free_cb);
    return scb_crls_idx > 0;
}

static int scb_push_crl(STACK_OF(X509_CRL) *all, X509_CRL *x)
{
    if (!X509_CRL_up_ref(x))
        return 0;
    if (sk_X509_CRL_push(all, x) > 0)
        return 1;
    X509_CRL_free(x);
    return 0;
}

/* Adds the lists of an issuer, or all lists for NULL. */
static int scb_copy_crls(scb_crls *c, const X509_NAME *issuer, STACK_OF(X509_CRL) *to)
{
    int ok = 1;

    scb_read_lock(c->lock);
    for (int i = 0; ok && i < sk_X509_CRL_num(c->lists); i++) {
        X509_CRL *x = sk_X509_CRL_value(c->lists, i);

        if (issuer == NULL || X509_NAME_cmp(X509_CRL_get_issuer(x), issuer) == 0)
            ok = scb_push_crl(to, x);
    }
    scb_unlock(c->lock);
    return ok;
}

STACK_OF(X509_CRL) *scb_store_crls(X509_STORE *store)
{
    scb_crls *c = X509_STORE_get_ex_data(store, scb_crls_idx);
    STACK_OF(X509_CRL) *all = sk_X509_CRL_new_null();

    if (all == NULL || c == NULL || scb_copy_crls(c, NULL, all))
        return all;
    sk_X509_CRL_pop_free(all, X509_CRL_free);
    return NULL;
}

/* Part of the lists would be worse than none: the chain does not verify then. */
static STACK_OF(X509_CRL) *scb_lookup_crls_cb(SCB_LOOKUP_CONST X509_STORE_CTX *chain, SCB_LOOKUP_CONST X509_NAME *issuer)
{
    scb_crls *c = X509_STORE_get_ex_data(X509_STORE_CTX_get0_store(chain), scb_crls_idx);
    STACK_OF(X509_CRL) *found = c->before != NULL ? c->before(chain, issuer) : X509_STORE_CTX_get1_crls(chain, issuer);

    if (found == NULL)
        found = sk_X509_CRL_new_null();
    if (found == NULL || scb_copy_crls(c, issuer, found))
        return found;
    sk_X509_CRL_pop_free(found, X509_CRL_free);
    return NULL;
}

/* The lists of a store, NULL if memory is short. */
static scb_crls *scb_crls_of(X509_STORE *store)
{
    scb_crls *c = X509_STORE_get_ex_data(store, scb_crls_idx);

    if (c != NULL || (c = OPENSSL_zalloc(sizeof(*c))) == NULL)
        return c;
    c->before = X509_STORE_get_lookup_crls(store);
    c->lock = CRYPTO_THREAD_lock_new();
    c->lists = sk_X509_CRL_new_null();
    if (c->lock != NULL && c->lists != NULL && X509_STORE_set_ex_data(store, scb_crls_idx, c)) {
        X509_STORE_set_lookup_crls(store, scb_lookup_crls_cb);
        return c;
    }
    scb_crls_free(c);
    return NULL;
}

/* ---- lists that replace others --------------------------------------------- */

/* Are two lists about the same certificates? */
static int scb_same_scope(const X509_CRL *a, const X509_CRL *b)
{
    static const int nids[] = { NID_authority_key_identifier, NID_issuing_distribution_point, NID_delta_crl };

    if (X509_NAME_cmp(X509_CRL_get_issuer(a), X509_CRL_get_issuer(b)) != 0)
        return 0;
    for (size_t i = 0; i < sizeof(nids) / sizeof(nids[0]); i++) {
        int in_a = X509_CRL_get_ext_by_NID(a, nids[i], -1), in_b = X509_CRL_get_ext_by_NID(b, nids[i], -1);

        if ((in_a < 0) != (in_b < 0)
            || (in_a >= 0 && ASN1_OCTET_STRING_cmp(X509_EXTENSION_get_data(X509_CRL_get_ext(a, in_a)),
                                                   X509_EXTENSION_get_data(X509_CRL_get_ext(b, in_b))) != 0))
            return 0;
    }
    return 1;
}

/* Would OpenSSL use list a at any time at which it could use b? It takes the newest
 * of those that are valid. */
static int scb_replaces(const X509_CRL *a, const X509_CRL *b)
{
    const ASN1_TIME *from = X509_CRL_get0_lastUpdate(a), *until = X509_CRL_get0_nextUpdate(a), *other = X509_CRL_get0_nextUpdate(b);
    int begun = ASN1_TIME_cmp_time_t(from, time(NULL)), newer = ASN1_TIME_compare(from, X509_CRL_get0_lastUpdate(b));

    if ((begun != -1 && begun != 0) || newer < 0)
        return 0;
    if (until != NULL && (other == NULL || ASN1_TIME_compare(until, other) < 0))
        return 0;
    return scb_same_scope(a, b);
}

/* Adds x to lists, without those that it replaces, unless one replaces it. */
static int scb_merge_crl(STACK_OF(X509_CRL) *lists, X509_CRL *x)
{
    for (int i = sk_X509_CRL_num(lists) - 1; i >= 0; i--)
        if (scb_replaces(x, sk_X509_CRL_value(lists, i)))
            X509_CRL_free(sk_X509_CRL_delete(lists, i));
    for (int i = 0; i < sk_X509_CRL_num(lists); i++)
        if (scb_replaces(sk_X509_CRL_value(lists, i), x))
            return 1;
    return scb_push_crl(lists, x);
}

int scb_store_add_crls(X509_STORE *store, STACK_OF(X509_CRL) *more)
{
    scb_crls *c = scb_crls_of(store);
    STACK_OF(X509_CRL) *lists = c == NULL ? NULL : scb_store_crls(store), *old = lists;
    int ok = lists != NULL;

    for (int i = 0; ok && i < sk_X509_CRL_num(more); i++)
        ok = scb_merge_crl(lists, sk_X509_CRL_value(more, i));
    if (ok) {
        scb_write_lock(c->lock);
        old = c->lists;
        c->lists = lists;
        scb_unlock(c->lock);
    }
    sk_X509_CRL_pop_free(old, X509_CRL_free);
    return ok && X509_STORE_set_flags(store, SCB_CRL_FLAGS);
}

/* ---- settings -------------------------------------------------------------- */

/* Reads all lists of a PEM text. NULL if one is malformed, or there is none. */
static STACK_OF(X509_CRL) *scb_read_crls(SSL_CTX *ctx, const unsigned char *pem, int len)
{
    BIO *b = BIO_new_mem_buf(pem, len);
    STACK_OF(X509_CRL) *all = sk_X509_CRL_new_null();
    X509_CRL *x = NULL;
    int ok = b != NULL && all != NULL;
    unsigned long last;

    while (ok && (x = scb_crl_new(ctx)) != NULL && PEM_read_bio_X509_CRL(b, &x, NULL, NULL) != NULL) {
        ok = sk_X509_CRL_push(all, x) > 0;
        if (ok)
            x = NULL;
    }
    X509_CRL_free(x);
    last = ERR_peek_last_error();
    BIO_free(b);
    if (ok && sk_X509_CRL_num(all) > 0 && ERR_GET_LIB(last) == ERR_LIB_PEM
        && ERR_GET_REASON(last) == PEM_R_NO_START_LINE) {
        scb_clear_errs(); /* the end of the text has left an entry */
        return all;
    }
    sk_X509_CRL_pop_free(all, X509_CRL_free);
    return NULL;
}

int scb_ctx_add_crls(SSL_CTX *ctx, const unsigned char *pem, int len, scb_errs **errs)
{
    STACK_OF(X509_CRL) *crls;
    int ok;

    scb_clear_errs();
    crls = scb_read_crls(ctx, pem, len);
    /* Where C replaces the store the parameters of the SSL_CTX go on asking. */
    ok = crls != NULL && scb_store_add_crls(SSL_CTX_get_cert_store(ctx), crls)
         && X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), SCB_CRL_FLAGS);
    sk_X509_CRL_pop_free(crls, X509_CRL_free);
    return scb_done(ok, errs);
}

int scb_ctx_set_sigalgs(SSL_CTX *ctx, const char *list, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done((int)SSL_CTX_set1_sigalgs_list(ctx, (char *)list), errs);
}

int scb_ctx_set_verify_depth(SSL_CTX *ctx, int depth)
{
    SSL_CTX_set_verify_depth(ctx, depth);
    return SCB_OK;
}

int scb_ctx_set_purpose(SSL_CTX *ctx, int purpose, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_CTX_set_purpose(ctx, purpose), errs);
}

static int scb_add_names(X509_VERIFY_PARAM *param, const char *names)
{
    int ok = X509_VERIFY_PARAM_set1_host(param, NULL, 0);

    for (; ok && *names != 0; names += strlen(names) + 1)
        ok = X509_VERIFY_PARAM_add1_host(param, names, 0);
    return ok;
}

int scb_ctx_set_verify_names(SSL_CTX *ctx, const char *names, scb_errs **errs)
{
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx), *trial = X509_VERIFY_PARAM_new();
    int ok;

    scb_clear_errs();
    /* First where no peer is judged by them: newer releases refuse some names. */
    ok = trial != NULL && scb_add_names(trial, names);
    if (ok)
        X509_VERIFY_PARAM_set_hostflags(param, SCB_HOST_FLAGS);
    ok = ok && scb_add_names(param, names);
    X509_VERIFY_PARAM_free(trial);
    return scb_done(ok, errs);
}
