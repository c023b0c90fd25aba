/*
 * facts_serial.c: section 7, serialisation. SRP users are the one field of F7.1 that is not shown: a handshake with SRP
 * shows nothing about sessions that one with a PSK does not.
 */
#include "cref.h"
#include "lab.h"

#include <openssl/x509.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Since 3.2, the last one since 3.0. */
EVP_PKEY *SSL_SESSION_get0_peer_rpk(SSL_SESSION *s) __attribute__((weak));
int SSL_CTX_set1_client_cert_type(SSL_CTX *ctx, const unsigned char *val, size_t len) __attribute__((weak));
int EVP_PKEY_eq(const EVP_PKEY *a, const EVP_PKEY *b) __attribute__((weak));

#define RAW_KEY 2 /* TLSEXT_cert_type_rpk */

/* ---- sessions and their serial form ------------------------------------------ */

static SSL_SESSION *decode(const unsigned char *der, long len)
{
    return d2i_SSL_SESSION(NULL, &der, len);
}

/* For OPENSSL_free; NULL and 0 where OpenSSL refuses. */
static unsigned char *encode(SSL_SESSION *s, int *len)
{
    unsigned char *der = NULL;

    *len = i2d_SSL_SESSION(s, &der);
    return *len > 0 ? der : NULL;
}

/* The session as it comes back from its serial form. */
static SSL_SESSION *again(SSL_SESSION *s)
{
    int len;
    unsigned char *der = encode(s, &len);
    SSL_SESSION *copy = der == NULL ? NULL : decode(der, len);

    OPENSSL_free(der);
    return copy;
}

static int same_der(SSL_SESSION *a, SSL_SESSION *b)
{
    int m, n, same;
    unsigned char *p = encode(a, &m), *q = encode(b, &n);

    same = p != NULL && q != NULL && m == n && memcmp(p, q, (size_t)m) == 0;
    OPENSSL_free(p);
    OPENSSL_free(q);
    return same;
}

/* A handshake between lab and server; the link is for the caller to read and to close. */
static int connect_to(cref_link *k, cref_lab *lab, SSL_CTX *server, SSL_SESSION *offer)
{
    return cref_link_open(k, lab, server, "server.test", offer) && cref_link_run(k);
}

/* The server's session of a fresh handshake, out of its serial form, as one release or another wrote it. */
static SSL_SESSION *server_session(int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *s = NULL;
    int ok;

    if (lab == NULL)
        return NULL;
    cref_lab_store(lab);
    if (cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok && lab->news == 1)
        s = decode(lab->entries[0].der, lab->entries[0].der_len);
    cref_lab_free(lab);
    return s;
}

static int verified; /* calls of accept_all */

static int accept_all(int ok, X509_STORE_CTX *ctx)
{
    (void)ok, (void)ctx;
    verified++;
    return 1;
}

/* The client shows the lab's certificate, with an issuer's after it as it were; server asks for one. */
static int show_certificate(cref_lab *lab, SSL_CTX *server, int (*verify)(int, X509_STORE_CTX *))
{
    SSL_CTX_set_verify(server, SSL_VERIFY_PEER, verify);
    return cref_use_certificate(lab->client) && SSL_CTX_clear_chain_certs(lab->client)
           && SSL_CTX_add1_chain_cert(lab->client, SSL_CTX_get0_certificate(lab->client));
}

static int trust(SSL_CTX *ctx)
{
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), SSL_CTX_get0_certificate(ctx));
}

/* Counts the peer's certificates that the server has: the leaf and the rest of the chain. */
static int certificates(SSL *server)
{
    STACK_OF(X509) *rest = SSL_get_peer_cert_chain(server);

    return (SSL_SESSION_get0_peer(SSL_get_session(server)) != NULL) + (rest == NULL ? 0 : sk_X509_num(rest));
}

static const char *reason(unsigned long error)
{
    const char *text = error == 0 ? NULL : ERR_reason_error_string(error);

    return text == NULL ? "none" : text;
}

/* ---- F7.1: what survives ----------------------------------------------------- */

static int servername(SSL *ssl, int *alert, void *arg)
{
    (void)ssl, (void)alert, (void)arg;
    return SSL_TLSEXT_ERR_OK;
}

