/* facts_get.c: section 2, get_session_cb. */
#include "cref.h"
#include "lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define EXTERNAL (SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL)
#define INTERNAL SSL_SESS_CACHE_SERVER

static const struct { const char *name; int version; } versions[] = {{"1.2", TLS1_2_VERSION}, {"1.3", TLS1_3_VERSION}};
#define EACH_VERSION(v) for (int v = 0; v < 2; v++)

/* "1.2 some case"; good until the next call. */
static const char *named(int v, const char *name)
{
    static char text[128];

    snprintf(text, sizeof(text), "%s%s%s", versions[v].name, *name == 0 ? "" : " ", name);
    return text;
}

/* The outcome of a handshake. The end that only received the alert has that on its error queue. */
static const char *outcome(cref_link *k, int ok)
{
    if (ok)
        return cref_link_resumed(k) ? "resumed" : "full handshake";
    return k->server_error != 0 && ERR_GET_REASON(k->server_error) < SSL_AD_REASON_OFFSET ? "fails on the server"
                                                                                         : "fails on the client";
}

/* A lab with its callbacks, and the client's session after a full handshake. */
static cref_lab *lab_with_session(int v, int mode, SSL_SESSION **session)
{
    cref_lab *lab = cref_lab_new(versions[v].version);
    int ok = 0;

    if (lab == NULL)
        return NULL;
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, mode);
    if (!cref_visit(lab, lab->server, NULL, &ok, NULL, session) || !ok) {
        cref_lab_free(lab);
        return NULL;
    }
    return lab;
}

static void free_both(cref_lab *lab, SSL_SESSION *session)
{
    SSL_SESSION_free(session);
    cref_lab_free(lab);
}

static SSL_SESSION *decode(const cref_entry *e)
{
    const unsigned char *p = e == NULL ? NULL : e->der;

    return e == NULL ? NULL : d2i_SSL_SESSION(NULL, &p, e->der_len);
}

/* ---- F2.1, F2.2, F2.3: which hellos make it ask -------------------------- */

typedef struct question {
    const char *name;
    int version;
    int offers;                  /* a session issued before */
    int issuer_tickets, tickets; /* tickets are on where it was issued, and where it is offered */
    int other;                   /* that is another server */
    int client_no_ticket;        /* the client sends no ticket extension */
    int client_13, server_13;    /* 1.3 is enabled too when it is offered */
    int issuer_mode, mode;
    int flush; /* the internal cache, between the two */
} question;

static int tickets(SSL_CTX *ctx, int on)
{
    if (on)
        SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
    else
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    return 1;
}

static int issue(cref_lab *lab, const question *q, SSL_SESSION **session)
{
    int ok = 0;

    tickets(lab->server, q->issuer_tickets);
    SSL_CTX_set_session_cache_mode(lab->server, q->issuer_mode);
    return cref_visit(lab, lab->server, NULL, &ok, NULL, session) && ok;
}

static void ask_one(cref_report *r, const question *q)
{
    cref_lab *lab = cref_lab_new(q->version);
    SSL_CTX *server, *other = NULL;
    SSL_SESSION *offer = NULL;
    cref_link k;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, !q->offers || issue(lab, q, &offer));
    if (q->other) {
        CREF_MUST(r, (other = cref_lab_server(lab)) != NULL);
        cref_lab_store_on(lab, other);
    }
    server = q->other ? other : lab->server;
    tickets(server, q->tickets);
    tickets(lab->client, !q->client_no_ticket);
    SSL_CTX_set_session_cache_mode(server, q->mode);
    if (q->flush)
        cref_flush_at(server, 0);
    if (q->client_13)
        SSL_CTX_set_max_proto_version(lab->client, TLS1_3_VERSION);
    if (q->server_13)
        SSL_CTX_set_max_proto_version(server, TLS1_3_VERSION);
    cref_lab_reset(lab);
    CREF_MUST(r, cref_link_open(&k, lab, server, NULL, offer) && cref_link_run(&k));
    cref_say(r, q->name, "get %d, %s", lab->gets, outcome(&k, 1));
    cref_link_close(&k, CREF_CLEAN);
    SSL_CTX_free(other);
    free_both(lab, offer);
}

static void ask_all(cref_report *r, const question *q, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ask_one(r, &q[i]);
}
#define ASK_ALL(r, questions) ask_all(r, questions, sizeof(questions) / sizeof(*(questions)))

#define MODES(before, after) .issuer_mode = (before), .mode = (after)
#define NO_CACHE MODES(EXTERNAL, EXTERNAL)

/* A PSK that a client offers after its session. Only the identity matters: the server does not know it. */
static const unsigned char identity[32] = "an identity as long as a ticket";

static int use_psk(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *len, SSL_SESSION **s)
{
    static const unsigned char secret[32] = "a secret that no one asks for";
    static const unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};

    (void)md;
    *id = identity;
    *len = sizeof(identity);
    *s = SSL_SESSION_new();
    return *s != NULL && SSL_SESSION_set_protocol_version(*s, TLS1_3_VERSION)
           && SSL_SESSION_set_cipher(*s, SSL_CIPHER_find(ssl, aes_128_gcm_sha256))
           && SSL_SESSION_set1_master_key(*s, secret, sizeof(secret));
}

int cref_offer_identity(SSL_CTX *client)
{
    SSL_CTX_set_psk_use_session_callback(client, use_psk);
    /* One of another hash would be left out. */
    return SSL_CTX_set_ciphersuites(client, "TLS_AES_128_GCM_SHA256");
}

const unsigned char *cref_offered_identity(void)
{
    return identity;
}

