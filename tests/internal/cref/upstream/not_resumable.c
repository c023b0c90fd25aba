/*
 * not_resumable.c: 1.1.1 resumes sessions that are marked not resumable.
 *
 * The defect. SSL_CTX_remove_session(), eviction, a fatal alert and an unclean end mark an SSL_SESSION not resumable;
 * SSL_SESSION_is_resumable() then says 0. The mark's effect on a session that a server finds by its id:
 *  - from get_session_cb: 3.0 and later treat the answer as none. 1.1.1 resumes it. So an external cache that keeps
 *    pointers, on 1.1.1, resumes what the server has given up, without a hint that another release will not;
 *  - from the internal cache: no release looks at the mark. It takes SSL_CTX_add_session() of a marked session to see.
 *  - for a TLS 1.3 ticket after the first one, OpenSSL duplicates the connection's session. The duplicate of a marked
 *    session should not be marked, or the cache grows without bound (CVE-2024-2511). The last public 1.1.1, 1.1.1w, does
 *    not have that fix (read, not run); distributions have ported it back.
 *
 * Seen with 1.1.1w as Debian ships it. 3.0.19, 3.5.9, 3.6.5 and 4.0.3 ignore the marked answer.
 *
 * Why. lookup_sess_in_cache(), ssl/ssl_sess.c, tests the mark of what the callback answered since 3.0 (line 549 of
 * 3.0.22). 1.1.1 has no such test, and the lookup in the internal cache has it nowhere.
 *
 * Suggested remedy. 1.1.1 is no longer maintained. A builder of it can test the mark after get_session_cb, give the
 * reference back where *copy was set to 0, and port the fix of CVE-2024-2511 along. For current releases: test the mark in
 * the internal lookup too. Or let SSL_CTX_sess_set_get_cb(3) say that a marked answer is ignored, and
 * SSL_CTX_add_session(3) that a marked session can be resumed again.
 *
 * Build and run: gcc not_resumable.c -lssl -lcrypto && ./a.out
 * Exit status: 0 where a marked answer is resumed, 1 where this OpenSSL ignores it, 2 for a failure of the program.
 */
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>

static SSL_SESSION *kept; /* the external cache */
static int mark_first, news, second_resumable;

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "failed: %s\n", what);
    exit(2);
}

/* A self-signed certificate for the server; the client verifies nothing. */
static void certify(SSL_CTX *ctx)
{
    EVP_PKEY_CTX *gen = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
    EVP_PKEY *key = NULL;
    X509 *cert = X509_new();

    must(gen != NULL && EVP_PKEY_keygen_init(gen) == 1
             && EVP_PKEY_CTX_set_ec_paramgen_curve_nid(gen, NID_X9_62_prime256v1) == 1
             && EVP_PKEY_keygen(gen, &key) == 1,
         "making a key");
    must(cert != NULL && ASN1_INTEGER_set(X509_get_serialNumber(cert), 1) == 1
             && X509_gmtime_adj(X509_getm_notBefore(cert), -60) != NULL
             && X509_gmtime_adj(X509_getm_notAfter(cert), 3600) != NULL && X509_set_pubkey(cert, key) == 1
             && X509_sign(cert, key, EVP_sha256()) > 0,
         "making a certificate");
    must(SSL_CTX_use_certificate(ctx, cert) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1, "using it");
    EVP_PKEY_CTX_free(gen);
    EVP_PKEY_free(key);
    X509_free(cert);
}

static SSL_CTX *context(const SSL_METHOD *method, int version)
{
    SSL_CTX *ctx = SSL_CTX_new(method);

    must(ctx != NULL && SSL_CTX_set_min_proto_version(ctx, version) == 1
             && SSL_CTX_set_max_proto_version(ctx, version) == 1,
         "a context");
    return ctx;
}

