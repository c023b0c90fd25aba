/* callbacks.c: the three callbacks as a C program writes them, with the literal flags. */
#include "cref.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

static int ctx_idx = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init(void)
{
    ctx_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static cref_callbacks *of(SSL_CTX *ctx)
{
    return SSL_CTX_get_ex_data(ctx, ctx_idx);
}

static int new_cb(SSL *ssl, SSL_SESSION *s)
{
    cref_callbacks *cb = of(SSL_get_SSL_CTX(ssl));

    cb->news++;
    OPENSSL_free(cb->der);
    cb->der = NULL; /* i2d allocates then */
    cb->der_len = i2d_SSL_SESSION(s, &cb->der);
    if (cb->keep)
        cb->kept[cb->nkept++] = s;
    return cb->keep;
}

static SSL_SESSION *get_cb(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    cref_callbacks *cb = of(SSL_get_SSL_CTX(ssl));
    SSL_SESSION *s = cb->answer;
    unsigned int n;

    cb->gets++;
    if (s == NULL || memcmp(SSL_SESSION_get_id(s, &n), id, (size_t)len) != 0 || n != (unsigned int)len)
        return NULL;
    if (cb->copy >= 0)
        *copy = cb->copy;
    if (cb->copy == 0)
        cb->answer = NULL;
    return s;
}

static void remove_cb(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    of(ctx)->removes++;
}

cref_callbacks *cref_install(SSL_CTX *ctx, int which)
{
    cref_callbacks *cb;

    pthread_once(&once, init);
    cb = OPENSSL_zalloc(sizeof(*cb));
    if (cb == NULL || !SSL_CTX_set_ex_data(ctx, ctx_idx, cb)) {
        OPENSSL_free(cb);
        return NULL;
    }
    if (which & CREF_NEW)
        SSL_CTX_sess_set_new_cb(ctx, new_cb);
    if (which & CREF_GET)
        SSL_CTX_sess_set_get_cb(ctx, get_cb);
    if (which & CREF_REMOVE)
        SSL_CTX_sess_set_remove_cb(ctx, remove_cb);
    return cb;
}

void cref_callbacks_free(cref_callbacks *cb)
{
    while (cb->nkept > 0)
        SSL_SESSION_free(cb->kept[--cb->nkept]);
    SSL_SESSION_free(cb->answer);
    OPENSSL_free(cb->der);
    OPENSSL_free(cb);
}

int cref_installed(SSL_CTX *ctx, int which)
{
    switch (which) {
    case CREF_NEW:
        return SSL_CTX_sess_get_new_cb(ctx) == NULL ? 0 : SSL_CTX_sess_get_new_cb(ctx) == new_cb ? 1 : 2;
    case CREF_GET:
        return SSL_CTX_sess_get_get_cb(ctx) == NULL ? 0 : SSL_CTX_sess_get_get_cb(ctx) == get_cb ? 1 : 2;
    default:
        return SSL_CTX_sess_get_remove_cb(ctx) == NULL ? 0 : SSL_CTX_sess_get_remove_cb(ctx) == remove_cb ? 1 : 2;
    }
}

int cref_answer_der(cref_callbacks *cb, const unsigned char *der, size_t len)
{
    SSL_SESSION_free(cb->answer);
    cb->answer = d2i_SSL_SESSION(NULL, &der, (long)len);
    return cb->answer != NULL;
}