static void note_if_psk(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    (void)ssl;
    *(int *)lab->arg = len == sizeof(identity) && memcmp(id, identity, sizeof(identity)) == 0;
}

static void two_identities(cref_report *r, const char *name, int deaf)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(1, EXTERNAL, &offer);
    cref_link k;
    int psk_last = 0;

    CREF_MUST(r, lab != NULL && cref_offer_identity(lab->client));
    SSL_SESSION_free(offer); /* of another hash, perhaps */
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, NULL, NULL, &offer) && offer != NULL);
    cref_lab_reset(lab);
    lab->deaf = deaf;
    lab->arg = &psk_last;
    lab->on_get = note_if_psk;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer) && cref_link_run(&k));
    cref_say(r, name, "get %d, the PSK's identity was the last %s, %s", lab->gets, cref_yes(psk_last), outcome(&k, 1));
    cref_link_close(&k, CREF_CLEAN);
    free_both(lab, offer);
}

static void f2_1(cref_report *r)
{
    static const question all[] = {
        {"1.2 tickets off", TLS1_2_VERSION, .offers = 1, NO_CACHE},
        {"1.2 no ticket extension", TLS1_2_VERSION, .offers = 1, .tickets = 1, .client_no_ticket = 1, NO_CACHE},
        {"1.2 empty ticket extension", TLS1_2_VERSION, .offers = 1, .tickets = 1, NO_CACHE},
        {"1.2 no session id", TLS1_2_VERSION, NO_CACHE},
        {"1.2 internal hit", TLS1_2_VERSION, .offers = 1, MODES(INTERNAL, INTERNAL)},
        {"1.2 internal miss", TLS1_2_VERSION, .offers = 1, MODES(INTERNAL, INTERNAL), .flush = 1},
        {"1.2 no internal lookup", TLS1_2_VERSION, .offers = 1,
         MODES(INTERNAL, INTERNAL | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP)},
        {"1.2 cache off", TLS1_2_VERSION, .offers = 1, MODES(EXTERNAL, SSL_SESS_CACHE_OFF)},
        {"1.2 cache for clients", TLS1_2_VERSION, .offers = 1, MODES(EXTERNAL, SSL_SESS_CACHE_CLIENT)},
        {"1.3 stateful", TLS1_3_VERSION, .offers = 1, NO_CACHE},
        {"1.3 no identity", TLS1_3_VERSION, NO_CACHE},
        {"1.3 internal hit", TLS1_3_VERSION, .offers = 1, MODES(INTERNAL, INTERNAL)},
        {"1.3 internal miss", TLS1_3_VERSION, .offers = 1, MODES(INTERNAL, INTERNAL), .flush = 1},
        {"1.3 no internal lookup", TLS1_3_VERSION, .offers = 1,
         MODES(INTERNAL, INTERNAL | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP)},
        {"1.3 cache off", TLS1_3_VERSION, .offers = 1, MODES(EXTERNAL, SSL_SESS_CACHE_OFF)},
        {"1.3 cache for clients", TLS1_3_VERSION, .offers = 1, MODES(EXTERNAL, SSL_SESS_CACHE_CLIENT)},
    };

    ASK_ALL(r, all);
    two_identities(r, "1.3 two identities, the first known", 0);
    two_identities(r, "1.3 two identities, none known", 1);
}

static void f2_2(cref_report *r)
{
    static const question all[] = {
        {"1.2 ticket of another server", TLS1_2_VERSION, .offers = 1, .issuer_tickets = 1, .tickets = 1, .other = 1,
         NO_CACHE},
        {"1.2 ticket of its own", TLS1_2_VERSION, .offers = 1, .issuer_tickets = 1, .tickets = 1, NO_CACHE},
        {"1.3 stateless ticket of its own", TLS1_3_VERSION, .offers = 1, .issuer_tickets = 1, .tickets = 1, NO_CACHE},
        {"1.3 stateless ticket of another server", TLS1_3_VERSION, .offers = 1, .issuer_tickets = 1, .tickets = 1,
         .other = 1, NO_CACHE},
        {"1.2 session at a server that negotiates 1.3", TLS1_2_VERSION, .offers = 1, .client_13 = 1, .server_13 = 1,
         NO_CACHE},
    };

    ASK_ALL(r, all);
}

static void f2_3(cref_report *r)
{
    static const question all[] = {
        {"fresh client of 1.2 at a server of 1.2", TLS1_2_VERSION, NO_CACHE},
        {"fresh client of 1.2 and 1.3 at a server of 1.2", TLS1_2_VERSION, .client_13 = 1, NO_CACHE},
        {"fresh client of 1.2 and 1.3 at a server of both", TLS1_2_VERSION, .client_13 = 1, .server_13 = 1, NO_CACHE},
    };

    ASK_ALL(r, all);
}

/* ---- F2.4: what the id is ------------------------------------------------ */

typedef struct bytes {
    unsigned char b[64];
    size_t len;
} bytes;

typedef struct ids {
    bytes asked, hello;
} ids;

static int same(const bytes *a, const unsigned char *b, size_t len)
{
    return a->len > 0 && a->len == len && memcmp(a->b, b, len) == 0;
}

static void note_id(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    ids *n = lab->arg;

    (void)ssl;
    n->asked.len = (size_t)len;
    memcpy(n->asked.b, id, (size_t)len);
}

/* The session id follows the record's and the message's header, the version and the random. */
static void note_hello(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    ids *n = k->arg;

    (void)cap;
    if (from_server || n->hello.len > 0 || *len < 44 || *len < 44u + buf[43] || buf[43] > sizeof(n->hello.b))
        return;
    n->hello.len = buf[43];
    memcpy(n->hello.b, buf + 44, n->hello.len);
}

