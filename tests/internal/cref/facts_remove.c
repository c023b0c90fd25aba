/* facts_remove.c: section 3, remove_session_cb. */
#include "cref.h"
#include "lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- what the scenarios share ------------------------------------------------ */

static SSL_SESSION *decode(const cref_entry *e)
{
    const unsigned char *p = e->der;

    return e->der == NULL ? NULL : d2i_SSL_SESSION(NULL, &p, e->der_len);
}

static void empty(cref_lab *lab)
{
    for (int i = 0; i < CREF_LAB_ENTRIES; i++) {
        OPENSSL_free(lab->entries[i].der);
        lab->entries[i].der = NULL;
    }
}

/*
 * A lab with the store's callbacks and the internal cache on, and n sessions from the server in the order in which they
 * were made. Nothing else holds a reference to them.
 */
static cref_lab *stage(int version, int n, SSL_SESSION **made)
{
    cref_lab *lab = cref_lab_new(version);

    if (lab == NULL)
        return NULL;
    cref_lab_store(lab);
    for (int i = 0; i < n; i++) {
        int ok;

        if (!cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) || !ok
            || (made[i] = decode(&lab->entries[i])) == NULL) {
            while (i-- > 0)
                SSL_SESSION_free(made[i]);
            cref_lab_free(lab);
            return NULL;
        }
    }
    empty(lab);
    cref_lab_reset(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    return lab;
}

static void strike(cref_lab *lab, SSL_SESSION **made, int n)
{
    for (int i = 0; i < n; i++)
        SSL_SESSION_free(made[i]);
    cref_lab_free(lab);
}

static void free_server(cref_lab *lab)
{
    SSL_CTX *server = lab->server;

    lab->server = NULL;
    SSL_CTX_free(server);
}

static int same_id(const SSL_SESSION *a, const SSL_SESSION *b)
{
    unsigned int na, nb;
    const unsigned char *ia = SSL_SESSION_get_id(a, &na), *ib = SSL_SESSION_get_id(b, &nb);

    return na == nb && memcmp(ia, ib, na) == 0;
}

static long now(void)
{
    return (long)time(NULL);
}

/* All entries of the store expired long ago. */
static int expire_entries(cref_lab *lab)
{
    for (int i = 0; i < CREF_LAB_ENTRIES; i++) {
        cref_entry *e = &lab->entries[i];
        SSL_SESSION *s = decode(e);

        if (e->der == NULL)
            continue;
        if (s == NULL)
            return 0;
        cref_session_set_time(s, now() - 100000);
        OPENSSL_free(e->der);
        e->der = NULL;
        e->der_len = i2d_SSL_SESSION(s, &e->der);
        SSL_SESSION_free(s);
    }
    return 1;
}

/* on_new: the session's reference goes to arg. */
static void hold(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    SSL_SESSION **held = lab->arg;

    (void)ssl;
    SSL_SESSION_free(*held);
    SSL_SESSION_up_ref(s);
    *held = s;
}

/* A link's wire, whose arg says from whom (1: the server) bytes come out wrong. */
static void corrupt(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    const int *from = k->arg;

    (void)cap;
    if (from_server == *from)
        buf[*len - 1] ^= 1;
}

static void corrupt_from(cref_link *k, const int *from)
{
    k->arg = (void *)from;
    k->wire = corrupt;
}

static const int client_end = 0, server_end = 1;

static const char *version_name(int version)
{
    return version == TLS1_2_VERSION ? "1.2" : "1.3";
}

/* ---- F3.1: triggers ------------------------------------------------------------ */

static void removed_by_call(cref_report *r)
{
    SSL_SESSION *s[2], *nameless;
    cref_lab *lab = stage(TLS1_2_VERSION, 2, s);
    cref_link k;
    int ret;

    CREF_MUST(r, lab != NULL);
    CREF_MUST(r, SSL_CTX_add_session(lab->server, s[0]) == 1);
    ret = SSL_CTX_remove_session(lab->server, s[0]);
    cref_say(r, "asked for, cached", "remove %d, it was there %s", lab->removes, cref_yes(ret));
    cref_lab_reset(lab);
    ret = SSL_CTX_remove_session(lab->server, s[1]);
    cref_say(r, "asked for, not cached", "remove %d, it was there %s", lab->removes, cref_yes(ret));
    cref_lab_reset(lab);
    ret = SSL_CTX_remove_session(lab->server, NULL);
    cref_say(r, "asked for, NULL", "remove %d, it was there %s", lab->removes, cref_yes(ret));

    SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET); /* ids are empty then */
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    nameless = SSL_get1_session(k.server);
    cref_lab_reset(lab);
    ret = SSL_CTX_remove_session(lab->server, nameless);
    cref_say(r, "asked for, empty id", "remove %d, it was there %s", lab->removes, cref_yes(ret));
    SSL_SESSION_free(nameless);
    cref_link_close(&k, CREF_CLEAN);
    strike(lab, s, 2);
}