static const unsigned char h2[] = {2, 'h', '2'};

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *len, const unsigned char *in, unsigned int n,
                     void *arg)
{
    (void)ssl, (void)in, (void)n, (void)arg;
    *out = h2 + 1;
    *len = 2;
    return SSL_TLSEXT_ERR_OK;
}

static int same_bytes(const unsigned char *a, size_t m, const unsigned char *b, size_t n)
{
    return m > 0 && m == n && memcmp(a, b, n) == 0;
}

static void say_fields(cref_report *r, SSL_SESSION *s)
{
    SSL_SESSION *c;
    const unsigned char *p, *q, *alpn;
    unsigned char secret[512], secret_again[512];
    unsigned int m, n;
    size_t alpn_len;
    int id, context, key;

    cref_session_set_time(s, 1000000000);
    CREF_MUST(r, SSL_SESSION_set_timeout(s, 1234) == 1 && (c = again(s)) != NULL);
    p = SSL_SESSION_get_id(s, &m);
    q = SSL_SESSION_get_id(c, &n);
    id = same_bytes(p, m, q, n);
    p = SSL_SESSION_get0_id_context(s, &m);
    q = SSL_SESSION_get0_id_context(c, &n);
    context = same_bytes(p, m, q, n);
    key = same_bytes(secret, SSL_SESSION_get_master_key(s, secret, sizeof(secret)), secret_again,
                     SSL_SESSION_get_master_key(c, secret_again, sizeof(secret_again)));
    SSL_SESSION_get0_alpn_selected(c, &alpn, &alpn_len);
    cref_say(r, SSL_SESSION_get_protocol_version(s) == TLS1_3_VERSION ? "fields 1.3" : "fields 1.2",
             "version %s, cipher %s, id %s, id context %s, secret %s, time %ld, lifetime %ld, name %s, ALPN %.*s, early "
             "data %u, the same bytes %s",
             cref_yes(SSL_SESSION_get_protocol_version(c) == SSL_SESSION_get_protocol_version(s)),
             cref_yes(SSL_SESSION_get0_cipher(c) == SSL_SESSION_get0_cipher(s)), cref_yes(id), cref_yes(context),
             cref_yes(key), cref_session_time(c), (long)SSL_SESSION_get_timeout(c),
             SSL_SESSION_get0_hostname(c) == NULL ? "none" : SSL_SESSION_get0_hostname(c), (int)alpn_len, (char *)alpn,
             SSL_SESSION_get_max_early_data(c), cref_yes(same_der(s, c)));
    SSL_SESSION_free(c);
}

/* Reports the fields that only C can read or set. */
static void say_more_fields(cref_report *r, SSL_SESSION *s, SSL_SESSION *client)
{
    static int index = -1;
    SSL_SESSION *c, *d;
    void *data;
    size_t n;

    if (index < 0)
        index = SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    CREF_MUST(r, SSL_SESSION_set1_ticket_appdata(s, "data", 4) == 1 && SSL_SESSION_set_ex_data(s, index, s) == 1
                     && (c = again(s)) != NULL && (d = again(client)) != NULL);
    CREF_MUST(r, SSL_SESSION_get0_ticket_appdata(c, &data, &n) == 1);
    cref_say(r, "more fields", "application data %.*s, fragment length %d, ticket hint %s, ex_data %s", (int)n,
             (char *)data, 256 << SSL_SESSION_get_max_fragment_length(c),
             cref_yes(SSL_SESSION_get_ticket_lifetime_hint(d) == SSL_SESSION_get_ticket_lifetime_hint(client)
                      && SSL_SESSION_get_ticket_lifetime_hint(d) > 0),
             cref_yes(SSL_SESSION_get_ex_data(c, index) != NULL));
    SSL_SESSION_free(c);
    SSL_SESSION_free(d);
}

