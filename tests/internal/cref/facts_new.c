/* facts_new.c: section 1, new_session_cb. */
#include "cref.h"
#include "lab.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <time.h>

static const int both_versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* The name of a case that is shown for both versions. */
static const char *named(int version, const char *what)
{
    static __thread char name[96];

    snprintf(name, sizeof(name), "%s %s", version == TLS1_3_VERSION ? "1.3" : "1.2", what);
    return name;
}

static unsigned int id_length(SSL_SESSION *s)
{
    unsigned int n;

    SSL_SESSION_get_id(s, &n);
    return n;
}

static int holds(const unsigned char *all, size_t len, const unsigned char *part, size_t part_len)
{
    for (size_t i = 0; part_len > 0 && i + part_len <= len; i++)
        if (memcmp(all + i, part, part_len) == 0)
            return 1;
    return 0;
}

static long live_sessions(void)
{
    return cref_sessions_made() - cref_sessions_destroyed();
}

/* The sessions that a hook saw. With lab->keep it owns references to them; else they are pointers to compare. */
typedef struct kept {
    SSL_SESSION *s[8];
    int n;
} kept;

static void keep(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    kept *all = lab->arg;

    (void)ssl;
    if (all->n < (int)(sizeof(all->s) / sizeof(*all->s)))
        all->s[all->n++] = s;
}

static void let_go(kept *all)
{
    while (all->n > 0)
        SSL_SESSION_free(all->s[--all->n]);
}

/* ---- F1.1, F1.2: when it runs ----------------------------------------------- */

typedef struct sent {
    int flight; /* at the call, bytes are written that have not crossed yet */
    int finished;
} sent;

static void note_sent(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    sent *n = lab->arg;

    (void)s;
    n->flight = BIO_pending(SSL_get_wbio(ssl)) > 0;
    n->finished = SSL_is_init_finished(ssl);
}

static void when_new_runs(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    sent n = {0, 0};
    int ok;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->arg = &n;
    lab->on_new = note_sent;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    cref_say(r, "full handshake", "new %d, its flight was already written %s", lab->news, cref_yes(n.flight));
    if (version == TLS1_3_VERSION)
        cref_say(r, "state", "handshake finished %s", cref_yes(n.finished));
    cref_lab_free(lab);
}

static void f1_1(cref_report *r)
{
    when_new_runs(r, TLS1_2_VERSION);
}

static void f1_2(cref_report *r)
{
    when_new_runs(r, TLS1_3_VERSION);
}

/* ---- F1.3: how many ----------------------------------------------------------- */

/* A server with the defaults for the number of tickets and the id context. */
static SSL_CTX *bare_server(int version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL || !cref_use_certificate(ctx) || SSL_CTX_set_min_proto_version(ctx, version) != 1
        || SSL_CTX_set_max_proto_version(ctx, version) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    return ctx;
}

static void default_tickets(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_CTX *ctx = bare_server(TLS1_3_VERSION);
    int ok;

    CREF_MUST(r, lab != NULL && ctx != NULL);
    cref_lab_store_on(lab, ctx);
    CREF_MUST(r, cref_visit(lab, ctx, NULL, &ok, NULL, NULL) && ok);
    cref_say(r, "1.3 default", "new %d", lab->news);
    SSL_CTX_free(ctx);
    cref_lab_free(lab);
}

static void set_tickets(cref_report *r, const char *name, int tickets)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    kept all = {{NULL}, 0};
    int ok, objects = 0, ids = 0;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->arg = &all;
    lab->on_new = keep;
    lab->keep = 1; /* or one object might come where another one was */
    CREF_MUST(r, SSL_CTX_set_num_tickets(lab->server, (size_t)tickets) == 1);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    for (int i = 0; i < all.n; i++) {
        int object = 1, id = 1;

        for (int j = 0; j < i; j++) {
            unsigned int n, m;
            const unsigned char *a = SSL_SESSION_get_id(all.s[i], &n), *b = SSL_SESSION_get_id(all.s[j], &m);

            object = object && all.s[i] != all.s[j];
            id = id && (n != m || memcmp(a, b, n) != 0);
        }
        objects += object;
        ids += id;
    }
    cref_say(r, name, "new %d, objects %d, ids %d", lab->news, objects, ids);
    let_go(&all);
    cref_lab_free(lab);
}