static void removed_from_cache(cref_report *r)
{
    SSL_SESSION *s[3], *equal;
    cref_lab *lab = stage(TLS1_2_VERSION, 3, s);

    CREF_MUST(r, lab != NULL);
    CREF_MUST(r, (equal = SSL_SESSION_dup(s[0])) != NULL);
    SSL_CTX_add_session(lab->server, s[0]);
    SSL_CTX_add_session(lab->server, equal);
    cref_say(r, "displaced by an equal id", "remove %d, cached %ld", lab->removes, SSL_CTX_sess_number(lab->server));
    SSL_SESSION_free(equal);
    cref_flush_at(lab->server, 0);
    cref_say(r, "flush", "remove %d", lab->removes);
    cref_lab_reset(lab);
    SSL_CTX_sess_set_cache_size(lab->server, 1);
    SSL_CTX_add_session(lab->server, s[1]);
    SSL_CTX_add_session(lab->server, s[2]);
    cref_say(r, "eviction", "remove %d", lab->removes);
    cref_flush_at(lab->server, 0);
    cref_lab_reset(lab);
    SSL_CTX_sess_set_cache_size(lab->server, 0);
    for (int i = 1; i < 3; i++) /* the first is the displaced one's equal */
        SSL_CTX_add_session(lab->server, s[i]);
    free_server(lab);
    cref_say(r, "context freed with 2 cached", "remove %d", lab->removes);
    strike(lab, s, 3);
}

static void removed_by_lookup(cref_report *r, int version)
{
    cref_lab *lab = stage(version, 0, NULL);
    SSL_SESSION *held = NULL, *offer;
    char name[64];
    int ok, resumed;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok && expire_entries(lab));
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, &resumed, NULL) && ok);
    SSL_SESSION_free(offer);
    snprintf(name, sizeof(name), "expired in the store, %s", version_name(version));
    cref_say(r, name, "resumed %s, remove %d", cref_yes(resumed), lab->removes);

    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    lab->arg = &held;
    lab->on_new = hold;
    lab->deaf = 1;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok);
    cref_session_set_time(held, now() - 100000);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, &resumed, NULL) && ok);
    snprintf(name, sizeof(name), "expired in the cache, %s", version_name(version));
    cref_say(r, name, "resumed %s, remove %d, cached then %ld", cref_yes(resumed), lab->removes,
             SSL_CTX_sess_number(lab->server));
    SSL_SESSION_free(held);
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

typedef enum ending {
    ALERT_SENT,
    ALERT_RECEIVED,
    FREED,
    CLEARED,
    OTHER_SESSION,
    NOTIFY_RECEIVED,
    NOTIFY_SENT,
    QUIET,
    ENDINGS
} ending;

static void end_connection(cref_link *k, ending how)
{
    unsigned char c;

    switch (how) {
    case ALERT_SENT:
        corrupt_from(k, &client_end);
        cref_link_byte(k, 0);
        break;
    case ALERT_RECEIVED:
        corrupt_from(k, &server_end);
        cref_link_byte(k, 1);
        k->wire = NULL;
        cref_link_pump(k);
        SSL_read(k->server, &c, 1);
        break;
    case CLEARED:
        SSL_clear(k->server);
        break;
    case OTHER_SESSION:
        SSL_set_session(k->server, NULL);
        break;
    case NOTIFY_RECEIVED:
        SSL_shutdown(k->client);
        cref_link_pump(k);
        SSL_read(k->server, &c, 1);
        break;
    case NOTIFY_SENT:
        SSL_shutdown(k->server);
        break;
    case QUIET:
        SSL_set_quiet_shutdown(k->server, 1);
        SSL_shutdown(k->server);
        break;
    default:
        break;
    }
    ERR_clear_error();
}

static void removed_by_end(cref_report *r, int version)
{
    static const char *const names[ENDINGS] = {
        "fatal alert sent",           "fatal alert received", "freed",       "SSL_clear", "SSL_set_session",
        "close_notify only received", "close_notify sent",    "quiet shutdown"};
    cref_lab *lab = cref_lab_new(version);
    char name[64];

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    for (int how = 0; how < ENDINGS; how++) {
        cref_link k;
        int before;

        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
        cref_lab_reset(lab);
        end_connection(&k, (ending)how);
        before = lab->removes;
        cref_link_close(&k, CREF_UNCLEAN);
        snprintf(name, sizeof(name), "%s, %s", names[how], version_name(version));
        cref_say(r, name, "remove %d, after SSL_free %d", before, lab->removes);
    }
    cref_lab_free(lab);
}

/* A wire that lets only the client's first flight pass. */
static void cut(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    (void)buf, (void)cap;
    if (!from_server && k->from_client > 0)
        *len = 0;
}

static void abandoned(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *offer;
    cref_link k;
    char name[64];
    int ok;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer));
    k.wire = cut;
    CREF_MUST(r, !cref_link_run(&k) && !k.failed && !k.server_done);
    cref_link_close(&k, CREF_UNCLEAN);
    snprintf(name, sizeof(name), "resumption abandoned half way, %s", version_name(version));
    cref_say(r, name, "looked up %d, remove %d", lab->hits, lab->removes);
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

static void consumed(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *offer;
    int ok, resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    SSL_CTX_set_max_early_data(lab->server, 1024); /* without the option NO_ANTI_REPLAY */
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, &resumed, NULL) && ok);
    cref_say(r, "consumed by replay protection, 1.3", "resumed %s, remove %d", cref_yes(resumed), lab->removes);
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

/* The decryption of a ticket that is good and asks for another one. */
static SSL_TICKET_RETURN renew(SSL *ssl, SSL_SESSION *s, const unsigned char *name, size_t len,
                               SSL_TICKET_STATUS status, void *arg)
{
    (void)ssl, (void)s, (void)name, (void)len, (void)arg;
    return status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW ? SSL_TICKET_RETURN_USE_RENEW
                                                                              : SSL_TICKET_RETURN_IGNORE_RENEW;
}

/* The callbacks are the client's here. */
static void removed_on_client(cref_report *r, int version, const char *name)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *offer;
    int ok, resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store_on(lab, lab->client);
    SSL_CTX_set_session_cache_mode(lab->client, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    if (version == TLS1_2_VERSION) {
        SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
        CREF_MUST(r, SSL_CTX_set_session_ticket_cb(lab->server, NULL, renew, NULL) == 1);
    }
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, &resumed, NULL) && ok);
    cref_say(r, name, "resumed %s, remove %d", cref_yes(resumed), lab->removes);
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

