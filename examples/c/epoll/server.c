/*
 * A TLS server with one thread and one epoll loop that never blocks. With
 * LSSL_PARK a handshake that needs a lookup stops with
 * SSL_ERROR_WANT_CLIENT_HELLO_CB, and goes on when lssl_fd is readable.
 *
 *     cc server.c -o server $(pkg-config --cflags --libs lssl libssl)
 *     ./server 8443 cert.pem key.pem redis://127.0.0.1/0 ring.txt
 *
 * It sends each client one line: whether it has resumed. SIGTERM ends the server.
 */
#define _GNU_SOURCE /* accept4 */
#include <lssl.h>

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static int loop;
static int signals[2]; /* a pipe from the signal handler to the loop */

/* A connection: it makes the handshake, sends its line and closes. */
struct conn {
    int fd, parked; /* parked: lssl_fd, which the loop watches instead of fd, or -1 */
    SSL *ssl;
    enum { HANDSHAKE, WRITE, SHUTDOWN, DRAIN } state;
    char line[64];
    struct conn *next, **at; /* the list it is in, and the pointer to it there */
};
static struct conn *alive, *dead;

static void trouble(void *arg, const char *text)
{
    (void)arg;
    warnx("%s", text);
}

/*
 * May run on any thread, also on those of the library. They do not have the
 * signal mask of this program, so signalfd(2) would miss signals.
 */
static void on_signal(int sig)
{
    (void)sig;
    if (write(signals[1], "", 1) < 0)
        _exit(1);
}

static void watch(struct conn *c, int op, int fd, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = c };

    if (epoll_ctl(loop, op, fd, &ev) != 0)
        err(1, "epoll_ctl");
}

static void move(struct conn *c, struct conn **list)
{
    if (c->at != NULL && (*c->at = c->next) != NULL)
        c->next->at = c->at;
    if ((c->next = *list) != NULL)
        c->next->at = &c->next;
    c->at = list;
    *list = c;
}

/* The loop frees c after this round, which may have more events for it. */
static void end(struct conn *c)
{
    if (c->ssl == NULL)
        return;
    SSL_free(c->ssl); /* closes lssl_fd, too */
    c->ssl = NULL;
    close(c->fd);
    move(c, &dead);
}

static int step(struct conn *c)
{
    char buf[64];
    int ret;

    switch (c->state) {
    case HANDSHAKE:
        ret = SSL_accept(c->ssl);
        if (ret == 1) {
            snprintf(c->line, sizeof(c->line), "%s resumed: %s\n", SSL_get_version(c->ssl),
                     SSL_session_reused(c->ssl) ? "yes" : "no");
            c->state = WRITE;
        }
        return ret;
    case WRITE:
        ret = SSL_write(c->ssl, c->line, (int)strlen(c->line));
        if (ret > 0)
            c->state = SHUTDOWN;
        return ret;
    case SHUTDOWN:
        ret = SSL_shutdown(c->ssl);
        if (ret == 0)
            c->state = DRAIN;
        return ret == 0 ? 1 : ret;
    default: /* wait for the close_notify of the client */
        return SSL_read(c->ssl, buf, sizeof(buf));
    }
}

/* Continues the connection as far as possible without blocking. */
static void drive(struct conn *c)
{
    int ret;

    if (c->ssl == NULL)
        return;
    if (c->parked >= 0) {
        epoll_ctl(loop, EPOLL_CTL_DEL, c->parked, NULL);
        c->parked = -1;
        watch(c, EPOLL_CTL_ADD, c->fd, EPOLLIN);
    }
    while ((ret = step(c)) > 0)
        if (c->state == SHUTDOWN && SSL_get_shutdown(c->ssl) == (SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN))
            break;
    switch (SSL_get_error(c->ssl, ret)) {
    case SSL_ERROR_WANT_READ:
        watch(c, EPOLL_CTL_MOD, c->fd, EPOLLIN);
        return;
    case SSL_ERROR_WANT_WRITE:
        watch(c, EPOLL_CTL_MOD, c->fd, EPOLLOUT);
        return;
    case SSL_ERROR_WANT_CLIENT_HELLO_CB:
        /* Events of the socket cannot be handled until the lookup has ended. */
        watch(c, EPOLL_CTL_DEL, c->fd, 0);
        c->parked = lssl_fd(c->ssl);
        watch(c, EPOLL_CTL_ADD, c->parked, EPOLLIN);
        return;
    default:
        end(c);
    }
}

static void take(int l, SSL_CTX *ctx)
{
    int fd;

    while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof(*c));

        if (c == NULL || (c->ssl = SSL_new(ctx)) == NULL || !SSL_set_fd(c->ssl, fd)) {
            if (c != NULL)
                SSL_free(c->ssl);
            free(c);
            close(fd);
            continue;
        }
        c->fd = fd;
        c->parked = -1;
        move(c, &alive);
        watch(c, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    struct lssl_options opt = LSSL_OPTIONS_INIT;
    struct lssl_stats stats = { .struct_size = sizeof(stats) };
    struct lssl_cache *cache;
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(addr);
    struct conn listener, ending; /* only their addresses are used, to identify events */
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART };
    struct epoll_event events[64];
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    int l, on = 1;

    if (argc != 5 && argc != 6)
        errx(2, "usage: server PORT CERT KEY STORE [KEYRING]");
    signal(SIGPIPE, SIG_IGN);
    if (pipe(signals) != 0 || sigaction(SIGTERM, &action, NULL) != 0 || sigaction(SIGINT, &action, NULL) != 0)
        err(1, "signals");

    if (ctx == NULL || SSL_CTX_use_certificate_chain_file(ctx, argv[2]) != 1
        || SSL_CTX_use_PrivateKey_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1)
        errx(1, "cannot use %s and %s", argv[2], argv[3]);
    opt.flags = LSSL_PARK;
    opt.keyring = argc == 6 ? argv[5] : NULL;
    opt.on_error = trouble;
    if (lssl_use_store(ctx, argv[4], &opt, &cache) != LSSL_OK)
        errx(1, "%s", lssl_error());

    l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    addr.sin_port = htons((uint16_t)atoi(argv[1]));
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (l < 0 || bind(l, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(l, 128) != 0
        || getsockname(l, (struct sockaddr *)&addr, &len) != 0)
        err(1, "listen");
    loop = epoll_create1(EPOLL_CLOEXEC);
    if (loop < 0)
        err(1, "epoll");
    watch(&listener, EPOLL_CTL_ADD, l, EPOLLIN);
    watch(&ending, EPOLL_CTL_ADD, signals[0], EPOLLIN);
    printf("listening on 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);

    for (int done = 0; !done;) {
        int n = epoll_wait(loop, events, 64, -1);

        if (n < 0 && errno != EINTR)
            err(1, "epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &ending)
                done = 1;
            else if (events[i].data.ptr == &listener)
                take(l, ctx);
            else
                drive(events[i].data.ptr);
        }
        while (done && alive != NULL)
            end(alive);
        while (dead != NULL) {
            struct conn *c = dead;

            dead = c->next;
            free(c);
        }
    }
    if (lssl_stats(cache, &stats) == LSSL_OK)
        printf("hits %llu, misses %llu, stored %llu, parked %llu\n", (unsigned long long)stats.hits,
               (unsigned long long)stats.misses, (unsigned long long)stats.stored, (unsigned long long)stats.suspended);
    if (lssl_close(cache, 2000) != LSSL_OK)
        warnx("%s", lssl_error());
    SSL_CTX_free(ctx);
    return 0;
}
