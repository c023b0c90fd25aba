/*
 * Adds a session store to an unmodified program:
 *
 *     cc -shared -fPIC preload.c -o lssl-preload.so $(pkg-config --cflags lssl) -ldl -lpthread
 *     LD_PRELOAD=$PWD/lssl-preload.so LSSL_STORE=redis://127.0.0.1/0 LSSL_KEYRING=/etc/ring.txt nginx
 *
 * It replaces SSL_new(3). The first SSL_new for an SSL_CTX with a certificate adds
 * the store, in the process that serves the connection. So it works with daemons
 * that fork: the worker loads liblssl, not its parent. A process with liblssl must
 * not fork, because Go runs in it.
 *
 * Limits. The program must link libssl dynamically. A process that forks servers
 * must not serve itself. The program must have no session callbacks: nginx has
 * none without `ssl_session_cache shared`, but stunnel and haproxy always have. A
 * ClientHello callback of the program is replaced. A lookup blocks its thread for
 * at most 50 ms, and a store that failed is not asked for a while. During a lookup
 * a worker of nginx serves no other connection.
 *
 * LSSL_STORE is the URL, and LSSL_KEYRING the key ring, which a store of one host
 * does not need. LSSL_LIBRARY is the library, by default liblssl.so.1 in the
 * search path of ld.so. A failure is reported once, on standard error, and the
 * program serves without the store.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <lssl.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Copied from the environment at the start: nginx clears it for its workers. */
static char *store, *keyring, *library;

static int seen_idx = -1; /* ex_data index that marks SSL_CTXs that have been handled */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static SSL *(*real_new)(SSL_CTX *);
static int (*use_store)(SSL_CTX *, const char *, const struct lssl_options *, struct lssl_cache **);
static const char *(*last_error)(void);

static void say(const char *text)
{
    fprintf(stderr, "lssl-preload[%d]: %s\n", (int)getpid(), text);
}

static char *from_env(const char *name)
{
    const char *value = getenv(name);

    return value == NULL ? NULL : strdup(value);
}

static void __attribute__((constructor)) begin(void)
{
    store = from_env("LSSL_STORE");
    keyring = from_env("LSSL_KEYRING");
    library = from_env("LSSL_LIBRARY");
}

/* ISO C does not convert the void * of dlsym to a function pointer; a union does. */
static void load(void)
{
    union {
        void *p;
        SSL *(*new_ssl)(SSL_CTX *);
        int (*use)(SSL_CTX *, const char *, const struct lssl_options *, struct lssl_cache **);
        const char *(*error)(void);
    } f;
    void *lib;

    f.p = dlsym(RTLD_NEXT, "SSL_new");
    real_new = f.new_ssl;
    if (store == NULL)
        return;
    lib = dlopen(library == NULL ? "liblssl.so.1" : library, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        say(dlerror());
        return;
    }
    f.p = dlsym(lib, "SSL_new"); /* the SSL_new of the libssl that liblssl is linked with */
    if (f.new_ssl != real_new) {
        say("the library uses another libssl than this program");
        return;
    }
    seen_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    f.p = dlsym(lib, "lssl_error");
    last_error = f.error;
    f.p = dlsym(lib, "lssl_use_store");
    use_store = f.use;
}

static void give(SSL_CTX *ctx)
{
    struct lssl_options opt = LSSL_OPTIONS_INIT;
    struct lssl_cache *cache; /* lives as long as the process */

    if (SSL_CTX_get_ex_data(ctx, seen_idx) != NULL || !SSL_CTX_set_ex_data(ctx, seen_idx, ctx)
        || SSL_CTX_get0_certificate(ctx) == NULL)
        return;
    opt.keyring = keyring;
    if (use_store(ctx, store, &opt, &cache) != LSSL_OK)
        say(last_error());
}

SSL *SSL_new(SSL_CTX *ctx)
{
    static __thread int giving; /* the library makes SSLs too, to look at an SSL_CTX */

    pthread_once(&once, load);
    if (use_store != NULL && ctx != NULL && !giving) {
        giving = 1;
        pthread_mutex_lock(&lock);
        give(ctx);
        pthread_mutex_unlock(&lock);
        giving = 0;
    }
    return real_new(ctx);
}
