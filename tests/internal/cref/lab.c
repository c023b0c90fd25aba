/* lab.c: contexts, links and reports for the facts that are shown in C. */
#include "cref.h"
#include "lab.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- reports -------------------------------------------------------------- */

static void append(cref_report *r, const char *format, va_list args)
{
    va_list again;
    int n;

    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    if (r->len + (size_t)n + 2 > r->cap) {
        char *grown = realloc(r->text, r->cap = 2 * (r->len + (size_t)n + 2));

        if (grown == NULL)
            abort();
        r->text = grown;
    }
    vsnprintf(r->text + r->len, (size_t)n + 1, format, again);
    r->len += (size_t)n;
    va_end(again);
}

static void add(cref_report *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    append(r, format, args);
    va_end(args);
}

void cref_say(cref_report *r, const char *name, const char *format, ...)
{
    va_list args;

    add(r, "%s: ", name);
    va_start(args, format);
    append(r, format, args);
    va_end(args);
    add(r, "\n");
}

void cref_broken(cref_report *r, const char *format, ...)
{
    va_list args;

    r->broken = 1;
    add(r, "broken: ");
    va_start(args, format);
    append(r, format, args);
    va_end(args);
    add(r, " (%s)\n", ERR_peek_error() == 0 ? "no error queued" : ERR_reason_error_string(ERR_peek_error()));
    ERR_clear_error();
}

/* For the tests of those who run scenarios. */
static void lab_crash(cref_report *r)
{
    (void)r;
    raise(SIGSEGV);
}

static void lab_sound(cref_report *r)
{
    cref_say(r, "sound", "as said");
}

static const cref_scenario lab_scenarios[] = {
    {"lab crash", lab_crash},
    {"lab sound", lab_sound},
    {NULL, NULL},
};

static const cref_scenario *const tables[] = {
    lab_scenarios,    cref_new_facts,   cref_get_facts,    cref_remove_facts, cref_thread_facts,
    cref_tls13_facts, cref_hello_facts, cref_serial_facts, cref_exdata_facts,
};

static const cref_scenario *find(const char *name)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++)
        for (const cref_scenario *s = tables[i]; s->name != NULL; s++)
            if (strcmp(s->name, name) == 0)
                return s;
    return NULL;
}

int cref_has(const char *name)
{
    return find(name) != NULL;
}

/* The report of a scenario, malloced; NULL where there is none of that name. */
char *cref_observe(const char *name, int *broken)
{
    const cref_scenario *s = find(name);
    cref_report r = {NULL, 0, 0, 0};

    if (s == NULL)
        return NULL;
    add(&r, "%s", "");
    ERR_clear_error();
    s->run(&r);
    ERR_clear_error();
    *broken = r.broken;
    return r.text;
}

/* ---- labs ----------------------------------------------------------------- */

static int lab_idx = -1, lab_ssl_idx = -1;
static X509 *certificate;
static EVP_PKEY *private_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static EVP_PKEY *generate_key(void)
{
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
    EVP_PKEY *key = NULL;

    if (c == NULL || EVP_PKEY_keygen_init(c) != 1
        || EVP_PKEY_CTX_set_ec_paramgen_curve_nid(c, NID_X9_62_prime256v1) != 1 || EVP_PKEY_keygen(c, &key) != 1)
        key = NULL;
    EVP_PKEY_CTX_free(c);
    return key;
}

static X509 *certify(EVP_PKEY *key)
{
    X509 *x = X509_new();
    X509_NAME *name = X509_NAME_new();

    if (x == NULL || name == NULL || X509_set_version(x, 2) != 1 || ASN1_INTEGER_set(X509_get_serialNumber(x), 1) != 1
        || X509_gmtime_adj(X509_getm_notBefore(x), -3600) == NULL
        || X509_gmtime_adj(X509_getm_notAfter(x), 24 * 3600) == NULL || X509_set_pubkey(x, key) != 1
        || X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"server.test", -1, -1, 0) != 1
        || X509_set_subject_name(x, name) != 1 || X509_set_issuer_name(x, name) != 1
        || X509_sign(x, key, EVP_sha256()) == 0) {
        X509_free(x);
        x = NULL;
    }
    X509_NAME_free(name);
    return x;
}