static void fields(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *s, *client, *copy;
    cref_link k;
    int resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    SSL_CTX_set_tlsext_servername_callback(lab->server, servername);
    SSL_CTX_set_alpn_select_cb(lab->server, select_h2, NULL);
    SSL_CTX_set_alpn_protos(lab->client, h2, sizeof(h2));
    SSL_CTX_set_max_early_data(lab->server, 1000);
    SSL_CTX_set_options(lab->server, SSL_OP_NO_ANTI_REPLAY);
    if (version == TLS1_3_VERSION) /* in 1.2 an offer without it would fail: F7.7 */
        CREF_MUST(r, SSL_CTX_set_tlsext_max_fragment_length(lab->client, TLSEXT_max_fragment_length_1024));
    CREF_MUST(r, connect_to(&k, lab, lab->server, NULL) && (client = SSL_get1_session(k.client)) != NULL);
    cref_link_close(&k, CREF_CLEAN);
    CREF_MUST(r, (s = decode(lab->entries[0].der, lab->entries[0].der_len)) != NULL && (copy = again(client)) != NULL);

    CREF_MUST(r, cref_link_open(&k, lab, lab->server, "server.test", copy));
    resumed = cref_link_run(&k) && cref_link_resumed(&k);
    cref_link_close(&k, CREF_CLEAN);
    cref_say(r, version == TLS1_3_VERSION ? "the client's 1.3" : "the client's 1.2", "ticket %s, resumed %s",
             cref_yes(SSL_SESSION_has_ticket(copy)), cref_yes(resumed));
    say_fields(r, s);
    if (version == TLS1_3_VERSION)
        say_more_fields(r, s, client);
    SSL_SESSION_free(s);
    SSL_SESSION_free(copy);
    SSL_SESSION_free(client);
    cref_lab_free(lab);
}

/* The server that resumes does not trust the client's certificate, and is never asked whether it does. */
static void peer(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_CTX *other;
    SSL_SESSION *client;
    cref_link k;
    int full, resumed, calls, result;

    CREF_MUST(r, lab != NULL && (other = cref_lab_server(lab)) != NULL);
    cref_lab_store(lab);
    cref_lab_store_on(lab, other);
    CREF_MUST(r, show_certificate(lab, lab->server, NULL) && show_certificate(lab, other, NULL) && trust(lab->server));
    CREF_MUST(r, connect_to(&k, lab, lab->server, NULL) && (client = SSL_get1_session(k.client)) != NULL);
    full = certificates(k.server);
    cref_link_close(&k, CREF_CLEAN);
    CREF_MUST(r, cref_link_open(&k, lab, other, NULL, client));
    resumed = cref_link_run(&k) && cref_link_resumed(&k);
    cref_say(r, version == TLS1_3_VERSION ? "certificates 1.3" : "certificates 1.2",
             "full %d, resumed where they are not trusted %s, then %d", full, cref_yes(resumed), certificates(k.server));
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(client);

    /* A certificate that verifies nowhere, and a verify callback that accepts it. */
    SSL_CTX_set_verify(other, SSL_VERIFY_PEER, accept_all);
    verified = 0;
    CREF_MUST(r, connect_to(&k, lab, other, NULL) && (client = SSL_get1_session(k.client)) != NULL);
    cref_link_close(&k, CREF_CLEAN);
    full = verified;
    verified = 0;
    CREF_MUST(r, connect_to(&k, lab, other, client) && cref_link_resumed(&k));
    calls = verified;
    result = (int)SSL_get_verify_result(k.server);
    cref_link_close(&k, CREF_CLEAN);
    cref_say(r, version == TLS1_3_VERSION ? "verify callback 1.3" : "verify callback 1.2",
             "in full handshakes %s, in resumed ones %s, the first one's result is back %s", cref_yes(full > 0),
             cref_yes(calls > 0), cref_yes(result == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT));
    SSL_SESSION_free(client);
    SSL_CTX_free(other);
    cref_lab_free(lab);
}

static unsigned int psk_client(SSL *ssl, const char *hint, char *identity, unsigned int max_identity, unsigned char *psk,
                               unsigned int max_psk)
{
    (void)ssl, (void)hint, (void)max_psk;
    OPENSSL_strlcpy(identity, "somebody", max_identity);
    memset(psk, 7, 16);
    return 16;
}

static unsigned int psk_server(SSL *ssl, const char *identity, unsigned char *psk, unsigned int max_psk)
{
    (void)ssl, (void)identity, (void)max_psk;
    memset(psk, 7, 16);
    return 16;
}