static void f3_1(cref_report *r)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

    removed_by_call(r);
    removed_from_cache(r);
    for (int i = 0; i < 2; i++) {
        removed_by_lookup(r, versions[i]);
        removed_by_end(r, versions[i]);
        abandoned(r, versions[i]);
    }
    consumed(r);
    removed_on_client(r, TLS1_2_VERSION, "a client's ticket is renewed, 1.2");
    removed_on_client(r, TLS1_3_VERSION, "a client's session is used, 1.3");
}

/* ---- F3.2: no reason ------------------------------------------------------------ */

/* on_remove: what a naive store does. */
static void forget(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(s, &len);
    cref_entry *e = cref_lab_find(lab, id, len);

    (void)ctx;
    if (e == NULL)
        return;
    OPENSSL_free(e->der);
    e->der = NULL;
}

static void f3_2(cref_report *r)
{
    for (int detached = 0; detached < 2; detached++) {
        SSL_SESSION *s[3];
        cref_lab *lab = stage(TLS1_2_VERSION, 3, s);

        CREF_MUST(r, lab != NULL);
        lab->on_remove = forget;
        for (int i = 0; i < 3; i++) {
            cref_lab_put(lab, s[i]);
            SSL_CTX_add_session(lab->server, s[i]);
        }
        if (detached)
            SSL_CTX_sess_set_remove_cb(lab->server, NULL);
        free_server(lab);
        cref_say(r, detached ? "callback taken away first" : "a server ends", "remove %d, entries left %d of 3",
                 lab->removes, cref_lab_count(lab));
        strike(lab, s, 3);
    }
}

/* ---- F3.3: no pairs --------------------------------------------------------------- */

typedef struct last_one {
    SSL_SESSION *last; /* what new saw last */
    int removed_last;
} last_one;

static void note_last(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    last_one *n = lab->arg;

    (void)ssl;
    SSL_SESSION_free(n->last);
    SSL_SESSION_up_ref(s);
    n->last = s;
}

static void note_removed_last(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    last_one *n = lab->arg;

    (void)ctx;
    n->removed_last = n->last != NULL && same_id(n->last, s);
}

static void f3_3(cref_report *r)
{
    last_one n = {NULL, 0};
    SSL_SESSION *s;
    SSL_CTX *another;
    cref_link k;
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_OFF);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    cref_link_close(&k, CREF_UNCLEAN);
    cref_say(r, "cache off", "new %d, remove %d", lab->news, lab->removes);

    cref_lab_reset(lab);
    lab->arg = &n;
    lab->on_new = note_last;
    lab->on_remove = note_removed_last;
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_set_num_tickets(lab->server, 3);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    cref_link_close(&k, CREF_UNCLEAN);
    cref_say(r, "3 tickets", "new %d, remove %d, of the last %s", lab->news, lab->removes,
             cref_yes(n.removed_last));
    SSL_SESSION_free(n.last);
    cref_lab_free(lab);

    lab = stage(TLS1_2_VERSION, 1, &s);
    CREF_MUST(r, lab != NULL && (another = cref_lab_server(lab)) != NULL);
    cref_lab_store_on(lab, another);
    SSL_CTX_remove_session(another, s);
    cref_say(r, "a session of another server", "new %d, remove %d", lab->news, lab->removes);
    SSL_CTX_remove_session(another, s);
    SSL_CTX_remove_session(lab->server, s);
    cref_say(r, "one session, three times", "remove %d", lab->removes);
    SSL_CTX_free(another);
    strike(lab, &s, 1);
}

/* ---- F3.4: the object ----------------------------------------------------------------- */

typedef struct look {
    SSL_SESSION *passed; /* not to be followed */
    int resumable;
    long cached;
    unsigned char *der;
    int der_len, ex_data;
    SSL_SESSION *kept; /* where wanted */
    int keep;
} look;

static int session_idx = -1, ctx_idx = -1;
static pthread_once_t indexes = PTHREAD_ONCE_INIT;
static int ex_value;

/* A thread that asks for the lock of a context that is being freed must be done before the lock is freed. */
static void join_askers(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    cref_lab *lab = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (lab == NULL)
        return;
    for (int i = 0; i < lab->nlockers; i++)
        pthread_join(lab->lockers[i], NULL);
    lab->nlockers = 0;
}

static void make_indexes(void)
{
    session_idx = SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    ctx_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, join_askers);
}

static void look_at(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    look *n = lab->arg;

    n->passed = s;
    n->resumable = SSL_SESSION_is_resumable(s);
    n->cached = SSL_CTX_sess_number(ctx);
    n->ex_data = SSL_SESSION_get_ex_data(s, session_idx) == &ex_value;
    OPENSSL_free(n->der);
    n->der = NULL;
    n->der_len = i2d_SSL_SESSION(s, &n->der);
    if (n->keep && SSL_SESSION_up_ref(s))
        n->kept = s;
}

static void say_look(cref_report *r, const char *name, const look *n, long by_call)
{
    cref_say(r, name, "resumable %s, destroyed by the call %ld", cref_yes(n->resumable), by_call);
}

static void say_cached(cref_report *r, const char *name, const look *n)
{
    cref_say(r, name, "others %ld", n->cached);
}