static void resumed_tickets(cref_report *r, const char *name, int version, int tickets)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *session;
    int ok, resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    CREF_MUST(r, SSL_CTX_set_num_tickets(lab->server, (size_t)tickets) == 1);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, name, "resumed %s, new %d", cref_yes(resumed), lab->news);
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

#pragma weak SSL_new_session_ticket /* from 3.0 on */
int SSL_new_session_ticket(SSL *s);

static void requested_tickets(cref_report *r)
{
    cref_lab *lab;
    cref_link k;
    int at_once, handshake;

    if (SSL_new_session_ticket == NULL)
        return;
    CREF_MUST(r, (lab = cref_lab_new(TLS1_3_VERSION)) != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    cref_lab_reset(lab);
    CREF_MUST(r, SSL_new_session_ticket(k.server) == 1);
    at_once = lab->news;
    CREF_MUST(r, SSL_do_handshake(k.server) == 1);
    handshake = lab->news;
    CREF_MUST(r, SSL_new_session_ticket(k.server) == 1 && cref_link_byte(&k, 1));
    cref_say(r, "1.3 requested", "new %d at the request, %d with a handshake call, %d with the next write", at_once,
             handshake, lab->news);
    cref_link_close(&k, CREF_CLEAN);
    cref_lab_free(lab);
}

static void f1_3(cref_report *r)
{
    default_tickets(r);
    set_tickets(r, "1.3 none", 0);
    set_tickets(r, "1.3 three", 3);
    resumed_tickets(r, "1.3 resumed", TLS1_3_VERSION, 3);
    resumed_tickets(r, "1.3 resumed, none", TLS1_3_VERSION, 0);
    resumed_tickets(r, "1.2 resumed", TLS1_2_VERSION, 3);
    requested_tickets(r);
}

/* ---- F1.4, F1.5: tickets that hold the session -------------------------------- */

typedef struct seen {
    unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];
    unsigned int id_len;
    int has_ticket;
} seen;

static void note_id(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    seen *n = lab->arg;

    (void)ssl;
    memcpy(n->id, SSL_SESSION_get_id(s, &n->id_len), id_length(s));
    n->has_ticket = SSL_SESSION_has_ticket(s);
}

static void tickets_in_1_2(cref_report *r, const char *name, int client_has)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *session;
    cref_link k;
    unsigned int id_len;
    int ok, resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    if (!client_has)
        SSL_CTX_set_options(lab->client, SSL_OP_NO_TICKET);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    id_len = id_length(SSL_get_session(k.server));
    session = SSL_get1_session(k.client);
    cref_link_close(&k, CREF_CLEAN);
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, name, "new %d, id %u bytes, then get %d, resumed %s", lab->news, id_len, lab->gets, cref_yes(resumed));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void f1_4(cref_report *r)
{
    tickets_in_1_2(r, "client with tickets", 1);
    tickets_in_1_2(r, "client without", 0);
}

