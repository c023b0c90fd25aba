/*
 * Checks the promises of lssl.h, from a program that is C and C++ alike: api CERT KEY SQLITE-FILE.
 */
#ifndef _GNU_SOURCE /* C++ has it */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#endif
#include <lssl.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what)                                                                        \
    do {                                                                                   \
        if (!(what)) {                                                                     \
            fprintf(stderr, "api.c:%d: %s (lssl: %s)\n", __LINE__, #what, lssl_error());   \
            _exit(1); /* other threads may run */                                          \
        }                                                                                  \
    } while (0)

static const char *cert, *key;
static char sqlite_url[512];
static int troubles; /* atomic: on_error comes on any thread */

static void trouble(void *arg, const char *text)
{
    CHECK(arg == &troubles && text[0] != '\0');
    __atomic_add_fetch(&troubles, 1, __ATOMIC_SEQ_CST);
}

static struct lssl_options options(unsigned int flags)
{
    struct lssl_options opt = LSSL_OPTIONS_INIT;

    opt.flags = flags;
    opt.on_error = trouble;
    opt.on_error_arg = &troubles;
    opt.lookup_timeout_ms = opt.put_timeout_ms = 20000; /* the machine may be busy */
    return opt;
}

static SSL_CTX *server_ctx(int version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    CHECK(ctx != NULL && SSL_CTX_use_certificate_chain_file(ctx, cert) == 1
          && SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1);
    CHECK(SSL_CTX_set_min_proto_version(ctx, version) && SSL_CTX_set_max_proto_version(ctx, version));
    return ctx;
}

static struct lssl_cache *use(SSL_CTX *ctx, const char *url, unsigned int flags)
{
    struct lssl_options opt = options(flags);
    struct lssl_cache *cache;

    CHECK(lssl_use_store(ctx, url, &opt, &cache) == LSSL_OK);
    return cache;
}

static struct lssl_stats stats(struct lssl_cache *cache)
{
    struct lssl_stats s;

    s.struct_size = sizeof(s);
    CHECK(lssl_stats(cache, &s) == LSSL_OK);
    return s;
}

/* An event loop's sessions are written behind. */
static void await_writes(struct lssl_cache *cache)
{
    while (stats(cache).queued > 0)
        usleep(1000);
}

/* ---- both ends of a connection ------------------------------------------------ */

struct pair {
    SSL *client, *server;
    int parked; /* how often */
};

static struct pair pair_new(SSL_CTX *server, SSL_SESSION *offer)
{
    SSL_CTX *client = SSL_CTX_new(TLS_client_method());
    struct pair p = { SSL_new(client), SSL_new(server), 0 };
    BIO *c, *s;

    CHECK(p.client != NULL && p.server != NULL && BIO_new_bio_pair(&c, 1 << 16, &s, 1 << 16));
    SSL_CTX_free(client);
    SSL_set_bio(p.client, c, c);
    SSL_set_bio(p.server, s, s);
    SSL_set_connect_state(p.client);
    SSL_set_accept_state(p.server);
    CHECK(offer == NULL || SSL_set_session(p.client, offer));
    return p;
}

static void await(int fd)
{
    struct pollfd p = { fd, POLLIN, 0 };
    int ret;

    /* A signal of the Go scheduler may interrupt it. */
    do
        ret = poll(&p, 1, 30000);
    while (ret == -1 && errno == EINTR);
    CHECK(ret == 1 && p.revents == POLLIN);
}

/* step drives one end; 1 when it is through. */
static int step(struct pair *p, SSL *ssl)
{
    int ret = SSL_do_handshake(ssl);
    int e = SSL_get_error(ssl, ret);

    if (ret == 1)
        return 1;
    if (e == SSL_ERROR_WANT_CLIENT_HELLO_CB) {
        p->parked++;
        CHECK(lssl_fd(ssl) >= 0);
        await(lssl_fd(ssl));
        return step(p, ssl);
    }
    CHECK(e == SSL_ERROR_WANT_READ);
    return 0;
}

/* Of the server that finish has served last on this thread. */
static __thread unsigned char origin[LSSL_ORIGIN_SIZE];
static __thread int origin_ret;

/* A handshake and a byte to the client, which brings it its tickets; then a clean end. Answers whether it resumed, and the
 * session to offer next in the place of *offer. */
static int finish(struct pair p, SSL_SESSION **offer)
{
    int c = 0, s = 0, reused;
    char byte = 'x';

    CHECK(lssl_origin(p.server, origin) != LSSL_OK); /* not before the end of the handshake */
    for (int turn = 0; turn < 10 && !(c && s); turn++) {
        c = c || step(&p, p.client);
        s = s || step(&p, p.server);
    }
    CHECK(c && s && lssl_fd(p.server) == -1);
    CHECK(SSL_write(p.server, &byte, 1) == 1 && SSL_read(p.client, &byte, 1) == 1);
    reused = SSL_session_reused(p.client);
    CHECK(reused == SSL_session_reused(p.server));
    if (offer != NULL) {
        SSL_SESSION_free(*offer);
        *offer = SSL_get1_session(p.client);
    }
    CHECK(lssl_origin(p.client, origin) != LSSL_OK);
    origin_ret = lssl_origin(p.server, origin);
    SSL_shutdown(p.server);
    SSL_shutdown(p.client);
    SSL_free(p.client);
    SSL_free(p.server);
    return reused;
}

static int visit(SSL_CTX *server, SSL_SESSION **offer)
{
    return finish(pair_new(server, offer == NULL ? NULL : *offer), offer);
}

/* ---- what is refused ------------------------------------------------------------- */

static int refused(SSL_CTX *ctx, const char *url, const struct lssl_options *opt)
{
    struct lssl_cache *cache = (struct lssl_cache *)&cache;
    int ret = lssl_use_store(ctx, url, opt, &cache);

    CHECK(ret != LSSL_OK && cache == NULL && strncmp(lssl_error(), "lssl: ", 6) == 0 && lssl_error()[6] != '\0');
    CHECK(strchr(lssl_error(), '\n') == NULL);
    /* And nothing is left behind. */
    CHECK(ctx == NULL || SSL_CTX_get_session_cache_mode(ctx) == SSL_SESS_CACHE_SERVER);
    CHECK(ctx == NULL || !(SSL_CTX_get_options(ctx) & SSL_OP_NO_TICKET));
    return ret;
}

static int new_cb(SSL *ssl, SSL_SESSION *s)
{
    (void)ssl, (void)s;
    return 0;
}

/* 4.0 has no methods for one version any more. */
static const char *const unsupported[] = {
    "TLS_client_method", "DTLS_method", "DTLS_server_method", "DTLS_client_method",
    "TLSv1_2_client_method", "DTLSv1_2_method", "DTLSv1_2_server_method", "DTLSv1_2_client_method",
};

static void test_refusals(void)
{
    SSL_CTX *ctx = server_ctx(TLS1_3_VERSION), *other;
    struct lssl_options opt = options(0);
    struct lssl_cache *cache;
    struct {
        struct lssl_options known;
        uint64_t newer; /* no padding, which would count */
    } longer;

    CHECK(lssl_abi_version() == LSSL_ABI_VERSION);
    CHECK(refused(NULL, "memory:", NULL) == LSSL_EINVAL);
    CHECK(refused(ctx, NULL, NULL) == LSSL_EINVAL);
    CHECK(lssl_use_store(ctx, "memory:", NULL, NULL) == LSSL_EINVAL);
    CHECK(refused(ctx, "file:x", NULL) == LSSL_EINVAL);
    CHECK(refused(ctx, "memory:x", NULL) == LSSL_EINVAL);
    CHECK(refused(ctx, "valkey://:s3cret@", NULL) == LSSL_EINVAL && strstr(lssl_error(), "s3cret") == NULL);
    CHECK(refused(ctx, "sqlite:/absent/sessions.db", NULL) == LSSL_ESTORE);

    opt.flags = 0x80000000u;
    CHECK(refused(ctx, "memory:", &opt) == LSSL_EINVAL);
    opt = options(0);
    opt.struct_size = 0;
    CHECK(refused(ctx, "memory:", &opt) == LSSL_EINVAL);
    longer.known = options(0);
    longer.known.struct_size = sizeof(longer);
    longer.newer = 1;
    CHECK(refused(ctx, "memory:", &longer.known) == LSSL_EINVAL);
    opt = options(0);
    opt.keyring = "/absent/ring";
    CHECK(refused(ctx, "memory:", &opt) == LSSL_EKEYS);
    opt.flags = LSSL_PLAINTEXT;
    CHECK(refused(ctx, "memory:", &opt) == LSSL_EINVAL);
    opt = options(0);
    opt.id_context = "123456789012345678901234567890123";
    opt.id_context_len = 33;
    CHECK(refused(ctx, "memory:", &opt) == LSSL_EINVAL);

    for (size_t i = 0; i < sizeof(unsupported) / sizeof(unsupported[0]); i++) {
        void *method = dlsym(RTLD_DEFAULT, unsupported[i]);

        CHECK(method != NULL || i >= 4);
        if (method == NULL)
            continue;
        other = SSL_CTX_new(((const SSL_METHOD *(*)(void))method)());
        CHECK(refused(other, "memory:", NULL) == LSSL_EUNSUPPORTED);
        SSL_CTX_free(other);
    }
    SSL_CTX_set_mode(ctx, SSL_MODE_ASYNC);
    CHECK(refused(ctx, "memory:", NULL) == LSSL_EUNSUPPORTED);
    SSL_CTX_clear_mode(ctx, SSL_MODE_ASYNC);
    SSL_CTX_sess_set_new_cb(ctx, new_cb);
    CHECK(refused(ctx, "memory:", NULL) == LSSL_EBUSY);
    CHECK(SSL_CTX_sess_get_new_cb(ctx) == new_cb);
    SSL_CTX_sess_set_new_cb(ctx, NULL);

    cache = use(ctx, "memory:", 0);
    other = (SSL_CTX *)&other;
    {
        struct lssl_cache *second;

        CHECK(lssl_use_store(ctx, "memory:", NULL, &second) == LSSL_EBUSY && second == NULL);
    }
    CHECK(lssl_stats(NULL, NULL) == LSSL_EINVAL && lssl_stats(cache, NULL) == LSSL_EINVAL);
    CHECK(lssl_close(cache, 1000) == LSSL_OK);
    CHECK(lssl_close(NULL, 0) == LSSL_OK);
    longer.newer = 0; /* unused: as if it were not there */
    CHECK(lssl_use_store(ctx, "memory:", &longer.known, &cache) == LSSL_OK);
    CHECK(lssl_close(cache, 1000) == LSSL_OK);
    SSL_CTX_free(ctx);
}

/* A server that is never without connections closes its store and opens another. */
static void test_store_replaced_while_serving(int version)
{
    SSL_CTX *ctx = server_ctx(version);
    struct lssl_cache *cache = use(ctx, "memory:", 0);
    SSL *alive = SSL_new(ctx);
    SSL_SESSION *offer = NULL;

    CHECK(alive != NULL && !visit(ctx, &offer) && visit(ctx, &offer));
    CHECK(lssl_close(cache, 1000) == LSSL_OK);
    CHECK(!visit(ctx, &offer));
    cache = use(ctx, sqlite_url, 0);
    CHECK(!visit(ctx, &offer) && visit(ctx, &offer));
    CHECK(stats(cache).hits == 1);
    CHECK(lssl_close(cache, 1000) == LSSL_OK);
    SSL_free(alive);
    SSL_SESSION_free(offer);
    SSL_CTX_free(ctx);
}

/* ---- what it is for -------------------------------------------------------------- */

static void test_resumes(int version, const char *url, unsigned int flags)
{
    SSL_CTX *a = server_ctx(version), *b = server_ctx(version);
    struct lssl_cache *ca = use(a, url, flags), *cb = use(b, url, flags);
    struct lssl_stats s;
    SSL_SESSION *offer = NULL;
    struct pair p;
    uint64_t misses;
    uint64_t prefix[3] = { sizeof(prefix), 99, 99 };

    CHECK(!visit(a, &offer));
    await_writes(ca);
    p = pair_new(b, offer);
    CHECK(finish(p, &offer));
    s = stats(cb);
    CHECK(s.hits == 1 && s.errors == 0 && s.timeouts == 0);
    CHECK((s.suspended > 0) == (flags & LSSL_PARK && strncmp(url, "memory:", 7) != 0));
    await_writes(ca);
    await_writes(cb);
    CHECK(visit(a, &offer));
    await_writes(ca);

    /* A program that was compiled when there were only two counters. */
    misses = stats(ca).misses;
    CHECK(lssl_stats(ca, (struct lssl_stats *)prefix) == LSSL_OK);
    CHECK(prefix[0] == sizeof(prefix) && prefix[1] == 1 && prefix[2] == misses);

    /* Freed while they wait, before and after the answer. */
    if (stats(cb).suspended > 0)
        for (int answered = 0; answered < 2; answered++) {
            int fd;

            p = pair_new(b, offer);
            SSL_do_handshake(p.client);
            CHECK(SSL_get_error(p.server, SSL_do_handshake(p.server)) == SSL_ERROR_WANT_CLIENT_HELLO_CB);
            fd = lssl_fd(p.server);
            if (answered)
                await(fd);
            else
                SSL_do_handshake(p.server); /* too early, or just in time */
            SSL_free(p.server);
            CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
            SSL_free(p.client);
        }

    /* Connections that outlive the store. */
    p = pair_new(b, offer);
    CHECK(lssl_close(cb, 20000) == LSSL_OK);
    CHECK(!finish(p, NULL));
    CHECK(SSL_CTX_sess_get_new_cb(b) == NULL && SSL_CTX_sess_get_get_cb(b) == NULL && SSL_CTX_sess_get_remove_cb(b) == NULL);
    CHECK(SSL_CTX_get_session_cache_mode(b) == SSL_SESS_CACHE_SERVER);
    CHECK(!(SSL_CTX_get_options(b) & SSL_OP_NO_TICKET));
    CHECK(visit(a, &offer)); /* a's store is the same one, and open */
    SSL_CTX_free(b);
    SSL_CTX_free(a);
    CHECK(lssl_close(ca, 20000) == LSSL_OK);
    SSL_SESSION_free(offer);
}

static void test_revoke(int version, unsigned int flags)
{
    const unsigned char zero[LSSL_ORIGIN_SIZE] = { 0 };
    SSL_CTX *a = server_ctx(version), *b = server_ctx(version), *none = server_ctx(version);
    struct lssl_cache *ca = use(a, sqlite_url, flags | LSSL_REVOCABLE), *cb = use(b, sqlite_url, flags);
    SSL_SESSION *offer = NULL;
    unsigned char first[LSSL_ORIGIN_SIZE];

    CHECK(!visit(none, NULL) && origin_ret == LSSL_EINVAL && memcmp(origin, zero, sizeof(zero)) == 0);
    CHECK(!visit(a, &offer) && origin_ret == LSSL_OK);
    memcpy(first, origin, sizeof(first));
    for (int i = 0; i < 3; i++) {
        await_writes(ca);
        CHECK(visit(a, &offer) && memcmp(origin, first, sizeof(first)) == 0);
    }
    await_writes(ca);
    CHECK(lssl_revoke(cb, first) == LSSL_EUNSUPPORTED);
    CHECK(lssl_revoke(ca, zero) == LSSL_EINVAL);
    CHECK(lssl_revoke(ca, NULL) == LSSL_EINVAL && lssl_revoke(NULL, first) == LSSL_EINVAL);
    CHECK(lssl_origin(NULL, origin) == LSSL_EINVAL);
    CHECK(lssl_revoke(ca, first) == LSSL_OK);
    CHECK(!visit(a, &offer) && origin_ret == LSSL_OK && memcmp(origin, first, sizeof(first)) != 0);
    await_writes(ca);
    CHECK(visit(a, &offer));
    SSL_SESSION_free(offer);
    CHECK(lssl_close(ca, 20000) == LSSL_OK && lssl_close(cb, 20000) == LSSL_OK);
    SSL_CTX_free(a);
    SSL_CTX_free(b);
    SSL_CTX_free(none);
}

static void test_single_use(void)
{
    SSL_CTX *ctx = server_ctx(TLS1_3_VERSION);
    struct lssl_cache *cache = use(ctx, sqlite_url, LSSL_SINGLE_USE | LSSL_PARK);
    SSL_SESSION *offer = NULL, *used;
    struct pair p;

    CHECK(!visit(ctx, &offer));
    await_writes(cache);
    used = offer;
    SSL_SESSION_up_ref(used);

    /* A handshake that ends half way has used nothing. */
    p = pair_new(ctx, offer);
    SSL_do_handshake(p.client);
    CHECK(SSL_get_error(p.server, SSL_do_handshake(p.server)) == SSL_ERROR_WANT_CLIENT_HELLO_CB);
    await(lssl_fd(p.server));
    SSL_free(p.server);
    SSL_free(p.client);
    await_writes(cache);
    CHECK(stats(cache).put_back == 1);

    CHECK(visit(ctx, &offer));
    CHECK(!visit(ctx, &used));
    SSL_SESSION_free(used);
    SSL_SESSION_free(offer);
    CHECK(lssl_close(cache, 20000) == LSSL_OK);
    SSL_CTX_free(ctx);
}

static SSL_CTX *threads_ctx;

static void *client_thread(void *arg)
{
    SSL_SESSION *offer = NULL;

    (void)arg;
    visit(threads_ctx, &offer);
    for (int i = 0; i < 20; i++)
        CHECK(visit(threads_ctx, &offer));
    SSL_SESSION_free(offer);
    return NULL;
}

/* Threads that Go has never seen. */
static void test_threads(void)
{
    pthread_t threads[8];
    struct lssl_cache *cache;

    threads_ctx = server_ctx(TLS1_3_VERSION);
    cache = use(threads_ctx, sqlite_url, 0);
    for (int i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, client_thread, NULL) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    CHECK(stats(cache).hits == 8 * 20);
    CHECK(lssl_close(cache, 20000) == LSSL_OK);
    SSL_CTX_free(threads_ctx);
}

/* An SSL whose handshake runs in ASYNC jobs is served without the store. */
static void test_async(void)
{
    SSL_CTX *ctx = server_ctx(TLS1_3_VERSION);
    struct lssl_cache *cache = use(ctx, "memory:", 0);
    SSL_SESSION *offer = NULL;
    struct pair p;

    CHECK(!visit(ctx, &offer));
    CHECK(visit(ctx, &offer));
    p = pair_new(ctx, offer);
    SSL_set_mode(p.server, SSL_MODE_ASYNC);
    CHECK(!finish(p, NULL));
    CHECK(visit(ctx, &offer));
    SSL_SESSION_free(offer);
    CHECK(lssl_close(cache, 20000) == LSSL_OK);
    SSL_CTX_free(ctx);
}

static void test_no_descriptors(void)
{
    SSL_CTX *ctx = server_ctx(TLS1_2_VERSION);
    struct lssl_cache *cache = use(ctx, sqlite_url, LSSL_PARK);
    SSL_SESSION *offer = NULL;
    struct rlimit limit, low;
    int before;
    struct pair p;

    CHECK(!visit(ctx, &offer));
    await_writes(cache);
    CHECK(visit(ctx, &offer));
    p = pair_new(ctx, offer);
    before = __atomic_load_n(&troubles, __ATOMIC_SEQ_CST);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    low = limit;
    low.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    CHECK(!finish(p, NULL));
    CHECK(__atomic_load_n(&troubles, __ATOMIC_SEQ_CST) > before);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(lssl_close(cache, 20000) == LSSL_OK);
    SSL_SESSION_free(offer);
    SSL_CTX_free(ctx);
}

/* The child serves, without the store, and hangs nowhere; the parent goes on with it. */
static void test_fork(void)
{
    SSL_CTX *ctx = server_ctx(TLS1_3_VERSION);
    struct lssl_cache *cache = use(ctx, "memory:", 0);
    SSL_SESSION *offer = NULL;
    struct pair p;
    pid_t child;
    int status;

    CHECK(!visit(ctx, &offer));
    CHECK(visit(ctx, &offer));
    p = pair_new(ctx, offer);
    child = fork();
    if (child == 0) {
        struct lssl_cache *second;
        struct lssl_stats s;

        alarm(60);
        s.struct_size = sizeof(s);
        CHECK(lssl_use_store(ctx, "memory:", NULL, &second) == LSSL_EFORK && strstr(lssl_error(), "fork") != NULL);
        CHECK(lssl_stats(cache, &s) == LSSL_EFORK);
        CHECK(!finish(p, NULL));
        for (int i = 0; i < 3; i++)
            CHECK(!visit(ctx, NULL));
        CHECK(lssl_close(cache, 1000) == LSSL_EFORK);
        SSL_SESSION_free(offer);
        SSL_CTX_free(ctx);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(finish(p, &offer));
    CHECK(visit(ctx, &offer));
    SSL_SESSION_free(offer);
    CHECK(lssl_close(cache, 20000) == LSSL_OK);
    SSL_CTX_free(ctx);
}

int main(int argc, char **argv)
{
    const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    if (argc != 4)
        return 2;
    cert = argv[1];
    key = argv[2];
    snprintf(sqlite_url, sizeof(sqlite_url), "sqlite:%s", argv[3]);
    test_refusals();
    for (int i = 0; i < 2; i++) {
        test_store_replaced_while_serving(versions[i]);
        for (unsigned int flags = 0; flags <= LSSL_PARK; flags += LSSL_PARK) {
            test_resumes(versions[i], "memory:", flags);
            test_resumes(versions[i], sqlite_url, flags);
            test_revoke(versions[i], flags);
        }
    }
    test_single_use();
    test_threads();
    test_async();
    CHECK(troubles == 0);
    test_no_descriptors();
    test_fork();
    puts("ok");
    return 0;
}
