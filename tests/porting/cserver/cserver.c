#include "cserver.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS 16

typedef struct entry {
    struct entry *next;
    unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH], *der;
    unsigned int id_len;
    int der_len;
} entry;

struct cserver {
    SSL_CTX *ctx;
    int listener, nthreads, rude;
    pthread_t threads[MAX_THREADS];
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t ended;
    long served;
    entry *entries;
    char trace[4096];
    size_t traced;
};

static int idx = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init(void)
{
    idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static void note(cserver *s, char what)
{
    if (s->traced < sizeof(s->trace))
        s->trace[s->traced++] = what;
}

static int new_cb(SSL *ssl, SSL_SESSION *sess)
{
    cserver *s = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), idx);
    entry *e = calloc(1, sizeof(*e));
    const unsigned char *id = SSL_SESSION_get_id(sess, &e->id_len);

    memcpy(e->id, id, e->id_len);
    e->der_len = i2d_SSL_SESSION(sess, &e->der);
    pthread_mutex_lock(&s->lock);
    note(s, 'N');
    e->next = s->entries;
    s->entries = e;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static SSL_SESSION *get_cb(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    cserver *s = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), idx);
    SSL_SESSION *sess = NULL;

    *copy = 0;
    pthread_mutex_lock(&s->lock);
    note(s, 'G');
    for (entry *e = s->entries; e != NULL && sess == NULL; e = e->next)
        if (e->id_len == (unsigned int)len && memcmp(e->id, id, e->id_len) == 0) {
            const unsigned char *p = e->der;

            sess = d2i_SSL_SESSION(NULL, &p, e->der_len);
        }
    pthread_mutex_unlock(&s->lock);
    return sess;
}

static void remove_cb(SSL_CTX *ctx, SSL_SESSION *sess)
{
    cserver *s = SSL_CTX_get_ex_data(ctx, idx);
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(sess, &len);

    pthread_mutex_lock(&s->lock);
    note(s, 'R');
    for (entry **at = &s->entries; *at != NULL; at = &(*at)->next)
        if ((*at)->id_len == len && memcmp((*at)->id, id, len) == 0) {
            entry *e = *at;

            *at = e->next;
            OPENSSL_free(e->der);
            free(e);
            break;
        }
    pthread_mutex_unlock(&s->lock);
}

cserver *cserver_new(const char *cert, const char *key, int version, int cached)
{
    cserver *s = calloc(1, sizeof(*s));

    pthread_once(&once, init);
    s->listener = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->ended, NULL);
    s->ctx = SSL_CTX_new(TLS_server_method());
    if (s->ctx == NULL || !SSL_CTX_set_ex_data(s->ctx, idx, s) || SSL_CTX_use_certificate_chain_file(s->ctx, cert) != 1
        || SSL_CTX_use_PrivateKey_file(s->ctx, key, SSL_FILETYPE_PEM) != 1
        || !SSL_CTX_set_min_proto_version(s->ctx, version) || !SSL_CTX_set_max_proto_version(s->ctx, version)) {
        cserver_free(s);
        return NULL;
    }
    SSL_CTX_set_num_tickets(s->ctx, 1);
    SSL_CTX_set_options(s->ctx, SSL_OP_NO_TICKET);
    if (cached) {
        SSL_CTX_set_session_cache_mode(s->ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(s->ctx, new_cb);
        SSL_CTX_sess_set_get_cb(s->ctx, get_cb);
        SSL_CTX_sess_set_remove_cb(s->ctx, remove_cb);
    }
    return s;
}

SSL_CTX *cserver_ctx(cserver *s)
{
    return s->ctx;
}

/* One connection: 0 where there are no more. */
static int serve_one(cserver *s)
{
    int fd = accept(s->listener, NULL, NULL);
    SSL *ssl;
    char byte = 'x';

    if (fd < 0)
        return 0;
    ssl = SSL_new(s->ctx);
    if (ssl != NULL && SSL_set_fd(ssl, fd) && SSL_accept(ssl) == 1) {
        SSL_write(ssl, &byte, 1);
        if (SSL_read(ssl, &byte, 1) == 1 && !__atomic_load_n(&s->rude, __ATOMIC_SEQ_CST) && SSL_shutdown(ssl) == 0)
            SSL_read(ssl, &byte, 1); /* the client's goodbye */
    }
    SSL_free(ssl);
    close(fd);
    pthread_mutex_lock(&s->lock);
    s->served++;
    pthread_cond_broadcast(&s->ended);
    pthread_mutex_unlock(&s->lock);
    return 1;
}

