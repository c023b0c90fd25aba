/* facts_tls13.c: section 5, stateful tickets and early data. */
#include "lab.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#define EARLY 16384

/* ---- what the facts share -------------------------------------------------- */

/* The outcome of a second connection. */
static const char *outcome(cref_link *k, int went)
{
    if (!went)
        return "failed";
    if (cref_link_early_accepted(k))
        return "accepted"; /* its early data */
    return cref_link_resumed(k) ? "resumed" : "full";
}

/* Offers the session, with early data or without. */
static const char *offer(cref_lab *lab, SSL_CTX *server, SSL_SESSION *s, int early)
{
    const char *came_to;
    cref_link k;

    if (!cref_link_open(&k, lab, server, NULL, s))
        return "nothing";
    came_to = !early || cref_link_early(&k) ? outcome(&k, cref_link_run(&k)) : "no early data";
    cref_link_close(&k, CREF_CLEAN);
    return came_to;
}

/* Lets a server accept early data: with replay under OpenSSL's replay protection, else without any. */
static void allow_early(SSL_CTX *ctx, int mode, int replay)
{
    SSL_CTX_set_session_cache_mode(ctx, mode);
    SSL_CTX_set_max_early_data(ctx, EARLY);
    if (replay)
        SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
    else
        SSL_CTX_set_options(ctx, SSL_OP_NO_ANTI_REPLAY | SSL_OP_NO_TICKET);
}

static cref_lab *store_lab(void)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);

    if (lab != NULL)
        cref_lab_store(lab);
    return lab;
}

/* The client's session of a full handshake, NULL where that fails. */
static SSL_SESSION *issue(cref_lab *lab, SSL_CTX *server)
{
    SSL_SESSION *s = NULL;
    int ok = 0;

    cref_visit(lab, server, NULL, &ok, NULL, &s);
    if (!ok) {
        SSL_SESSION_free(s);
        return NULL;
    }
    return s;
}

/* Deletes what OpenSSL gives up, as a naive application does. */
static void delete_entry(cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(s, &len);
    cref_entry *e = cref_lab_find(lab, id, len);

    (void)ctx;
    if (e != NULL) {
        OPENSSL_free(e->der);
        e->der = NULL;
    }
}

static int retry_groups(cref_lab *lab, SSL_CTX *server)
{
    return SSL_CTX_set1_groups_list(server, "P-256") == 1
           && SSL_CTX_set1_groups_list(lab->client, "X25519:P-256") == 1;
}

/* ---- F5.1 ------------------------------------------------------------------- */

static void f5_1(cref_report *r)
{
    cref_lab *lab = store_lab();
    SSL_CTX *other;
    SSL_SESSION *s;
    const unsigned char *ticket;
    size_t len;
    const char *first, *second;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
    cref_lab_reset(lab);
    first = offer(lab, lab->server, s, 0);
    second = offer(lab, lab->server, s, 0);
    cref_say(r, "no early data allowed", "%s, %s, remove %d", first, second, lab->removes);
    SSL_SESSION_free(s);

    allow_early(lab->server, SSL_SESS_CACHE_SERVER, 1);
    CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
    SSL_SESSION_get0_ticket(s, &ticket, &len);
    cref_say(r, "ticket", "of %d bytes, the id of an entry %s", (int)len,
             cref_yes(cref_lab_find(lab, ticket, len) != NULL));
    lab->deaf = 1;
    cref_lab_reset(lab);
    first = offer(lab, lab->server, s, 1);
    cref_say(r, "in the internal cache", "%s, calls %s", first, lab->trace);
    cref_lab_reset(lab);
    first = offer(lab, lab->server, s, 1);
    cref_say(r, "consumed", "%s, calls %s", first, lab->trace);
    lab->deaf = 0;

    CREF_MUST(r, (other = cref_lab_server(lab)) != NULL);
    cref_lab_store_on(lab, other);
    allow_early(other, SSL_SESS_CACHE_SERVER, 1);
    cref_lab_reset(lab);
    first = offer(lab, other, s, 1);
    cref_say(r, "answered by get", "%s, calls %s", first, lab->trace);
    SSL_SESSION_free(s);
    SSL_CTX_free(other);
    cref_lab_free(lab);
}