static void looked_at(cref_report *r, const char *name, const char *cached,
                      void (*trigger)(cref_lab *lab, SSL_SESSION **s))
{
    SSL_SESSION *s[2];
    cref_lab *lab = stage(TLS1_2_VERSION, 2, s);
    look n;
    long destroyed;

    memset(&n, 0, sizeof(n));
    CREF_MUST(r, lab != NULL);
    lab->arg = &n;
    lab->on_remove = look_at;
    destroyed = cref_sessions_destroyed();
    trigger(lab, s);
    say_look(r, name, &n, cref_sessions_destroyed() - destroyed);
    if (cached != NULL)
        say_cached(r, cached, &n);
    lab->on_remove = NULL;
    OPENSSL_free(n.der);
    strike(lab, s, 2);
}

/* The cache's reference is the only one. */
static void give(SSL_CTX *ctx, SSL_SESSION **s)
{
    SSL_CTX_add_session(ctx, *s);
    SSL_SESSION_free(*s);
    *s = NULL;
}

static void flush_it(cref_lab *lab, SSL_SESSION **s)
{
    give(lab->server, &s[0]);
    cref_flush_at(lab->server, 0);
}

static void evict_it(cref_lab *lab, SSL_SESSION **s)
{
    SSL_CTX_sess_set_cache_size(lab->server, 1);
    give(lab->server, &s[0]);
    SSL_CTX_add_session(lab->server, s[1]);
}

static void free_it(cref_lab *lab, SSL_SESSION **s)
{
    give(lab->server, &s[0]);
    free_server(lab);
}

static void remove_it(cref_lab *lab, SSL_SESSION **s)
{
    SSL_CTX_remove_session(lab->server, s[0]);
}

static void seen_in_connection(cref_report *r)
{
    cref_lab *lab = stage(TLS1_2_VERSION, 0, NULL);
    cref_link k;
    look n;
    long destroyed, by_call, by_close;

    memset(&n, 0, sizeof(n));
    CREF_MUST(r, lab != NULL);
    lab->arg = &n;
    lab->on_remove = look_at;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    destroyed = cref_sessions_destroyed();
    cref_flush_at(lab->server, 0);
    by_call = cref_sessions_destroyed() - destroyed;
    SSL_shutdown(k.server);
    SSL_free(k.server);
    k.server = NULL;
    by_close = cref_sessions_destroyed() - destroyed;
    say_look(r, "flush, a connection holds it too", &n, by_call);
    cref_say(r, "then the connection's end", "destroyed %ld", by_close);
    cref_link_close(&k, CREF_CLEAN);
    OPENSSL_free(n.der);
    cref_lab_free(lab);
}

static void passed_on(cref_report *r)
{
    SSL_SESSION *s, *equal;
    cref_lab *lab = stage(TLS1_2_VERSION, 1, &s);
    look n;
    unsigned char *der = NULL;
    int len;

    memset(&n, 0, sizeof(n));
    pthread_once(&indexes, make_indexes);
    CREF_MUST(r, lab != NULL && (equal = SSL_SESSION_dup(s)) != NULL);
    lab->arg = &n;
    lab->on_remove = look_at;
    SSL_CTX_add_session(lab->server, s);
    SSL_CTX_remove_session(lab->server, equal);
    cref_say(r, "asked for with an equal copy", "it is the caller's object %s, the cached one is resumable %s, cached %ld",
             cref_yes(n.passed == equal), cref_yes(SSL_SESSION_is_resumable(s)), SSL_CTX_sess_number(lab->server));
    SSL_SESSION_free(equal);

    CREF_MUST(r, SSL_SESSION_set_ex_data(s, session_idx, &ex_value) == 1 && (len = i2d_SSL_SESSION(s, &der)) > 0);
    n.keep = 1;
    give(lab->server, &s);
    free_server(lab);
    cref_say(r, "its content", "DER as before %s", cref_yes(n.der_len == len && memcmp(n.der, der, (size_t)len) == 0));
    cref_say(r, "its ex_data", "readable %s", cref_yes(n.ex_data));
    OPENSSL_free(n.der);
    n.der = NULL;
    n.der_len = i2d_SSL_SESSION(n.kept, &n.der);
    cref_say(r, "a reference outlives the context", "DER as before %s",
             cref_yes(n.der_len == len && memcmp(n.der, der, (size_t)len) == 0));
    SSL_SESSION_free(n.kept);
    OPENSSL_free(n.der);
    OPENSSL_free(der);
    strike(lab, &s, 1);
}

static void f3_4(cref_report *r)
{
    pthread_once(&indexes, make_indexes);
    looked_at(r, "flush", "cached during a flush", flush_it);
    looked_at(r, "eviction", "cached during an eviction", evict_it);
    looked_at(r, "context freed", NULL, free_it);
    looked_at(r, "asked for, not cached", NULL, remove_it);
    seen_in_connection(r);
    passed_on(r);
}

/* ---- F3.5: eviction poisons ------------------------------------------------------------- */

static void f3_5(cref_report *r)
{
    SSL_SESSION *s[2];
    cref_lab *lab = stage(TLS1_2_VERSION, 2, s);

    CREF_MUST(r, lab != NULL);
    SSL_CTX_sess_set_cache_size(lab->server, 1);
    SSL_CTX_add_session(lab->server, s[0]);
    cref_say(r, "cached", "resumable %s", cref_yes(SSL_SESSION_is_resumable(s[0])));
    SSL_CTX_add_session(lab->server, s[1]);
    cref_say(r, "evicted", "remove %d, resumable for who holds it %s", lab->removes,
             cref_yes(SSL_SESSION_is_resumable(s[0])));
    strike(lab, s, 2);
}

/* ---- F3.6: locks ---------------------------------------------------------------------------- */