static void init(void)
{
    lab_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    lab_ssl_idx = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    private_key = generate_key();
    certificate = private_key == NULL ? NULL : certify(private_key);
}

int cref_use_certificate(SSL_CTX *ctx)
{
    pthread_once(&once, init);
    return certificate != NULL && SSL_CTX_use_certificate(ctx, certificate) == 1
           && SSL_CTX_use_PrivateKey(ctx, private_key) == 1;
}

/* Certificate and key in one PEM text, for OPENSSL_free; NULL where OpenSSL fails. */
char *cref_certificate_pem(void)
{
    BIO *out = BIO_new(BIO_s_mem());
    char *pem = NULL, *p;
    long n;

    pthread_once(&once, init);
    if (out != NULL && certificate != NULL && PEM_write_bio_X509(out, certificate) == 1
        && PEM_write_bio_PrivateKey(out, private_key, NULL, NULL, 0, NULL, NULL) == 1
        && (n = BIO_get_mem_data(out, &p)) > 0)
        pem = OPENSSL_strndup(p, (size_t)n);
    BIO_free(out);
    return pem;
}

static SSL_CTX *new_ctx(cref_lab *lab, const SSL_METHOD *method, int version)
{
    SSL_CTX *ctx = SSL_CTX_new(method);

    if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, version) != 1
        || SSL_CTX_set_max_proto_version(ctx, version) != 1 || SSL_CTX_set_ex_data(ctx, lab_idx, lab) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