static void psk(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *client;
    cref_link k;
    const char *identity;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, SSL_CTX_set_cipher_list(lab->client, "PSK-AES128-GCM-SHA256")
                     && SSL_CTX_set_cipher_list(lab->server, "PSK-AES128-GCM-SHA256"));
    SSL_CTX_set_psk_client_callback(lab->client, psk_client);
    SSL_CTX_set_psk_server_callback(lab->server, psk_server);
    CREF_MUST(r, connect_to(&k, lab, lab->server, NULL) && (client = SSL_get1_session(k.client)) != NULL);
    cref_link_close(&k, CREF_CLEAN);
    CREF_MUST(r, connect_to(&k, lab, lab->server, client) && cref_link_resumed(&k));
    identity = SSL_get_psk_identity(k.server);
    cref_say(r, "PSK identity", "%s", identity == NULL ? "none" : identity);
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(client);
    cref_lab_free(lab);
}

#ifdef SSL_get_negotiated_group
static long group_of(SSL *ssl)
{
    return SSL_get_negotiated_group(ssl);
}
#else
static long group_of(SSL *ssl)
{
    (void)ssl;
    return 0;
}
#endif

static void group(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *client;
    cref_link k;
    long full, resumed;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, connect_to(&k, lab, lab->server, NULL) && (client = SSL_get1_session(k.client)) != NULL);
    full = group_of(k.server);
    cref_link_close(&k, CREF_CLEAN);
    CREF_MUST(r, connect_to(&k, lab, lab->server, client) && cref_link_resumed(&k));
    resumed = group_of(k.server);
    cref_say(r, "key-exchange group", full == 0 ? "no such call" : full == resumed ? "the same" : "another");
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(client);
    cref_lab_free(lab);
}

/* A client that proves itself with a key and no certificate. */
static int show_raw_key(cref_lab *lab)
{
    static const unsigned char type[] = {RAW_KEY};

    SSL_CTX_set_verify(lab->server, SSL_VERIFY_PEER, accept_all);
    return cref_use_certificate(lab->client) && SSL_CTX_set1_client_cert_type(lab->client, type, 1)
           && SSL_CTX_set1_client_cert_type(lab->server, type, 1);
}

static void raw_key(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_3_VERSION);
    SSL_SESSION *s;
    EVP_PKEY *key;
    int ok;

    CREF_MUST(r, lab != NULL);
    if (SSL_CTX_set1_client_cert_type == NULL) {
        cref_say(r, "raw public key", "no such call");
        cref_lab_free(lab);
        return;
    }
    cref_lab_store(lab);
    CREF_MUST(r, show_raw_key(lab) && cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    CREF_MUST(r, (s = decode(lab->entries[0].der, lab->entries[0].der_len)) != NULL);
    key = SSL_SESSION_get0_peer_rpk(s);
    cref_say(r, "raw public key", "%s",
             key == NULL                                                                           ? "none"
             : EVP_PKEY_eq(key, X509_get0_pubkey(SSL_CTX_get0_certificate(lab->client))) == 1 ? "the client's"
                                                                                                   : "another");
    SSL_SESSION_free(s);
    cref_lab_free(lab);
}

static void f7_1(cref_report *r)
{
    fields(r, TLS1_2_VERSION);
    fields(r, TLS1_3_VERSION);
    peer(r, TLS1_2_VERSION);
    peer(r, TLS1_3_VERSION);
    psk(r);
    group(r);
    raw_key(r);
}

/* ---- F7.2: size --------------------------------------------------------------- */