static const char *locked(int held)
{
    return held ? "lock held" : "no lock";
}

/* on_remove, once. */
static void ask_for_lock(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    int *held = lab->arg;

    (void)s;
    if (*held < 0)
        *held = cref_lock_held(lab, ctx);
}

static const char *answer_of(int held)
{
    return held < 0 ? "not called" : locked(held);
}

static void lock_of_call(cref_report *r, const char *name, void (*trigger)(cref_lab *lab, SSL_SESSION **s))
{
    SSL_SESSION *s[2];
    cref_lab *lab = stage(TLS1_2_VERSION, 2, s);
    int held = -1;

    CREF_MUST(r, lab != NULL && SSL_CTX_set_ex_data(lab->server, ctx_idx, lab) == 1);
    lab->arg = &held;
    lab->on_remove = ask_for_lock;
    trigger(lab, s);
    cref_say(r, name, "%s", answer_of(held));
    lab->on_remove = NULL;
    strike(lab, s, 2);
}

static void lock_of_lookup(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *offer;
    int ok, held = -1;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok && expire_entries(lab));
    lab->arg = &held;
    lab->on_remove = ask_for_lock;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, NULL, NULL) && ok);
    cref_say(r, "expired at lookup, 1.2", "%s", answer_of(held));
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

static void lock_of_end(cref_report *r, ending how, const char *name)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    cref_link k;
    int held = -1;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->arg = &held;
    lab->on_remove = ask_for_lock;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    end_connection(&k, how);
    cref_link_close(&k, CREF_UNCLEAN);
    cref_say(r, name, "%s", answer_of(held));
    cref_lab_free(lab);
}

static void lock_of_replay_check(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *offer;
    int ok, held = -1;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    SSL_CTX_set_max_early_data(lab->server, 1024);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok);
    lab->arg = &held;
    lab->on_remove = ask_for_lock;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, NULL, NULL) && ok);
    cref_say(r, "replay protection, 1.3", "%s", answer_of(held));
    lab->on_remove = NULL;
    SSL_SESSION_free(offer);
    cref_lab_free(lab);
}

static void f3_6(cref_report *r)
{
    pthread_once(&indexes, make_indexes);
    lock_of_call(r, "flush", flush_it);
    lock_of_call(r, "eviction", evict_it);
    lock_of_call(r, "context freed", free_it);
    lock_of_call(r, "asked for", remove_it);
    lock_of_lookup(r);
    lock_of_end(r, ALERT_SENT, "fatal alert sent");
    lock_of_end(r, ALERT_RECEIVED, "fatal alert received");
    lock_of_end(r, FREED, "freed");
    lock_of_end(r, CLEARED, "SSL_clear");
    lock_of_replay_check(r);
}

/* ---- F3.7: the chain of evicted sessions ---------------------------------------------------- */

typedef struct reinsertion {
    SSL_SESSION **s; /* all that will be evicted */
    int n, tried, done;
} reinsertion;

/*
 * 1.1.1 releases its lock once too often when a callback calls back. The next thread that takes such a lock keeps it for
 * ever, and no call on the context returns any more. So scenarios that use this run in a process of their own.
 */
static int lock_is_broken(cref_lab *lab)
{
    return cref_lock_held(lab, lab->server) || cref_lock_held(lab, lab->server);
}

/* on_remove: puts those back that are still to be reported. */
static void reinsert(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    reinsertion *re = lab->arg;

    if (re->tried)
        return;
    re->tried = 1;
    for (int i = 0; i < re->n; i++)
        if (re->s[i] != s)
            re->done += SSL_CTX_add_session(ctx, re->s[i]);
}

static void f3_7_reinsertion(cref_report *r)
{
    enum { N = 5 };
    SSL_SESSION *s[N];
    cref_lab *lab = stage(TLS1_2_VERSION, N, s);
    reinsertion re;

    CREF_MUST(r, lab != NULL);
    re.s = s;
    re.n = N - 1;
    re.tried = re.done = 0;
    for (int i = 0; i < N - 1; i++)
        SSL_CTX_add_session(lab->server, s[i]);
    lab->arg = &re;
    lab->on_remove = reinsert;
    SSL_CTX_sess_set_cache_size(lab->server, 1); /* so that the next one evicts all of them */
    SSL_CTX_add_session(lab->server, s[N - 1]);
    lab->on_remove = NULL;
    cref_say(r, "re-insertion from remove", "%s", !re.tried ? "not called" : re.done > 0 ? "accepted" : "refused");
    if (!lock_is_broken(lab))
        strike(lab, s, N);
}

typedef struct crowd {
    SSL_CTX *ctx;
    SSL_SESSION **s;
    int n;
    unsigned int seed;
    struct timespec until;
} crowd;

static void *insert_at_random(void *arg)
{
    crowd *c = arg;
    struct timespec t;

    do {
        for (int i = 0; i < 500; i++) {
            c->seed = c->seed * 1664525u + 1013904223u;
            SSL_CTX_add_session(c->ctx, c->s[(c->seed >> 16) % (unsigned int)c->n]);
        }
        clock_gettime(CLOCK_MONOTONIC, &t);
    } while (t.tv_sec < c->until.tv_sec || (t.tv_sec == c->until.tv_sec && t.tv_nsec < c->until.tv_nsec));
    return NULL;
}