static void tickets_in_1_3(cref_report *r, const char *name, int server_option, int client_option)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *session;
    seen n = {{0}, 0, 0};
    unsigned char *der = NULL;
    int ok, resumed, news, in_ticket, der_len;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->arg = &n;
    lab->on_new = note_id;
    if (!server_option)
        SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    if (client_option)
        SSL_CTX_set_options(lab->client, SSL_OP_NO_TICKET);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    CREF_MUST(r, (der_len = i2d_SSL_SESSION(session, &der)) > 0);
    in_ticket = holds(der, (size_t)der_len, n.id, n.id_len);
    OPENSSL_free(der);
    news = lab->news;
    lab->on_new = NULL;
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, name, "new %d, id %u bytes, in the client's ticket %s, has ticket %s, then get %d, resumed %s", news,
             n.id_len, cref_yes(in_ticket), cref_yes(n.has_ticket), lab->gets, cref_yes(resumed));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void ticket_of_another(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_CTX *other = lab == NULL ? NULL : cref_lab_server(lab);
    SSL_SESSION *session;
    int ok, resumed;

    CREF_MUST(r, other != NULL);
    cref_lab_store(lab);
    cref_lab_store_on(lab, other);
    SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    SSL_CTX_clear_options(other, SSL_OP_NO_TICKET);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    CREF_MUST(r, cref_visit(lab, other, session, &ok, &resumed, NULL) && ok);
    cref_say(r, "stateless, another server's key", "get %d, resumed %s", lab->gets, cref_yes(resumed));
    SSL_SESSION_free(session);
    SSL_CTX_free(other);
    cref_lab_free(lab);
}

static void f1_5(cref_report *r)
{
    tickets_in_1_3(r, "stateless", 0, 0);
    tickets_in_1_3(r, "stateless, client with the option", 0, 1);
    tickets_in_1_3(r, "stateful", 1, 0);
    ticket_of_another(r);
}

/* ---- F1.6, F1.7: what stops it ------------------------------------------------- */

static void cached_with(cref_report *r, const char *name, int version, long mode)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *session;
    int ok, resumed, news, may;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, mode);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    news = lab->news;
    may = SSL_SESSION_is_resumable(session);
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, named(version, name), "new %d, the client may come back %s, then get %d, resumed %s", news,
             cref_yes(may), lab->gets, cref_yes(resumed));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void f1_6(cref_report *r)
{
    for (int i = 0; i < 2; i++) {
        int v = both_versions[i];

        cached_with(r, "off", v, SSL_SESS_CACHE_OFF);
        cached_with(r, "client", v, SSL_SESS_CACHE_CLIENT);
        cached_with(r, "no internal store", v, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_STORE);
        cached_with(r, "no internal lookup", v, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP);
        cached_with(r, "no internal", v, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    }
}

static void without_context(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_CTX *one = bare_server(version), *other = bare_server(version);
    SSL_SESSION *session;
    int ok, resumed, news;

    CREF_MUST(r, lab != NULL && one != NULL && other != NULL);
    cref_lab_store_on(lab, one);
    cref_lab_store_on(lab, other);
    CREF_MUST(r, cref_visit(lab, one, NULL, &ok, NULL, &session) && ok);
    news = lab->news;
    CREF_MUST(r, cref_visit(lab, other, session, &ok, &resumed, NULL) && ok);
    cref_say(r, named(version, "no context"), "new %d, another application's server resumes it %s", news,
             cref_yes(resumed));
    SSL_SESSION_free(session);
    SSL_CTX_free(one);
    SSL_CTX_free(other);
    cref_lab_free(lab);
}

static void verifying(cref_report *r, const char *name, int version, int context)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_CTX *ctx = lab == NULL ? NULL : context ? cref_lab_server(lab) : bare_server(version);
    SSL_SESSION *session;
    int ok;

    CREF_MUST(r, ctx != NULL);
    cref_lab_store_on(lab, ctx);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    CREF_MUST(r, cref_visit(lab, ctx, NULL, &ok, NULL, &session) && ok);
    cref_say(r, named(version, name), "new %d, the client may come back %s", lab->news,
             cref_yes(SSL_SESSION_is_resumable(session)));
    SSL_SESSION_free(session);
    SSL_CTX_free(ctx);
    cref_lab_free(lab);
}

