/*
 * A classic TLS server with one thread for each connection. One call of
 * lssl_use_store lets sessions resume across processes and hosts. During a lookup
 * only the thread of that connection waits for the store.
 *
 *     cc server.c -o server $(pkg-config --cflags --libs lssl libssl) -lpthread
 *     ./server 8443 cert.pem key.pem sqlite:/tmp/sessions.db
 *     ./server 8444 cert.pem key.pem sqlite:/tmp/sessions.db
 *
 * A store of several hosts needs a key ring as the fifth argument. The server
 * sends each client one line: whether it has resumed. SIGTERM ends the server.
 */
#include <lssl.h>

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static SSL_CTX *ctx;

/* The number of connections, under lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int connections;

static void count(int change)
{
    pthread_mutex_lock(&lock);
    connections += change;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

/* Waits for the threads of connections, with a time limit. */
static void wait_for_all(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&lock);
    while (connections > 0 && pthread_cond_timedwait(&changed, &lock, &until) == 0)
        ;
    pthread_mutex_unlock(&lock);
}

static void trouble(void *arg, const char *text)
{
    (void)arg;
    warnx("%s", text);
}

/* Serves one connection. */
static void *serve(void *arg)
{
    SSL *ssl = arg;
    char line[64];
    int fd = SSL_get_fd(ssl);

    if (SSL_accept(ssl) == 1) {
        snprintf(line, sizeof(line), "%s resumed: %s\n", SSL_get_version(ssl), SSL_session_reused(ssl) ? "yes" : "no");
        SSL_write(ssl, line, (int)strlen(line));
        /* Without this close_notify OpenSSL would make the session not resumable. */
        if (SSL_shutdown(ssl) == 0)
            while (SSL_read(ssl, line, sizeof(line)) > 0)
                ;
    }
    SSL_free(ssl);
    close(fd);
    OPENSSL_thread_stop(); /* before count(-1), after which main may end without freeing per-thread data */
    count(-1);
    return NULL;
}

static void *accept_all(void *arg)
{
    int l = *(int *)arg;

    for (;;) {
        int fd = accept(l, NULL, NULL);
        SSL *ssl = fd < 0 ? NULL : SSL_new(ctx);
        pthread_t thread;

        if (fd < 0 && errno == EINVAL) /* main has shut it down */
            break;
        if (fd < 0)
            continue;
        count(1);
        if (ssl == NULL || !SSL_set_fd(ssl, fd) || pthread_create(&thread, NULL, serve, ssl) != 0) {
            SSL_free(ssl);
            close(fd);
            count(-1);
            continue;
        }
        pthread_detach(thread);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct lssl_options opt = LSSL_OPTIONS_INIT;
    struct lssl_stats stats = { .struct_size = sizeof(stats) };
    struct lssl_cache *cache;
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(addr);
    pthread_t acceptor;
    sigset_t end;
    int l, sig, on = 1;

    if (argc != 5 && argc != 6)
        errx(2, "usage: server PORT CERT KEY STORE [KEYRING]");
    /*
     * For sigwait. The threads of the library already run and do not have this
     * mask, but the kernel prefers a thread that waits in sigwait.
     */
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
    signal(SIGPIPE, SIG_IGN);

    ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL || SSL_CTX_use_certificate_chain_file(ctx, argv[2]) != 1
        || SSL_CTX_use_PrivateKey_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1)
        errx(1, "cannot use %s and %s", argv[2], argv[3]);
    opt.keyring = argc == 6 ? argv[5] : NULL;
    opt.on_error = trouble;
    if (lssl_use_store(ctx, argv[4], &opt, &cache) != LSSL_OK)
        errx(1, "%s", lssl_error());

    l = socket(AF_INET, SOCK_STREAM, 0);
    addr.sin_port = htons((uint16_t)atoi(argv[1]));
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (l < 0 || bind(l, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(l, 128) != 0
        || getsockname(l, (struct sockaddr *)&addr, &len) != 0)
        err(1, "listen");
    printf("listening on 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    if (pthread_create(&acceptor, NULL, accept_all, &l) != 0)
        errx(1, "no thread");

    sigwait(&end, &sig);
    shutdown(l, SHUT_RDWR);
    pthread_join(acceptor, NULL);
    wait_for_all();
    if (lssl_stats(cache, &stats) == LSSL_OK)
        printf("hits %llu, misses %llu, stored %llu\n", (unsigned long long)stats.hits, (unsigned long long)stats.misses,
               (unsigned long long)stats.stored);
    if (lssl_close(cache, 2000) != LSSL_OK)
        warnx("%s", lssl_error());
    SSL_CTX_free(ctx);
    return 0;
}