static void f3_7_threads(cref_report *r)
{
    enum { N = 8, THREADS = 4 };
    SSL_SESSION *s[N];
    cref_lab *lab = stage(TLS1_2_VERSION, N, s);
    pthread_t threads[THREADS];
    crowd all[THREADS];
    struct timespec until;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_sess_set_cache_size(lab->server, 3);
    SSL_CTX_sess_set_remove_cb(lab->server, NULL); /* not thread-safe, and not needed */
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 400 * 1000 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    for (int i = 0; i < THREADS; i++) {
        all[i].ctx = lab->server;
        all[i].s = s;
        all[i].n = N;
        all[i].seed = (unsigned int)i + 1;
        all[i].until = until;
        if (pthread_create(&threads[i], NULL, insert_at_random, &all[i]) != 0)
            abort();
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    cref_say(r, "four threads insert shared sessions", "sound");
    strike(lab, s, N);
}

/* ---- F3.8: without the internal store ----------------------------------------------------------- */

static void f3_8(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    cref_link k;
    SSL_SESSION *offer, *s;
    int ok, held = -1;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_STORE);
    SSL_CTX_sess_set_cache_size(lab->server, 1);
    for (int i = 0; i < 3; i++)
        CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    cref_say(r, "3 sessions, cache of 1", "new %d, cached %ld, remove %d", lab->news, SSL_CTX_sess_number(lab->server),
             lab->removes);
    cref_flush_at(lab->server, 0);
    cref_say(r, "flush", "remove %d", lab->removes);

    lab->arg = &held;
    lab->on_remove = ask_for_lock;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    cref_link_close(&k, CREF_UNCLEAN);
    cref_say(r, "freed without close_notify", "remove %d, %s", lab->removes, answer_of(held));
    cref_lab_reset(lab);
    held = -1;
    CREF_MUST(r, (s = decode(&lab->entries[0])) != NULL);
    SSL_CTX_remove_session(lab->server, s);
    SSL_SESSION_free(s);
    cref_say(r, "asked for", "remove %d, %s", lab->removes, answer_of(held));
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &offer) && ok && expire_entries(lab));
    cref_lab_reset(lab);
    held = -1;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, &ok, NULL, NULL) && ok);
    cref_say(r, "expired at lookup, 1.2", "remove %d, %s", lab->removes, answer_of(held));
    SSL_SESSION_free(offer);

    cref_lab_reset(lab);
    join_askers(NULL, lab, NULL, 0, 0, NULL);
    free_server(lab);
    cref_say(r, "context freed", "remove %d", lab->removes);
    cref_lab_free(lab);
}

/* ---- F3.9: calling back ---------------------------------------------------------------------------- */

typedef enum inner_call { CALL_ADD, CALL_REMOVE, CALL_FLUSH } inner_call;

typedef struct reentry {
    inner_call what;
    SSL_SESSION *other;
    int entered, done;
} reentry;

/* on_remove, whose first run calls back. */
static void reenter(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    reentry *re = lab->arg;
    int removes = lab->removes;

    if (re->entered)
        return;
    re->entered = 1;
    (void)s;
    switch (re->what) {
    case CALL_ADD:
        re->done = SSL_CTX_add_session(ctx, re->other);
        break;
    case CALL_REMOVE:
        re->done = SSL_CTX_remove_session(ctx, re->other);
        break;
    default:
        cref_flush_at(ctx, 0);
        re->done = lab->removes > removes;
    }
}

/* Two sessions whose ids are in different chains of any hash table. */
static int set_ids(SSL_SESSION **s)
{
    for (int i = 0; i < 2; i++) {
        unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];

        memset(id, i + 1, sizeof(id));
        if (SSL_SESSION_set1_id(s[i], id, sizeof(id)) != 1)
            return 0;
    }
    return 1;
}

/* Whether the call had an effect. 1.1.1's lock is broken then. */
static int done_in_flush(cref_report *r, inner_call what, int *broken)
{
    SSL_SESSION *s[2];
    cref_lab *lab = stage(TLS1_2_VERSION, 2, s);
    reentry re;

    memset(&re, 0, sizeof(re));
    if (lab == NULL || !set_ids(s)) {
        cref_broken(r, "no stage");
        return 0;
    }
    re.what = what;
    re.other = s[1];
    cref_session_set_time(s[0], now() - 100000);
    SSL_CTX_add_session(lab->server, s[0]);
    if (what != CALL_ADD)
        SSL_CTX_add_session(lab->server, s[1]);
    lab->arg = &re;
    lab->on_remove = reenter;
    cref_flush_at(lab->server, now()); /* s[0] alone */
    lab->on_remove = NULL;
    if (lock_is_broken(lab))
        ++*broken;
    else
        strike(lab, s, 2);
    return re.done;
}

/* In a process of its own also because a library with assertions aborts. */
static void f3_9_in_flush(cref_report *r)
{
    int broken = 0;
    int add = done_in_flush(r, CALL_ADD, &broken);
    int rem = done_in_flush(r, CALL_REMOVE, &broken);
    int flush = done_in_flush(r, CALL_FLUSH, &broken);

    cref_say(r, "calls in a flush", "add works %s, remove works %s, flush works %s, locks that are never free again %d",
             cref_yes(add), cref_yes(rem), cref_yes(flush), broken);
}

typedef struct harmless {
    int number, der, dup, ref, ssl, timeout;
} harmless;

static void call_the_harmless(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    harmless *h = lab->arg;
    SSL_SESSION *dup = SSL_SESSION_dup(s);
    SSL *ssl = SSL_new(ctx);

    h->number = SSL_CTX_sess_number(ctx) == 0;
    h->der = i2d_SSL_SESSION(s, NULL) > 0;
    h->dup = dup != NULL;
    h->ref = SSL_SESSION_up_ref(s);
    h->ssl = ssl != NULL;
    h->timeout = SSL_SESSION_set_timeout(s, 77) == 1 && SSL_SESSION_get_timeout(s) == 77;
    SSL_free(ssl);
    SSL_SESSION_free(dup);
    SSL_SESSION_free(s);
}