static void what_is_asked(cref_report *r, int v)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, EXTERNAL, &offer);
    ids n;
    cref_link k;
    const unsigned char *ticket;
    size_t ticket_len;

    memset(&n, 0, sizeof(n));
    CREF_MUST(r, lab != NULL);
    lab->arg = &n;
    lab->on_get = note_id;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer));
    k.arg = &n;
    k.wire = note_hello;
    CREF_MUST(r, cref_link_run(&k));
    SSL_SESSION_get0_ticket(offer, &ticket, &ticket_len);
    cref_say(r, versions[v].name,
             "%d bytes, the hello's session id %s, the identity offered %s, the stored session's id %s",
             (int)n.asked.len, cref_yes(same(&n.asked, n.hello.b, n.hello.len)),
             cref_yes(same(&n.asked, ticket, ticket_len)),
             cref_yes(same(&n.asked, lab->entries[0].id, lab->entries[0].id_len)));
    cref_link_close(&k, CREF_CLEAN);
    free_both(lab, offer);
}

static void any_length(cref_report *r)
{
    static const unsigned char id[32] = "whatever the client wrote";
    static const unsigned int lens[] = {1, 25, 32};
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(0, EXTERNAL, &offer);
    char text[128] = "";
    ids n;

    CREF_MUST(r, lab != NULL);
    lab->arg = &n;
    lab->on_get = note_id;
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        memset(&n, 0, sizeof(n));
        CREF_MUST(r, SSL_SESSION_set1_id(offer, id, lens[i]) == 1
                         && cref_visit(lab, lab->server, offer, NULL, NULL, NULL));
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%u bytes as written %s", i == 0 ? "" : ", ",
                 lens[i], cref_yes(same(&n.asked, id, lens[i])));
    }
    cref_say(r, "1.2 ids that the client made up", "%s", text);
    free_both(lab, offer);
}

static void f2_4(cref_report *r)
{
    EACH_VERSION(v)
        what_is_asked(r, v);
    any_length(r);
}

/* ---- F2.5: locks and threads --------------------------------------------- */

typedef struct slow {
    SSL_SESSION *offer;
    pthread_t caller;
    int held, on_caller, other_went, within;
} slow;

unsigned long cref_thread(void)
{
    return (unsigned long)pthread_self();
}

static void *another(void *arg)
{
    cref_lab *lab = arg;
    slow *n = lab->arg;

    cref_visit(lab, lab->server, NULL, &n->other_went, NULL, NULL);
    return NULL;
}

static void be_slow(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    slow *n = lab->arg;
    pthread_t t;

    (void)ssl, (void)id, (void)len;
    n->on_caller = pthread_equal(n->caller, pthread_self());
    n->held = cref_lock_held(lab, lab->server);
    if (pthread_create(&t, NULL, another, lab) == 0)
        pthread_join(t, NULL);
    n->within = n->other_went;
}

static void f2_5(cref_report *r)
{
    EACH_VERSION(v)
    {
        slow n;
        cref_lab *lab = lab_with_session(v, INTERNAL, &n.offer);
        int resumed = 0;

        CREF_MUST(r, lab != NULL);
        n.caller = pthread_self();
        n.held = n.other_went = n.within = n.on_caller = 0;
        cref_flush_at(lab->server, 0);
        lab->arg = &n;
        lab->on_get = be_slow;
        CREF_MUST(r, cref_visit(lab, lab->server, n.offer, NULL, &resumed, NULL));
        cref_say(r, versions[v].name,
                 "lock held %s, another handshake went through meanwhile %s, on the handshake's thread %s, resumed %s",
                 cref_yes(n.held), cref_yes(n.within), cref_yes(n.on_caller), cref_yes(resumed));
        free_both(lab, n.offer);
    }
}

/* ---- F2.6: short ids ----------------------------------------------------- */

static int short_id(SSL *ssl, unsigned char *id, unsigned int *len)
{
    static unsigned char n;

    (void)ssl;
    *len = 16;
    memset(id, 0xa5, *len);
    id[0] = n++;
    return 1;
}

static void f2_6(cref_report *r)
{
    EACH_VERSION(v)
    {
        cref_lab *lab = cref_lab_new(versions[v].version);
        SSL_SESSION *offer = NULL;
        cref_link k;

        CREF_MUST(r, lab != NULL);
        cref_lab_store(lab);
        SSL_CTX_set_generate_session_id(lab->server, short_id);
        CREF_MUST(r, cref_visit(lab, lab->server, NULL, NULL, NULL, &offer) && offer != NULL);
        cref_lab_reset(lab);
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer) && cref_link_run(&k));
        cref_say(r, versions[v].name, "issued %u bytes, get %d, %s", lab->entries[0].id_len, lab->gets, outcome(&k, 1));
        cref_link_close(&k, CREF_CLEAN);
        free_both(lab, offer);
    }
}

/* ---- F2.7: who owns what ------------------------------------------------- */

typedef struct shared {
    SSL_SESSION *s;
    int copy;   /* what *copy is set to; -1: left alone */
    int up_ref; /* before it is handed over */
    int entry;  /* what *copy was */
} shared;

static SSL_SESSION *answer_shared(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    shared *a = lab->arg;

    (void)ssl, (void)id, (void)len;
    a->entry = *copy;
    if (a->up_ref)
        SSL_SESSION_up_ref(a->s);
    if (a->copy >= 0)
        *copy = a->copy;
    return a->s;
}

enum { ANSWERER, CONNECTION, CACHE, HOLDERS };

static void release(cref_lab *lab, shared *a, cref_link *k, int holder)
{
    if (holder == ANSWERER)
        SSL_SESSION_free(a->s);
    else if (holder == CONNECTION)
        cref_link_close(k, CREF_CLEAN);
    else
        cref_flush_at(lab->server, 0);
}

