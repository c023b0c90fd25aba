/* facts_thread.c: section 4, threads and shared objects. */
#include "cref.h"
#include "lab.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#ifndef SSL_SESS_CACHE_UPDATE_TIME
#define SSL_SESS_CACHE_UPDATE_TIME 0x400 /* 3.0 and later know it */
#endif

/* ---- what the scenarios share ------------------------------------------------------ */

/* A session that the lab's server made in a handshake, decoded; NULL where that fails. *offer is the client's session. */
static SSL_SESSION *first_session(cref_lab *lab, SSL_SESSION **offer)
{
    const unsigned char *p;
    int ok;

    if (!cref_visit(lab, lab->server, NULL, &ok, NULL, offer) || !ok || lab->entries[0].der == NULL)
        return NULL;
    p = lab->entries[0].der;
    return d2i_SSL_SESSION(NULL, &p, lab->entries[0].der_len);
}

/* ---- F4.1: what the lock is for ----------------------------------------------------- */

/*
 * A context's lock is held, on every release, while a session that an equal id displaces is destroyed. So a session's
 * ex_data is destroyed slowly here.
 */
typedef struct holder {
    SSL_CTX *ctx;
    SSL_SESSION *displaced, *displacing;
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int held, let_go;
} holder;

static int holder_idx = -1;
static pthread_once_t holder_once = PTHREAD_ONCE_INIT;

static void hold_on(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    holder *h = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (h == NULL)
        return;
    pthread_mutex_lock(&h->mu);
    h->held = 1;
    pthread_cond_broadcast(&h->changed);
    while (!h->let_go)
        pthread_cond_wait(&h->changed, &h->mu);
    pthread_mutex_unlock(&h->mu);
}

static void make_holder_idx(void)
{
    holder_idx = SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, hold_on);
}

static void *displace(void *arg)
{
    holder *h = arg;

    SSL_CTX_add_session(h->ctx, h->displaced);
    SSL_SESSION_free(h->displaced);
    SSL_CTX_add_session(h->ctx, h->displacing);
    SSL_SESSION_free(h->displacing);
    return NULL;
}

void *cref_hold_lock(SSL_CTX *ctx, SSL_SESSION *like)
{
    holder *h = calloc(1, sizeof(*h));

    pthread_once(&holder_once, make_holder_idx);
    if (h == NULL || (h->displaced = SSL_SESSION_dup(like)) == NULL || (h->displacing = SSL_SESSION_dup(like)) == NULL
        || SSL_SESSION_set_ex_data(h->displaced, holder_idx, h) != 1)
        abort();
    h->ctx = ctx;
    pthread_mutex_init(&h->mu, NULL);
    pthread_cond_init(&h->changed, NULL);
    if (pthread_create(&h->thread, NULL, displace, h) != 0)
        abort();
    pthread_mutex_lock(&h->mu);
    while (!h->held)
        pthread_cond_wait(&h->changed, &h->mu);
    pthread_mutex_unlock(&h->mu);
    return h;
}

void cref_release_lock(void *lock)
{
    holder *h = lock;

    pthread_mutex_lock(&h->mu);
    h->let_go = 1;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mu);
    pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mu);
    free(h);
}

typedef struct caller {
    SSL_CTX *ctx;
    SSL_SESSION *s;
    void (*call)(SSL_CTX *ctx, SSL_SESSION *s);
    int *done, *arrived;
    pthread_mutex_t *mu;
    pthread_cond_t *changed;
} caller;

static void call_add(SSL_CTX *ctx, SSL_SESSION *s)
{
    SSL_CTX_add_session(ctx, s);
}

static void call_remove(SSL_CTX *ctx, SSL_SESSION *s)
{
    SSL_CTX_remove_session(ctx, s);
}

static void call_flush(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    cref_flush_at(ctx, 1);
}

static int no_new(SSL *ssl, SSL_SESSION *s)
{
    (void)ssl, (void)s;
    return 0;
}

static void call_callbacks(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    SSL_CTX_sess_set_new_cb(ctx, no_new);
    SSL_CTX_sess_set_get_cb(ctx, NULL);
    SSL_CTX_sess_set_remove_cb(ctx, NULL);
}

static void call_mode(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER);
}

static void call_size(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    SSL_CTX_sess_set_cache_size(ctx, 100);
}

