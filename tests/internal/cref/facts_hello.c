/* facts_hello.c: section 6, looking up without blocking a thread. */
#include "cref.h"
#include "lab.h"

#include <openssl/async.h>
#include <openssl/tls1.h>

#define ID_LEN SSL_MAX_SSL_SESSION_ID_LENGTH

/* ---- what the facts share -------------------------------------------------- */

/*
 * A hello callback and its scenario share one of these for a connection: lab->arg. The callback guesses the ids that get
 * will be asked for and parks the handshake until the scenario has looked them up. get then answers from memory only.
 */
typedef struct hello {
    enum { NEVER, EACH_HELLO, EACH_CONNECTION } parks;
    int answered;                      /* the lookups are made */
    int nguessed;                      /* of the last hello: */
    unsigned char guessed[4][ID_LEN];
    size_t guessed_len[4];
    SSL_SESSION *memory[4];            /* what was looked up, until get gives it away */
    int parked, looked_up, given;
    char trace[32];                    /* H a hello, G a get, and what else the scenario traces */
    const char *guess, *ask;           /* what they are in the hello */
    void (*seen)(struct hello *h, SSL *ssl); /* runs first in the callback */
    void *arg;
} hello;

static void mark(hello *h, char c)
{
    size_t n = strlen(h->trace);

    if (n + 1 < sizeof(h->trace))
        h->trace[n] = c;
}

/* Cuts a vector with a length of n bytes off *p. */
static int vector(const unsigned char **p, size_t *left, size_t n, const unsigned char **v, size_t *len)
{
    *len = 0;
    if (*left < n)
        return 0;
    for (size_t i = 0; i < n; i++)
        *len = *len << 8 | (*p)[i];
    if (*left - n < *len)
        return 0;
    *v = *p + n;
    *p += n + *len;
    *left -= n + *len;
    return 1;
}

static int offers_tls13(SSL *ssl)
{
    const unsigned char *ext, *list;
    size_t left, len;

    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &ext, &left)
        || !vector(&ext, &left, 1, &list, &len))
        return 0;
    for (; len >= 2; list += 2, len -= 2)
        if (list[0] == 3 && list[1] == 4)
            return 1;
    return 0;
}

static void add_guess(hello *h, const unsigned char *id, size_t len)
{
    if (h->nguessed == 4 || len == 0 || len > ID_LEN)
        return;
    memcpy(h->guessed[h->nguessed], id, len);
    h->guessed_len[h->nguessed++] = len;
}

/* Guesses the ids that get will be asked for, by the rule of fact F6.2. */
static void guess(hello *h, SSL *ssl)
{
    const unsigned char *ext, *list, *id;
    size_t left, len, id_len;

    h->nguessed = 0;
    if (SSL_get_max_proto_version(ssl) == TLS1_3_VERSION && offers_tls13(ssl)) {
        if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &ext, &left) || !vector(&ext, &left, 2, &list, &len))
            return;
        while (vector(&list, &len, 2, &id, &id_len) && len >= 4) {
            list += 4; /* the age */
            len -= 4;
            if (id_len == ID_LEN)
                add_guess(h, id, id_len);
        }
        return;
    }
    if (!(SSL_get_options(ssl) & SSL_OP_NO_TICKET)
        && SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_session_ticket, &ext, &left) && left > 0)
        return;
    len = SSL_client_hello_get0_session_id(ssl, &id);
    add_guess(h, id, len);
}