static void f7_2(cref_report *r)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    static unsigned char data[100000];

    for (int i = 0; i < 2; i++) {
        cref_lab *lab = cref_lab_new(versions[i]);
        int plain, more, ok, again_ok;

        CREF_MUST(r, lab != NULL);
        cref_lab_store(lab);
        CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
        CREF_MUST(r, show_certificate(lab, lab->server, NULL) && trust(lab->server)
                         && cref_visit(lab, lab->server, NULL, &again_ok, NULL, NULL) && again_ok);
        plain = lab->entries[0].der_len;
        more = lab->entries[1].der_len - plain - i2d_X509(SSL_CTX_get0_certificate(lab->client), NULL);
        cref_say(r, versions[i] == TLS1_2_VERSION ? "1.2" : "1.3",
                 "110 to 150 bytes %s, and the client's certificate and less than 10 bytes around it %s",
                 cref_yes(plain >= 110 && plain <= 150), cref_yes(more > 0 && more < 10));
        if (versions[i] == TLS1_3_VERSION) {
            SSL_SESSION *s = decode(lab->entries[0].der, lab->entries[0].der_len), *c;

            CREF_MUST(r, s != NULL && SSL_SESSION_set1_ticket_appdata(s, data, sizeof(data)) == 1);
            c = again(s);
            cref_say(r, "with 100000 bytes of application data", "read %s", cref_yes(c != NULL));
            SSL_SESSION_free(c);
            SSL_SESSION_free(s);
        }
        cref_lab_free(lab);
    }
}

/* ---- F7.3: between releases ---------------------------------------------------- */

/* Sessions that some release wrote: the server's, and where it can resume the client's of the same handshake. */
typedef struct kept {
    char *writer;
    unsigned char *server, *client;
    long server_len, client_len;
    struct kept *next;
} kept;

static kept *all_kept, **last_kept = &all_kept;

static unsigned char *copied(const unsigned char *p, size_t len)
{
    unsigned char *c = malloc(len + 1);

    if (c == NULL)
        abort();
    memcpy(c, p, len);
    c[len] = 0;
    return c;
}

/* Called before scenarios run, those of one writer in a row; the copies stay. client may be empty. */
void cref_keep_session(const char *writer, const unsigned char *server, size_t server_len, const unsigned char *client,
                       size_t client_len)
{
    kept *k = calloc(1, sizeof(*k));

    if (k == NULL)
        abort();
    k->writer = (char *)copied((const unsigned char *)writer, strlen(writer));
    k->server = copied(server, server_len);
    k->server_len = (long)server_len;
    k->client = copied(client, client_len);
    k->client_len = (long)client_len;
    *last_kept = k;
    last_kept = &k->next;
}

typedef struct reading {
    int sessions, read, same, longer, resumed, missed;
    const char *why; /* the first that was not read */
} reading;

/* Has a client offer a session at a server whose store has der for it; removes is to stay 0. */
static int offer(const unsigned char *der, long len, SSL_SESSION *server, SSL_SESSION *client, reading *n)
{
    cref_lab *lab = cref_lab_new(server == NULL ? TLS1_2_VERSION : SSL_SESSION_get_protocol_version(server));
    SSL_SESSION *own = NULL;
    int ok = 0, resumed = 0;

    if (lab == NULL)
        return 0;
    cref_lab_store(lab);
    if (server != NULL)
        cref_lab_put(lab, server);
    else /* no client here has that session: one offers its own, in whose place the store has this */
        cref_visit(lab, lab->server, NULL, NULL, NULL, &own);
    OPENSSL_free(lab->entries[0].der);
    lab->entries[0].der = OPENSSL_memdup(der, (size_t)len);
    lab->entries[0].der_len = (int)len;
    cref_lab_reset(lab);
    cref_visit(lab, lab->server, server != NULL ? client : own, &ok, &resumed, NULL);
    n->resumed += ok && resumed && lab->gets == 1;
    n->missed += ok && !resumed && lab->gets == 1 && lab->news == 1 && lab->removes == 0;
    SSL_SESSION_free(own);
    cref_lab_free(lab);
    return ok;
}

static void read_kept(cref_report *r, const kept *k, reading *n)
{
    SSL_SESSION *server, *client = NULL;
    unsigned char *der;
    int len;

    n->sessions++;
    ERR_clear_error();
    server = decode(k->server, k->server_len);
    if (server == NULL) {
        n->why = n->why != NULL ? n->why : reason(ERR_peek_last_error());
        ERR_clear_error();
        CREF_MUST(r, offer(k->server, k->server_len, NULL, NULL, n));
        return;
    }
    n->read++;
    der = encode(server, &len);
    n->same += der != NULL && len == k->server_len && memcmp(der, k->server, (size_t)len) == 0;
    n->longer += len == k->server_len + 5 || len == k->server_len + 6;
    OPENSSL_free(der);
    CREF_MUST(r, (client = decode(k->client, k->client_len)) != NULL);
    CREF_MUST(r, offer(k->server, k->server_len, server, client, n));
    SSL_SESSION_free(server);
    SSL_SESSION_free(client);
}