/* ---- F5.2 ------------------------------------------------------------------- */

static const struct {
    const char *name;
    int mode, replay, take, deletes;
} configurations[] = {
    {"replay protection, internal cache", SSL_SESS_CACHE_SERVER, 1, 0, 0},
    {"replay protection, internal cache, remove deletes", SSL_SESS_CACHE_SERVER, 1, 0, 1},
    {"replay protection, internal cache, get takes", SSL_SESS_CACHE_SERVER, 1, 1, 0},
    {"replay protection, NO_INTERNAL", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL, 1, 0, 0},
    {"replay protection, NO_INTERNAL_STORE", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_STORE, 1, 0, 0},
    {"replay protection, NO_INTERNAL, get takes", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL, 1, 1, 0},
    {"replay protection, NO_INTERNAL_LOOKUP, get takes", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL_LOOKUP, 1,
     1, 0},
    {"NO_ANTI_REPLAY, NO_INTERNAL", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL, 0, 0, 0},
    {"NO_ANTI_REPLAY, NO_INTERNAL, get takes", SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL, 0, 1, 0},
};

/* The same session at the other server, there again, and at its issuer. */
static void three_offers(cref_report *r, const char *name, cref_lab *lab, SSL_CTX *other, int early)
{
    SSL_SESSION *s = issue(lab, lab->server);
    const char *first, *again, *home;

    CREF_MUST(r, s != NULL);
    cref_lab_reset(lab);
    first = offer(lab, other, s, early);
    again = offer(lab, other, s, early);
    home = offer(lab, lab->server, s, early);
    cref_say(r, name, "%s, %s, %s, get %d, remove %d", first, again, home, lab->gets, lab->removes);
    SSL_SESSION_free(s);
}

static void f5_2(cref_report *r)
{
    for (size_t i = 0; i < sizeof(configurations) / sizeof(*configurations); i++) {
        cref_lab *lab = store_lab();
        SSL_CTX *other;

        CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
        cref_lab_store_on(lab, other);
        allow_early(lab->server, configurations[i].mode, configurations[i].replay);
        allow_early(other, configurations[i].mode, configurations[i].replay);
        lab->take = configurations[i].take;
        lab->on_remove = configurations[i].deletes ? delete_entry : NULL;
        three_offers(r, configurations[i].name, lab, other, 1);
        SSL_CTX_free(other);
        cref_lab_free(lab);
    }
    for (int take = 0; take < 2; take++) {
        cref_lab *lab = store_lab();
        SSL_CTX *other;

        CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
        cref_lab_store_on(lab, other);
        lab->take = take;
        three_offers(r, take ? "no early data, get takes" : "no early data, get keeps", lab, other, 0);
        SSL_CTX_free(other);
        cref_lab_free(lab);
    }
}

/* ---- F5.3 ------------------------------------------------------------------- */

static void f5_3(cref_report *r)
{
    static const struct {
        const char *name;
        int replay, take, deaf;
    } stores[] = {
        {"internal cache, replay protection", 1, 0, 1},
        {"get takes", 0, 1, 0},
        {"get keeps", 0, 0, 0},
    };

    for (size_t i = 0; i < sizeof(stores) / sizeof(*stores); i++) {
        cref_lab *lab = store_lab();
        SSL_SESSION *s;
        const char *came_to;

        CREF_MUST(r, lab != NULL && retry_groups(lab, lab->server));
        if (stores[i].replay)
            allow_early(lab->server, SSL_SESS_CACHE_SERVER, 1);
        CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
        lab->take = stores[i].take;
        lab->deaf = stores[i].deaf;
        cref_lab_reset(lab);
        came_to = offer(lab, lab->server, s, 0);
        cref_say(r, stores[i].name, "%s, calls %s", came_to, lab->trace);
        SSL_SESSION_free(s);
        cref_lab_free(lab);
    }
}

/* ---- F5.4 ------------------------------------------------------------------- */

/* Binders are what a ClientHello ends with. */
static void spoil_binder(cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap)
{
    (void)cap;
    if (!from_server && k->from_client == 0)
        buf[*len - 1] ^= 1;
}