static void f1_7(cref_report *r)
{
    for (int i = 0; i < 2; i++) {
        without_context(r, both_versions[i]);
        verifying(r, "no context, VERIFY_PEER", both_versions[i], 0);
        verifying(r, "context, VERIFY_PEER", both_versions[i], 1);
    }
}

/* ---- F1.8: the object ---------------------------------------------------------- */

typedef struct object {
    SSL_SESSION *s;
    unsigned int id_len;
    int context, resumable, own;
    long cached;
} object;

static void note_object(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    object *o = lab->arg;
    unsigned int n;
    const unsigned char *context = SSL_SESSION_get0_id_context(s, &n);

    o->s = s;
    o->id_len = id_length(s);
    o->context = n == strlen("conformance") && memcmp(context, "conformance", n) == 0;
    o->resumable = SSL_SESSION_is_resumable(s);
    o->own = SSL_get_session(ssl) == s;
    o->cached = SSL_CTX_sess_number(SSL_get_SSL_CTX(ssl));
}

/* Gives the references back one after the other and sees when the object goes: that tells its holders. */
static void state_of_object(cref_report *r, const char *name, int version, long mode)
{
    cref_lab *lab = cref_lab_new(version);
    object o;
    cref_link k;
    SSL_SESSION *session;
    long before;
    int callback, connection;
    char sub[64];

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, mode);
    lab->arg = &o;
    lab->on_new = note_object;
    lab->keep = 1;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    session = SSL_get1_session(k.client);
    cref_say(r, named(version, name), "id %u bytes, id context set %s, resumable %s, the connection's %s, cached %ld",
             o.id_len, cref_yes(o.context), cref_yes(o.resumable), cref_yes(o.own), o.cached);
    before = cref_sessions_destroyed();
    SSL_SESSION_free(o.s);
    callback = cref_sessions_destroyed() > before;
    cref_link_close(&k, CREF_CLEAN);
    connection = cref_sessions_destroyed() > before;
    cref_flush_at(lab->server, 0);
    snprintf(sub, sizeof(sub), "references, %s", name);
    cref_say(r, named(version, sub),
             "gone after the callback's %s, the connection's %s, a flush %s", cref_yes(callback), cref_yes(connection),
             cref_yes(cref_sessions_destroyed() > before));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static int choose_h2(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                     unsigned int in_len, void *arg)
{
    (void)ssl, (void)in, (void)in_len, (void)arg;
    *out = (const unsigned char *)"h2";
    *out_len = 2;
    return SSL_TLSEXT_ERR_OK;
}

/* OpenSSL notes the name in the session only for a server that says it is its own. */
static int own_name(SSL *ssl, int *alert, void *arg)
{
    (void)ssl, (void)alert, (void)arg;
    return SSL_TLSEXT_ERR_OK;
}

