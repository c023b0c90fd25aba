/*
 * Gives a program that knows nothing of it a session store:
 *
 *     cc -shared -fPIC preload.c -o lssl-preload.so $(pkg-config --cflags lssl) -ldl -lpthread
 *     LD_PRELOAD=$PWD/lssl-preload.so LSSL_STORE=redis://127.0.0.1/0 LSSL_KEYRING=/etc/ring.txt nginx
 *
 * Every SSL_CTX with a certificate that serves its first connection is given the
 * store then, by SSL_new(3) and in the process that serves. That is late enough
 * for daemons that fork: liblssl, in which Go runs and which no fork survives, is
 * loaded by the worker, not by its parent.
 *
 * Limits. The program must link libssl dynamically, and not serve in a parent of
 * forked servers. It must have no session callbacks of its own: nginx has none
 * unless it is told `ssl_session_cache shared`; stunnel and haproxy always have.
 * Its ClientHello callback, if it has one, is replaced. Lookups block the thread
 * that makes them: for at most 50 ms, and not at all for a while where the store
 * has failed, but nginx's worker serves nobody else meanwhile.
 *
 * LSSL_STORE is the URL, LSSL_KEYRING the key ring (a store of one host needs
 * none), LSSL_LIBRARY the library if it is not liblssl.so.1 where ld.so finds it.
 * What goes wrong is said on standard error, once, and the program serves without.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <lssl.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the environment as it was at the start: nginx clears its workers'. */
static char *store, *keyring, *library;

static int seen_idx = -1; /* SSL_CTXs that have been dealt with */
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

/* A union converts between the pointers of dlsym and of functions. */
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
    f.p = dlsym(lib, "SSL_new"); /* not ours: that of what the library is linked with */
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
    pthread_once(&once, load);
    if (use_store != NULL && ctx != NULL) {
        pthread_mutex_lock(&lock);
        give(ctx);
        pthread_mutex_unlock(&lock);
    }
    return real_new(ctx);
}