/*
 * Does a holder have a reference while the connection is open? It does if the object, when all others have given theirs
 * back, is there until this one has. 2: something went wrong.
 */
static int holds(cref_lab *lab, SSL_SESSION *offer, int copy, int holder, int *very_object)
{
    shared a = {decode(&lab->entries[0]), copy, copy == 0, -1};
    int before;
    cref_link k;

    if (a.s == NULL)
        return 2;
    cref_flush_at(lab->server, 0);
    cref_watch(a.s);
    lab->arg = &a;
    lab->answer = answer_shared;
    if (!cref_link_open(&k, lab, lab->server, NULL, offer) || !cref_link_run(&k) || !cref_link_resumed(&k))
        return 2;
    *very_object = SSL_get_session(k.server) == a.s;
    for (int i = 0; i < HOLDERS; i++)
        if (i != holder)
            release(lab, &a, &k, i);
    before = cref_watched_gone();
    release(lab, &a, &k, holder);
    return !cref_watched_gone() ? 2 : !before;
}

static void count_references(cref_report *r, const char *name, int v, int mode, int num_tickets)
{
    static const char *const who[] = {"answerer", "connection", "cache"};
    static const int copies[] = {1, 0};
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, mode, &offer);
    char text[160], title[80];
    int very_object = 0;

    CREF_MUST(r, lab != NULL && SSL_CTX_set_num_tickets(lab->server, (size_t)num_tickets) == 1);
    for (int i = 0; i < 2; i++) {
        int n = 0;

        *text = 0;
        for (int h = 0; h < HOLDERS; h++) {
            int held = holds(lab, offer, copies[i], h, &very_object);

            CREF_MUST(r, held != 2);
            if (held)
                snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", n++ == 0 ? "" : ", ", who[h]);
        }
        snprintf(title, sizeof(title), "%s, copy %d", name, copies[i]);
        cref_say(r, title, "%d (%s), the connection uses that very object %s", n, text, cref_yes(very_object));
    }
    free_both(lab, offer);
}

/* Decodes an object and leaves *copy alone: the reference from the decoding leaks. */
static SSL_SESSION *answer_and_forget(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    shared *a = lab->arg;

    (void)ssl, (void)copy;
    a->s = decode(cref_lab_find(lab, id, (size_t)len));
    cref_watch(a->s);
    return a->s;
}

static void forgotten(cref_report *r, int v)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, EXTERNAL, &offer);
    shared a = {NULL, -1, 0, -1};
    int resumed = 0, leaked = 0;

    CREF_MUST(r, lab != NULL);
    lab->arg = &a;
    lab->answer = answer_and_forget;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, NULL, &resumed, NULL) && a.s != NULL);
    free_both(lab, offer);
    for (; !cref_watched_gone(); leaked++)
        SSL_SESSION_free(a.s);
    cref_say(r, named(v, "fresh object, copy left alone"), "resumed %s, references leaked %d", cref_yes(resumed),
             leaked);
}

static void given_away(cref_report *r, int v)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, EXTERNAL, &offer);
    shared a;
    int resumed = 0;

    CREF_MUST(r, lab != NULL);
    a.s = decode(&lab->entries[0]);
    a.copy = a.up_ref = 0;
    CREF_MUST(r, a.s != NULL);
    cref_watch(a.s);
    lab->arg = &a;
    lab->answer = answer_shared;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, NULL, &resumed, NULL));
    cref_say(r, named(v, "shared object, copy 0, no up_ref"), "resumed %s, destroyed under its owner %s",
             cref_yes(resumed), cref_yes(cref_watched_gone()));
    free_both(lab, offer);
}

static void on_entry(cref_report *r)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(0, EXTERNAL, &offer);
    shared a = {NULL, -1, 0, -1};

    CREF_MUST(r, lab != NULL);
    lab->arg = &a;
    lab->answer = answer_shared;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, NULL, NULL, NULL));
    cref_say(r, "copy on entry", "%d", a.entry);
    free_both(lab, offer);
}

static void f2_7(cref_report *r)
{
    on_entry(r);
    count_references(r, "1.2 internal", 0, INTERNAL, 1);
    count_references(r, "1.2 NO_INTERNAL", 0, EXTERNAL, 1);
    count_references(r, "1.3 internal", 1, INTERNAL, 1);
    count_references(r, "1.3 NO_INTERNAL", 1, EXTERNAL, 1);
    count_references(r, "1.3 internal without tickets", 1, INTERNAL, 0);
    count_references(r, "1.3 NO_INTERNAL without tickets", 1, EXTERNAL, 0);
    EACH_VERSION(v)
    {
        forgotten(r, v);
        given_away(r, v);
    }
}

/* ---- F2.8: the mark "not resumable" -------------------------------------- */

/* The entry decoded, and marked by a context that has nothing to do with it. */
static SSL_SESSION *marked(cref_lab *lab)
{
    SSL_SESSION *s = decode(&lab->entries[0]);

    if (s != NULL)
        SSL_CTX_remove_session(lab->client, s);
    return s;
}

static void answer_marked(cref_report *r, int v)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, EXTERNAL, &offer);
    shared a = {NULL, 0, 0, -1};
    cref_link k;
    char text[80];

    CREF_MUST(r, lab != NULL && (a.s = marked(lab)) != NULL);
    cref_watch(a.s);
    lab->arg = &a;
    lab->answer = answer_shared;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer) && cref_link_run(&k));
    snprintf(text, sizeof(text), "%s", outcome(&k, 1));
    cref_link_close(&k, CREF_CLEAN);
    cref_say(r, named(v, "answered"), "%s, callback hits %ld, remove %d, given back %s", text,
             SSL_CTX_sess_cb_hits(lab->server), lab->removes, cref_yes(cref_watched_gone()));
    free_both(lab, offer);
}