static void serial_form(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    cref_link k;
    SSL_SESSION *session, *s;
    cref_entry *e;
    const unsigned char *p, *alpn;
    unsigned char *der = NULL;
    size_t alpn_len;
    const char *name;
    int len, same;
    long age;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_timeout(lab->server, 1234);
    SSL_CTX_set_options(lab->server, SSL_OP_NO_ANTI_REPLAY);
    SSL_CTX_set_alpn_select_cb(lab->server, choose_h2, NULL);
    SSL_CTX_set_tlsext_servername_callback(lab->server, own_name);
    CREF_MUST(r, SSL_CTX_set_max_early_data(lab->server, 4096) == 1);
    CREF_MUST(r, SSL_CTX_set_alpn_protos(lab->client, (const unsigned char *)"\002h2", 3) == 0);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, "server.test", NULL) && cref_link_run(&k));
    e = &lab->entries[0];
    CREF_MUST(r, (len = i2d_SSL_SESSION(SSL_get_session(k.server), &der)) > 0 && e->der != NULL);
    same = len == e->der_len && memcmp(der, e->der, (size_t)len) == 0;
    OPENSSL_free(der);
    session = SSL_get1_session(k.client);
    cref_link_close(&k, CREF_CLEAN);
    p = e->der;
    CREF_MUST(r, (s = d2i_SSL_SESSION(NULL, &p, e->der_len)) != NULL);
    age = (long)time(NULL) - cref_session_time(s) + 1; /* time(3) may enter a second later than OpenSSL's clock */
    name = SSL_SESSION_get0_hostname(s);
    SSL_SESSION_get0_alpn_selected(s, &alpn, &alpn_len);
    cref_say(r, named(version, "serial form"),
             "final %s, key %s, time %s, lifetime %ld, ALPN %.*s, name %s, early data %lu", cref_yes(same),
             cref_yes(SSL_SESSION_get_master_key(s, NULL, 0) > 0), cref_yes(age >= 0 && age <= 60),
             SSL_SESSION_get_timeout(s), (int)alpn_len, alpn == NULL ? (const unsigned char *)"" : alpn,
             name == NULL ? "" : name, (unsigned long)SSL_SESSION_get_max_early_data(s));
    SSL_SESSION_free(s);
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void f1_8(cref_report *r)
{
    for (int i = 0; i < 2; i++) {
        state_of_object(r, "cached", both_versions[i], SSL_SESS_CACHE_SERVER);
        state_of_object(r, "not cached", both_versions[i], SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
        serial_form(r, both_versions[i]);
    }
}

/* ---- F1.9: the return value ------------------------------------------------------ */

static void returning(cref_report *r, const char *name, int version, int value)
{
    long before = live_sessions();
    cref_lab *lab = cref_lab_new(version);
    kept all = {{NULL}, 0};
    SSL_SESSION *session;
    long cached, left;
    int ok, resumed, removes;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    lab->keep = value;
    lab->deaf = 1;
    lab->arg = &all;
    lab->on_new = keep;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    cached = SSL_CTX_sess_number(lab->server);
    removes = lab->removes;
    lab->on_new = NULL; /* a resumption in 1.3 makes another */
    lab->keep = 0;
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, named(version, name), "cached %ld, remove %d, then get %d, resumed %s", cached, removes, lab->gets,
             cref_yes(resumed));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
    left = live_sessions() - before;
    if (value != 0)
        let_go(&all);
    cref_say(r, named(version, value == 0 ? "reference after 0" : "reference after 1"),
             "objects left to the application %ld, after its release %ld", left, live_sessions() - before);
}

static void remove_it(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    int *removed = lab->arg;

    *removed = SSL_CTX_remove_session(SSL_get_SSL_CTX(ssl), s);
}

