/*
 * server.c: a typical TLS server with one thread for each connection and a table that keeps its sessions by pointer. It
 * seems to work. docs/porting.md shows its faults and ports it to Go in five steps.
 *
 *   server [-a CLIENT_CAS.pem] [-t SECONDS] CERT.pem KEY.pem
 *
 * -a demands client certificates, -t is the lifetime of a session. It listens on a free port of 127.0.0.1, which it
 * prints, until SIGTERM. A client sends lines. The answer to "status" is
 *
 *   version=TLSv1.2 resumed=yes sessions=3 answered=1
 *
 * where sessions is the number of sessions in the table, and answered is how often it had the session that OpenSSL
 * asked for. Any other line is an error and ends the connection.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

/* ---- the table ------------------------------------------------------------ */

#define BUCKETS 1024

struct entry {
    SSL_SESSION *sess; /* the table owns one reference */
    struct entry *next;
};

static struct entry *table[BUCKETS];
static long table_count;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

/* Ids are random, so their first bytes are a good hash. */
static struct entry **bucket_of(const unsigned char *id, unsigned int len)
{
    unsigned int h = 0;

    for (unsigned int i = 0; i < len && i < 4; i++)
        h = h << 8 | id[i];
    return &table[h % BUCKETS];
}

/* Returns the pointer to the entry of id, a pointer to NULL if there is none. The caller holds the lock. */
static struct entry **table_find(const unsigned char *id, unsigned int len)
{
    struct entry **e = bucket_of(id, len);

    for (; *e != NULL; e = &(*e)->next) {
        unsigned int n;
        const unsigned char *have = SSL_SESSION_get_id((*e)->sess, &n);

        if (n == len && memcmp(have, id, len) == 0)
            break;
    }
    return e;
}

/* Takes over the reference of the caller. Returns 0 if memory runs out. */
static int table_put(SSL_SESSION *sess)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(sess, &len);
    struct entry **place, *e = malloc(sizeof(*e));

    if (e == NULL)
        return 0;
    e->sess = sess;
    pthread_mutex_lock(&table_lock);
    place = bucket_of(id, len);
    e->next = *place;
    *place = e;
    table_count++;
    pthread_mutex_unlock(&table_lock);
    return 1;
}

static SSL_SESSION *table_get(const unsigned char *id, unsigned int len)
{
    struct entry *e;
    SSL_SESSION *sess;

    pthread_mutex_lock(&table_lock);
    e = *table_find(id, len);
    sess = e == NULL ? NULL : e->sess;
    pthread_mutex_unlock(&table_lock);
    return sess;
}

static void table_remove(const unsigned char *id, unsigned int len)
{
    struct entry **place, *e;

    pthread_mutex_lock(&table_lock);
    place = table_find(id, len);
    e = *place;
    if (e != NULL) {
        *place = e->next;
        table_count--;
    }
    pthread_mutex_unlock(&table_lock);
    if (e != NULL) {
        SSL_SESSION_free(e->sess);
        free(e);
    }
}

static long table_size(void)
{
    long n;

    pthread_mutex_lock(&table_lock);
    n = table_count;
    pthread_mutex_unlock(&table_lock);
    return n;
}

/* ---- the callbacks -------------------------------------------------------- */

static int on_new(SSL *ssl, SSL_SESSION *sess)
{
    (void)ssl;
    return table_put(sess); /* 1: the table now owns the reference */
}

static SSL_SESSION *on_get(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    (void)ssl;
    *copy = 1; /* OpenSSL takes its own reference, and the table keeps its reference */
    return table_get(id, (unsigned int)len);
}

static void on_remove(SSL_CTX *ctx, SSL_SESSION *sess)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(sess, &len);

    (void)ctx;
    table_remove(id, len);
}

/* ---- connections ---------------------------------------------------------- */

/* The table has all sessions, so the internal cache of OpenSSL can be small. */
#define INTERNAL_CACHE 4

static SSL_CTX *make_ctx(const char *cert, const char *key, const char *client_cas, long lifetime)
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
    SSL_CTX_sess_set_new_cb(ctx, on_new);
    SSL_CTX_sess_set_get_cb(ctx, on_get);
    SSL_CTX_sess_set_remove_cb(ctx, on_remove);
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
                 SSL_session_reused(ssl) ? "yes" : "no", table_size(), SSL_CTX_sess_cb_hits(SSL_get_SSL_CTX(ssl)));
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

/* ---- the program ---------------------------------------------------------- */

static int listen_anywhere(int *port)
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

struct listener {
    SSL_CTX *ctx;
    int fd;
};

static void *accept_all(void *arg)
{
    const struct listener *l = arg;

    for (;;) {
        int fd = accept(l->fd, NULL, NULL);
        SSL *ssl;
        pthread_t thread;

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            perror("accept");
            exit(1);
        }
        ssl = SSL_new(l->ctx);
        if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || pthread_create(&thread, NULL, serve, ssl) != 0) {
            SSL_free(ssl);
            close(fd);
            continue;
        }
        pthread_detach(thread);
    }
}

int main(int argc, char **argv)
{
    const char *client_cas = NULL;
    long lifetime = 300;
    int option, port, sig;
    struct listener l;
    pthread_t accepting;
    sigset_t term;

    while ((option = getopt(argc, argv, "a:t:")) != -1) {
        if (option == 'a')
            client_cas = optarg;
        else if (option == 't')
            lifetime = atol(optarg);
        else
            return 2;
    }
    if (argc - optind != 2) {
        fprintf(stderr, "usage: server [-a CLIENT_CAS.pem] [-t SECONDS] CERT.pem KEY.pem\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);

    l.ctx = make_ctx(argv[optind], argv[optind + 1], client_cas, lifetime);
    l.fd = listen_anywhere(&port);
    if (l.ctx == NULL || l.fd < 0 || pthread_create(&accepting, NULL, accept_all, &l) != 0)
        return 1;
    printf("listening on 127.0.0.1:%d\n", port);
    fflush(stdout);
    sigwait(&term, &sig);
    SSL_CTX_free(l.ctx);
    return 0;
}