static void call_timeout(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    SSL_CTX_set_timeout(ctx, 100);
}

static void call_id_context(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"other", 5);
}

static void call_counters(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)s;
    SSL_CTX_sess_number(ctx);
    SSL_CTX_sess_hits(ctx);
}

static void call_mark(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)ctx;
    SSL_SESSION_is_resumable(s);
}

static void call_reference(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)ctx;
    SSL_SESSION_up_ref(s);
    SSL_SESSION_free(s);
}

static void *make_call(void *arg)
{
    caller *c = arg;

    c->call(c->ctx, c->s);
    pthread_mutex_lock(c->mu);
    *c->done = 1;
    ++*c->arrived;
    pthread_cond_signal(c->changed);
    pthread_mutex_unlock(c->mu);
    return NULL;
}

static void f4_1(cref_report *r)
{
    enum { CALLS = 11, MAY_WAIT = 3 };
    static const struct {
        const char *name;
        void (*call)(SSL_CTX *ctx, SSL_SESSION *s);
    } calls[CALLS] = {{"add", call_add},           {"remove", call_remove}, {"flush", call_flush},
                      {"callbacks", call_callbacks}, {"mode", call_mode},     {"size", call_size},
                      {"timeout", call_timeout},   {"id context", call_id_context}, {"counters", call_counters},
                      {"read the mark", call_mark},         {"references", call_reference}};
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *s, *other;
    pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
    pthread_t threads[CALLS];
    caller callers[CALLS];
    int done[CALLS] = {0}, seen[CALLS], arrived = 0, err = 0;
    struct timespec until;
    void *lock;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, (s = first_session(lab, NULL)) != NULL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    CREF_MUST(r, (other = SSL_SESSION_dup(s)) != NULL && SSL_SESSION_set1_id(other, (const unsigned char *)"o", 1) == 1);
    lock = cref_hold_lock(lab->server, s);
    for (int i = 0; i < CALLS; i++) {
        caller c = {lab->server, other, calls[i].call, &done[i], &arrived, &mu, &changed};

        callers[i] = c;
        if (pthread_create(&threads[i], NULL, make_call, &callers[i]) != 0)
            abort();
    }
    pthread_mutex_lock(&mu);
    while (arrived < CALLS - MAY_WAIT)
        pthread_cond_wait(&changed, &mu); /* a call that waits wrongly is the suite's to time out */
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 300 * 1000 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (arrived < CALLS && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&changed, &mu, &until);
    memcpy(seen, done, sizeof(seen));
    pthread_mutex_unlock(&mu);
    cref_release_lock(lock);
    for (int i = 0; i < CALLS; i++) {
        pthread_join(threads[i], NULL);
        cref_say(r, calls[i].name, "waits for the lock %s", cref_yes(!seen[i]));
    }
    SSL_SESSION_free(s);
    SSL_SESSION_free(other);
    cref_lab_free(lab);
}

/* ---- F4.2: callbacks that change -------------------------------------------------------- */

typedef struct swapper {
    SSL_CTX *ctx;
    int calls, over; /* atomic */
} swapper;