static int hello_cb(SSL *ssl, int *alert, void *arg)
{
    hello *h = arg;

    (void)alert;
    mark(h, 'H');
    if (h->seen != NULL)
        h->seen(h, ssl);
    guess(h, ssl);
    if (h->answered) {
        h->answered = h->parks == EACH_CONNECTION;
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    return h->parks == NEVER || h->nguessed == 0 ? SSL_CLIENT_HELLO_SUCCESS : SSL_CLIENT_HELLO_RETRY;
}

static SSL_SESSION *from_memory(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    hello *h = lab->arg;
    const unsigned char *its;
    unsigned int its_len;

    (void)ssl;
    mark(h, 'G');
    for (int i = 0; i < 4; i++) {
        SSL_SESSION *s = h->memory[i];

        if (s == NULL)
            continue;
        its = SSL_SESSION_get_id(s, &its_len);
        if ((int)its_len != len || memcmp(its, id, its_len) != 0)
            continue;
        h->memory[i] = NULL;
        h->given++;
        *copy = 0;
        return s;
    }
    return NULL;
}

/* A lab with a store, of which the server's handshakes take a session from memory only. */
static cref_lab *hello_lab(int version, hello *h)
{
    cref_lab *lab = cref_lab_new(version);

    memset(h, 0, sizeof(*h));
    if (lab == NULL)
        return NULL;
    cref_lab_store(lab);
    lab->arg = h;
    lab->answer = from_memory;
    SSL_CTX_set_client_hello_cb(lab->server, hello_cb, h);
    return lab;
}

static void hello_lab_free(cref_lab *lab, hello *h)
{
    for (int i = 0; i < 4; i++)
        SSL_SESSION_free(h->memory[i]);
    cref_lab_free(lab);
}

/* Looks up what the parked handshake will be asked for. */
static void look_up(cref_lab *lab, hello *h)
{
    for (int i = 0; i < h->nguessed; i++) {
        cref_entry *e = cref_lab_find(lab, h->guessed[i], h->guessed_len[i]);
        const unsigned char *p;

        h->looked_up++;
        if (e == NULL)
            continue;
        p = e->der;
        SSL_SESSION_free(h->memory[i]);
        h->memory[i] = d2i_SSL_SESSION(NULL, &p, e->der_len);
    }
    h->answered = 1;
}

/* Runs a handshake, and a lookup whenever it is parked. */
static int run_parked(cref_link *k, cref_lab *lab, hello *h)
{
    while (!cref_link_run(k)) {
        if (k->failed || !SSL_want_client_hello_cb(k->server))
            return 0;
        h->parked++;
        look_up(lab, h);
    }
    return 1;
}

static SSL_SESSION *issue(cref_lab *lab, SSL_CTX *server, const char *name)
{
    SSL_SESSION *s = NULL;
    cref_link k;

    if (!cref_link_open(&k, lab, server, name, NULL))
        return NULL;
    if (cref_link_run(&k))
        s = SSL_get1_session(k.client);
    cref_link_close(&k, CREF_CLEAN);
    return s;
}

/* Makes a session at the lab's server, then forgets everything but its entry. */
static SSL_SESSION *begin(cref_lab *lab, hello *h)
{
    SSL_SESSION *s = issue(lab, lab->server, NULL);

    cref_lab_reset(lab);
    memset(h, 0, sizeof(*h));
    return s;
}

static const char *const version_names[] = {"TLS 1.2", "TLS 1.3"};
static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* ---- F6.1 ------------------------------------------------------------------- */

static void f6_1(cref_report *r)
{
    for (int v = 0; v < 2; v++) {
        hello h;
        cref_lab *lab = hello_lab(versions[v], &h);
        cref_link k;
        SSL_SESSION *s;
        int first, second, queued;
        char name[32];

        CREF_MUST(r, lab != NULL && (s = begin(lab, &h)) != NULL);
        h.parks = EACH_HELLO;
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s));
        CREF_MUST(r, !cref_link_run(&k) && !k.failed);
        queued = ERR_peek_error() != 0;
        first = SSL_get_error(k.server, -1);
        second = SSL_get_error(k.server, SSL_do_handshake(k.server)); /* nothing has been looked up: once more */
        queued |= ERR_peek_error() != 0;
        CREF_MUST(r, run_parked(&k, lab, &h));
        cref_say(r, version_names[v], "looked up %d while parked, given %d, resumed %s", h.looked_up, h.given,
                 cref_yes(cref_link_resumed(&k)));
        BIO_snprintf(name, sizeof(name), "%s, state", version_names[v]);
        cref_say(r, name, "SSL_get_error %d and %d, errors queued %s, calls %s", first, second, cref_yes(queued),
                 h.trace);
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(s);
        hello_lab_free(lab, &h);
    }
}

/* ---- F6.2 ------------------------------------------------------------------- */

/* Names the part of the current hello that an id stands in. */
static const char *part_of(SSL *ssl, const unsigned char *id, size_t len)
{
    const unsigned char *p;
    size_t n = SSL_client_hello_get0_session_id(ssl, &p);

    if (n == len && memcmp(p, id, len) == 0)
        return "the session id";
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &p, &n))
        for (; n >= len; p++, n--)
            if (memcmp(p, id, len) == 0)
                return "the identity";
    return "something else";
}