static void veto(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *session;
    long cached;
    int ok, resumed, removes, removed = 0;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    lab->deaf = 1;
    lab->arg = &removed;
    lab->on_new = remove_it;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    cached = SSL_CTX_sess_number(lab->server);
    removes = lab->removes;
    CREF_MUST(r, cref_visit(lab, lab->server, session, &ok, &resumed, NULL) && ok);
    cref_say(r, named(version, "removed in the callback"), "cached %ld, remove %d, then get %d, resumed %s", cached,
             removes, lab->gets, cref_yes(resumed));
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void f1_9(cref_report *r)
{
    for (int i = 0; i < 2; i++) {
        returning(r, "returning 0", both_versions[i], 0);
        returning(r, "returning 1", both_versions[i], 1);
        veto(r, both_versions[i]);
    }
}

/* ---- F1.10: locks ------------------------------------------------------------------ */

static void note_lock(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    int *seen = lab->arg;

    seen[0] = cref_lock_held(lab, SSL_get_SSL_CTX(ssl));
    seen[1] = SSL_CTX_remove_session(SSL_get_SSL_CTX(ssl), s);
}

static void f1_10(cref_report *r)
{
    for (int i = 0; i < 2; i++) {
        cref_lab *lab = cref_lab_new(both_versions[i]);
        int seen[2] = {-1, -1}, ok;

        CREF_MUST(r, lab != NULL);
        cref_lab_store(lab);
        SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
        lab->arg = seen;
        lab->on_new = note_lock;
        CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
        cref_say(r, named(both_versions[i], "lock"), "held %s, the session can be removed there %s",
                 cref_yes(seen[0]), cref_yes(seen[1]));
        cref_lab_free(lab);
    }
}

/* ---- F1.11: which SSL_CTX ----------------------------------------------------------- */

typedef struct switching {
    SSL_CTX *second;
    int current; /* SSL_get_SSL_CTX was the second */
    int context; /* so was the id context */
    int removed; /* remove was told of the first */
} switching;

static void note_switch(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    switching *w = lab->arg;
    unsigned int n;
    const unsigned char *context = SSL_SESSION_get0_id_context(s, &n);

    w->current = SSL_get_SSL_CTX(ssl) == w->second;
    w->context = n == strlen("second") && memcmp(context, "second", n) == 0;
}

static void note_removal(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    switching *w = lab->arg;

    (void)s;
    w->removed += ctx == lab->server;
}

static const char *which(int second)
{
    return second ? "second" : "first";
}

static void after_switch(cref_report *r, int version, int in_hello, int on_second)
{
    const long mode = SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP;
    const char *name = in_hello ? "hello" : "servername";
    char sub[64];
    cref_lab *lab = cref_lab_new(version);
    switching w = {NULL, 0, 0, 0};
    SSL_SESSION *session;
    cref_link k;
    long cached[2];
    int resumed, news;

    CREF_MUST(r, lab != NULL && (w.second = cref_lab_server(lab)) != NULL);
    cref_lab_store_on(lab, on_second ? w.second : lab->server);
    (in_hello ? cref_sni_switch_in_hello : cref_sni_switch)(lab->server, w.second);
    SSL_CTX_set_session_cache_mode(lab->server, mode);
    SSL_CTX_set_session_cache_mode(w.second, mode);
    CREF_MUST(r, SSL_CTX_set_session_id_context(w.second, (const unsigned char *)"second", 6) == 1);
    lab->arg = &w;
    lab->on_new = note_switch;
    lab->on_remove = note_removal;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, "server.test", NULL) && cref_link_run(&k));
    session = SSL_get1_session(k.client);
    cref_link_close(&k, CREF_CLEAN);
    news = lab->news;
    cached[0] = SSL_CTX_sess_number(lab->server);
    cached[1] = SSL_CTX_sess_number(w.second);
    cref_flush_at(lab->server, 0);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, "server.test", session) && cref_link_run(&k));
    resumed = cref_link_resumed(&k);
    cref_link_close(&k, CREF_CLEAN);
    if (on_second) {
        snprintf(sub, sizeof(sub), "%s, the second's callbacks", name);
        cref_say(r, named(version, sub), "new %d, get %d, remove %d", news, lab->gets, lab->removes);
    } else {
        cref_say(r, named(version, name),
                 "new %d, get %d, remove %d with the first, cached %ld and %ld, id context the %s's, resumed %s", news,
                 lab->gets, w.removed, cached[0], cached[1], which(w.context), cref_yes(resumed));
        snprintf(sub, sizeof(sub), "%s, current", name);
        cref_say(r, named(version, sub), "%s", which(w.current));
    }
    SSL_SESSION_free(session);
    SSL_CTX_free(w.second);
    cref_lab_free(lab);
}

static void f1_11(cref_report *r)
{
    for (int i = 0; i < 2; i++)
        for (int in_hello = 0; in_hello < 2; in_hello++)
            for (int on_second = 0; on_second < 2; on_second++)
                after_switch(r, both_versions[i], in_hello, on_second);
}

/* ---- F1.12: renegotiation ----------------------------------------------------------- */

