/* facts_exdata.c: section 8, ex_data and releasing a handle. */
#include "cref.h"
#include "lab.h"

#include <openssl/crypto.h>

/* ---- what hangs on an SSL_CTX --------------------------------------------------- */

typedef struct watch {
    char trace[16]; /* R: remove was called and found this; D: the destructor */
    pthread_t removed_by, destroyed_by;
} watch;

static int watch_idx = -1, value_idx = -1, own_value_idx = -1, dying_idx = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static __thread int lost; /* remove was called and found nothing */
/* Destructors that ran for this one, and those of them that got NULL. */
static __thread SSL_CTX *bare;
static __thread int bare_destructors, bare_nulls;

static void note(watch *w, char c)
{
    size_t n = strlen(w->trace);

    if (n + 1 < sizeof(w->trace))
        w->trace[n] = c;
}

static void watch_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    watch *w = ptr;

    (void)ad, (void)idx, (void)argl, (void)argp;
    if (parent == bare) {
        bare_destructors++;
        bare_nulls += ptr == NULL;
    }
    if (w == NULL)
        return;
    note(w, 'D');
    w->destroyed_by = pthread_self();
}

static void watch_remove_cb(SSL_CTX *ctx, SSL_SESSION *s)
{
    watch *w = SSL_CTX_get_ex_data(ctx, watch_idx);

    (void)s;
    if (w == NULL) {
        lost++;
        return;
    }
    note(w, 'R');
    w->removed_by = pthread_self();
}

/* ---- what hangs on an SSL_SESSION ----------------------------------------------- */

static void value_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    int *destroyed = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (destroyed != NULL)
        ++*destroyed;
}

/* A duplicate gets nothing. The third argument's type is what differs between 1.1.1, which has void *, and later. */
#define DUP_CB(name, type)                                                                                             \
    static int name(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, type from_d, int idx, long argl, void *argp)       \
    {                                                                                                                  \
        (void)to, (void)from, (void)idx, (void)argl, (void)argp;                                                       \
        *(void **)from_d = NULL;                                                                                       \
        return 1;                                                                                                      \
    }
DUP_CB(dup_cb, void *)
DUP_CB(dup_cb_3_0, void **)
#define DUP_CB_OF_THIS_RELEASE                                                                                         \
    _Generic((CRYPTO_EX_dup *)NULL,                                                                                    \
        int (*)(CRYPTO_EX_DATA *, const CRYPTO_EX_DATA *, void *, int, long, void *): dup_cb,                          \
        default: dup_cb_3_0)

typedef struct dying {
    cref_lab *lab;
    SSL_CTX *ctx;
    int held; /* -1 until one of the sessions is destroyed */
} dying;

static void dying_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    dying *d = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (d != NULL && d->held < 0)
        d->held = cref_lock_held(d->lab, d->ctx);
}

static void init(void)
{
    watch_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, watch_free_cb);
    value_idx = SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, value_free_cb);
    own_value_idx = SSL_SESSION_get_ex_new_index(0, NULL, NULL, DUP_CB_OF_THIS_RELEASE, value_free_cb);
    dying_idx = SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, dying_free_cb);
}

static SSL_CTX *watched(cref_lab *lab, watch *w)
{
    SSL_CTX *ctx = lab == NULL ? NULL : cref_lab_server(lab);

    pthread_once(&once, init);
    if (ctx == NULL || SSL_CTX_set_ex_data(ctx, watch_idx, w) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER);
    SSL_CTX_sess_set_remove_cb(ctx, watch_remove_cb);
    return ctx;
}

/* ---- F8.1: the destructor comes last ---------------------------------------------- */

static void broken_connections(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    watch w[4] = {{{0}, 0, 0}}; /* one, and what it said before */
    SSL_CTX *ctx = watched(lab, &w[0]);
    cref_link k[3];
    int ok;

    CREF_MUST(r, ctx != NULL);
    CREF_MUST(r, cref_visit(lab, ctx, NULL, &ok, NULL, NULL) && ok); /* leaves its session in the cache */
    for (int i = 0; i < 3; i++)
        CREF_MUST(r, cref_link_open(&k[i], lab, ctx, NULL, NULL) && cref_link_run(&k[i]));
    lost = 0;
    SSL_CTX_free(ctx);
    for (int i = 0; i < 3; i++) {
        w[i + 1] = w[0];
        cref_link_close(&k[i], CREF_UNCLEAN);
    }
    cref_say(r, "three connections that break",
             "the application's reference: \"%s\", then \"%s\", \"%s\", \"%s\", ex_data missing %d", w[1].trace,
             w[2].trace + strlen(w[1].trace), w[3].trace + strlen(w[2].trace), w[0].trace + strlen(w[3].trace),
             lost);
    cref_lab_free(lab);
}

