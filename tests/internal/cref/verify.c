/* verify.c: what SSL_CTXs verify client certificates by, set as C does. */
#include "cref.h"

#include <openssl/pem.h>
#include <openssl/x509_vfy.h>

static int content_cb(int ok, X509_STORE_CTX *chain)
{
    (void)ok, (void)chain;
    return 1;
}

void cref_let_all_in(SSL_CTX *ctx)
{
    SSL_CTX_set_verify(ctx, SSL_CTX_get_verify_mode(ctx), content_cb);
}

/* Sets what a chain must fulfil; 0 and NULL leave a parameter as it is. */
int cref_demand(SSL_CTX *ctx, unsigned long flags, int purpose, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx);

    return X509_VERIFY_PARAM_set_flags(param, flags) && (purpose == 0 || X509_VERIFY_PARAM_set_purpose(param, purpose))
           && (host == NULL || X509_VERIFY_PARAM_set1_host(param, host, 0));
}

/* A verify store of its own, which is empty. */
int cref_trust_none(SSL_CTX *ctx)
{
    X509_STORE *none = X509_STORE_new();

    return none != NULL && SSL_CTX_set0_verify_cert_store(ctx, none);
}


static X509 *read_cert(const char *pem, int len)
{
    BIO *b = BIO_new_mem_buf(pem, len);
    X509 *x = b == NULL ? NULL : PEM_read_bio_X509(b, NULL, NULL, NULL);

    BIO_free(b);
    return x;
}

/* A verify store of its own, with one CA. */
int cref_verify_by(SSL_CTX *ctx, const char *pem, int len)
{
    X509_STORE *store = X509_STORE_new();
    X509 *ca = read_cert(pem, len);
    int ok = store != NULL && ca != NULL && X509_STORE_add_cert(store, ca) && SSL_CTX_set1_verify_cert_store(ctx, store);

    X509_free(ca);
    X509_STORE_free(store);
    return ok;
}

static int stern_cb(int ok, X509_STORE_CTX *chain)
{
    (void)ok;
    X509_STORE_CTX_set_error(chain, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
}

void cref_let_none_in(SSL_CTX *ctx)
{
    SSL_CTX_set_verify(ctx, SSL_CTX_get_verify_mode(ctx), stern_cb);
}

int cref_ca_dir(SSL_CTX *ctx, const char *dir)
{
    return SSL_CTX_load_verify_locations(ctx, NULL, dir);
}

int cref_announce(SSL_CTX *ctx, const char *pem, int len)
{
    X509 *ca = read_cert(pem, len);
    int ok = ca != NULL && SSL_CTX_add_client_CA(ctx, ca);

    X509_free(ca);
    return ok;
}

/* The name, without its suffix, under which a folder of CAs has one. */
unsigned long cref_ca_hash(const char *pem, int len)
{
    X509 *ca = read_cert(pem, len);
    unsigned long hash = ca == NULL ? 0 : X509_subject_name_hash(ca);

    X509_free(ca);
    return hash;
}

int cref_add_crl(SSL_CTX *ctx, const char *pem, int len)
{
    BIO *b = BIO_new_mem_buf(pem, len);
    X509_CRL *crl = b == NULL ? NULL : PEM_read_bio_X509_CRL(b, NULL, NULL, NULL);
    int ok = crl != NULL && X509_STORE_add_crl(SSL_CTX_get_cert_store(ctx), crl);

    X509_CRL_free(crl);
    BIO_free(b);
    return ok;
}

/* ---- certificates from a callback ----------------------------------------- */

typedef struct pair {
    X509 *cert;
    EVP_PKEY *key;
} pair;

static int cert_cb(SSL *ssl, void *arg)
{
    pair *p = arg;

    return SSL_use_certificate(ssl, p->cert) == 1 && SSL_use_PrivateKey(ssl, p->key) == 1;
}

void cref_pair_drop(void *ptr)
{
    pair *p = ptr;

    if (p == NULL)
        return;
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
    OPENSSL_free(p);
}

void *cref_pair_read(const char *cert, int cert_len, const char *key, int key_len)
{
    BIO *b = BIO_new_mem_buf(key, key_len);
    pair *p = OPENSSL_zalloc(sizeof(*p));

    if (p != NULL) {
        p->cert = read_cert(cert, cert_len);
        p->key = b == NULL ? NULL : PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
    }
    BIO_free(b);
    if (p != NULL && p->cert != NULL && p->key != NULL)
        return p;
    cref_pair_drop(p);
    return NULL;
}

static void free_pair(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    cref_pair_drop(ptr);
}

int cref_certify_by_callback(SSL_CTX *ctx, const char *cert, int cert_len, const char *key, int key_len)
{
    static int idx = -1;
    pair *p = cref_pair_read(cert, cert_len, key, key_len);

    if (idx < 0)
        idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_pair);
    if (p == NULL || !SSL_CTX_set_ex_data(ctx, idx, p)) {
        cref_pair_drop(p);
        return 0;
    }
    SSL_CTX_set_cert_cb(ctx, cert_cb, p);
    return 1;
}