static void cache_marked(cref_report *r, int v)
{
    SSL_SESSION *offer, *s;
    cref_lab *lab = lab_with_session(v, INTERNAL, &offer);
    cref_link k;

    CREF_MUST(r, lab != NULL && (s = marked(lab)) != NULL);
    cref_flush_at(lab->server, 0);
    SSL_CTX_add_session(lab->server, s);
    SSL_SESSION_free(s);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer) && cref_link_run(&k));
    cref_say(r, named(v, "in the internal cache"), "%s, get %d", outcome(&k, 1), lab->gets);
    cref_link_close(&k, CREF_CLEAN);
    free_both(lab, offer);
}

static void f2_8(cref_report *r)
{
    EACH_VERSION(v)
    {
        answer_marked(r, v);
        cache_marked(r, v);
    }
}

/* ---- F2.9: the answer in the internal cache ------------------------------ */

static int other_context(SSL *ssl, SSL_SESSION *s)
{
    (void)ssl;
    return SSL_SESSION_set1_id_context(s, (const unsigned char *)"another", 7);
}

static void cached_answer(cref_report *r, int v, const char *name, int mode, int spoil)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, INTERNAL, &offer);
    shared a = {NULL, 0, 0, -1};
    int resumed, kept;
    long number;

    CREF_MUST(r, lab != NULL && (a.s = decode(&lab->entries[0])) != NULL && (!spoil || other_context(NULL, a.s)));
    cref_flush_at(lab->server, 0);
    cref_lab_reset(lab);
    SSL_CTX_set_session_cache_mode(lab->server, mode);
    CREF_MUST(r, SSL_CTX_set_num_tickets(lab->server, 0) == 1);
    cref_watch(a.s);
    lab->arg = &a;
    lab->answer = answer_shared;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, NULL, &resumed, NULL));
    number = SSL_CTX_sess_number(lab->server);
    kept = !cref_watched_gone();
    cref_flush_at(lab->server, 0);
    cref_say(r, named(v, name), "resumed %s, number %ld, kept after the close %s, after a flush %s", cref_yes(resumed),
             number, cref_yes(kept), cref_yes(!cref_watched_gone()));
    free_both(lab, offer);
}

static void watch_new(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    (void)lab, (void)ssl;
    cref_watch(s);
}

static void displaced_by_answer(cref_report *r, int v)
{
    cref_lab *lab = cref_lab_new(versions[v].version);
    SSL_SESSION *offer = NULL;
    int before, resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->on_new = watch_new;
    SSL_CTX_set_session_cache_mode(lab->server, INTERNAL | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, NULL, NULL, &offer) && offer != NULL);
    CREF_MUST(r, SSL_CTX_set_num_tickets(lab->server, 0) == 1);
    before = cref_watched_gone();
    CREF_MUST(r, cref_visit(lab, lab->server, offer, NULL, &resumed, NULL));
    cref_say(r, named(v, "equal id"), "resumed %s, the old object destroyed before %s, after %s, number %ld, remove %d",
             cref_yes(resumed), cref_yes(before), cref_yes(cref_watched_gone()), SSL_CTX_sess_number(lab->server),
             lab->removes);
    free_both(lab, offer);
}

static void f2_9(cref_report *r)
{
    EACH_VERSION(v)
    {
        cached_answer(r, v, "internal", INTERNAL, 0);
        cached_answer(r, v, "cache off", SSL_SESS_CACHE_OFF, 0);
        cached_answer(r, v, "no internal store", INTERNAL | SSL_SESS_CACHE_NO_INTERNAL_STORE, 0);
        cached_answer(r, v, "rejected, cache off", SSL_SESS_CACHE_OFF, 1);
        displaced_by_answer(r, v);
    }
}

/* ---- F2.10 to F2.13: bad answers ----------------------------------------- */

/* One defect: of the answer, or of the server or hello that it meets. */
typedef struct defect {
    const char *name;
    int in_12, in_13;
    int (*before)(cref_lab *lab);               /* the full handshake */
    int (*between)(cref_lab *lab);              /* the two */
    int (*spoil)(SSL *ssl, SSL_SESSION *s);     /* the answer */
    int hide_ems;                               /* in the second hello */
    int about_cipher;
} defect;

static int other_version(SSL *ssl, SSL_SESSION *s)
{
    return SSL_SESSION_set_protocol_version(s, SSL_version(ssl) == TLS1_2_VERSION ? TLS1_3_VERSION : TLS1_2_VERSION);
}

static int no_context(cref_lab *lab)
{
    return SSL_CTX_set_session_id_context(lab->server, NULL, 0);
}

static int verify_peer(cref_lab *lab)
{
    SSL_CTX_set_verify(lab->server, SSL_VERIFY_PEER, NULL);
    return 1;
}

static int expire(SSL *ssl, SSL_SESSION *s)
{
    (void)ssl;
    cref_session_set_time(s, (long)time(NULL) - SSL_SESSION_get_timeout(s) - 10);
    return 1;
}

static const unsigned char other_id_bytes[32] = "the id of an innocent session";

static int other_id(SSL *ssl, SSL_SESSION *s)
{
    (void)ssl;
    return SSL_SESSION_set1_id(s, other_id_bytes, sizeof(other_id_bytes));
}

static int other_secret(SSL *ssl, SSL_SESSION *s)
{
    unsigned char secret[512];
    size_t len = SSL_SESSION_get_master_key(s, secret, sizeof(secret));

    (void)ssl;
    secret[0] ^= 1;
    return SSL_SESSION_set1_master_key(s, secret, len);
}