static int name_guess_cb(SSL *ssl, int *alert, void *arg)
{
    hello *h = arg;
    int ret = hello_cb(ssl, alert, arg);

    h->guess = h->nguessed == 0 ? "nothing" : part_of(ssl, h->guessed[0], h->guessed_len[0]);
    return ret;
}

static void name_asked(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    hello *h = lab->arg;

    (void)ssl;
    h->ask = h->nguessed == 1 && h->guessed_len[0] == (size_t)len && memcmp(h->guessed[0], id, (size_t)len) == 0
                 ? h->guess
                 : "something else";
}

typedef struct offering {
    const char *name;
    int issue_max, issue_tickets;     /* of the server that issued what is offered; 0: nothing is */
    int max, tickets;                 /* of the server that it is offered to */
} offering;

static const offering offerings[] = {
    {"TLS 1.3, a ticket", TLS1_3_VERSION, 0, TLS1_3_VERSION, 0},
    {"TLS 1.3, nothing", 0, 0, TLS1_3_VERSION, 0},
    {"TLS 1.3, an id of TLS 1.2", TLS1_2_VERSION, 0, TLS1_3_VERSION, 0},
    {"TLS 1.2, an id", TLS1_2_VERSION, 0, TLS1_2_VERSION, 0},
    {"TLS 1.2, nothing", 0, 0, TLS1_2_VERSION, 0},
    {"TLS 1.2, a ticket", TLS1_2_VERSION, 1, TLS1_2_VERSION, 0},
    {"TLS 1.2 with tickets, an id", TLS1_2_VERSION, 0, TLS1_2_VERSION, 1},
    {"TLS 1.2 with tickets, a ticket", TLS1_2_VERSION, 1, TLS1_2_VERSION, 1},
};

static void serve_as(SSL_CTX *ctx, int max, int tickets)
{
    SSL_CTX_set_max_proto_version(ctx, max);
    if (tickets)
        SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
    else
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
}

/* The client speaks both versions; so does a server of TLS 1.3. */
static void f6_2(cref_report *r)
{
    hello h;
    cref_lab *lab = hello_lab(TLS1_2_VERSION, &h);

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_max_proto_version(lab->client, TLS1_3_VERSION);
    SSL_CTX_set_client_hello_cb(lab->server, name_guess_cb, &h);
    for (size_t i = 0; i < sizeof(offerings) / sizeof(*offerings); i++) {
        const offering *o = &offerings[i];
        SSL_SESSION *s = NULL;
        int ok;

        lab->on_get = NULL;
        if (o->issue_max != 0) {
            serve_as(lab->server, o->issue_max, o->issue_tickets);
            CREF_MUST(r, (s = begin(lab, &h)) != NULL);
        }
        serve_as(lab->server, o->max, o->tickets);
        memset(&h, 0, sizeof(h));
        h.ask = "nothing";
        lab->on_get = name_asked;
        CREF_MUST(r, cref_visit(lab, lab->server, s, &ok, NULL, NULL) && ok);
        cref_say(r, o->name, "guessed %s, asked for %s", h.guess, h.ask);
        SSL_SESSION_free(s);
    }
    hello_lab_free(lab, &h);
}

/* ---- F6.3 ------------------------------------------------------------------- */

/* How many of these answer; identities is a copy of what they say of the extension. */
#define READERS 7

static int readers(SSL *ssl, unsigned char *identities, size_t size, size_t *len)
{
    const unsigned char *p;
    int *present = NULL, n = 0;
    size_t count = 0;

    *len = 0;
    n += SSL_client_hello_get0_legacy_version(ssl) != 0;
    n += SSL_client_hello_get0_random(ssl, &p) != 0;
    n += SSL_client_hello_get0_session_id(ssl, &p) != 0;
    n += SSL_client_hello_get0_ciphers(ssl, &p) != 0;
    n += SSL_client_hello_get0_compression_methods(ssl, &p) != 0;
    n += SSL_client_hello_get1_extensions_present(ssl, &present, &count) != 0 && count > 0;
    OPENSSL_free(present);
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &p, len) && *len <= size) {
        n++;
        memcpy(identities, p, *len);
    }
    return n;
}

typedef struct reading {
    int n;
    unsigned char identities[512];
    size_t len;
} reading;

static void read_hello(hello *h, SSL *ssl)
{
    reading *during = h->arg;

    during->n = readers(ssl, during->identities, sizeof(during->identities), &during->len);
}