static void f7_3(cref_report *r)
{
    CREF_MUST(r, all_kept != NULL);
    for (const kept *k = all_kept; k != NULL;) {
        reading n = {0, 0, 0, 0, 0, 0, NULL};
        const char *writer = k->writer;

        for (; k != NULL && strcmp(k->writer, writer) == 0; k = k->next)
            read_kept(r, k, &n);
        cref_say(r, writer, "of %d read %d, the same bytes again %d, 5 or 6 bytes more %d, resumed %d, missed %d, error %s",
                 n.sessions, n.read, n.same, n.longer, n.resumed, n.missed, n.why == NULL ? "none" : n.why);
    }
}

static void say_hex(cref_report *r, const char *name, const unsigned char *der, int len)
{
    char *hex = malloc(2 * (size_t)len + 1);

    if (hex == NULL)
        abort();
    for (int i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", der[i]);
    cref_say(r, name, "%s", hex);
    free(hex);
}

/* One handshake to be kept, for tests of other releases. */
static void write_session(cref_report *r, const char *name, int version, int certificate, int key)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *client;
    unsigned char *der;
    int ok, len;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, (!certificate || show_certificate(lab, lab->server, accept_all)) && (!key || show_raw_key(lab)));
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &client) && ok && lab->news == 1);
    CREF_MUST(r, (der = encode(client, &len)) != NULL);
    say_hex(r, name, lab->entries[0].der, lab->entries[0].der_len);
    say_hex(r, name, der, len);
    OPENSSL_free(der);
    SSL_SESSION_free(client);
    cref_lab_free(lab);
}

/* Not a fact: what F7.3 needs of every release. The server's session and then the client's, as hexadecimal DER. */
static void write_sessions(cref_report *r)
{
    write_session(r, "TLS 1.2", TLS1_2_VERSION, 0, 0);
    write_session(r, "TLS 1.3", TLS1_3_VERSION, 0, 0);
    write_session(r, "TLS 1.2, client certificate", TLS1_2_VERSION, 1, 0);
    write_session(r, "TLS 1.3, client certificate", TLS1_3_VERSION, 1, 0);
    if (SSL_CTX_set1_client_cert_type != NULL)
        write_session(r, "TLS 1.3, raw public key", TLS1_3_VERSION, 0, 1);
}

/* ---- F7.4: the mark ------------------------------------------------------------ */

static void f7_4(cref_report *r)
{
    cref_lab *lab = cref_lab_new(TLS1_2_VERSION);
    SSL_SESSION *client, *s, *copy;
    cref_link k;
    int before, ok, resumed;

    CREF_MUST(r, lab != NULL);
    SSL_CTX_set_session_cache_mode(lab->server, SSL_SESS_CACHE_SERVER); /* for a mark it has to be in there */
    CREF_MUST(r, connect_to(&k, lab, lab->server, NULL) && (client = SSL_get1_session(k.client)) != NULL
                     && (s = SSL_get1_session(k.server)) != NULL);
    cref_link_close(&k, CREF_CLEAN);
    before = SSL_SESSION_is_resumable(s);
    CREF_MUST(r, SSL_CTX_remove_session(lab->server, s) == 1 && (copy = again(s)) != NULL);
    cref_say(r, "resumable", "made %s, removed %s, decoded %s", cref_yes(before), cref_yes(SSL_SESSION_is_resumable(s)),
             cref_yes(SSL_SESSION_is_resumable(copy)));

    cref_lab_store(lab);
    cref_lab_put(lab, s);
    CREF_MUST(r, cref_visit(lab, lab->server, client, &ok, &resumed, NULL) && ok);
    cref_say(r, "from a store", "get %d, resumed %s", lab->gets, cref_yes(resumed));
    SSL_SESSION_free(copy);
    SSL_SESSION_free(s);
    SSL_SESSION_free(client);
    cref_lab_free(lab);
}

/* ---- F7.5: times ---------------------------------------------------------------- */