static void renegotiating(cref_report *r, const char *name, int no_resumption)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    cref_callbacks *cb;
    cref_pair *p;
    SSL_SESSION *before;
    unsigned int n, m;
    const unsigned char *a, *b;
    int again;

    CREF_MUST(r, lab != NULL && (cb = cref_install(lab->server, CREF_NEW)) != NULL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    if (no_resumption)
        SSL_CTX_set_options(lab->server, SSL_OP_NO_SESSION_RESUMPTION_ON_RENEGOTIATION);
    CREF_MUST(r, (p = cref_pair_new(lab->client, lab->server, NULL, NULL)) != NULL && cref_pair_run(p));
    before = cref_pair_session(p);
    again = cref_pair_renegotiate(p);
    a = SSL_SESSION_get_id(before, &n);
    b = SSL_SESSION_get_id(SSL_get0_session(p->client), &m);
    cref_say(r, name, "renegotiated %s, the same session %s, new %d in all", cref_yes(again),
             cref_yes(n == m && memcmp(a, b, n) == 0), cb->news);
    SSL_SESSION_free(before);
    cref_pair_free(p, 1);
    cref_lab_free(lab);
    cref_callbacks_free(cb);
}

static void f1_12(cref_report *r)
{
    renegotiating(r, "by default", 0);
    renegotiating(r, "NO_SESSION_RESUMPTION_ON_RENEGOTIATION", 1);
}

/* ---- F1.13: what remove costs -------------------------------------------------------- */

static void cached_in_1_3(cref_report *r, const char *name, int removing, uint32_t early, int no_ticket)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    int ok;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    if (!removing)
        SSL_CTX_sess_set_remove_cb(lab->server, NULL);
    if (!no_ticket)
        SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    CREF_MUST(r, SSL_CTX_set_max_early_data(lab->server, early) == 1);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    cref_say(r, name, "new %d, cached %ld", lab->news, SSL_CTX_sess_number(lab->server));
    cref_lab_free(lab);
}

static void f1_13(cref_report *r)
{
    cached_in_1_3(r, "stateless, no remove callback", 0, 0, 0);
    cached_in_1_3(r, "stateless, a remove callback", 1, 0, 0);
    cached_in_1_3(r, "replay protection, no remove callback", 0, 4096, 0);
    cached_in_1_3(r, "NO_TICKET, no remove callback", 0, 0, 1);
}

/* ---- F1.14: on a client --------------------------------------------------------------- */

/* A lab whose callbacks are the client's. */
static cref_lab *client_lab(int version, int tickets)
{
    cref_lab *lab = cref_lab_new(version);

    if (lab == NULL)
        return NULL;
    cref_lab_store_on(lab, lab->client);
    SSL_CTX_set_session_cache_mode(lab->client, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    if (tickets)
        SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    return lab;
}

static void client_by_default(cref_report *r, int version)
{
    cref_lab *lab = client_lab(version, 1);
    int ok;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_session_cache_mode(lab->client, SSL_CTX_get_session_cache_mode(lab->server)); /* SERVER, as by default */
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    cref_say(r, named(version, "mode SERVER"), "new %d", lab->news);
    cref_lab_free(lab);
}

/* Both handshakes, and nothing that is not theirs. */
static int handshakes_only(cref_link *k)
{
    for (int turn = 0; turn < 20 && !(k->client_done && k->server_done); turn++) {
        k->client_done = SSL_do_handshake(k->client) == 1;
        cref_link_pump(k);
        k->server_done = SSL_do_handshake(k->server) == 1;
        cref_link_pump(k);
    }
    ERR_clear_error();
    return k->client_done && k->server_done;
}

static void client_calls(cref_report *r, const char *name, int version, int tickets)
{
    cref_lab *lab = client_lab(version, tickets);
    cref_link k;
    int handshake;

    CREF_MUST(r, lab != NULL);
    CREF_MUST(r, SSL_CTX_set_num_tickets(lab->server, 2) == 1);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && handshakes_only(&k));
    handshake = lab->news;
    CREF_MUST(r, cref_link_run(&k));
    cref_say(r, named(version, name), "new %d in the handshake, %d while reading", handshake, lab->news - handshake);
    cref_link_close(&k, CREF_CLEAN);
    cref_lab_free(lab);
}