SSL_CTX *cref_lab_server(cref_lab *lab)
{
    static const unsigned char context[] = "conformance";
    int version = (int)SSL_CTX_get_min_proto_version(lab->client);
    SSL_CTX *ctx = new_ctx(lab, TLS_server_method(), version);

    if (ctx == NULL || !cref_use_certificate(ctx)
        || SSL_CTX_set_session_id_context(ctx, context, sizeof(context) - 1) != 1
        || SSL_CTX_set_num_tickets(ctx, 1) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    return ctx;
}

cref_lab *cref_lab_new(int version)
{
    cref_lab *lab = OPENSSL_zalloc(sizeof(*lab));

    pthread_once(&once, init);
    if (lab == NULL || certificate == NULL || (lab->client = new_ctx(lab, TLS_client_method(), version)) == NULL
        || (lab->server = cref_lab_server(lab)) == NULL) {
        if (lab != NULL)
            cref_lab_free(lab);
        return NULL;
    }
    return lab;
}

void cref_lab_free(cref_lab *lab)
{
    for (int i = 0; i < lab->nlockers; i++)
        pthread_join(lab->lockers[i], NULL);
    SSL_CTX_free(lab->server);
    SSL_CTX_free(lab->client);
    for (int i = 0; i < CREF_LAB_ENTRIES; i++)
        OPENSSL_free(lab->entries[i].der);
    OPENSSL_free(lab);
    ERR_clear_error();
}

cref_lab *cref_lab_of(const SSL_CTX *ctx)
{
    return SSL_CTX_get_ex_data(ctx, lab_idx);
}

cref_lab *cref_lab_of_ssl(SSL *ssl)
{
    return SSL_get_ex_data(ssl, lab_ssl_idx);
}

static void trace(cref_lab *lab, char c)
{
    size_t n = strlen(lab->trace);

    if (n + 1 < sizeof(lab->trace))
        lab->trace[n] = c;
}

cref_entry *cref_lab_find(cref_lab *lab, const unsigned char *id, size_t len)
{
    for (int i = 0; i < CREF_LAB_ENTRIES; i++) {
        cref_entry *e = &lab->entries[i];

        if (e->der != NULL && e->id_len == len && memcmp(e->id, id, len) == 0)
            return e;
    }
    return NULL;
}

cref_entry *cref_lab_put(cref_lab *lab, SSL_SESSION *s)
{
    for (int i = 0; i < CREF_LAB_ENTRIES; i++) {
        cref_entry *e = &lab->entries[i];
        const unsigned char *id;

        if (e->der != NULL)
            continue;
        id = SSL_SESSION_get_id(s, &e->id_len);
        memcpy(e->id, id, e->id_len);
        e->der_len = i2d_SSL_SESSION(s, &e->der);
        return e;
    }
    return NULL;
}

int cref_lab_count(cref_lab *lab)
{
    int n = 0;

    for (int i = 0; i < CREF_LAB_ENTRIES; i++)
        n += lab->entries[i].der != NULL;
    return n;
}

void cref_lab_reset(cref_lab *lab)
{
    lab->news = lab->gets = lab->hits = lab->removes = 0;
    memset(lab->trace, 0, sizeof(lab->trace));
}

static int lab_new_cb(SSL *ssl, SSL_SESSION *s)
{
    cref_lab *lab = cref_lab_of_ssl(ssl);

    lab->news++;
    trace(lab, 'N');
    if (lab->on_new != NULL)
        lab->on_new(lab, ssl, s);
    cref_lab_put(lab, s);
    return lab->keep;
}

static SSL_SESSION *lab_get_cb(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    cref_lab *lab = cref_lab_of_ssl(ssl);
    SSL_SESSION *s;
    cref_entry *e;
    const unsigned char *p;

    lab->gets++;
    trace(lab, 'G');
    if (lab->on_get != NULL)
        lab->on_get(lab, ssl, id, len);
    if (lab->answer != NULL)
        return lab->answer(lab, ssl, id, len, copy);
    if (lab->deaf || (e = cref_lab_find(lab, id, (size_t)len)) == NULL)
        return NULL;
    p = e->der;
    s = d2i_SSL_SESSION(NULL, &p, e->der_len);
    if (s != NULL) {
        lab->hits++;
        *copy = 0;
        if (lab->take) {
            OPENSSL_free(e->der);
            e->der = NULL;
        }
    }
    return s;
}

static void lab_remove_cb(SSL_CTX *ctx, SSL_SESSION *s)
{
    cref_lab *lab = cref_lab_of(ctx);

    lab->removes++;
    trace(lab, 'R');
    if (lab->on_remove != NULL)
        lab->on_remove(lab, ctx, s);
}

void cref_lab_store_on(cref_lab *lab, SSL_CTX *ctx)
{
    SSL_CTX_set_ex_data(ctx, lab_idx, lab);
    SSL_CTX_sess_set_new_cb(ctx, lab_new_cb);
    SSL_CTX_sess_set_get_cb(ctx, lab_get_cb);
    SSL_CTX_sess_set_remove_cb(ctx, lab_remove_cb);
}

void cref_lab_store(cref_lab *lab)
{
    cref_lab_store_on(lab, lab->server);
}

/* ---- locks ---------------------------------------------------------------- */

typedef struct asking {
    SSL_CTX *ctx;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    int done, refs;
} asking;

static void asking_release(asking *a)
{
    int refs;

    pthread_mutex_lock(&a->mu);
    refs = --a->refs;
    pthread_mutex_unlock(&a->mu);
    if (refs > 0)
        return;
    pthread_mutex_destroy(&a->mu);
    pthread_cond_destroy(&a->cond);
    free(a);
}

static void *ask(void *arg)
{
    asking *a = arg;

    cref_flush_at(a->ctx, 1);
    pthread_mutex_lock(&a->mu);
    a->done = 1;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->mu);
    asking_release(a);
    return NULL;
}

static void *flush_another(void *ctx)
{
    cref_flush_at(ctx, 1);
    return NULL;
}

/* On a busy machine a thread may not have run at all in the time allowed. So others, which come later and find a lock
 * free, go to their ends first. */
static void let_others_run(SSL_CTX *unlocked)
{
    for (int i = 0; i < 10; i++) {
        pthread_t other;

        if (pthread_create(&other, NULL, flush_another, unlocked) != 0)
            abort();
        pthread_join(other, NULL);
    }
}