static int set_cipher(SSL *ssl, SSL_SESSION *s, unsigned char in_12, unsigned char in_13)
{
    unsigned char c[2] = {0xcc, in_12};

    if (SSL_version(ssl) == TLS1_3_VERSION) {
        c[0] = 0x13;
        c[1] = in_13;
    }
    return SSL_CIPHER_find(ssl, c) != NULL && SSL_SESSION_set_cipher(s, SSL_CIPHER_find(ssl, c));
}

/* ECDHE-ECDSA-CHACHA20-POLY1305 or TLS_CHACHA20_POLY1305_SHA256: with the hash of AES-128-GCM. */
static int other_cipher(SSL *ssl, SSL_SESSION *s)
{
    return set_cipher(ssl, s, 0xa9, 0x03);
}

/* TLS_AES_256_GCM_SHA384 */
static int other_hash(SSL *ssl, SSL_SESSION *s)
{
    return set_cipher(ssl, s, 0xa9, 0x02);
}

int cref_session_drop_cipher(SSL_SESSION *s)
{
    return SSL_SESSION_set_cipher(s, NULL);
}

static int drop_cipher(SSL *ssl, SSL_SESSION *s)
{
    (void)ssl;
    return cref_session_drop_cipher(s);
}

static int use_ciphers(SSL_CTX *ctx, const char *in_12, const char *in_13)
{
    return SSL_CTX_set_cipher_list(ctx, in_12) && SSL_CTX_set_ciphersuites(ctx, in_13);
}

static int client_aes_128(cref_lab *lab)
{
    return use_ciphers(lab->client, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256");
}

static int server_aes_128(cref_lab *lab)
{
    return use_ciphers(lab->server, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256");
}

static int server_chacha(cref_lab *lab)
{
    return use_ciphers(lab->server, "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256");
}

static int server_aes_256(cref_lab *lab)
{
    return use_ciphers(lab->server, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384");
}

/* Replaces the number of the empty extended_master_secret extension by an unassigned one. */
static void hide_ems(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    static const unsigned char ems[] = {0x00, 0x17, 0x00, 0x00};

    (void)k, (void)cap;
    for (size_t i = 44; !from_server && i + sizeof(ems) <= *len; i++)
        if (memcmp(buf + i, ems, sizeof(ems)) == 0)
            buf[i] = 0xfa;
}

/* The flags are an integer in the last but a few fields: [13]; there is no setter. */
static int drop_ems(cref_entry *e)
{
    static const unsigned char flags[] = {0xad, 0x03, 0x02, 0x01, 0x01};

    for (int i = e->der_len - (int)sizeof(flags); i >= 0; i--)
        if (memcmp(e->der + i, flags, sizeof(flags)) == 0) {
            e->der[i + 4] = 0;
            return 1;
        }
    return 0;
}

static int entry_without_ems(cref_lab *lab)
{
    return drop_ems(&lab->entries[0]);
}

static const defect defects[] = {
    {"sound", 1, 1, NULL, NULL, NULL, 0, 0},
    {"other version", 1, 1, NULL, NULL, other_version, 0, 0},
    {"other id context", 1, 1, NULL, NULL, other_context, 0, 0},
    {"VERIFY_PEER, no id context", 1, 1, no_context, verify_peer, NULL, 0, 0},
    {"expired", 1, 1, NULL, NULL, expire, 0, 0},
    {"EMS, hello without", 1, 0, NULL, NULL, NULL, 1, 0},
    {"no EMS, hello with", 1, 0, NULL, entry_without_ems, NULL, 0, 0},
    {"other id inside", 1, 1, NULL, NULL, other_id, 0, 0},
    {"wrong secret", 1, 1, NULL, NULL, other_secret, 0, 0},
    {"cipher not offered", 1, 1, client_aes_128, NULL, other_cipher, 0, 1},
    {"cipher not offered, other hash", 0, 1, client_aes_128, NULL, other_hash, 0, 1},
    {"cipher disabled since", 1, 1, server_aes_128, server_chacha, NULL, 0, 1},
    {"cipher disabled since, other hash", 0, 1, server_aes_128, server_aes_256, NULL, 0, 1},
};

static const defect *defect_called(const char *name)
{
    for (size_t i = 0; i < sizeof(defects) / sizeof(*defects); i++)
        if (strcmp(defects[i].name, name) == 0)
            return &defects[i];
    return NULL;
}

typedef struct badly {
    const defect *d;
    const SSL_CIPHER *cipher; /* of the answer */
    int removed_innocent;     /* remove was called with the other id */
} badly;

static SSL_SESSION *answer_badly(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    badly *b = lab->arg;
    SSL_SESSION *s = decode(cref_lab_find(lab, id, (size_t)len));

    *copy = 0;
    if (s != NULL && b->d->spoil != NULL && b->d->spoil(ssl, s) != 1) {
        SSL_SESSION_free(s);
        s = NULL;
    }
    if (s != NULL) {
        b->cipher = SSL_SESSION_get0_cipher(s);
        lab->hits++;
        cref_watch(s);
    }
    return s;
}

static void note_innocent(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    badly *b = lab->arg;
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(s, &len);

    (void)ctx;
    b->removed_innocent = len == sizeof(other_id_bytes) && memcmp(id, other_id_bytes, len) == 0;
}

/* Writes the outcome of a defect to out; 0: the scenario broke. */
static int meet_defect(const defect *d, int v, badly *b, cref_lab **kept, char *out, size_t size)
{
    cref_lab *lab = *kept = cref_lab_new(versions[v].version);
    SSL_SESSION *offer = NULL;
    cref_link k;
    char cipher[40] = "";
    int went;

    b->d = d;
    b->cipher = NULL;
    b->removed_innocent = 0;
    if (lab == NULL)
        return 0;
    cref_lab_store(lab);
    if ((d->before != NULL && d->before(lab) != 1) || !cref_visit(lab, lab->server, NULL, NULL, NULL, &offer)
        || offer == NULL || (d->between != NULL && d->between(lab) != 1)) {
        SSL_SESSION_free(offer);
        return 0;
    }
    cref_lab_reset(lab);
    lab->arg = b;
    lab->answer = answer_badly;
    lab->on_remove = note_innocent;
    if (!cref_link_open(&k, lab, lab->server, NULL, offer)) {
        SSL_SESSION_free(offer);
        return 0;
    }
    if (d->hide_ems)
        k.wire = hide_ems;
    went = cref_link_run(&k);
    if (went && d->about_cipher && cref_link_resumed(&k))
        snprintf(cipher, sizeof(cipher), " with the answer's cipher %s",
                 cref_yes(SSL_get_current_cipher(k.server) == b->cipher));
    snprintf(out, size, "%s%s", outcome(&k, went), cipher);
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(offer);
    return lab->hits == 1;
}

static void bad_answer(cref_report *r, const defect *d, int v)
{
    cref_lab *lab;
    badly b;
    char text[80];
    int met = meet_defect(d, v, &b, &lab, text, sizeof(text));

    if (met)
        cref_say(r, named(v, d->name), "%s, remove %d, timeouts %ld, given back %s", text, lab->removes,
                 SSL_CTX_sess_timeouts(lab->server), cref_yes(cref_watched_gone()));
    else
        cref_broken(r, "%s was not met", named(v, d->name));
    if (lab != NULL)
        cref_lab_free(lab);
}

static void f2_10(cref_report *r)
{
    for (size_t i = 0; i < sizeof(defects) / sizeof(*defects); i++) {
        if (defects[i].in_12)
            bad_answer(r, &defects[i], 0);
        if (defects[i].in_13)
            bad_answer(r, &defects[i], 1);
    }
}

static const defect no_cipher = {"no cipher", 1, 1, NULL, NULL, drop_cipher, 0, 0};

static void no_cipher_12(cref_report *r)
{
    bad_answer(r, &no_cipher, 0);
}

static void no_cipher_13(cref_report *r)
{
    bad_answer(r, &no_cipher, 1);
}

static SSL_SESSION *answer_blank(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    (void)lab, (void)ssl, (void)id, (void)len;
    *copy = 0;
    return SSL_SESSION_new();
}

static void blank(cref_report *r, int v)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, EXTERNAL, &offer);
    cref_link k;

    CREF_MUST(r, lab != NULL);
    lab->answer = answer_blank;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer));
    cref_say(r, named(v, "blank"), "%s", outcome(&k, cref_link_run(&k)));
    cref_link_close(&k, CREF_CLEAN);
    free_both(lab, offer);
}