static int count_new(SSL *ssl)
{
    swapper *w = cref_lab_of_ssl(ssl)->arg;

    __atomic_add_fetch(&w->calls, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static int new_one(SSL *ssl, SSL_SESSION *s)
{
    (void)s;
    return count_new(ssl);
}

static int new_other(SSL *ssl, SSL_SESSION *s)
{
    (void)s;
    return count_new(ssl);
}

static void *swap(void *arg)
{
    swapper *w = arg;

    while (!__atomic_load_n(&w->over, __ATOMIC_SEQ_CST)) {
        SSL_CTX_sess_set_new_cb(w->ctx, new_one);
        SSL_CTX_sess_set_new_cb(w->ctx, new_other);
    }
    return NULL;
}

static void f4_2(cref_report *r)
{
    enum { VISITS = 50 };
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    swapper w = {NULL, 0, 0};
    pthread_t thread;
    int good = 0;

    CREF_MUST(r, lab != NULL);
    cref_say(r, "none set", "all getters return nil %s",
             cref_yes(SSL_CTX_sess_get_new_cb(lab->server) == NULL && SSL_CTX_sess_get_get_cb(lab->server) == NULL
                      && SSL_CTX_sess_get_remove_cb(lab->server) == NULL));
    w.ctx = lab->server;
    lab->arg = &w;
    SSL_CTX_sess_set_new_cb(lab->server, new_one);
    if (pthread_create(&thread, NULL, swap, &w) != 0)
        abort();
    for (int i = 0; i < VISITS; i++) {
        int ok = 0;

        cref_visit(lab, lab->server, NULL, &ok, NULL, NULL);
        good += ok;
    }
    __atomic_store_n(&w.over, 1, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    cref_say(r, "one function swapped for another", "handshakes %d of %d, new %d", good, VISITS, w.calls);
    cref_lab_free(lab);
}

/* ---- F4.3: cached sessions change ------------------------------------------------------- */

static void hold_session(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    SSL_SESSION **held = lab->arg;

    (void)ssl;
    if (*held == NULL && SSL_SESSION_up_ref(s))
        *held = s;
}

static unsigned int cipher_of(const SSL_SESSION *s)
{
    return SSL_CIPHER_get_protocol_id(SSL_SESSION_get0_cipher(s));
}

static void f4_3(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *held = NULL, *offer, *s;
    unsigned int before;
    int ok, resumed;
    long then;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    lab->arg = &held;
    lab->on_new = hold_session;
    CREF_MUST(r, SSL_CTX_set_ciphersuites(lab->client, "TLS_AES_128_GCM_SHA256") == 1);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok && held != NULL);
    before = cipher_of(held);
    CREF_MUST(r, SSL_CTX_set_ciphersuites(lab->client, "TLS_CHACHA20_POLY1305_SHA256") == 1);
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, &resumed, NULL) && ok);
    cref_say(r, "resumed with another cipher of the same hash", "resumed %s, the cached session's cipher %04x, then %04x",
             cref_yes(resumed), before, cipher_of(held));
    SSL_SESSION_free(offer);
    SSL_SESSION_free(held);
    cref_lab_free(lab);

    lab = cref_lab_new(TLS1_2_VERSION);
    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, (s = first_session(lab, NULL)) != NULL);
    for (int update = 0; update < 2; update++) {
        SSL_CTX_set_session_cache_mode(lab->server,
                                       SSL_SESS_CACHE_SERVER | (update ? SSL_SESS_CACHE_UPDATE_TIME : 0));
        then = (long)time(NULL) - 100;
        cref_session_set_time(s, then);
        SSL_CTX_add_session(lab->server, s);
        cref_say(r, update ? "inserted under UPDATE_TIME" : "inserted", "its time changes %s",
                 cref_yes(cref_session_time(s) != then));
        cref_flush_at(lab->server, 0);
    }
    SSL_SESSION_free(s);
    cref_lab_free(lab);
}

/* ---- F4.4: one object in two connections --------------------------------------------------- */

static SSL_SESSION *answer_shared(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    (void)ssl, (void)id, (void)len;
    *copy = 1;
    return lab->arg;
}

static void shared(cref_report *r, int version, const char *name, const char *after)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *s, *offer;
    cref_link k[2];
    int ok, resumed, use;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, (s = first_session(lab, &offer)) != NULL);
    lab->arg = s;
    lab->answer = answer_shared;
    for (int i = 0; i < 2; i++) {
        CREF_MUST(r, cref_link_open(&k[i], lab, lab->server, NULL, offer) && cref_link_run(&k[i]));
        CREF_MUST(r, cref_link_resumed(&k[i]));
    }
    use = SSL_get_session(k[0].server) == s && SSL_get_session(k[1].server) == s;
    cref_link_close(&k[0], CREF_UNCLEAN);
    cref_say(r, name, "both are on that object %s, after one's unclean end it is resumable %s", cref_yes(use),
             cref_yes(SSL_SESSION_is_resumable(s)));
    cref_link_close(&k[1], CREF_CLEAN);
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, &resumed, NULL) && ok);
    cref_say(r, after, "resumed %s", cref_yes(resumed));
    SSL_SESSION_free(s);
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

static void f4_4(cref_report *r)
{
    shared(r, TLS1_2_VERSION, "two connections, 1.2", "answered once more, 1.2");
    shared(r, TLS1_3_VERSION, "two connections, 1.3", "answered once more, 1.3");
}