/* on_remove that asks for the same session's removal once more. */
static void again(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    if (lab->removes == 1)
        SSL_CTX_remove_session(ctx, s);
}

static void f3_9(cref_report *r)
{
    static const char *const names[] = {"add in a removal", "remove in a removal", "flush in a removal"};
    SSL_SESSION *s[2];
    cref_lab *lab = stage(TLS1_2_VERSION, 2, s);
    harmless h;

    memset(&h, 0, sizeof(h));
    CREF_MUST(r, lab != NULL);
    SSL_CTX_add_session(lab->server, s[0]);
    lab->arg = &h;
    lab->on_remove = call_the_harmless;
    cref_flush_at(lab->server, 0);
    cref_say(r, "harmless calls in a flush",
             "count %s, encode %s, duplicate %s, retain %s, new connection %s, set timeout %s", cref_yes(h.number),
             cref_yes(h.der), cref_yes(h.dup), cref_yes(h.ref), cref_yes(h.ssl), cref_yes(h.timeout));

    for (int what = 0; what < 3; what++) {
        reentry re;

        memset(&re, 0, sizeof(re));
        re.what = (inner_call)what;
        re.other = s[1];
        lab->on_remove = NULL;
        cref_flush_at(lab->server, 0);
        if (what != CALL_ADD)
            SSL_CTX_add_session(lab->server, s[1]);
        cref_lab_reset(lab);
        lab->arg = &re;
        lab->on_remove = reenter;
        SSL_CTX_remove_session(lab->server, s[0]);
        cref_say(r, names[what], "%s", re.done ? "done" : "nothing done");
    }
    cref_lab_reset(lab);
    lab->on_remove = again;
    SSL_CTX_remove_session(lab->server, s[0]);
    cref_say(r, "the same session removed in its removal", "remove %d", lab->removes);
    lab->on_remove = NULL;
    strike(lab, s, 2);
}

/* ---- F3.10: order and amount -------------------------------------------------------------------------- */

typedef struct order {
    SSL_SESSION **s;
    int n;
    int first, seen; /* the first one seen, and how many */
    int rising, falling;
    int last;
} order;

static void note_order(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    order *o = lab->arg;
    int i = 0;

    (void)ctx;
    while (i < o->n && !same_id(o->s[i], s))
        i++;
    if (o->seen++ == 0)
        o->first = i;
    else
        *(i > o->last ? &o->rising : &o->falling) += 1;
    o->last = i;
}

static void watch_order(cref_lab *lab, order *o, SSL_SESSION **s, int n)
{
    memset(o, 0, sizeof(*o));
    o->s = s;
    o->n = n;
    lab->arg = o;
    lab->on_remove = note_order;
}

static void f3_10(cref_report *r)
{
    enum { N = 8 };
    static const int insertion[N] = {3, 0, 6, 1, 7, 5, 2, 4};
    SSL_SESSION *s[N];
    cref_lab *lab = stage(TLS1_2_VERSION, N, s);
    long held[4], expires;
    order o;

    CREF_MUST(r, lab != NULL);
    cref_say(r, "default size", "%ld", SSL_CTX_sess_get_cache_size(lab->server));
    for (int size = 0; size < 4; size++) {
        SSL_CTX_sess_set_cache_size(lab->server, size);
        for (int i = 0; i < N; i++)
            SSL_CTX_add_session(lab->server, s[i]);
        held[size] = SSL_CTX_sess_number(lab->server);
        cref_flush_at(lab->server, 0);
    }
    cref_say(r, "a size of 0, 1, 2, 3", "holds %ld, %ld, %ld, %ld of 8", held[0], held[1], held[2], held[3]);

    for (int i = 0; i < N; i++)
        cref_session_set_time(s[i], now() - 100 + 10 * i); /* s[0] expires first */
    SSL_CTX_sess_set_cache_size(lab->server, 4);
    SSL_CTX_add_session(lab->server, s[5]);
    SSL_CTX_add_session(lab->server, s[1]);
    SSL_CTX_add_session(lab->server, s[6]);
    watch_order(lab, &o, s, N);
    SSL_CTX_add_session(lab->server, s[7]);
    if (o.seen == 0) /* where 4 means 4 */
        SSL_CTX_add_session(lab->server, s[2]);
    cref_say(r, "victim", "%s", o.seen != 1       ? "not one"
                                : o.first == 5 ? "inserted first"
                                : o.first == 1 ? "expires first"
                                               : "another");
    lab->on_remove = NULL;
    cref_flush_at(lab->server, 0);

    SSL_CTX_sess_set_cache_size(lab->server, 0);
    for (int i = 0; i < N; i++)
        SSL_CTX_add_session(lab->server, s[insertion[i]]);
    watch_order(lab, &o, s, N);
    cref_flush_at(lab->server, 0);
    cref_say(r, "order of a flush", "%s", o.falling == 0  ? "first to expire first"
                                          : o.rising == 0 ? "last to expire first"
                                                          : "another");

    lab->on_remove = NULL;
    SSL_CTX_add_session(lab->server, s[0]);
    cref_lab_reset(lab);
    expires = cref_session_time(s[0]) + (long)SSL_SESSION_get_timeout(s[0]);
    cref_flush_at(lab->server, expires);
    cref_say(r, "flush at time and lifetime", "remove %d", lab->removes);
    cref_flush_at(lab->server, expires + 1);
    cref_say(r, "flush a second later", "remove %d", lab->removes);
    strike(lab, s, N);
}