/* The thread that must wait lives until the lab is freed at the latest: the context must live as long. */
int cref_lock_held(cref_lab *lab, SSL_CTX *ctx)
{
    asking *a = calloc(1, sizeof(*a));
    struct timespec until;
    int held, err = 0;

    if (a == NULL || lab->nlockers == (int)(sizeof(lab->lockers) / sizeof(*lab->lockers)))
        abort();
    a->ctx = ctx;
    a->refs = 2;
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->cond, NULL);
    if (pthread_create(&lab->lockers[lab->nlockers], NULL, ask, a) != 0)
        abort();
    lab->nlockers++;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 300 * 1000 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&a->mu);
    while (!a->done && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&a->cond, &a->mu, &until);
    if (!a->done) {
        pthread_mutex_unlock(&a->mu);
        let_others_run(ctx == lab->client ? lab->server : lab->client);
        pthread_mutex_lock(&a->mu);
    }
    held = !a->done;
    pthread_mutex_unlock(&a->mu);
    asking_release(a);
    return held;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* from 3.4 on, for the sake of times after 2106 */
void cref_flush_at(SSL_CTX *ctx, long at)
{
    SSL_CTX_flush_sessions(ctx, at);
}

long cref_session_time(SSL_SESSION *s)
{
    return (long)SSL_SESSION_get_time(s);
}

void cref_session_set_time(SSL_SESSION *s, long t)
{
    SSL_SESSION_set_time(s, t);
}
#pragma GCC diagnostic pop

/* ---- links ---------------------------------------------------------------- */

static SSL *end(SSL_CTX *ctx, cref_lab *lab)
{
    SSL *ssl = SSL_new(ctx);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

    if (ssl == NULL || in == NULL || out == NULL || SSL_set_ex_data(ssl, lab_ssl_idx, lab) != 1) {
        SSL_free(ssl);
        BIO_free(in);
        BIO_free(out);
        return NULL;
    }
    BIO_set_mem_eof_return(in, -1);
    BIO_set_mem_eof_return(out, -1);
    SSL_set_bio(ssl, in, out);
    return ssl;
}

int cref_link_open(cref_link *k, cref_lab *lab, SSL_CTX *server, const char *name, SSL_SESSION *offer)
{
    memset(k, 0, sizeof(*k));
    ERR_clear_error();
    k->client = end(lab->client, lab);
    k->server = end(server, lab);
    if (k->client == NULL || k->server == NULL || (name != NULL && SSL_set_tlsext_host_name(k->client, name) != 1)
        || (offer != NULL && SSL_set_session(k->client, offer) != 1)) {
        cref_link_close(k, CREF_CLEAN);
        return 0;
    }
    SSL_set_connect_state(k->client);
    SSL_set_accept_state(k->server);
    return 1;
}

static void cross(cref_link *k, int from_server)
{
    static __thread unsigned char buf[1 << 17];
    SSL *from = from_server ? k->server : k->client, *to = from_server ? k->client : k->server;
    int n = BIO_read(SSL_get_wbio(from), buf, 1 << 16);
    size_t len;

    if (n <= 0)
        return;
    len = (size_t)n;
    if (k->wire != NULL)
        k->wire(k, from_server, buf, &len, sizeof(buf));
    *(from_server ? &k->from_server : &k->from_client) += len;
    if (len > 0)
        BIO_write(SSL_get_rbio(to), buf, (int)len);
}

void cref_link_pump(cref_link *k)
{
    cross(k, 0);
    cross(k, 1);
}

/* 0: goes on, -1: failed, -2: waits for something that only the scenario can bring. */
static int unfinished(SSL *ssl, int ret, unsigned long *error)
{
    int e = SSL_get_error(ssl, ret);

    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
        return 0;
    if (e == SSL_ERROR_SSL || e == SSL_ERROR_SYSCALL) {
        *error = ERR_peek_error();
        ERR_clear_error();
        return -1;
    }
    return -2;
}

