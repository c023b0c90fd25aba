/*
 * server.c: the rest of the C server. The table and the callbacks are in Go.
 */
#include "server.h"
#include "_cgo_export.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/err.h>

/* ---- connections ---------------------------------------------------------- */

/* The table has all sessions, so the internal cache of OpenSSL can be small. */
#define INTERNAL_CACHE 4

SSL_CTX *server_ctx(const char *cert, const char *key, const char *client_cas, long lifetime)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL || SSL_CTX_use_certificate_chain_file(ctx, cert) != 1
        || SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        goto fail;
    if (client_cas != NULL) {
        if (SSL_CTX_load_verify_locations(ctx, client_cas, NULL) != 1)
            goto fail;
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP);
    SSL_CTX_sess_set_cache_size(ctx, INTERNAL_CACHE);
    SSL_CTX_set_timeout(ctx, lifetime);
    return ctx;

fail:
    ERR_print_errors_fp(stderr);
    SSL_CTX_free(ctx);
    return NULL;
}

/* Reads a line without its line end. Returns 0 at the end of the stream and -1 on an error. */
static int read_line(SSL *ssl, char *line, int size)
{
    int n = 0;

    while (n < size - 1) {
        int got = SSL_read(ssl, line + n, 1);

        if (got <= 0)
            return n == 0 && SSL_get_error(ssl, got) == SSL_ERROR_ZERO_RETURN ? 0 : -1;
        if (line[n] == '\n') {
            line[n] = '\0';
            return 1;
        }
        n++;
    }
    return -1;
}

static int answer(SSL *ssl, const char *line)
{
    char reply[128];
    int n;

    if (strcmp(line, "status") != 0)
        return -1;
    n = snprintf(reply, sizeof(reply), "version=%s resumed=%s sessions=%ld answered=%ld\n", SSL_get_version(ssl),
                 SSL_session_reused(ssl) ? "yes" : "no", goTableSize(), SSL_CTX_sess_cb_hits(SSL_get_SSL_CTX(ssl)));
    return SSL_write(ssl, reply, n) == n ? 1 : -1;
}

static void *serve(void *arg)
{
    SSL *ssl = arg;
    int fd = SSL_get_fd(ssl), ok = SSL_accept(ssl);
    char line[64];

    if (ok == 1)
        while ((ok = read_line(ssl, line, sizeof(line))) == 1 && (ok = answer(ssl, line)) == 1)
            ;
    if (ok == 0)
        SSL_shutdown(ssl);
    SSL_free(ssl);
    OPENSSL_thread_stop(); /* frees the error queue and random generators of this thread */
    close(fd);
    return NULL;
}

/* ---- accepting ------------------------------------------------------------ */

int server_listen(int *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) != 0 || listen(fd, 128) != 0
        || getsockname(fd, (struct sockaddr *)&a, &len) != 0)
        return -1;
    *port = ntohs(a.sin_port);
    return fd;
}

int server_run(SSL_CTX *ctx, int listener)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        SSL *ssl;
        pthread_t thread;

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return errno;
        }
        ssl = SSL_new(ctx);
        if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || pthread_create(&thread, NULL, serve, ssl) != 0) {
            SSL_free(ssl);
            close(fd);
            continue;
        }
        pthread_detach(thread);
    }
}