static void blank_12(cref_report *r)
{
    blank(r, 0);
}

static void blank_13(cref_report *r)
{
    blank(r, 1);
}

static void f2_11(cref_report *r)
{
    EACH_VERSION(v)
    {
        cref_lab *lab;
        badly b;
        char text[80];
        int met = meet_defect(defect_called("other id inside"), v, &b, &lab, text, sizeof(text));

        if (met)
            cref_say(r, versions[v].name, "%s, remove named the innocent session %s", text,
                     cref_yes(b.removed_innocent));
        else
            cref_broken(r, "the defect was not met");
        if (lab != NULL)
            cref_lab_free(lab);
    }
}

static void f2_12(cref_report *r)
{
    EACH_VERSION(v)
        bad_answer(r, defect_called("VERIFY_PEER, no id context"), v);
}

static void f2_13(cref_report *r)
{
    bad_answer(r, defect_called("cipher disabled since"), 0);
}

/* ---- F2.14: another hash ------------------------------------------------- */

static void f2_14(cref_report *r)
{
    cref_lab *lab;
    badly b;
    char text[80];
    int met = meet_defect(defect_called("cipher disabled since, other hash"), 1, &b, &lab, text, sizeof(text));

    if (met)
        cref_say(r, "hash differs", "%s, tickets %d", text, lab->news);
    else
        cref_broken(r, "the defect was not met");
    if (lab != NULL)
        cref_lab_free(lab);
}

/* ---- F2.15: HelloRetryRequest -------------------------------------------- */

typedef struct retried {
    int answers, first_gone;
} retried;

static SSL_SESSION *answer_twice(cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy)
{
    retried *n = lab->arg;
    SSL_SESSION *s = decode(cref_lab_find(lab, id, (size_t)len));

    (void)ssl;
    if (n->answers++ == 0)
        cref_watch(s);
    else
        n->first_gone = cref_watched_gone();
    *copy = 0;
    return s;
}

static void f2_15(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *offer = NULL;
    retried n = {0, 0};
    int resumed;

    CREF_MUST(r, lab != NULL && SSL_CTX_set1_groups_list(lab->client, "X25519:P-256") == 1
                     && SSL_CTX_set1_groups_list(lab->server, "P-256") == 1);
    cref_lab_store(lab);
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, NULL, NULL, &offer) && offer != NULL);
    cref_lab_reset(lab);
    lab->arg = &n;
    lab->answer = answer_twice;
    CREF_MUST(r, cref_visit(lab, lab->server, offer, NULL, &resumed, NULL));
    cref_say(r, "retried hello", "%s, resumed %s, the first object was gone at the second question %s", lab->trace,
             cref_yes(resumed), cref_yes(n.first_gone));
    free_both(lab, offer);
}

