/*
 * new_returns_zero.c: new_session_cb that returns 0 does not remove the session.
 *
 * The defect. SSL_CTX_sess_set_new_cb(3) says that a session is removed from the internal cache at once if the callback
 * returns 0. It is not: it stays cached, remove_session_cb is not called, and the client resumes it. The return value says
 * only whose the reference is that OpenSSL took for the call: with 0 OpenSSL gives it back, with anything else it is the
 * application's. Two mistakes follow from the sentence: a callback that returns 0 in order to refuse a session has
 * refused nothing; and a callback that returns 1 in order to keep the session in the cache, without keeping the pointer,
 * leaks every session.
 *
 * Seen with 1.1.1w, 3.0.19, 3.5.9, 3.6.5 and 4.0.3.
 *
 * Why. ssl_update_cache(), ssl/ssl_lib.c (line 3764 of 3.0.22, 4973 of 4.0.2): the session is inserted first; the reference
 * is taken, the callback called, and on 0 the reference freed. No code removes the session.
 *
 * Suggested remedy. Change the manual page, not the code: callbacks that store bytes return 0 and count on the session to
 * stay cached. Proposed wording,
 * for the paragraph about new_session_cb():
 *
 *     The callback is passed a reference to the session. If it returns a value other than 0 the application owns that
 *     reference and must release it with SSL_SESSION_free() when the session is no longer needed. If it returns 0
 *     OpenSSL releases the reference; a callback that stores the result of i2d_SSL_SESSION() and does not keep the
 *     pointer returns 0. The return value does not affect the internal session cache, nor whether the session can be
 *     resumed. To prevent both, the callback can call SSL_CTX_remove_session(), which also calls remove_session_cb().
 *
 * Build and run: gcc new_returns_zero.c -lssl -lcrypto && ./a.out
 * Exit status: 0 where the session stays and is resumed, 1 where this OpenSSL removes it, 2 for a failure of the program.
 */
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>

static int news, removes;

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
    (void)ssl, (void)s;
    news++;
    return 0;
}

static void remove_cb(SSL_CTX *ctx, SSL_SESSION *s)
{
    (void)ctx, (void)s;
    removes++;
}

int main(void)
{
    SSL_CTX *client = context(TLS_client_method(), TLS1_2_VERSION);
    SSL_CTX *server = context(TLS_server_method(), TLS1_2_VERSION);
    SSL_SESSION *offer;
    long cached;
    int resumed, shown;

    printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
    certify(server);
    SSL_CTX_set_options(server, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_id_context(server, (const unsigned char *)"test", 4);
    SSL_CTX_set_session_cache_mode(server, SSL_SESS_CACHE_SERVER);
    SSL_CTX_sess_set_new_cb(server, new_cb);
    SSL_CTX_sess_set_remove_cb(server, remove_cb);
    offer = connect_once(client, server, NULL, NULL);
    must(news == 1, "new_session_cb");
    cached = SSL_CTX_sess_number(server);
    printf("new_session_cb returned 0: sessions cached %ld, calls of remove_session_cb %d\n", cached, removes);
    SSL_SESSION_free(connect_once(client, server, offer, &resumed));
    printf("the client comes back: resumed %s\n", resumed ? "yes" : "no");
    shown = cached == 1 && removes == 0 && resumed;
    SSL_SESSION_free(offer);
    SSL_CTX_free(client);
    SSL_CTX_free(server);
    return shown ? 0 : 1;
}