static void switched_connection(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    watch w[2] = {{{0}, 0, 0}, {{0}, 0, 0}};
    SSL_CTX *first = watched(lab, &w[0]), *second = watched(lab, &w[1]);
    cref_link k;
    int before;

    CREF_MUST(r, first != NULL && second != NULL);
    cref_sni_switch(first, second);
    CREF_MUST(r, cref_link_open(&k, lab, first, "server.test", NULL) && cref_link_run(&k));
    SSL_CTX_free(first);
    SSL_CTX_free(second);
    before = (strchr(w[0].trace, 'D') != NULL) + (strchr(w[1].trace, 'D') != NULL);
    cref_link_close(&k, CREF_CLEAN);
    cref_say(r, "a connection that was switched", "destroyed before its end %d of 2, after %d", before,
             (strchr(w[0].trace, 'D') != NULL) + (strchr(w[1].trace, 'D') != NULL));
    cref_lab_free(lab);
}

static void f8_1(cref_report *r)
{
    broken_connections(r);
    switched_connection(r);
}

/* ---- F8.2: on which thread --------------------------------------------------------- */

typedef struct ending {
    cref_link k;
    watch *w;
    int destroyed;
} ending;

static void *end_link(void *arg)
{
    ending *e = arg;

    cref_link_close(&e->k, CREF_UNCLEAN);
    e->destroyed = strchr(e->w->trace, 'D') != NULL;
    return NULL;
}

static void f8_2(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    watch w = {{0}, 0, 0};
    SSL_CTX *ctx = watched(lab, &w);
    ending e;
    pthread_t t;

    CREF_MUST(r, ctx != NULL);
    CREF_MUST(r, cref_link_open(&e.k, lab, ctx, NULL, NULL) && cref_link_run(&e.k));
    e.w = &w;
    SSL_CTX_free(ctx);
    CREF_MUST(r, pthread_create(&t, NULL, end_link, &e) == 0 && pthread_join(t, NULL) == 0);
    cref_say(r, "last connection ended elsewhere", "remove runs there %s, destroyed when that returns %s",
             cref_yes(pthread_equal(w.removed_by, t)), cref_yes(e.destroyed));
    cref_say(r, "thread", "the destructor runs there %s", cref_yes(pthread_equal(w.destroyed_by, t)));
    cref_lab_free(lab);
}

/* ---- F8.3: contexts of others -------------------------------------------------------- */

static void f8_3(cref_report *r)
{
    SSL_CTX *ctx;

    pthread_once(&once, init);
    CREF_MUST(r, (ctx = SSL_CTX_new(TLS_server_method())) != NULL);
    bare = ctx;
    bare_destructors = bare_nulls = 0;
    SSL_CTX_free(ctx);
    bare = NULL;
    cref_say(r, "nothing set", "destructor %d, with NULL %d", bare_destructors, bare_nulls);
}

/* ---- F8.4: values on sessions ---------------------------------------------------------- */

typedef struct two_tickets {
    int idx, calls, seen, destroyed;
} two_tickets;

static void set_value(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    two_tickets *t = lab->arg;

    (void)ssl;
    if (t->calls++ == 0)
        SSL_SESSION_set_ex_data(s, t->idx, &t->destroyed);
    else
        t->seen = SSL_SESSION_get_ex_data(s, t->idx) == &t->destroyed;
}

static void value_of_first(cref_report *r, const char *name, int idx)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    two_tickets t = {idx, 0, 0, 0};
    int ok;

    CREF_MUST(r, lab != NULL);
    CREF_MUST(r, SSL_CTX_set_num_tickets(lab->server, 2) == 1);
    cref_lab_store(lab);
    lab->arg = &t;
    lab->on_new = set_value;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    cref_lab_free(lab);
    cref_say(r, name, "new %d, the second's session has it %s, destroyed %d", t.calls, cref_yes(t.seen), t.destroyed);
}

static void f8_4(cref_report *r)
{
    pthread_once(&once, init);
    value_of_first(r, "set on the first ticket's session", value_idx);
    value_of_first(r, "with a dup function that clears it", own_value_idx);
}

/* ---- F8.5: the lock during a session's destructor ---------------------------------------- */

