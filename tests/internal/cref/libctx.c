/* libctx.c: library contexts and default properties. */
#include "cref.h"

#include <openssl/evp.h>

void *cref_libctx_new(const char *config)
{
#ifdef OPENSSL_VERSION_MAJOR /* from 3.0 on */
    static void *made[1024]; /* leak checkers find them here */
    static int n;
    OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();

    if (ctx != NULL && n < 1024 && OSSL_LIB_CTX_load_config(ctx, config))
        return made[n++] = ctx;
    OSSL_LIB_CTX_free(ctx);
#else
    (void)config;
#endif
    return NULL;
}

int cref_default_properties(const char *query)
{
#ifdef OPENSSL_VERSION_MAJOR /* from 3.0 on */
    return EVP_set_default_properties(NULL, query);
#else
    (void)query;
    return 0;
#endif
}