/* ---- F2.16: counters ----------------------------------------------------- */

static void say_counters(cref_report *r, int v, const char *name, const char *text, SSL_CTX *ctx)
{
    cref_say(r, named(v, name), "%s, hits %ld, misses %ld, callback hits %ld, timeouts %ld", text,
             SSL_CTX_sess_hits(ctx), SSL_CTX_sess_misses(ctx), SSL_CTX_sess_cb_hits(ctx), SSL_CTX_sess_timeouts(ctx));
}

static void count_answer(cref_report *r, int v, const char *name, int mode, int deaf)
{
    SSL_SESSION *offer;
    cref_lab *lab = lab_with_session(v, mode, &offer);
    cref_link k;

    CREF_MUST(r, lab != NULL);
    cref_flush_at(lab->server, 0);
    lab->deaf = deaf;
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, offer) && cref_link_run(&k));
    say_counters(r, v, name, outcome(&k, 1), lab->server);
    cref_link_close(&k, CREF_CLEAN);
    free_both(lab, offer);
}

static void count_defect(cref_report *r, int v, const char *name)
{
    cref_lab *lab;
    badly b;
    char text[80];
    int met = meet_defect(defect_called(name), v, &b, &lab, text, sizeof(text));

    if (met)
        say_counters(r, v, name, text, lab->server);
    else
        cref_broken(r, "%s was not met", named(v, name));
    if (lab != NULL)
        cref_lab_free(lab);
}

static void count_evictions(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_session_cache_mode(lab->server, INTERNAL);
    SSL_CTX_sess_set_cache_size(lab->server, 2);
    for (int i = 0; i < 4; i++)
        CREF_MUST(r, cref_visit(lab, lab->server, NULL, NULL, NULL, NULL));
    cref_say(r, "1.2 evictions", "4 sessions in a cache of 2, number %ld, cache full %ld",
             SSL_CTX_sess_number(lab->server), SSL_CTX_sess_cache_full(lab->server));
    cref_lab_free(lab);
}

static void count_switched(cref_report *r, int v, const char *name, void (*on_name)(SSL_CTX *ctx, SSL_CTX *to))
{
    cref_lab *lab = cref_lab_new(versions[v].version);
    SSL_CTX *other;
    cref_link k;

    CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
    on_name(lab->server, other);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, "other.test", NULL) && cref_link_run(&k));
    cref_link_close(&k, CREF_CLEAN);
    cref_say(r, named(v, name), "accept %ld where it began and %ld where it went, accept good %ld and %ld",
             SSL_CTX_sess_accept(lab->server), SSL_CTX_sess_accept(other), SSL_CTX_sess_accept_good(lab->server),
             SSL_CTX_sess_accept_good(other));
    SSL_CTX_free(other);
    cref_lab_free(lab);
}

#ifndef SSL_OP_ALLOW_CLIENT_RENEGOTIATION
#define SSL_OP_ALLOW_CLIENT_RENEGOTIATION 0 /* 1.1.1 always allows it */
#endif

static void count_renegotiation(cref_report *r, const char *name, int by_server)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    cref_link k;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_options(lab->server, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, NULL) && cref_link_run(&k));
    CREF_MUST(r, SSL_renegotiate(by_server ? k.server : k.client) == 1);
    SSL_do_handshake(by_server ? k.server : k.client);
    for (int i = 0; i < 4; i++) { /* both read, which makes them take part */
        unsigned char c;

        cref_link_pump(&k);
        SSL_read(k.server, &c, 1);
        cref_link_pump(&k);
        SSL_read(k.client, &c, 1);
    }
    CREF_MUST(r, SSL_num_renegotiations(k.client) == 1 && SSL_is_init_finished(k.client)
                     && SSL_is_init_finished(k.server));
    cref_say(r, name, "renegotiated once, counted %ld", SSL_CTX_sess_accept_renegotiate(lab->server));
    cref_link_close(&k, CREF_CLEAN);
    cref_lab_free(lab);
}

static void f2_16(cref_report *r)
{
    EACH_VERSION(v)
    {
        count_answer(r, v, "answered, no internal lookup", EXTERNAL, 0);
        count_answer(r, v, "answered after an internal miss", INTERNAL, 0);
        count_answer(r, v, "not answered", INTERNAL, 1);
        count_defect(r, v, "other id context");
        count_defect(r, v, "expired");
        count_switched(r, v, "switched by the servername callback", cref_sni_switch);
        count_switched(r, v, "switched by the hello callback", cref_sni_switch_in_hello);
    }
    count_defect(r, 0, "wrong secret");
    count_evictions(r);
    count_renegotiation(r, "1.2 renegotiation by the client", 0);
    count_renegotiation(r, "1.2 renegotiation by the server", 1);
}

const cref_scenario cref_get_facts[] = {
    {"F2.1", f2_1},
    {"F2.2", f2_2},
    {"F2.3", f2_3},
    {"F2.4", f2_4},
    {"F2.5", f2_5},
    {"F2.6", f2_6},
    {"F2.7", f2_7},
    {"F2.8", f2_8},
    {"F2.9", f2_9},
    {"F2.10", f2_10},
    {"F2.10 no cipher 1.2", no_cipher_12},
    {"F2.10 no cipher 1.3", no_cipher_13},
    {"F2.10 blank 1.2", blank_12},
    {"F2.10 blank 1.3", blank_13},
    {"F2.11", f2_11},
    {"F2.12", f2_12},
    {"F2.13", f2_13},
    {"F2.14", f2_14},
    {"F2.15", f2_15},
    {"F2.16", f2_16},
    {NULL, NULL},
};