/* ---- F3.11: the automatic flush ------------------------------------------------------------------------- */

static int switch_context(SSL *ssl, int *alert, void *arg)
{
    (void)alert;
    SSL_set_SSL_CTX(ssl, arg);
    return SSL_CLIENT_HELLO_SUCCESS;
}

/* The handshake in which a session that has expired leaves the cache; 0: in none of n. All but the first resume, which
 * is quick. */
static int flushed_in(cref_lab *lab, int n)
{
    SSL_SESSION *offer = NULL;
    int found = 0;

    for (int i = 1; i <= n && found == 0; i++) {
        int ok, resumed;

        if (!cref_visit(lab, lab->server, offer, &ok, &resumed, i == 1 ? &offer : NULL) || !ok || resumed != (i > 1))
            break;
        if (lab->removes > 0)
            found = i;
    }
    SSL_SESSION_free(offer);
    return found;
}

static void f3_11(cref_report *r)
{
    static const char *const names[] = {"none switched", "all switched to another context"};

    for (int switched = 0; switched < 2; switched++) {
        SSL_SESSION *s;
        cref_lab *lab = stage(TLS1_2_VERSION, 1, &s);
        SSL_CTX *other = NULL;
        int held = -1, at;

        CREF_MUST(r, lab != NULL);
        if (switched) {
            CREF_MUST(r, (other = cref_lab_server(lab)) != NULL);
            SSL_CTX_set_client_hello_cb(lab->server, switch_context, other);
        }
        cref_session_set_time(s, now() - 100000);
        SSL_CTX_add_session(lab->server, s);
        lab->arg = &held;
        lab->on_remove = ask_for_lock;
        at = flushed_in(lab, 260);
        if (at == 0)
            cref_say(r, names[switched], "an expired session stays in the cache");
        else /* the handshake of stage was the context's first */
            cref_say(r, names[switched], "an expired session leaves it in handshake %d, %s", at + 1, answer_of(held));
        lab->on_remove = NULL;
        strike(lab, &s, 1);
        SSL_CTX_free(other);
    }
}

/* ---- F3.12: anyone can make the server forget -------------------------------------------------------------- */

static void alert_in_clear(cref_report *r)
{
    static const unsigned char alert[] = {21, 3, 3, 0, 2, 2, 40}; /* fatal, handshake_failure */
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *honest;
    cref_link k;
    int ok, resumed, removes;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->on_remove = forget;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &honest) && ok);
    CREF_MUST(r, cref_visit(lab, lab->server, honest, &ok, &resumed, NULL) && ok && resumed);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, honest));
    k.wire = cut;
    cref_link_run(&k);
    BIO_write(SSL_get_rbio(k.server), alert, sizeof(alert));
    SSL_do_handshake(k.server);
    removes = lab->removes;
    cref_link_close(&k, CREF_UNCLEAN);
    CREF_MUST(r, cref_visit(lab, lab->server, honest, &ok, &resumed, NULL) && ok);
    cref_say(r, "an alert in the clear after a client's id, 1.2", "remove %d, the honest client resumes then %s", removes,
             cref_yes(resumed));
    SSL_SESSION_free(honest);
    cref_lab_free(lab);
}

static void corrupted_record(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    cref_link k;
    char name[64];
    int ok, resumed;
    SSL_SESSION *honest;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->on_remove = forget;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    honest = SSL_get1_session(k.client);
    end_connection(&k, ALERT_SENT);
    cref_link_close(&k, CREF_UNCLEAN);
    CREF_MUST(r, cref_visit(lab, lab->server, honest, &ok, &resumed, NULL) && ok);
    snprintf(name, sizeof(name), "a corrupted record, %s", version_name(version));
    cref_say(r, name, "remove %d, the honest client resumes then %s", lab->removes, cref_yes(resumed));
    SSL_SESSION_free(honest);
    cref_lab_free(lab);
}

/* A hello with a pre-shared key ends in the binder. */
static void wrong_binder(cref_report *r, int protection)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *honest;
    cref_link k;
    int ok, failed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    SSL_CTX_set_max_early_data(lab->server, 1024);
    if (!protection)
        SSL_CTX_set_options(lab->server, SSL_OP_NO_ANTI_REPLAY);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &honest) && ok);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, honest));
    corrupt_from(&k, &client_end);
    failed = !cref_link_run(&k) && k.failed;
    cref_link_close(&k, CREF_UNCLEAN);
    cref_say(r, protection ? "a wrong binder, replay protection" : "a wrong binder, no replay protection",
             "handshake fails %s, remove %d", cref_yes(failed), lab->removes);
    SSL_SESSION_free(honest);
    lab->on_remove = NULL;
    cref_lab_free(lab);
}

static void f3_12(cref_report *r)
{
    alert_in_clear(r);
    corrupted_record(r, TLS1_2_VERSION);
    corrupted_record(r, TLS1_3_VERSION);
    wrong_binder(r, 1);
    wrong_binder(r, 0);
}

const cref_scenario cref_remove_facts[] = {
    {"F3.1", f3_1},
    {"F3.2", f3_2},
    {"F3.3", f3_3},
    {"F3.4", f3_4},
    {"F3.5", f3_5},
    {"F3.6", f3_6},
    {"F3.7 re-insertion from remove", f3_7_reinsertion},
    {"F3.7 four threads insert shared sessions", f3_7_threads},
    {"F3.8", f3_8},
    {"F3.9", f3_9},
    {"F3.9 calls in a flush", f3_9_in_flush},
    {"F3.10", f3_10},
    {"F3.11", f3_11},
    {"F3.12", f3_12},
    {NULL, NULL},
};