/* 1: over, else as unfinished. */
static int step(SSL *ssl, unsigned long *error)
{
    int ret;

    ERR_clear_error();
    ret = SSL_do_handshake(ssl);
    return ret == 1 ? 1 : unfinished(ssl, ret, error);
}

static int serve(cref_link *k)
{
    unsigned char c;
    size_t n;

    while (k->early) {
        int ret;

        ERR_clear_error();
        ret = SSL_read_early_data(k->server, &c, 1, &n);
        if (ret == SSL_READ_EARLY_DATA_ERROR)
            return unfinished(k->server, ret, &k->server_error);
        k->early_read += n;
        k->early = ret != SSL_READ_EARLY_DATA_FINISH;
    }
    return step(k->server, &k->server_error);
}

int cref_link_run(cref_link *k)
{
    for (int turn = 0; turn < 20 && !(k->client_done && k->server_done); turn++) {
        int c = k->client_done ? 1 : step(k->client, &k->client_error);
        int s;

        cross(k, 0);
        s = k->server_done ? 1 : serve(k);
        cross(k, 1);
        k->client_done = c == 1;
        k->server_done = s == 1;
        if (c == -1 || s == -1) {
            /* The other end hears of it. */
            if (c != -1 && !k->client_done && step(k->client, &k->client_error) == -1)
                cross(k, 0);
            if (s != -1 && !k->server_done && step(k->server, &k->server_error) == -1)
                cross(k, 1);
            k->failed = 1;
            return 0;
        }
        if (c == -2 || s == -2)
            return 0;
    }
    return k->client_done && k->server_done && cref_link_byte(k, 0) && cref_link_byte(k, 1);
}

int cref_link_byte(cref_link *k, int from_server)
{
    SSL *from = from_server ? k->server : k->client, *to = from_server ? k->client : k->server;
    unsigned char c = 'x';
    int n;

    ERR_clear_error();
    if (SSL_write(from, &c, 1) != 1) {
        *(from_server ? &k->server_error : &k->client_error) = ERR_peek_error();
        return 0;
    }
    cross(k, from_server);
    ERR_clear_error();
    n = SSL_read(to, &c, 1);
    if (n != 1)
        *(from_server ? &k->client_error : &k->server_error) = ERR_peek_error();
    ERR_clear_error();
    return n == 1;
}

int cref_link_early(cref_link *k)
{
    size_t n;

    k->early = 1;
    return SSL_write_early_data(k->client, "e", 1, &n) == 1;
}

int cref_link_early_accepted(cref_link *k)
{
    return k->early_read == 1 && SSL_get_early_data_status(k->client) == SSL_EARLY_DATA_ACCEPTED;
}

int cref_alert(unsigned long error)
{
    int reason = ERR_GET_REASON(error);

    return ERR_GET_LIB(error) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET ? reason - SSL_AD_REASON_OFFSET : 0;
}

int cref_link_resumed(cref_link *k)
{
    return SSL_session_reused(k->client) && SSL_session_reused(k->server);
}

void cref_link_close(cref_link *k, int how)
{
    if (k->client != NULL && k->client_done)
        SSL_shutdown(k->client);
    if (k->server != NULL && k->server_done && how == CREF_CLEAN)
        SSL_shutdown(k->server);
    SSL_free(k->server);
    SSL_free(k->client);
    memset(k, 0, sizeof(*k));
    ERR_clear_error();
}

int cref_visit(cref_lab *lab, SSL_CTX *server, SSL_SESSION *offer, int *ok, int *resumed, SSL_SESSION **session)
{
    cref_link k;
    int went;

    if (!cref_link_open(&k, lab, server, NULL, offer))
        return 0;
    went = cref_link_run(&k);
    if (ok != NULL)
        *ok = went;
    if (resumed != NULL)
        *resumed = went && cref_link_resumed(&k);
    if (session != NULL)
        *session = went ? SSL_get1_session(k.client) : NULL;
    cref_link_close(&k, CREF_CLEAN);
    return 1;
}