static void f5_4(cref_report *r)
{
    static const struct {
        const char *name;
        int replay, take;
    } stores[] = {
        {"replay protection, remove deletes", 1, 0},
        {"get takes", 0, 1},
        {"get keeps", 0, 0},
    };

    for (size_t i = 0; i < sizeof(stores) / sizeof(*stores); i++) {
        cref_lab *lab = store_lab();
        SSL_CTX *other;
        SSL_SESSION *s, *copy;
        cref_link k;
        const char *forged, *honest;
        char calls[sizeof(lab->trace)];
        int alert;

        CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
        cref_lab_store_on(lab, other);
        if (stores[i].replay) {
            allow_early(lab->server, SSL_SESS_CACHE_SERVER, 1);
            allow_early(other, SSL_SESS_CACHE_SERVER, 1);
        }
        CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
        lab->take = stores[i].take;
        lab->on_remove = delete_entry;
        cref_lab_reset(lab);
        /* The stranger's copy: the alert marks it as not resumable. */
        CREF_MUST(r, (copy = SSL_SESSION_dup(s)) != NULL && cref_link_open(&k, lab, other, NULL, copy));
        k.wire = spoil_binder;
        forged = outcome(&k, cref_link_run(&k));
        alert = cref_alert(k.client_error);
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(copy);
        memcpy(calls, lab->trace, sizeof(calls));
        cref_lab_reset(lab);
        honest = offer(lab, other, s, 0);
        cref_say(r, stores[i].name, "forged %s, calls %s, honest %s, calls %s", forged, calls, honest, lab->trace);
        if (i == 0)
            cref_say(r, "alert", "%d", alert);
        SSL_SESSION_free(s);
        SSL_CTX_free(other);
        cref_lab_free(lab);
    }
}

/* ---- F5.5 ------------------------------------------------------------------- */

static void expire_first(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    (void)ssl;
    if (lab->news == 1)
        cref_session_set_time(s, cref_session_time(s) - 2 * SSL_SESSION_get_timeout(s));
}

static void f5_5(cref_report *r)
{
    cref_lab *lab = store_lab();
    SSL_SESSION *s;
    const char *came_to[3];
    int removed;
    long cached;

    CREF_MUST(r, lab != NULL && (s = issue(lab, lab->server)) != NULL);
    for (int i = 0; i < 3; i++)
        came_to[i] = offer(lab, lab->server, s, 0);
    cref_say(r, "no early data", "%s, %s, %s", came_to[0], came_to[1], came_to[2]);
    SSL_SESSION_free(s);

    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER);
    lab->on_new = expire_first;
    cref_lab_reset(lab);
    CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
    came_to[0] = offer(lab, lab->server, s, 0);
    removed = lab->removes;
    cached = SSL_CTX_sess_number(lab->server);
    cref_flush_at(lab->server, cref_session_time(s));
    cref_say(r, "expired, internal cache", "%s, get %d, remove %d, cached %ld, after a flush remove %d, cached %ld",
             came_to[0], lab->gets, removed, cached, lab->removes, SSL_CTX_sess_number(lab->server));
    SSL_SESSION_free(s);
    cref_lab_free(lab);
}

/* ---- F5.6 ------------------------------------------------------------------- */

typedef struct asked {
    unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];
    int len;
} asked;

static void note_asked(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    asked *a = lab->arg;

    (void)ssl;
    a->len = len;
    memcpy(a->id, id, (size_t)len);
}

static void f5_6(cref_report *r)
{
    for (int tickets = 1; tickets >= 0; tickets--) {
        cref_lab *lab = store_lab();
        asked a = {{0}, 0};
        cref_link k;
        SSL_SESSION *s;
        const unsigned char *id;
        unsigned int len;

        CREF_MUST(r, lab != NULL && (s = issue(lab, lab->server)) != NULL);
        lab->arg = &a;
        lab->on_get = note_asked;
        SSL_CTX_set_num_tickets(lab->server, (size_t)tickets);
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s) && cref_link_run(&k));
        id = SSL_SESSION_get_id(SSL_get_session(k.server), &len);
        cref_say(r, tickets ? "one ticket" : "no ticket", "resumed %s, its session has the id that was looked up %s",
                 cref_yes(cref_link_resumed(&k)),
                 cref_yes((int)len == a.len && memcmp(id, a.id, len) == 0));
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(s);
        cref_lab_free(lab);
    }
}