/* Makes the identity longer than its hello. */
static void lie(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    const cref_entry *e = k->arg;

    (void)cap;
    if (from_server)
        return;
    for (size_t i = 2; i + e->id_len <= *len; i++)
        if (memcmp(buf + i, e->id, e->id_len) == 0)
            buf[i - 2] = buf[i - 1] = 0xff;
}

static void f6_3(cref_report *r)
{
    hello h;
    cref_lab *lab = hello_lab(TLS1_3_VERSION, &h);
    reading during, parked, after;
    cref_link k;
    SSL_SESSION *s;
    int ok, same;

    CREF_MUST(r, lab != NULL && (s = begin(lab, &h)) != NULL);
    h.parks = EACH_HELLO;
    h.arg = &during;
    h.seen = read_hello;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s) && !cref_link_run(&k) && !k.failed);
    parked.n = readers(k.server, parked.identities, sizeof(parked.identities), &parked.len);
    same = parked.len == during.len && memcmp(parked.identities, during.identities, during.len) == 0;
    CREF_MUST(r, run_parked(&k, lab, &h));
    after.n = readers(k.server, after.identities, sizeof(after.identities), &after.len);
    cref_say(r, "readable", "of %d functions answer %d in the callback, %d while parked, the same %s, %d afterwards",
             READERS, during.n, parked.n, cref_yes(same), after.n);
    cref_link_close(&k, CREF_CLEAN);

    h.seen = NULL;
    h.looked_up = 0;
    cref_lab_reset(lab);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s));
    k.wire = lie;
    k.arg = &lab->entries[0];
    ok = run_parked(&k, lab, &h);
    cref_say(r, "an identity longer than its hello", "looked up %d, handshake %s, alert %d", h.looked_up, cref_yes(ok),
             cref_alert(k.client_error));
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(s);
    hello_lab_free(lab, &h);
}

/* ---- F6.4 ------------------------------------------------------------------- */

static int retry_groups(cref_lab *lab)
{
    return SSL_CTX_set1_groups_list(lab->server, "P-256") == 1
           && SSL_CTX_set1_groups_list(lab->client, "X25519:P-256") == 1;
}

static void f6_4(cref_report *r)
{
    for (int each_hello = 1; each_hello >= 0; each_hello--) {
        hello h;
        cref_lab *lab = hello_lab(TLS1_3_VERSION, &h);
        cref_link k;
        SSL_SESSION *s;

        CREF_MUST(r, lab != NULL && retry_groups(lab) && (s = begin(lab, &h)) != NULL);
        h.parks = each_hello ? EACH_HELLO : EACH_CONNECTION;
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s) && run_parked(&k, lab, &h));
        cref_say(r, each_hello ? "parked for each hello" : "parked for each connection",
                 "parked %d, looked up %d, given %d, resumed %s", h.parked, h.looked_up, h.given,
                 cref_yes(cref_link_resumed(&k)));
        cref_say(r, each_hello ? "calls, each hello" : "calls, each connection", "%s", h.trace);
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(s);
        hello_lab_free(lab, &h);
    }
}

/* ---- F6.5 ------------------------------------------------------------------- */

static int first_cb(SSL *ssl, int *alert, void *arg)
{
    (void)alert;
    mark(cref_lab_of_ssl(ssl)->arg, 'A');
    SSL_set_SSL_CTX(ssl, arg);
    return SSL_CLIENT_HELLO_RETRY;
}

static int second_cb(SSL *ssl, int *alert, void *arg)
{
    (void)alert, (void)arg;
    mark(cref_lab_of_ssl(ssl)->arg, 'B');
    return SSL_CLIENT_HELLO_SUCCESS;
}

static void f6_5(cref_report *r)
{
    for (int has = 1; has >= 0; has--) {
        hello h;
        cref_lab *lab = hello_lab(TLS1_3_VERSION, &h);
        SSL_CTX *other;
        cref_link k;
        int parked, ok;

        CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
        SSL_CTX_set_client_hello_cb(lab->server, first_cb, other);
        if (has)
            SSL_CTX_set_client_hello_cb(other, second_cb, NULL);
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL));
        cref_link_run(&k);
        parked = SSL_want_client_hello_cb(k.server);
        ok = cref_link_run(&k);
        cref_say(r, has ? "the new context has a callback" : "the new context has none",
                 "parked %s, calls %s, handshake %s", cref_yes(parked), h.trace, cref_yes(ok));
        cref_link_close(&k, CREF_CLEAN);
        SSL_CTX_free(other);
        hello_lab_free(lab, &h);
    }
}