static void f7_5(cref_report *r)
{
    SSL_SESSION *s = server_session(TLS1_2_VERSION), *c;
    long now = (long)time(NULL), made, huge;
    int negative;

    CREF_MUST(r, s != NULL);
    cref_session_set_time(s, 1000000000);
    CREF_MUST(r, SSL_SESSION_set_timeout(s, 0) == 1 && (c = again(s)) != NULL);
    cref_say(r, "lifetime 0", "comes back as %ld", (long)SSL_SESSION_get_timeout(c));
    SSL_SESSION_free(c);

    SSL_SESSION_set_timeout(s, 1234);
    cref_session_set_time(s, 0);
    CREF_MUST(r, (c = again(s)) != NULL);
    made = cref_session_time(c);
    cref_say(r, "time 0", "comes back as now %s", cref_yes(made >= now && made <= now + 60));
    SSL_SESSION_free(c);

    cref_session_set_time(s, now);
    SSL_SESSION_set_timeout(s, LONG_MAX);
    huge = (long)SSL_SESSION_get_timeout(s);
    CREF_MUST(r, (c = again(s)) != NULL);
    cref_say(r, "the longest lifetime", "set and read %ld, decoded %ld", huge, (long)SSL_SESSION_get_timeout(c));
    SSL_SESSION_free(c);

    SSL_SESSION_set_timeout(s, 20000000000);
    CREF_MUST(r, (c = again(s)) != NULL);
    cref_say(r, "634 years", "decoded %ld", (long)SSL_SESSION_get_timeout(c));
    SSL_SESSION_free(c);

    negative = SSL_SESSION_set_timeout(s, -1) == 1;
    cref_say(r, "negative lifetime", "accepted %s", cref_yes(negative));
    SSL_SESSION_free(s);
}

/* ---- F7.6: bad input ------------------------------------------------------------- */

typedef struct outcome {
    int tried, read, silent, moved;
} outcome;

/* Exactly len bytes, so that AddressSanitizer sees a read beyond. */
static void try_bytes(const unsigned char *der, size_t len, outcome *n)
{
    unsigned char *exact = malloc(len);
    const unsigned char *p = exact;
    SSL_SESSION *s;

    if (exact == NULL)
        abort();
    memcpy(exact, der, len);
    ERR_clear_error();
    s = d2i_SSL_SESSION(NULL, &p, (long)len);
    n->tried++;
    n->read += s != NULL;
    n->silent += s == NULL && ERR_peek_error() == 0;
    n->moved += s == NULL && p != exact;
    SSL_SESSION_free(s);
    ERR_clear_error();
    free(exact);
}

/* The two bytes of the cipher, which begin the first octet string. */
static unsigned char *cipher_in(unsigned char *der)
{
    while (der[0] != 4 || der[1] != 2)
        der++;
    return der + 2;
}

