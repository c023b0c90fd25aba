/*
 * uri.c: certificates and keys that OSSL_STORE finds: on a token, or wherever a
 * provider looks for a URI, and in a file by the decoders of all providers.
 */
#include "bridge.h"

#ifdef SCB_HAVE_PROVIDERS

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/store.h>
#include <openssl/ui.h>

#define SCB_URI_KEYS 32
#define SCB_URI_CERTS 128
#define SCB_URI_OBJECTS 1024   /* of all kinds */

typedef struct scb_found {
    STACK_OF(X509) *certs;
    EVP_PKEY *keys[SCB_URI_KEYS];
    int n;                      /* keys */
} scb_found;

static int scb_found_add(scb_found *f, OSSL_STORE_INFO *info)
{
    int type = OSSL_STORE_INFO_get_type(info);
    X509 *x;

    if (type == OSSL_STORE_INFO_PKEY) {
        if (f->n == SCB_URI_KEYS)
            return SCB_CERT_MANY;
        f->keys[f->n] = OSSL_STORE_INFO_get1_PKEY(info);
        return f->keys[f->n++] == NULL ? SCB_CERT_BAD : SCB_CERT_GOOD;
    }
    if (type == OSSL_STORE_INFO_CERT) {
        if (sk_X509_num(f->certs) == SCB_URI_CERTS)
            return SCB_CERT_MANY;
        if ((x = OSSL_STORE_INFO_get1_CERT(info)) == NULL || !sk_X509_push(f->certs, x)) {
            X509_free(x);
            return SCB_CERT_BAD;
        }
    }
    return SCB_CERT_GOOD; /* public keys and parameters are of no use */
}

/* An object that cannot be read ends the reading if OpenSSL says why. Without a
 * reason it may be text between objects, and from 4.0 on whatever nothing decodes. */
static int scb_find(scb_found *f, OSSL_STORE_CTX *store)
{
    OSSL_STORE_INFO *info;
    int why = SCB_CERT_GOOD;

    for (int n = 0; why == SCB_CERT_GOOD && n < SCB_URI_OBJECTS && !OSSL_STORE_eof(store); n++) {
        info = OSSL_STORE_load(store);
        if (info != NULL)
            why = scb_found_add(f, info);
        else if (OSSL_STORE_error(store) && ERR_peek_error() != 0)
            why = SCB_CERT_BAD;
        OSSL_STORE_INFO_free(info);
    }
    return why == SCB_CERT_GOOD && !OSSL_STORE_eof(store) ? SCB_CERT_MANY : why;
}

/* Where there is no PIN the answer is an empty one. After a refusal the provider of
 * PKCS #11 would ask on the terminal, and a wrong one would count. */
static int scb_pin_cb(char *buf, int size, int rwflag, void *arg)
{
    int len = scb_give_pass(buf, size, rwflag, arg);

    return len < 0 ? 0 : len;
}

static int scb_scheme_is_known(const char *scheme)
{
    OSSL_STORE_LOADER *loader;

    ERR_set_mark();
    loader = OSSL_STORE_LOADER_fetch(NULL, scheme, NULL);
    ERR_pop_to_mark();
    OSSL_STORE_LOADER_free(loader);
    return loader != NULL;
}

static int scb_read_uri(scb_cert *c, OSSL_STORE_CTX *store, scb_pass *pass)
{
    scb_found f = { sk_X509_new_null(), { NULL }, 0 };
    int why = f.certs == NULL ? SCB_CERT_BAD : scb_find(&f, store);

    if (why == SCB_CERT_GOOD)
        why = scb_cert_pick(c, f.certs, f.keys, f.n);
    /* A token that refuses the passphrase shows what is public, or nothing. */
    if (pass->asked && (why == SCB_CERT_BAD || f.n == 0))
        why = why == SCB_CERT_BAD ? SCB_CERT_PASSPHRASE : SCB_CERT_HIDDEN;
    for (int i = 0; i < f.n; i++)
        EVP_PKEY_free(f.keys[i]);
    sk_X509_pop_free(f.certs, X509_free);
    return why;
}

#endif

scb_cert_read scb_cert_open(const char *uri, const char *scheme, const unsigned char *content, size_t content_len,
                            const char *passphrase, size_t len)
{
    scb_cert_read r = { NULL, SCB_CERT_BAD, NULL };
#ifdef SCB_HAVE_PROVIDERS
    scb_pass pass = { passphrase, len, 0 };
    OSSL_STORE_CTX *store = NULL;
    UI_METHOD *ui;
    BIO *b = NULL;

    scb_clear_errs();
    ui = UI_UTIL_wrap_read_pem_callback(scb_pin_cb, 0);
    r.cert = scb_cert_new();
    if (content != NULL && (b = BIO_new_mem_buf(content, (int)content_len)) != NULL)
        store = OSSL_STORE_attach(b, "file", NULL, NULL, ui, &pass, NULL, NULL, NULL);
    else if (content == NULL)
        store = OSSL_STORE_open_ex(uri, NULL, NULL, ui, &pass, NULL, NULL, NULL);
    if (store != NULL && r.cert != NULL)
        r.why = scb_read_uri(r.cert, store, &pass);
    else if (store == NULL && !scb_scheme_is_known(scheme))
        r.why = SCB_CERT_SCHEME;
    OSSL_STORE_close(store);
    BIO_free(b);
    UI_destroy_method(ui);
    scb_cert_done(&r);
#else
    (void)uri, (void)scheme, (void)content, (void)content_len, (void)passphrase, (void)len;
#endif
    return r;
}