/* ---- F6.6 ------------------------------------------------------------------- */

static int name_cb(SSL *ssl, int *alert, void *arg)
{
    (void)ssl, (void)alert;
    mark(arg, 'S');
    return SSL_TLSEXT_ERR_OK;
}

static int alpn_cb(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                   unsigned int in_len, void *arg)
{
    (void)ssl, (void)in_len;
    mark(arg, 'A');
    *out = in + 1;
    *out_len = in[0];
    return SSL_TLSEXT_ERR_OK;
}

static int certificate_cb(SSL *ssl, void *arg)
{
    (void)ssl;
    mark(arg, 'C');
    return 1;
}

static void mark_new(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    (void)ssl, (void)s;
    mark(lab->arg, 'N');
}

static void note_name(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    hello *h = lab->arg;

    (void)id, (void)len;
    h->ask = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
}

static void set_id_context(hello *h, SSL *ssl)
{
    const char *tenant = h->arg;

    SSL_set_session_id_context(ssl, (const unsigned char *)tenant, (unsigned int)strlen(tenant));
}

/* Offers the session to a server whose hello callback sets the id context. */
static int resumed_as(cref_lab *lab, hello *h, char *tenant, SSL_SESSION *s)
{
    int ok = 0, resumed = 0;

    h->arg = tenant;
    h->seen = set_id_context;
    cref_visit(lab, lab->server, s, &ok, &resumed, NULL);
    return ok && resumed;
}

static void f6_6(cref_report *r)
{
    for (int v = 0; v < 2; v++) {
        hello h;
        cref_lab *lab = hello_lab(versions[v], &h);
        cref_link k;
        SSL_SESSION *s;
        char name[64];
        int its, another;

        CREF_MUST(r, lab != NULL && (s = issue(lab, lab->server, "server.test")) != NULL);
        memset(&h, 0, sizeof(h));
        SSL_CTX_set_tlsext_servername_callback(lab->server, name_cb);
        SSL_CTX_set_tlsext_servername_arg(lab->server, &h);
        SSL_CTX_set_alpn_select_cb(lab->server, alpn_cb, &h);
        SSL_CTX_set_cert_cb(lab->server, certificate_cb, &h);
        SSL_CTX_set_alpn_protos(lab->client, (const unsigned char *)"\2h2", 3);
        lab->on_new = mark_new;
        lab->on_get = note_name;
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, "server.test", s) && cref_link_run(&k));
        cref_say(r, version_names[v], "%s", h.trace);
        BIO_snprintf(name, sizeof(name), "%s, name known to get", version_names[v]);
        cref_say(r, name, "%s", cref_yes(h.ask != NULL));
        cref_link_close(&k, CREF_CLEAN);

        lab->answer = NULL; /* from the entries, then */
        its = resumed_as(lab, &h, "conformance", s);
        another = resumed_as(lab, &h, "another", s);
        BIO_snprintf(name, sizeof(name), "%s, id context of the hello", version_names[v]);
        cref_say(r, name, "the session's: resumed %s, another: resumed %s", cref_yes(its), cref_yes(another));
        SSL_SESSION_free(s);
        hello_lab_free(lab, &h);
    }
}

/* ---- F6.7 ------------------------------------------------------------------- */

static void f6_7(cref_report *r)
{
    hello h;
    cref_lab *lab = hello_lab(TLS1_3_VERSION, &h);
    cref_link k;
    SSL_SESSION *s;
    int error;
    long live;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_max_early_data(lab->server, 16384);
    SSL_CTX_set_options(lab->server, SSL_OP_NO_ANTI_REPLAY);
    CREF_MUST(r, (s = begin(lab, &h)) != NULL);
    h.parks = EACH_HELLO;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s) && cref_link_early(&k) && !cref_link_run(&k)
                     && !k.failed);
    error = SSL_get_error(k.server, SSL_READ_EARLY_DATA_ERROR);
    CREF_MUST(r, run_parked(&k, lab, &h));
    cref_say(r, "early data", "SSL_get_error %d, then accepted %s", error, cref_yes(cref_link_early_accepted(&k)));
    cref_link_close(&k, CREF_CLEAN);

    cref_lab_reset(lab);
    live = cref_sessions_made() - cref_sessions_destroyed();
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s) && !cref_link_run(&k)
                     && SSL_want_client_hello_cb(k.server));
    cref_link_close(&k, CREF_UNCLEAN);
    cref_say(r, "freed while parked", "removed %d, sessions left over %ld", lab->removes,
             cref_sessions_made() - cref_sessions_destroyed() - live);
    SSL_SESSION_free(s);
    hello_lab_free(lab, &h);
}