static void f7_6(cref_report *r)
{
    SSL_SESSION *s = server_session(TLS1_3_VERSION), *into, *blank;
    outcome cut = {0, 0, 0, 0}, changed = {0, 0, 0, 0}, unknown = {0, 0, 0, 0};
    unsigned char *der, *longer;
    const unsigned char *p;
    int len, before;

    CREF_MUST(r, s != NULL && (der = encode(s, &len)) != NULL && (longer = OPENSSL_zalloc((size_t)len + 7)) != NULL);
    for (int n = 1; n < len; n++)
        try_bytes(der, (size_t)n, &cut);
    cref_say(r, "cut anywhere", "read %d, without an error %d", cut.read, cut.silent);

    memcpy(longer, der, (size_t)len);
    p = longer;
    into = d2i_SSL_SESSION(NULL, &p, len + 7);
    cref_say(r, "7 bytes more", "read %s", cref_yes(into != NULL));
    cref_say(r, "the pointer", "%d bytes short of the end, on failure moved %s", (int)(longer + len + 7 - p),
             cref_yes(cut.moved > 0));

    for (int i = 0; i < len; i++)
        for (int value = 0; value < 256; value++) {
            unsigned char was = der[i];

            if (value == was)
                continue;
            der[i] = (unsigned char)value;
            try_bytes(der, (size_t)len, &changed);
            der[i] = was;
        }
    cref_say(r, "a byte changed", "65 to 80%% read %s",
             cref_yes(100 * changed.read >= 65 * changed.tried && 100 * changed.read <= 80 * changed.tried));

    memset(cipher_in(der), 0xff, 2);
    try_bytes(der, (size_t)len, &unknown);
    cref_say(r, "unknown cipher", "read %s", cref_yes(unknown.read));
    cref_say(r, "its error", "none queued %s", cref_yes(unknown.silent));

    /* Decoded over another session of TLS 1.2, the version is there and the rest is not. */
    SSL_SESSION_free(into);
    CREF_MUST(r, (into = server_session(TLS1_2_VERSION)) != NULL);
    before = SSL_SESSION_get_protocol_version(into);
    blank = into;
    p = der;
    CREF_MUST(r, d2i_SSL_SESSION(&blank, &p, len) == NULL);
    cref_say(r, "decoded over another", "on failure it stays whole %s",
             cref_yes(blank == into && SSL_SESSION_get_protocol_version(into) == before));
    SSL_SESSION_free(into);

    CREF_MUST(r, (blank = SSL_SESSION_new()) != NULL);
    ERR_clear_error();
    cref_say(r, "without a cipher", "written %s", cref_yes(i2d_SSL_SESSION(blank, NULL) > 0));
    cref_say(r, "that error", "none queued %s", cref_yes(ERR_peek_error() == 0));
    SSL_SESSION_free(blank);
    SSL_SESSION_free(s);
    OPENSSL_free(der);
    OPENSSL_free(longer);
}

/* ---- F7.7: fragment length --------------------------------------------------------- */

static void fragments(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    SSL_SESSION *client;
    cref_link k;
    int ok, resumed, server_first;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    CREF_MUST(r, SSL_CTX_set_tlsext_max_fragment_length(lab->client, TLSEXT_max_fragment_length_2048));
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, &client) && ok);
    CREF_MUST(r, cref_visit(lab, lab->server, client, &ok, &resumed, NULL));
    cref_say(r, version == TLS1_2_VERSION ? "asked for again 1.2" : "asked for again 1.3", "ok %s, resumed %s", cref_yes(ok),
             cref_yes(resumed));

    CREF_MUST(r, SSL_CTX_set_tlsext_max_fragment_length(lab->client, TLSEXT_max_fragment_length_DISABLED));
    CREF_MUST(r, cref_link_open(&k, lab, lab->server, NULL, client));
    ok = cref_link_run(&k);
    server_first = k.server_error != 0 && ERR_GET_REASON(k.server_error) < SSL_AD_REASON_OFFSET;
    cref_say(r, version == TLS1_2_VERSION ? "not asked for again 1.2" : "not asked for again 1.3",
             "ok %s, it ends at the %s with %s", cref_yes(ok), server_first ? "server" : "client",
             reason(server_first ? k.server_error : k.client_error));
    cref_link_close(&k, CREF_CLEAN);
    SSL_SESSION_free(client);
    cref_lab_free(lab);
}

static void f7_7(cref_report *r)
{
    fragments(r, TLS1_2_VERSION);
    fragments(r, TLS1_3_VERSION);
}

/* ---- F7.8: the secret ---------------------------------------------------------------- */

static void f7_8(cref_report *r)
{
    static const unsigned char secret[1024];
    SSL_SESSION *s = server_session(TLS1_3_VERSION), *c;
    int longest = sizeof(secret);

    CREF_MUST(r, s != NULL);
    while (longest > 0 && SSL_SESSION_set1_master_key(s, secret, (size_t)longest) != 1)
        longest--;
    CREF_MUST(r, (c = again(s)) != NULL);
    cref_say(r, "longest secret", "%d bytes", (int)SSL_SESSION_get_master_key(c, NULL, 0));
    SSL_SESSION_free(c);
    SSL_SESSION_free(s);
}

const cref_scenario cref_serial_facts[] = {
    {"F7.1", f7_1},
    {"F7.2", f7_2},
    {"F7.3", f7_3},
    {"F7.3 sessions", write_sessions},
    {"F7.4", f7_4},
    {"F7.5", f7_5},
    {"F7.6", f7_6},
    {"F7.7", f7_7},
    {"F7.8", f7_8},
    {NULL, NULL},
};