static void *serve(void *s)
{
    while (serve_one(s))
        ;
    return NULL;
}

static int listen_on(cserver *s)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(addr);

    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(s->listener, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(s->listener, 128) != 0
        || getsockname(s->listener, (struct sockaddr *)&addr, &len) != 0)
        return 0;
    return ntohs(addr.sin_port);
}

int cserver_serve(cserver *s, int n)
{
    int port = listen_on(s);

    while (port != 0 && s->nthreads < n && pthread_create(&s->threads[s->nthreads], NULL, serve, s) == 0)
        s->nthreads++;
    return port;
}

void cserver_await(cserver *s, long n)
{
    pthread_mutex_lock(&s->lock);
    while (s->served < n)
        pthread_cond_wait(&s->ended, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void cserver_be_rude(cserver *s, int rude)
{
    __atomic_store_n(&s->rude, rude, __ATOMIC_SEQ_CST);
}

char *cserver_trace(cserver *s)
{
    char *trace;

    pthread_mutex_lock(&s->lock);
    trace = strndup(s->trace, s->traced);
    s->traced = 0;
    pthread_mutex_unlock(&s->lock);
    return trace;
}

/* The listener is shared with the child, which alone accepts: this server has no threads. */
char *cserver_fork(cserver *s)
{
    int err[2], status;
    size_t len = 0;
    ssize_t n;
    char *said = calloc(1, 4096);
    pid_t child;

    if (pipe(err) != 0)
        return NULL;
    child = fork();
    if (child == 0) {
        alarm(60);
        dup2(err[1], STDERR_FILENO);
        _exit(serve_one(s) ? 0 : 1);
    }
    close(err[1]);
    while (len < 4095 && (n = read(err[0], said + len, 4095 - len)) > 0)
        len += (size_t)n;
    close(err[0]);
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return said;
    free(said);
    return NULL;
}

static void keylog_cb(const SSL *ssl, const char *line)
{
    (void)line;
    note(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), idx), 'K');
}

void cserver_log_keys(cserver *s)
{
    SSL_CTX_set_keylog_callback(s->ctx, keylog_cb);
}

void cserver_copy_callbacks(cserver *to, cserver *from)
{
    SSL_CTX_sess_set_new_cb(to->ctx, SSL_CTX_sess_get_new_cb(from->ctx));
    SSL_CTX_sess_set_get_cb(to->ctx, SSL_CTX_sess_get_get_cb(from->ctx));
    SSL_CTX_sess_set_remove_cb(to->ctx, SSL_CTX_sess_get_remove_cb(from->ctx));
}

void cserver_free(cserver *s)
{
    if (s->listener >= 0)
        shutdown(s->listener, SHUT_RDWR);
    for (int i = 0; i < s->nthreads; i++)
        pthread_join(s->threads[i], NULL);
    if (s->listener >= 0)
        close(s->listener);
    SSL_CTX_free(s->ctx);
    while (s->entries != NULL) {
        entry *e = s->entries;

        s->entries = e->next;
        OPENSSL_free(e->der);
        free(e);
    }
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->ended);
    free(s);
}

cserver_looks cserver_look(cserver *s)
{
    cserver_looks l = {
        .new_cb = SSL_CTX_sess_get_new_cb(s->ctx) == new_cb ? 1 : SSL_CTX_sess_get_new_cb(s->ctx) == NULL ? 0 : 2,
        .get_cb = SSL_CTX_sess_get_get_cb(s->ctx) == get_cb ? 1 : SSL_CTX_sess_get_get_cb(s->ctx) == NULL ? 0 : 2,
        .remove_cb = SSL_CTX_sess_get_remove_cb(s->ctx) == remove_cb ? 1 : SSL_CTX_sess_get_remove_cb(s->ctx) == NULL ? 0 : 2,
        .keylog_cb = SSL_CTX_get_keylog_callback(s->ctx) == keylog_cb ? 1 : SSL_CTX_get_keylog_callback(s->ctx) == NULL ? 0 : 2,
        .padding_arg = SSL_CTX_get_record_padding_callback_arg(s->ctx) != NULL,
        .mode = SSL_CTX_get_session_cache_mode(s->ctx),
        .options = SSL_CTX_get_options(s->ctx),
        .max_early_data = SSL_CTX_get_max_early_data(s->ctx),
    };

    return l;
}
