/*
 * The C program that libssl's handshakes are held against: OpenSSL alone, both ends
 * of a connection driven by one thread over plain memory.
 *
 *   yardstick CERT.pem KEY.pem
 *
 * It is a co-process, so that its samples can be taken in turns with those of the bench program.
 * It answers a line "run MODE THREADS SECONDS" with "HANDSHAKES CPU_SECONDS", and a line "version"
 * with that of the OpenSSL it runs on.
 * Modes:
 *   full12, full13   full handshakes, no session callbacks
 *   res12id          TLS 1.2 resumption by session id
 *   res13st          TLS 1.3 resumption with stateful tickets
 * The last two keep sessions as DER in a hash table, filled and read by the server's new and
 * get callbacks, with OpenSSL's own cache off.
 *
 * A handshake is: both SSL objects made, handshake, one byte from server to client (which
 * brings the TLS 1.3 tickets), close_notify both ways, both objects freed.
 * Any failure ends the program: a wrong sample must not pass for a fast one.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MAX_THREADS 64

static void die(const char *what)
{
    fprintf(stderr, "yardstick: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static double cpu_time(void)
{
    struct rusage u;

    if (getrusage(RUSAGE_SELF, &u) != 0)
        die("getrusage");
    return seconds(u.ru_utime) + seconds(u.ru_stime);
}

/* ---- the wire: one flat buffer a direction, and a BIO between two of them ---- */

struct flat {
    size_t from, to;
    unsigned char bytes[32768]; /* the largest flight here is under 4 KB */
};

struct ends {
    struct flat *in, *out;
};

static int flat_read(BIO *b, char *p, int n)
{
    struct flat *in = ((struct ends *)BIO_get_data(b))->in;
    size_t left = in->to - in->from;

    BIO_clear_retry_flags(b);
    if (left == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    if ((size_t)n > left)
        n = (int)left;
    memcpy(p, in->bytes + in->from, (size_t)n);
    in->from += (size_t)n;
    if (in->from == in->to)
        in->from = in->to = 0;
    return n;
}

static int flat_write(BIO *b, const char *p, int n)
{
    struct flat *out = ((struct ends *)BIO_get_data(b))->out;

    BIO_clear_retry_flags(b);
    if ((size_t)n > sizeof out->bytes - out->to)
        die("a flight does not fit the buffer");
    memcpy(out->bytes + out->to, p, (size_t)n);
    out->to += (size_t)n;
    return n;
}

static long flat_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b, (void)num, (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *flat_method;

static void make_flat_method(void)
{
    flat_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "flat");
    if (flat_method == NULL || !BIO_meth_set_read(flat_method, flat_read) ||
        !BIO_meth_set_write(flat_method, flat_write) || !BIO_meth_set_ctrl(flat_method, flat_ctrl))
        die("BIO method");
}

/* ---- the external cache: DER by session id ---- */

struct entry {
    struct entry *next;
    unsigned int id_len;
    unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];
    int der_len;
    unsigned char der[];
};

static struct entry *table[4096];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static struct entry **slot(const unsigned char *id, unsigned int len)
{
    /* ids are random, so their first bytes are hash enough */
    return &table[len < 2 ? 0 : (id[0] | id[1] << 8) % (sizeof table / sizeof *table)];
}

static int new_cb(SSL *ssl, SSL_SESSION *sess)
{
    unsigned int id_len;
    const unsigned char *id = SSL_SESSION_get_id(sess, &id_len);
    int len = i2d_SSL_SESSION(sess, NULL);
    struct entry *e = len > 0 ? malloc(sizeof *e + (size_t)len) : NULL;
    unsigned char *der;

    (void)ssl;
    if (e == NULL)
        die("new session");
    der = e->der;
    i2d_SSL_SESSION(sess, &der);
    memcpy(e->id, id, id_len);
    e->id_len = id_len;
    e->der_len = len;

    pthread_mutex_lock(&table_lock);
    e->next = *slot(id, id_len);
    *slot(id, id_len) = e;
    pthread_mutex_unlock(&table_lock);
    return 0;
}

static SSL_SESSION *get_cb(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    const struct entry *e;
    const unsigned char *der;

    (void)ssl;
    pthread_mutex_lock(&table_lock);
    for (e = *slot(id, (unsigned int)len); e != NULL; e = e->next)
        if (e->id_len == (unsigned int)len && memcmp(e->id, id, e->id_len) == 0)
            break;
    pthread_mutex_unlock(&table_lock);
    if (e == NULL)
        return NULL;
    *copy = 0;
    der = e->der; /* entries live until the sample is over: see clear_table */
    return d2i_SSL_SESSION(NULL, &der, e->der_len);
}

static void clear_table(void)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        while (table[i] != NULL) {
            struct entry *e = table[i];

            table[i] = e->next;
            free(e);
        }
}

/* ---- contexts ---- */

struct mode {
    const char *name;
    int version;
    int resume;
    SSL_CTX *server, *client;
};

static struct mode modes[] = {
    { "full12", TLS1_2_VERSION, 0, NULL, NULL },
    { "full13", TLS1_3_VERSION, 0, NULL, NULL },
    { "res12id", TLS1_2_VERSION, 1, NULL, NULL },
    { "res13st", TLS1_3_VERSION, 1, NULL, NULL },
};

/*
 * X25519 is what gets used. P-256 must be named too, because a TLS 1.2 client's groups also say
 * which curves it takes in a certificate.
 */
static SSL_CTX *make_ctx(const struct mode *m, const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);

    if (ctx == NULL || !SSL_CTX_set_min_proto_version(ctx, m->version) ||
        !SSL_CTX_set_max_proto_version(ctx, m->version) || !SSL_CTX_set1_groups_list(ctx, "X25519:P-256") ||
        !SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256") ||
        !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256"))
        die("SSL_CTX");
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    return ctx;
}