/* ---- F4.5: duplicates --------------------------------------------------------------------- */

typedef struct tickets {
    int first, second; /* resumable after the first was marked, and the second as it comes */
} tickets;

static void mark_first(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    tickets *t = lab->arg;

    (void)ssl;
    if (lab->news == 1) {
        SSL_CTX_remove_session(lab->server, s);
        t->first = SSL_SESSION_is_resumable(s);
    } else {
        t->second = SSL_SESSION_is_resumable(s);
    }
}

static void f4_5(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *s, *dup;
    SSL_CTX *other;
    tickets t = {-1, -1};
    int ok;

    CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, (s = first_session(lab, NULL)) != NULL);
    SSL_CTX_add_session(lab->server, s);
    CREF_MUST(r, (dup = SSL_SESSION_dup(s)) != NULL);
    cref_say(r, "of a session", "resumable %s", cref_yes(SSL_SESSION_is_resumable(dup)));
    SSL_CTX_add_session(other, dup);
    SSL_CTX_remove_session(lab->server, s);
    cref_say(r, "in another context's cache", "cached %ld there, %ld here", SSL_CTX_sess_number(other),
             SSL_CTX_sess_number(lab->server));
    SSL_SESSION_free(dup);
    CREF_MUST(r, (dup = SSL_SESSION_dup(s)) != NULL);
    cref_say(r, "of a marked session", "resumable %s", cref_yes(SSL_SESSION_is_resumable(dup)));
    SSL_SESSION_free(dup);
    SSL_SESSION_free(s);
    SSL_CTX_free(other);
    cref_lab_free(lab);

    lab = cref_lab_new(TLS1_3_VERSION);
    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_num_tickets(lab->server, 2);
    lab->arg = &t;
    lab->on_new = mark_first;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok && lab->news == 2);
    cref_say(r, "for the ticket after a marked one", "resumable %s after %s", cref_yes(t.second), cref_yes(t.first));
    cref_lab_free(lab);
}

/* ---- F4.6: stress ----------------------------------------------------------------------------- */

typedef struct store {
    cref_lab *lab;
    pthread_mutex_t mu;
    unsigned char *der[1024];
    int len[1024];
    int over, failed, resumed; /* atomic */
} store;

static unsigned char **place_of(store *st, const unsigned char *id, int **len)
{
    unsigned int i = (id[0] | (unsigned int)id[1] << 8) % 1024;

    *len = &st->len[i];
    return &st->der[i];
}

static int store_new(SSL *ssl, SSL_SESSION *s)
{
    store *st = cref_lab_of_ssl(ssl)->arg;
    unsigned int n;
    unsigned char **der;
    int *len;

    pthread_mutex_lock(&st->mu);
    der = place_of(st, SSL_SESSION_get_id(s, &n), &len);
    OPENSSL_free(*der);
    *der = NULL;
    *len = i2d_SSL_SESSION(s, der);
    pthread_mutex_unlock(&st->mu);
    return 0;
}

static SSL_SESSION *store_get(SSL *ssl, const unsigned char *id, int n, int *copy)
{
    store *st = cref_lab_of_ssl(ssl)->arg;
    SSL_SESSION *s = NULL;
    const unsigned char *p, *has;
    unsigned char **der;
    unsigned int nhas;
    int *len;

    pthread_mutex_lock(&st->mu);
    der = place_of(st, id, &len);
    if ((p = *der) != NULL)
        s = d2i_SSL_SESSION(NULL, &p, *len);
    pthread_mutex_unlock(&st->mu);
    if (s == NULL)
        return NULL;
    has = SSL_SESSION_get_id(s, &nhas);
    if (nhas != (unsigned int)n || memcmp(has, id, nhas) != 0) { /* another one of the same place */
        SSL_SESSION_free(s);
        return NULL;
    }
    *copy = 0;
    return s;
}

/* It forgets half of the sessions, by their ids: the flusher can be faster than every client, and then nothing would
 * be left to resume. */
static void store_remove(SSL_CTX *ctx, SSL_SESSION *s)
{
    store *st = cref_lab_of(ctx)->arg;
    unsigned int n;
    unsigned char **der;
    int *len;

    if (SSL_SESSION_get_id(s, &n)[0] & 1)
        return;
    pthread_mutex_lock(&st->mu);
    der = place_of(st, SSL_SESSION_get_id(s, &n), &len);
    OPENSSL_free(*der);
    *der = NULL;
    pthread_mutex_unlock(&st->mu);
}