/* ---- F5.7 ------------------------------------------------------------------- */

typedef struct tickets {
    int generated, decrypted, keyed;
    char data[16]; /* the application data of the session that was resumed */
} tickets;

static int generate_ticket(SSL *ssl, void *arg)
{
    tickets *t = arg;

    t->generated++;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), "ours", 4);
}

static SSL_TICKET_RETURN decrypt_ticket(SSL *ssl, SSL_SESSION *s, const unsigned char *name, size_t len,
                                        SSL_TICKET_STATUS status, void *arg)
{
    (void)ssl, (void)s, (void)name, (void)len, (void)status;
    ((tickets *)arg)->decrypted++;
    return SSL_TICKET_RETURN_USE_RENEW;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* from 3.0 on, for the sake of EVP_MAC, which 1.1.1 lacks */
static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, HMAC_CTX *mac, int seal)
{
    static const unsigned char key[32] = {1};
    cref_lab *lab = cref_lab_of_ssl(ssl);

    ((tickets *)lab->arg)->keyed++;
    if (seal) {
        memset(name, 'n', 16);
        memset(iv, 2, EVP_MAX_IV_LENGTH);
    }
    if (HMAC_Init_ex(mac, key, sizeof(key), EVP_sha256(), NULL) != 1
        || EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key, iv, seal) != 1)
        return -1;
    return 1;
}

static int count_ticket_keys(SSL_CTX *ctx)
{
    return SSL_CTX_set_tlsext_ticket_key_cb(ctx, ticket_key) != 0;
}
#pragma GCC diagnostic pop

static void f5_7(cref_report *r)
{
    for (int stateful = 1; stateful >= 0; stateful--) {
        cref_lab *lab = store_lab();
        tickets t = {0, 0, 0, ""};
        tickets first;
        cref_link k;
        SSL_SESSION *s;
        void *data;
        size_t len;

        CREF_MUST(r, lab != NULL && count_ticket_keys(lab->server)
                         && SSL_CTX_set_session_ticket_cb(lab->server, generate_ticket, decrypt_ticket, &t) == 1);
        lab->arg = &t;
        if (!stateful)
            SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
        CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
        first = t;
        SSL_CTX_set_num_tickets(lab->server, 0); /* the connection keeps the session that was looked up */
        CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, s) && cref_link_run(&k));
        CREF_MUST(r, SSL_SESSION_get0_ticket_appdata(SSL_get_session(k.server), &data, &len) == 1
                         && len < sizeof(t.data));
        memcpy(t.data, data, len);
        cref_say(r, stateful ? "stateful" : "stateless",
                 "issued with generate %d, key %d, resumed %s with decrypt %d, key %d, get %d, application data %s",
                 first.generated, first.keyed, cref_yes(cref_link_resumed(&k)), t.decrypted, t.keyed - first.keyed,
                 lab->gets, t.data);
        cref_link_close(&k, CREF_CLEAN);
        SSL_SESSION_free(s);
        cref_lab_free(lab);
    }
}

/* ---- F5.8 ------------------------------------------------------------------- */

static void f5_8(cref_report *r)
{
    cref_lab *lab = store_lab();
    SSL_SESSION *s;
    const char *came_to;

    CREF_MUST(r, lab != NULL && (s = issue(lab, lab->server)) != NULL);
    SSL_CTX_clear_options(lab->server, SSL_OP_NO_TICKET);
    cref_lab_reset(lab);
    came_to = offer(lab, lab->server, s, 0);
    cref_say(r, "stateless now", "%s, get %d", came_to, lab->gets);
    SSL_CTX_set_options(lab->server, SSL_OP_NO_TICKET);
    cref_lab_reset(lab);
    came_to = offer(lab, lab->server, s, 0);
    cref_say(r, "stateful again", "%s, get %d", came_to, lab->gets);
    SSL_SESSION_free(s);
    cref_lab_free(lab);
}

/* ---- F5.9 ------------------------------------------------------------------- */