/* ---- F6.8 ------------------------------------------------------------------- */

static void pause_job(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    (void)lab, (void)ssl, (void)id, (void)len;
    if (ASYNC_get_current_job() != NULL)
        ASYNC_pause_job();
}

/* A lab whose get pauses its job, and a session that it issued. */
static cref_lab *async_lab(SSL_SESSION **s)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);

    if (lab == NULL)
        return NULL;
    cref_lab_store(lab);
    lab->on_get = pause_job;
    *s = issue(lab, lab->server, NULL);
    SSL_CTX_set_mode(lab->server, SSL_MODE_ASYNC);
    return lab;
}

static void f6_8(cref_report *r)
{
    for (int retry = 0; retry < 2; retry++) {
        SSL_SESSION *s = NULL;
        cref_lab *lab = async_lab(&s);
        cref_link k;
        int paused = 0, error = 0;

        CREF_MUST(r, lab != NULL && s != NULL && (!retry || retry_groups(lab)));
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s));
        while (!cref_link_run(&k) && SSL_want_async(k.server)) {
            error = SSL_get_error(k.server, -1);
            paused++;
        }
        cref_say(r, retry ? "the same thread, HelloRetryRequest" : "the same thread",
                 "SSL_get_error %d, paused %d, resumed %s", error, paused, cref_yes(cref_link_resumed(&k)));
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(s);
        cref_lab_free(lab);
    }
    ASYNC_cleanup_thread();
}

static void *go_on(void *arg)
{
    cref_link *k = arg;

    return cref_link_run(k) ? k : NULL;
}

static void f6_8_another_thread(cref_report *r)
{
    SSL_SESSION *s = NULL;
    cref_lab *lab = async_lab(&s);
    cref_link k;
    pthread_t thread;
    void *ok;

    CREF_MUST(r, lab != NULL && s != NULL && cref_link_open(&k, lab, lab->server, NULL, s));
    CREF_MUST(r, !cref_link_run(&k) && SSL_want_async(k.server));
    CREF_MUST(r, pthread_create(&thread, NULL, go_on, &k) == 0 && pthread_join(thread, &ok) == 0);
    cref_say(r, "another thread", "handshake %s", cref_yes(ok != NULL));
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(s);
    cref_lab_free(lab);
}

/* ---- F6.9 ------------------------------------------------------------------- */

static int refuse_cb(SSL *ssl, int *alert, void *arg)
{
    (void)ssl, (void)arg;
    *alert = SSL_AD_UNRECOGNIZED_NAME;
    return SSL_CLIENT_HELLO_ERROR;
}

static void f6_9(cref_report *r)
{
    for (int v = 0; v < 2; v++) {
        cref_lab *lab = cref_lab_new(versions[v]);
        cref_link k;
        SSL_SESSION *s;
        int ok;

        CREF_MUST(r, lab != NULL);
        cref_lab_store(lab);
        CREF_MUST(r, (s = issue(lab, lab->server, NULL)) != NULL);
        SSL_CTX_set_client_hello_cb(lab->server, refuse_cb, NULL);
        cref_lab_reset(lab);
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s));
        ok = cref_link_run(&k);
        cref_say(r, version_names[v], "handshake %s, alert %d, session callbacks %d", cref_yes(ok),
                 cref_alert(k.client_error), (int)strlen(lab->trace));
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(s);
        cref_lab_free(lab);
    }
}

const cref_scenario cref_hello_facts[] = {
    {"F6.1", f6_1}, {"F6.2", f6_2}, {"F6.3", f6_3},
    {"F6.4", f6_4}, {"F6.5", f6_5}, {"F6.6", f6_6},
    {"F6.7", f6_7}, {"F6.8", f6_8}, {"F6.8 another thread", f6_8_another_thread},
    {"F6.9", f6_9}, {NULL, NULL},
};
