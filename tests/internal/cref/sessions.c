/* sessions.c: how many SSL_SESSIONs and SSL_CTXs were made and destroyed. */
#include "cref.h"

#include <string.h>

static long made, destroyed, ctxs_destroyed;
static void *watched; /* an address, never followed; NULL once the object has gone */

static void session_new_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
    __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST);
}

static void session_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
    __atomic_add_fetch(&destroyed, 1, __ATOMIC_SEQ_CST);
    __atomic_compare_exchange_n(&watched, &parent, NULL, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void ctx_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
    __atomic_add_fetch(&ctxs_destroyed, 1, __ATOMIC_SEQ_CST);
}

int cref_init(void)
{
    return SSL_SESSION_get_ex_new_index(0, NULL, session_new_cb, NULL, session_free_cb) >= 0
           && SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, ctx_free_cb) >= 0;
}

long cref_sessions_made(void)
{
    return __atomic_load_n(&made, __ATOMIC_SEQ_CST);
}

long cref_sessions_destroyed(void)
{
    return __atomic_load_n(&destroyed, __ATOMIC_SEQ_CST);
}

long cref_ctxs_destroyed(void)
{
    return __atomic_load_n(&ctxs_destroyed, __ATOMIC_SEQ_CST);
}

size_t cref_master_key(SSL_SESSION *s, unsigned char *out, size_t size)
{
    return SSL_SESSION_get_master_key(s, out, size);
}

SSL_SESSION *cref_session_without_cipher(void)
{
    return SSL_SESSION_new();
}

void cref_watch(SSL_SESSION *s)
{
    __atomic_store_n(&watched, s, __ATOMIC_SEQ_CST);
}

int cref_watched_gone(void)
{
    return __atomic_load_n(&watched, __ATOMIC_SEQ_CST) == NULL;
}