typedef struct client_id {
    unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];
    unsigned int id_len;
    int hash;     /* it is the ticket's SHA-256 */
    int crossed;  /* it was on the wire, from the server or from the client */
} client_id;

static void note_client_id(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    client_id *n = lab->arg;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    const unsigned char *ticket;
    size_t ticket_len;

    (void)ssl;
    SSL_SESSION_get0_ticket(s, &ticket, &ticket_len);
    memcpy(n->id, SSL_SESSION_get_id(s, &n->id_len), id_length(s));
    EVP_Digest(ticket, ticket_len, digest, &len, EVP_sha256(), NULL);
    n->hash = len == n->id_len && memcmp(digest, n->id, len) == 0;
}

static void note_crossing(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    client_id *n = k->arg;

    (void)from_server, (void)cap;
    n->crossed = n->crossed || holds(buf, *len, n->id, n->id_len);
}

/* Looks for the session's id in the bytes of a resumption. */
static void client_ids(cref_report *r, int version)
{
    cref_lab *lab = client_lab(version, 1);
    client_id n = {{0}, 0, 0, 0};
    cref_link k;
    SSL_SESSION *session;
    int ok;

    CREF_MUST(r, lab != NULL);
    lab->arg = &n;
    lab->on_new = note_client_id;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &session) && ok);
    lab->on_new = NULL;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, session));
    k.arg = &n;
    k.wire = note_crossing;
    CREF_MUST(r, cref_link_run(&k));
    cref_say(r, named(version, "id with a ticket"), "%u bytes, the ticket's SHA-256 %s, resumed %s, sent for that %s",
             n.id_len, cref_yes(n.hash), cref_yes(cref_link_resumed(&k)), cref_yes(n.crossed));
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static void client_renews(cref_report *r, int version)
{
    cref_lab *lab = client_lab(version, 1);
    SSL_SESSION *first, *second;
    const unsigned char *a, *b;
    size_t n, m;
    int ok, resumed;

    CREF_MUST(r, lab != NULL);
    cref_renew_tickets(lab->server);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &first) && ok);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, first, &ok, &resumed, &second) && ok);
    SSL_SESSION_get0_ticket(first, &a, &n);
    SSL_SESSION_get0_ticket(second, &b, &m);
    cref_say(r, named(version, "renewed ticket"), "resumed %s, new %d, remove %d, the connection has another ticket %s",
             cref_yes(resumed), lab->news, lab->removes, cref_yes(n != m || memcmp(a, b, n) != 0));
    SSL_SESSION_free(first);
    SSL_SESSION_free(second);
    cref_lab_free(lab);
}

static void f1_14(cref_report *r)
{
    for (int i = 0; i < 2; i++) {
        client_by_default(r, both_versions[i]);
        client_calls(r, "server with NO_TICKET", both_versions[i], 0);
        client_calls(r, "server with tickets", both_versions[i], 1);
        client_ids(r, both_versions[i]);
        client_renews(r, both_versions[i]);
    }
}

const cref_scenario cref_new_facts[] = {
    {"F1.1", f1_1},   {"F1.2", f1_2},   {"F1.3", f1_3},   {"F1.4", f1_4},   {"F1.5", f1_5},
    {"F1.6", f1_6},   {"F1.7", f1_7},   {"F1.8", f1_8},   {"F1.9", f1_9},   {"F1.10", f1_10},
    {"F1.11", f1_11}, {"F1.12", f1_12}, {"F1.13", f1_13}, {"F1.14", f1_14}, {NULL, NULL},
};