static void *be_client(void *arg)
{
    store *st = arg;
    SSL_SESSION *offer = NULL;
    unsigned int seed = (unsigned int)(uintptr_t)&offer >> 4;

    for (int i = 0; i < 30; i++) {
        cref_link k;
        int ok = cref_link_open(&k, st->lab, st->lab->server, NULL, offer) && cref_link_run(&k);

        seed = seed * 1664525u + 1013904223u;
        if (!ok) {
            __atomic_add_fetch(&st->failed, 1, __ATOMIC_SEQ_CST);
        } else {
            __atomic_add_fetch(&st->resumed, cref_link_resumed(&k), __ATOMIC_SEQ_CST);
            SSL_SESSION_free(offer);
            offer = SSL_get1_session(k.client);
        }
        cref_link_close(&k, seed >> 30 == 0 ? CREF_UNCLEAN : CREF_CLEAN);
    }
    SSL_SESSION_free(offer);
    return NULL;
}

static void *be_flusher(void *arg)
{
    store *st = arg;

    while (!__atomic_load_n(&st->over, __ATOMIC_SEQ_CST)) {
        struct timespec moment = {0, 1000 * 1000};

        cref_flush_at(st->lab->server, 0);
        nanosleep(&moment, NULL);
    }
    return NULL;
}

/* Adds to failed; *resumed is whether any did. */
static void stress(cref_report *r, int version, long mode, int *failed, int *resumed)
{
    enum { CLIENTS = 4 };
    pthread_t clients[CLIENTS], flusher;
    store st;

    memset(&st, 0, sizeof(st));
    pthread_mutex_init(&st.mu, NULL);
    st.lab = cref_lab_new(version);
    CREF_MUST(r, st.lab != NULL);
    st.lab->arg = &st;
    SSL_CTX_sess_set_new_cb(st.lab->server, store_new);
    SSL_CTX_sess_set_get_cb(st.lab->server, store_get);
    SSL_CTX_sess_set_remove_cb(st.lab->server, store_remove);
    SSL_CTX_set_session_cache_mode(st.lab->server, mode);
    SSL_CTX_sess_set_cache_size(st.lab->server, 3);
    if (pthread_create(&flusher, NULL, be_flusher, &st) != 0)
        abort();
    for (int i = 0; i < CLIENTS; i++)
        if (pthread_create(&clients[i], NULL, be_client, &st) != 0)
            abort();
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    __atomic_store_n(&st.over, 1, __ATOMIC_SEQ_CST);
    pthread_join(flusher, NULL);
    cref_lab_free(st.lab);
    for (int i = 0; i < 1024; i++)
        OPENSSL_free(st.der[i]);
    pthread_mutex_destroy(&st.mu);
    *failed += st.failed;
    *resumed = st.resumed > 0;
}

static void stress_both(cref_report *r, const char *name, long mode)
{
    long live = cref_sessions_made() - cref_sessions_destroyed();
    int failed = 0, resumed12 = 0, resumed13 = 0;

    stress(r, TLS1_2_VERSION, mode, &failed, &resumed12);
    stress(r, TLS1_3_VERSION, mode, &failed, &resumed13);
    cref_say(r, name, "failed %d, some resumed in 1.2 %s, in 1.3 %s, leaked %ld", failed, cref_yes(resumed12),
             cref_yes(resumed13), cref_sessions_made() - cref_sessions_destroyed() - live);
}

static void f4_6(cref_report *r)
{
    stress_both(r, "no internal cache", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
}

/* In a process of its own: there are evictions. */
static void f4_6_cached(cref_report *r)
{
    stress_both(r, "cache of 3", SSL_SESS_CACHE_SERVER);
}

const cref_scenario cref_thread_facts[] = {
    {"F4.1", f4_1},
    {"F4.2", f4_2},
    {"F4.3", f4_3},
    {"F4.4", f4_4},
    {"F4.5", f4_5},
    {"F4.6", f4_6},
    {"F4.6 cache of 3", f4_6_cached},
    {NULL, NULL},
};