static void make_contexts(struct mode *m, const char *cert, const char *key)
{
    static const unsigned char sid[] = "yardstick";

    m->server = make_ctx(m, TLS_server_method());
    m->client = make_ctx(m, TLS_client_method());
    if (SSL_CTX_use_certificate_chain_file(m->server, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(m->server, key, SSL_FILETYPE_PEM) != 1 ||
        !SSL_CTX_set_session_id_context(m->server, sid, sizeof sid - 1))
        die("certificate or key");
    SSL_CTX_set_verify(m->client, SSL_VERIFY_NONE, NULL);
    /* full13 keeps the default, two stateless tickets; TLS 1.2 and stateful 1.3 have none */
    if (m->version == TLS1_2_VERSION || m->resume)
        SSL_CTX_set_options(m->server, SSL_OP_NO_TICKET);
    if (m->resume) {
        SSL_CTX_set_session_cache_mode(m->server, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(m->server, new_cb);
        SSL_CTX_sess_set_get_cb(m->server, get_cb);
    }
}

/* ---- one handshake ---- */

struct worker {
    pthread_t thread;
    const struct mode *mode;
    SSL_SESSION *session; /* what the client offers; NULL: a full handshake */
    struct flat up, down;
    double until;
    long done;
};

static SSL *make_ssl(SSL_CTX *ctx, struct ends *e)
{
    SSL *ssl = SSL_new(ctx);
    BIO *bio = BIO_new(flat_method);

    if (ssl == NULL || bio == NULL)
        die("SSL_new");
    BIO_set_data(bio, e);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    return ssl;
}

/* step runs one side as far as it gets; 1: its handshake is over */
static int step(SSL *ssl)
{
    int r = SSL_do_handshake(ssl);

    if (r != 1 && SSL_get_error(ssl, r) != SSL_ERROR_WANT_READ)
        die("handshake");
    return r == 1;
}

/* handshake leaves the client's session in *got, if the caller wants it */
static void handshake(struct worker *w, SSL_SESSION **got)
{
    struct ends srv_ends = { &w->up, &w->down }, cli_ends = { &w->down, &w->up };
    SSL *srv = make_ssl(w->mode->server, &srv_ends), *cli = make_ssl(w->mode->client, &cli_ends);
    int srv_done = 0, cli_done = 0, rounds = 0;
    char byte = 'x';

    w->up.from = w->up.to = w->down.from = w->down.to = 0;
    SSL_set_accept_state(srv);
    SSL_set_connect_state(cli);
    if (w->session != NULL && !SSL_set_session(cli, w->session))
        die("SSL_set_session");
    while (!srv_done || !cli_done) {
        if (!cli_done)
            cli_done = step(cli);
        if (!srv_done)
            srv_done = step(srv);
        if (++rounds > 10)
            die("handshake makes no progress");
    }
    if (SSL_write(srv, &byte, 1) != 1 || SSL_read(cli, &byte, 1) != 1)
        die("the byte after the handshake");
    if (w->session != NULL && (!SSL_session_reused(srv) || !SSL_session_reused(cli)))
        die("not resumed");
    if (got != NULL && (*got = SSL_get1_session(cli)) == NULL)
        die("no session");

    /* the first call sends, the second reads the other side's alert */
    if (SSL_shutdown(srv) < 0 || SSL_shutdown(cli) < 0 || SSL_shutdown(cli) != 1 || SSL_shutdown(srv) != 1)
        die("close_notify");
    SSL_free(srv);
    SSL_free(cli);
}

static void *work(void *arg)
{
    struct worker *w = arg;

    do {
        handshake(w, NULL);
        w->done++;
    } while (now() < w->until);
    return NULL;
}

static void run(const struct mode *m, int threads, double secs)
{
    static struct worker workers[MAX_THREADS];
    double cpu, start;
    long done = 0;

    for (int i = 0; i < threads; i++) {
        workers[i].mode = m;
        workers[i].session = NULL;
        workers[i].done = 0;
        if (m->resume) {
            SSL_SESSION *s;

            handshake(&workers[i], &s);
            workers[i].session = s;
        }
    }
    start = now();
    cpu = cpu_time();
    for (int i = 0; i < threads; i++) {
        workers[i].until = start + secs;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            die("pthread_create");
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        done += workers[i].done;
    }
    cpu = cpu_time() - cpu;
    for (int i = 0; i < threads; i++)
        SSL_SESSION_free(workers[i].session);
    clear_table();
    printf("%ld %.6f\n", done, cpu);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const size_t n_modes = sizeof modes / sizeof *modes;
    char line[128], name[32];

    if (argc != 3) {
        fprintf(stderr, "usage: %s CERT.pem KEY.pem\n", argv[0]);
        return 2;
    }
    make_flat_method();
    for (size_t i = 0; i < n_modes; i++)
        make_contexts(&modes[i], argv[1], argv[2]);
    while (fgets(line, sizeof line, stdin) != NULL) {
        int threads;
        double secs;
        size_t i = 0;

        if (strcmp(line, "version\n") == 0) {
            puts(OpenSSL_version(OPENSSL_VERSION));
            fflush(stdout);
            continue;
        }
        if (sscanf(line, "run %31s %d %lf", name, &threads, &secs) != 3 || threads < 1 || threads > MAX_THREADS)
            die("expected: run MODE THREADS SECONDS");
        while (i < n_modes && strcmp(modes[i].name, name) != 0)
            i++;
        if (i == n_modes)
            die("unknown mode");
        run(&modes[i], threads, secs);
    }
    return 0;
}