/* One connection over memory, closed politely. The session is the client's, the caller's to free. */
static SSL_SESSION *connect_once(SSL_CTX *client_ctx, SSL_CTX *server_ctx, SSL_SESSION *offer, int *resumed)
{
    SSL *client = SSL_new(client_ctx), *server = SSL_new(server_ctx);
    BIO *a = NULL, *b = NULL;
    SSL_SESSION *session;
    char c = 'x';

    must(client != NULL && server != NULL && BIO_new_bio_pair(&a, 1 << 16, &b, 1 << 16) == 1, "a connection");
    SSL_set_bio(client, a, a);
    SSL_set_bio(server, b, b);
    SSL_set_connect_state(client);
    SSL_set_accept_state(server);
    if (offer != NULL)
        must(SSL_set_session(client, offer) == 1, "offering a session");
    for (int i = 0; i < 10; i++) {
        SSL_do_handshake(client);
        SSL_do_handshake(server);
    }
    must(SSL_is_init_finished(client) && SSL_is_init_finished(server), "a handshake");
    must(SSL_write(server, &c, 1) == 1 && SSL_read(client, &c, 1) == 1, "a byte, and the tickets before it");
    if (resumed != NULL)
        *resumed = SSL_session_reused(server);
    session = SSL_get1_session(client);
    SSL_shutdown(client);
    SSL_shutdown(server);
    SSL_free(client);
    SSL_free(server);
    return session;
}

static int new_cb(SSL *ssl, SSL_SESSION *s)
{
    news++;
    if (mark_first) {
        if (news == 1)
            SSL_CTX_remove_session(SSL_get_SSL_CTX(ssl), s);
        else
            second_resumable = SSL_SESSION_is_resumable(s);
        return 0;
    }
    if (kept != NULL)
        return 0;
    kept = s;
    return 1; /* the reference is ours */
}

static SSL_SESSION *get_cb(SSL *ssl, const unsigned char *id, int len, int *copy)
{
    (void)ssl, (void)id, (void)len;
    *copy = 1;
    return kept;
}

static SSL_CTX *server_context(int version, long mode)
{
    SSL_CTX *ctx = context(TLS_server_method(), version);

    certify(ctx);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"test", 4);
    SSL_CTX_set_session_cache_mode(ctx, mode);
    SSL_CTX_sess_set_new_cb(ctx, new_cb);
    return ctx;
}

static const char *yes(int b)
{
    return b ? "yes" : "no";
}

int main(void)
{
    SSL_CTX *client = context(TLS_client_method(), TLS1_2_VERSION);
    SSL_CTX *external = server_context(TLS1_2_VERSION, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX *internal = server_context(TLS1_2_VERSION, SSL_SESS_CACHE_SERVER);
    SSL_CTX *client13 = context(TLS_client_method(), TLS1_3_VERSION);
    SSL_CTX *server13 = server_context(TLS1_3_VERSION, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_SESSION *offer, *later;
    int before, answered, cached;

    printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
    SSL_CTX_sess_set_get_cb(external, get_cb);
    offer = connect_once(client, external, NULL, NULL);
    must(kept != NULL, "new_session_cb");
    later = connect_once(client, external, offer, &before);
    SSL_SESSION_free(later);
    must(before, "resuming before the mark");
    SSL_CTX_remove_session(external, kept);
    must(!SSL_SESSION_is_resumable(kept), "marking it");
    later = connect_once(client, external, offer, &answered);
    SSL_SESSION_free(later);
    printf("answered by get_session_cb, marked not resumable: resumed %s\n", yes(answered));

    SSL_CTX_add_session(internal, kept);
    later = connect_once(client, internal, offer, &cached);
    SSL_SESSION_free(later);
    printf("in the internal cache, marked not resumable: resumed %s\n", yes(cached));
    SSL_SESSION_free(offer);

    mark_first = 1;
    news = 0;
    must(SSL_CTX_set_num_tickets(server13, 2) == 1, "two tickets");
    SSL_SESSION_free(connect_once(client13, server13, NULL, NULL));
    must(news == 2, "two tickets");
    printf("the second ticket's session, after the first one's was marked: resumable %s\n", yes(second_resumable));

    SSL_SESSION_free(kept);
    SSL_CTX_free(client);
    SSL_CTX_free(external);
    SSL_CTX_free(internal);
    SSL_CTX_free(client13);
    SSL_CTX_free(server13);
    return answered ? 0 : 1;
}
