#include "_cgo_export.h"
#include <pthread.h>
#include <time.h>

/*
 * One loop for each callback: fetch what the context has installed, as OpenSSL does, and call it.
 * The call goes through a pointer in the yardstick too.
 */

void cref_call_bare(SSL *ssl, SSL_SESSION *sess, long n)
{
    int (*volatile pointer)(SSL *, SSL_SESSION *) = crefGoBare;
    int (*bare)(SSL *, SSL_SESSION *) = pointer;

    while (n-- > 0)
        bare(ssl, sess);
}

int cref_call_new(SSL_CTX *ctx, SSL *ssl, SSL_SESSION *sess, long n)
{
    int (*cb)(SSL *, SSL_SESSION *) = SSL_CTX_sess_get_new_cb(ctx);

    if (cb == NULL)
        return 0;
    while (n-- > 0)
        if (cb(ssl, sess) != 0) /* 1 would have taken a reference that is not here */
            return 0;
    return 1;
}

int cref_call_get(SSL_CTX *ctx, SSL *ssl, long n)
{
    SSL_SESSION *(*cb)(SSL *, const unsigned char *, int, int *) = SSL_CTX_sess_get_get_cb(ctx);
    static const unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH] = { 1 };
    int copy = 1;

    if (cb == NULL)
        return 0;
    while (n-- > 0)
        if (cb(ssl, id, sizeof id, &copy) != NULL)
            return 0;
    return 1;
}

int cref_call_remove(SSL_CTX *ctx, SSL_SESSION *sess, long n)
{
    void (*cb)(SSL_CTX *, SSL_SESSION *) = SSL_CTX_sess_get_remove_cb(ctx);

    if (cb == NULL)
        return 0;
    while (n-- > 0)
        cb(ctx, sess);
    return 1;
}

struct job {
    SSL_CTX *ctx;
    SSL *ssl;
    SSL_SESSION *sess;
    long n;
    int64_t ns;
};

static int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void *work(void *arg)
{
    struct job *j = arg;
    int64_t began;

    if (!cref_call_new(j->ctx, j->ssl, j->sess, 1)) /* with the first call the thread becomes known to Go */
        return NULL;
    began = now();
    if (cref_call_new(j->ctx, j->ssl, j->sess, j->n))
        j->ns = now() - began;
    return NULL;
}

int64_t cref_call_new_on_thread(SSL_CTX *ctx, SSL *ssl, SSL_SESSION *sess, long n)
{
    struct job j = { ctx, ssl, sess, n, 0 };
    pthread_t thread;

    if (pthread_create(&thread, NULL, work, &j) != 0)
        return 0;
    pthread_join(thread, NULL);
    return j.ns;
}