static void f5_9(cref_report *r)
{
    cref_lab *lab = store_lab();
    SSL_CTX *other;
    SSL_SESSION *s;
    const char *came_to;

    CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
    cref_lab_store_on(lab, other);
    CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
    cref_lab_reset(lab);
    came_to = offer(lab, other, s, 0);
    cref_say(r, "from DER on another server", "%s, get %d", came_to, lab->gets);
    SSL_SESSION_free(s);

    allow_early(lab->server, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL, 0);
    allow_early(other, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL, 0);
    CREF_MUST(r, (s = issue(lab, lab->server)) != NULL);
    cref_lab_reset(lab);
    came_to = offer(lab, other, s, 1);
    cref_say(r, "early data there", "%s, get %d", came_to, lab->gets);
    SSL_SESSION_free(s);
    SSL_CTX_free(other);
    cref_lab_free(lab);
}

/* ---- F5.10 ------------------------------------------------------------------ */

static const char outside[] = "outside";

static SSL_SESSION *outside_session(SSL *ssl)
{
    static const unsigned char suite[] = {0x13, 0x02}, key[48] = {3};
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
    SSL_SESSION *s = SSL_SESSION_new();

    if (s == NULL || cipher == NULL || SSL_SESSION_set1_master_key(s, key, sizeof(key)) != 1
        || SSL_SESSION_set_cipher(s, cipher) != 1 || SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION) != 1
        || SSL_SESSION_set_max_early_data(s, EARLY) != 1) {
        SSL_SESSION_free(s);
        return NULL;
    }
    return s;
}

static void order(cref_lab *lab, char c)
{
    char *trace = lab->arg;

    if (strlen(trace) < 7)
        trace[strlen(trace)] = c;
}

static int find_outside(SSL *ssl, const unsigned char *id, size_t len, SSL_SESSION **s)
{
    order(cref_lab_of_ssl(ssl), 'F');
    *s = len == sizeof(outside) - 1 && memcmp(id, outside, len) == 0 ? outside_session(ssl) : NULL;
    return 1;
}

static unsigned int no_psk(SSL *ssl, const char *identity, unsigned char *psk, unsigned int max)
{
    (void)identity, (void)psk, (void)max;
    order(cref_lab_of_ssl(ssl), 'S');
    return 0;
}

static void note_get(cref_lab *lab, SSL *ssl, const unsigned char *id, int len)
{
    (void)ssl, (void)id, (void)len;
    order(lab, 'G');
}

static int use_outside(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *len, SSL_SESSION **s)
{
    (void)md;
    *id = (const unsigned char *)outside;
    *len = sizeof(outside) - 1;
    *s = outside_session(ssl);
    return *s != NULL;
}

static void f5_10(cref_report *r)
{
    cref_lab *lab = store_lab();
    char trace[8] = "";
    SSL_SESSION *s;
    const char *first, *second;

    CREF_MUST(r, lab != NULL && (s = issue(lab, lab->server)) != NULL);
    lab->arg = trace;
    lab->on_get = note_get;
    SSL_CTX_set_psk_find_session_callback(lab->server, find_outside);
    SSL_CTX_set_psk_server_callback(lab->server, no_psk);
    first = offer(lab, lab->server, s, 0);
    cref_say(r, "an identity of ours", "%s, asked %s", first, trace);
    SSL_SESSION_free(s);

    memset(trace, 0, sizeof(trace));
    allow_early(lab->server, SSL_SESS_CACHE_SERVER, 1);
    SSL_CTX_set_psk_use_session_callback(lab->client, use_outside);
    cref_lab_reset(lab);
    first = offer(lab, lab->server, NULL, 1);
    second = offer(lab, lab->server, NULL, 1);
    cref_say(r, "an external one, replay protection", "%s, %s, asked %s, remove %d", first, second, trace,
             lab->removes);
    cref_lab_free(lab);
}

const cref_scenario cref_tls13_facts[] = {
    {"F5.1", f5_1}, {"F5.2", f5_2}, {"F5.3", f5_3}, {"F5.4", f5_4}, {"F5.5", f5_5},
    {"F5.6", f5_6}, {"F5.7", f5_7}, {"F5.8", f5_8}, {"F5.9", f5_9}, {"F5.10", f5_10},
    {NULL, NULL},
};
