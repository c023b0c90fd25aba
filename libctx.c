/*
 * libctx.c: where the algorithms of an SSL_CTX come from: its library context and
 * its property query, which OpenSSL has no getters for.
 */
#include "bridge.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#ifdef SCB_HAVE_PROVIDERS
#include <openssl/provider.h>
#endif

static int scb_libctx_idx = -1;

/* Belongs to an SSL_CTX that was made with one of the first two. */
typedef struct scb_libctx {
    OSSL_LIB_CTX *libctx;
    char *propq;
    EVP_MD *sha256;
    EVP_CIPHER *aes_cbc;
} scb_libctx;

static void scb_libctx_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_libctx *l = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (l == NULL)
        return;
#ifdef SCB_HAVE_PROVIDERS
    EVP_MD_free(l->sha256);
    EVP_CIPHER_free(l->aes_cbc);
#endif
    OPENSSL_free(l->propq);
    OPENSSL_free(l);
}

int scb_libctx_init(void)
{
    scb_libctx_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, scb_libctx_free_cb);
    return scb_libctx_idx > 0;
}

int scb_have_providers(void)
{
#ifdef SCB_HAVE_PROVIDERS
    return 1;
#else
    return 0;
#endif
}

int scb_fips(void)
{
#ifdef SCB_HAVE_PROVIDERS
    int on = EVP_default_properties_is_fips_enabled(NULL);

    scb_clear_errs();
    return on;
#else
    return FIPS_mode();
#endif
}

#ifdef SCB_HAVE_PROVIDERS
static int scb_provider_name_cb(OSSL_PROVIDER *provider, void *arg)
{
    scb_names *names = arg;

    if (names->n < SCB_MAX_NAMES)
        OPENSSL_strlcpy(names->name[names->n++], OSSL_PROVIDER_get0_name(provider), sizeof(names->name[0]));
    return 1;
}
#endif

scb_names scb_providers(OSSL_LIB_CTX *libctx)
{
    scb_names names = { 0 };

#ifdef SCB_HAVE_PROVIDERS
    OSSL_PROVIDER_do_all(libctx, scb_provider_name_cb, &names);
    scb_clear_errs();
#else
    (void)libctx;
#endif
    return names;
}

/* ---- making an SSL_CTX, and what belongs to it ----------------------------- */

#ifdef SCB_HAVE_PROVIDERS

static int scb_libctx_hold(SSL_CTX *ctx, OSSL_LIB_CTX *libctx, const char *propq)
{
    scb_libctx *l = OPENSSL_zalloc(sizeof(*l));

    if (l == NULL || !SSL_CTX_set_ex_data(ctx, scb_libctx_idx, l)) {
        OPENSSL_free(l);
        return 0;
    }
    l->libctx = libctx;
    /* Without them what needs them fails. */
    l->sha256 = EVP_MD_fetch(libctx, "SHA256", propq);
    l->aes_cbc = EVP_CIPHER_fetch(libctx, "AES-256-CBC", propq);
    return propq == NULL || (l->propq = OPENSSL_strdup(propq)) != NULL;
}

static scb_libctx *scb_libctx_held(SSL_CTX *ctx)
{
    return ctx == NULL ? NULL : SSL_CTX_get_ex_data(ctx, scb_libctx_idx);
}

#endif

SSL_CTX *scb_libctx_new(OSSL_LIB_CTX *libctx, const char *propq, const SSL_METHOD *method)
{
#ifdef SCB_HAVE_PROVIDERS
    SSL_CTX *ctx = SSL_CTX_new_ex(libctx, propq, method);

    if (ctx == NULL || (libctx == NULL && propq == NULL) || scb_libctx_hold(ctx, libctx, propq))
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
#else
    (void)libctx, (void)propq;
    return SSL_CTX_new(method);
#endif
}

SSL_CTX *scb_libctx_sibling(SSL_CTX *ctx, const SSL_METHOD *method)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    if (l != NULL)
        return SSL_CTX_new_ex(l->libctx, l->propq, method);
#endif
    (void)ctx;
    return SSL_CTX_new(method);
}

const EVP_MD *scb_sha256(SSL_CTX *ctx)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    if (l != NULL)
        return l->sha256;
#endif
    (void)ctx;
    return EVP_sha256();
}

const EVP_CIPHER *scb_aes_cbc(SSL_CTX *ctx)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    if (l != NULL)
        return l->aes_cbc;
#endif
    (void)ctx;
    return EVP_aes_256_cbc();
}

int scb_random(SSL_CTX *ctx, unsigned char *out, size_t len)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    return RAND_bytes_ex(l == NULL ? NULL : l->libctx, out, len, 0) == 1;
#else
    (void)ctx;
    return RAND_bytes(out, (int)len) == 1;
#endif
}

X509 *scb_x509_new(SSL_CTX *ctx)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    if (l != NULL)
        return X509_new_ex(l->libctx, l->propq);
#endif
    (void)ctx;
    return X509_new();
}

X509_CRL *scb_crl_new(SSL_CTX *ctx)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    if (l != NULL)
        return X509_CRL_new_ex(l->libctx, l->propq);
#endif
    (void)ctx;
    return X509_CRL_new();
}

X509 *scb_x509_in(SSL_CTX *ctx, X509 *x)
{
#ifdef SCB_HAVE_PROVIDERS
    X509 *copy = scb_libctx_held(ctx) == NULL ? NULL : scb_x509_new(ctx);
    unsigned char *der = NULL;
    const unsigned char *p;
    int len;

    if (copy != NULL) {
        len = i2d_X509(x, &der);
        p = der;
        if (len <= 0 || d2i_X509(&copy, &p, len) == NULL) {
            X509_free(copy);
            copy = NULL;
        }
        OPENSSL_free(der);
        return copy;
    }
    if (scb_libctx_held(ctx) != NULL)
        return NULL;
#endif
    (void)ctx;
    return X509_up_ref(x) ? x : NULL;
}

OSSL_LIB_CTX *scb_libctx_of(SSL_CTX *ctx)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    return l == NULL ? NULL : l->libctx;
#else
    (void)ctx;
    return NULL;
#endif
}

X509_STORE_CTX *scb_chain_new(SSL_CTX *ctx)
{
#ifdef SCB_HAVE_PROVIDERS
    scb_libctx *l = scb_libctx_held(ctx);

    if (l != NULL)
        return X509_STORE_CTX_new_ex(l->libctx, l->propq);
#endif
    (void)ctx;
    return X509_STORE_CTX_new();
}