static SSL_SESSION *add(cref_lab *lab, dying *d, unsigned char id)
{
    unsigned char all[SSL_MAX_SSL_SESSION_ID_LENGTH];
    const unsigned char *p = lab->entries[0].der;
    SSL_SESSION *s = d2i_SSL_SESSION(NULL, &p, lab->entries[0].der_len);

    memset(all, id, sizeof(all));
    if (s == NULL || SSL_SESSION_set1_id(s, all, sizeof(all)) != 1 || SSL_SESSION_set_ex_data(s, dying_idx, d) != 1
        || SSL_CTX_add_session(d->ctx, s) != 1) {
        SSL_SESSION_free(s);
        return NULL;
    }
    SSL_SESSION_free(s); /* the cache's reference is the only one */
    return s;
}

static void lock_when(cref_report *r, const char *name, int displaced, int evicted, int flushed, int removed)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    dying d;
    SSL_SESSION *s;
    int ok;

    pthread_once(&once, init);
    CREF_MUST(r, lab != NULL);
    d.lab = lab;
    d.ctx = lab->server;
    d.held = -1;
    cref_lab_store(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok && lab->entries[0].der != NULL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    CREF_MUST(r, (s = add(lab, &d, 1)) != NULL);
    if (displaced)
        CREF_MUST(r, add(lab, &d, 1) != NULL);
    if (evicted) {
        SSL_CTX_sess_set_cache_size(lab->server, 2);
        CREF_MUST(r, add(lab, &d, 2) != NULL && add(lab, &d, 3) != NULL);
    }
    if (flushed)
        cref_flush_at(lab->server, 0);
    if (removed)
        CREF_MUST(r, SSL_CTX_remove_session(lab->server, s) == 1);
    cref_say(r, name, "%s", d.held < 0 ? "not destroyed" : d.held ? "held" : "not held");
    d.held = 0; /* the rest goes with the context, which no other thread may touch then */
    cref_lab_free(lab);
}

static void f8_5(cref_report *r)
{
    lock_when(r, "displaced", 1, 0, 0, 0);
    lock_when(r, "evicted", 0, 1, 0, 0);
    lock_when(r, "flushed", 0, 0, 1, 0);
    lock_when(r, "removed", 0, 0, 0, 1);
}

/* ---- F8.6: sessions that outlive their context --------------------------------------------- */

static void keep_last(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    (void)ssl;
    if (lab->arg == NULL)
        lab->arg = s;
}

static SSL_SESSION *answer_kept(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    (void)ssl, (void)id, (void)len;
    *copy = 1;
    return lab->arg;
}

static void outlive_server(cref_report *r, const char *name, long mode)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_CTX *ctx = lab == NULL ? NULL : cref_lab_server(lab);
    SSL_SESSION *kept, *session;
    int ok, resumed, resumable;

    CREF_MUST(r, ctx != NULL);
    cref_lab_store_on(lab, ctx);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(ctx, mode);
    lab->on_new = keep_last;
    lab->keep = 1;
    CREF_MUST(r, cref_visit(lab, ctx, NULL, &ok, NULL, &session) && ok);
    SSL_CTX_free(ctx);
    lab->keep = 0;
    CREF_MUST(r, (kept = lab->arg) != NULL);
    resumable = SSL_SESSION_is_resumable(kept);
    if (mode & SSL_SESS_CACHE_NO_INTERNAL) {
        lab->answer = answer_kept;
        CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
        cref_say(r, name, "encodes %s, resumable %s, another server resumes it %s",
                 cref_yes(i2d_SSL_SESSION(kept, NULL) > 0), cref_yes(resumable), cref_yes(resumed));
    } else {
        cref_say(r, name, "encodes %s, resumable %s", cref_yes(i2d_SSL_SESSION(kept, NULL) > 0), cref_yes(resumable));
    }
    SSL_SESSION_free(kept);
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void outlive_client(cref_report *r)
{
    cref_lab *gone = cref_lab_new(TLS1_3_VERSION), *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *session;
    int ok, resumed;

    CREF_MUST(r, gone != NULL && lab != NULL);
    SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    CREF_MUST(r, cref_visit(gone, lab->server, NULL, &ok, NULL, &session) && ok);
    cref_lab_free(gone);
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, "a client's session", "encodes %s, another client resumes it %s",
             cref_yes(i2d_SSL_SESSION(session, NULL) > 0), cref_yes(resumed));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void f8_6(cref_report *r)
{
    outlive_server(r, "a server's session, not cached", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    outlive_server(r, "a server's session, cached to the end", SSL_SESS_CACHE_SERVER);
    outlive_client(r);
}

const cref_scenario cref_exdata_facts[] = {
    {"F8.1", f8_1}, {"F8.2", f8_2}, {"F8.3", f8_3}, {"F8.4", f8_4}, {"F8.5", f8_5}, {"F8.6", f8_6}, {NULL, NULL},
};
