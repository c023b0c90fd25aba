/* pair.c: SSLs that C makes, both ends of a connection in memory. */
#include "cref.h"

#include <openssl/async.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

SSL_CTX *cref_ctx_new(int client)
{
    return SSL_CTX_new(client ? TLS_client_method() : TLS_server_method());
}

SSL_CTX *cref_ctx_new_dtls(void)
{
    return SSL_CTX_new(DTLS_server_method());
}

void cref_ctx_free(SSL_CTX *ctx)
{
    SSL_CTX_free(ctx);
}

void cref_flush(SSL_CTX *ctx)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* from 3.4 on, for the sake of times after 2106 */
    SSL_CTX_flush_sessions(ctx, 0);
#pragma GCC diagnostic pop
}

static int sni_cb(SSL *ssl, int *alert, void *to)
{
    (void)alert;
    return SSL_set_SSL_CTX(ssl, to) == NULL ? SSL_TLSEXT_ERR_ALERT_FATAL : SSL_TLSEXT_ERR_OK;
}

void cref_sni_switch(SSL_CTX *ctx, SSL_CTX *to)
{
    SSL_CTX_set_tlsext_servername_callback(ctx, sni_cb);
    SSL_CTX_set_tlsext_servername_arg(ctx, to);
}

static int hello_cb(SSL *ssl, int *alert, void *to)
{
    (void)alert;
    return SSL_set_SSL_CTX(ssl, to) == NULL ? SSL_CLIENT_HELLO_ERROR : SSL_CLIENT_HELLO_SUCCESS;
}

void cref_sni_switch_in_hello(SSL_CTX *ctx, SSL_CTX *to)
{
    SSL_CTX_set_client_hello_cb(ctx, hello_cb, to);
}

static SSL_TICKET_RETURN renew_cb(SSL *ssl, SSL_SESSION *s, const unsigned char *name, size_t len,
                                  SSL_TICKET_STATUS status, void *arg)
{
    (void)ssl, (void)s, (void)name, (void)len, (void)arg;
    return status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW ? SSL_TICKET_RETURN_USE_RENEW
                                                                              : SSL_TICKET_RETURN_IGNORE_RENEW;
}

/* A server that issues a new ticket for each one it accepts. */
void cref_renew_tickets(SSL_CTX *ctx)
{
    SSL_CTX_set_session_ticket_cb(ctx, NULL, renew_cb, NULL);
}

/* Clients of ctx ask for fragments of 2^(8 + n) bytes at most, or of any size for 0. */
int cref_ask_for_fragments(SSL_CTX *ctx, int n)
{
    return SSL_CTX_set_tlsext_max_fragment_length(ctx, (uint8_t)n);
}

static long names_confirmed;

static int has_name(const unsigned char *p, const unsigned char *end)
{
    if (end - p < 2)
        return 0;
    for (p += 2; end - p >= 4; p += 4 + (p[2] << 8 | p[3]))
        if (p[0] == 0 && p[1] == TLSEXT_TYPE_server_name)
            return 1;
    return 0;
}

static void names_cb(int write_p, int version, int type, const void *buf, size_t len, SSL *ssl, void *arg)
{
    const unsigned char *p = buf, *end = p + len;

    (void)version, (void)ssl, (void)arg;
    if (write_p || type != SSL3_RT_HANDSHAKE || len < 4)
        return;
    if (p[0] == SSL3_MT_ENCRYPTED_EXTENSIONS)
        names_confirmed += has_name(p + 4, end);
    else if (p[0] == SSL3_MT_SERVER_HELLO && len > 38 && (size_t)(42 + p[38]) <= len)
        names_confirmed += has_name(p + 42 + p[38], end);
}

/* Counts the servers that confirm the name of a client of ctx. */
void cref_watch_names(SSL_CTX *ctx)
{
    names_confirmed = 0;
    SSL_CTX_set_msg_callback(ctx, names_cb);
}

long cref_names_confirmed(void)
{
    return names_confirmed;
}

int cref_set_early_data(SSL_CTX *ctx, uint32_t max)
{
    return SSL_CTX_set_max_early_data(ctx, max);
}

void cref_ctx_set_async(SSL_CTX *ctx)
{
    SSL_CTX_set_mode(ctx, SSL_MODE_ASYNC);
}

int cref_in_async_job(void)
{
    return ASYNC_get_current_job() != NULL;
}

cref_pair *cref_pair_new(SSL_CTX *client, SSL_CTX *server, const char *name, SSL_SESSION *offer)
{
    cref_pair *p = OPENSSL_zalloc(sizeof(*p));
    BIO *cb = NULL, *sb = NULL;

    if (p == NULL)
        return NULL;
    p->client = SSL_new(client);
    p->server = SSL_new(server);
    if (p->client == NULL || p->server == NULL || !BIO_new_bio_pair(&cb, 1 << 16, &sb, 1 << 16)) {
        cref_pair_free(p, 1);
        return NULL;
    }
    SSL_set_bio(p->client, cb, cb);
    SSL_set_bio(p->server, sb, sb);
    SSL_set_connect_state(p->client);
    SSL_set_accept_state(p->server);
    if ((name != NULL && !SSL_set_tlsext_host_name(p->client, name))
        || (offer != NULL && !SSL_set_session(p->client, offer))) {
        cref_pair_free(p, 1);
        return NULL;
    }
    return p;
}

static int again(SSL *ssl, int ret)
{
    int e = SSL_get_error(ssl, ret);

    return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE;
}

/* One byte from one end to the other, which also brings tickets. */
static int move(SSL *from, SSL *to)
{
    char c = 'x';
    int n;

    if (SSL_write(from, &c, 1) != 1)
        return 0;
    while ((n = SSL_read(to, &c, 1)) != 1)
        if (!again(to, n))
            return 0;
    return 1;
}

/* Handshakes, and moves a byte each way. */
int cref_pair_run(cref_pair *p)
{
    int c = 0, s = 0;

    ERR_clear_error();
    for (int turn = 0; turn < 20 && (c != 1 || s != 1); turn++) {
        if (c != 1 && (c = SSL_do_handshake(p->client)) != 1 && !again(p->client, c))
            return 0;
        if (s != 1 && (s = SSL_do_handshake(p->server)) != 1 && !again(p->server, s))
            return 0;
    }
    return c == 1 && s == 1 && move(p->client, p->server) && move(p->server, p->client);
}

/* The handshake as far as it goes without waiting: 1 done, 2 the server is parked in its ClientHello callback, 0 failed. */
int cref_pair_step(cref_pair *p)
{
    int c = 0, s = 0;

    ERR_clear_error();
    for (int turn = 0; turn < 20 && (c != 1 || s != 1); turn++) {
        if (c != 1 && (c = SSL_do_handshake(p->client)) != 1 && !again(p->client, c))
            return 0;
        if (s != 1 && (s = SSL_do_handshake(p->server)) != 1) {
            if (SSL_get_error(p->server, s) == SSL_ERROR_WANT_CLIENT_HELLO_CB)
                return 2;
            if (!again(p->server, s))
                return 0;
        }
    }
    return c == 1 && s == 1;
}

/* Another client for the same server SSL, which is cleared. */
int cref_pair_clear(cref_pair *p, SSL_CTX *client, SSL_SESSION *offer)
{
    BIO *cb = NULL, *sb = NULL;

    SSL_shutdown(p->server);
    SSL_free(p->client);
    p->client = SSL_new(client);
    if (p->client == NULL || !SSL_clear(p->server) || !BIO_new_bio_pair(&cb, 1 << 16, &sb, 1 << 16))
        return 0;
    SSL_set_bio(p->client, cb, cb);
    SSL_set_bio(p->server, sb, sb);
    SSL_set_connect_state(p->client);
    SSL_set_accept_state(p->server);
    return offer == NULL || SSL_set_session(p->client, offer);
}

static void *run(void *p)
{
    return cref_pair_run(p) ? p : NULL;
}

/* The same, on a thread that Go has never seen. */
int cref_pair_run_on_thread(cref_pair *p)
{
    pthread_t t;
    void *ret = NULL;

    if (pthread_create(&t, NULL, run, p) != 0)
        return 0;
    pthread_join(t, &ret);
    return ret != NULL;
}

/* A second handshake of TLS 1.2, which the server asks for. */
int cref_pair_renegotiate(cref_pair *p)
{
    char c;

    if (SSL_renegotiate(p->server) != 1 || SSL_do_handshake(p->server) != 1)
        return 0;
    for (int turn = 0; turn < 20 && SSL_renegotiate_pending(p->server); turn++) {
        SSL_read(p->client, &c, 1);
        SSL_read(p->server, &c, 1);
    }
    ERR_clear_error();
    return SSL_num_renegotiations(p->server) == 1 && !SSL_renegotiate_pending(p->server);
}

int cref_pair_reused(cref_pair *p)
{
    return SSL_session_reused(p->client) && SSL_session_reused(p->server);
}

SSL_SESSION *cref_pair_session(cref_pair *p)
{
    return SSL_get1_session(p->client);
}

void cref_pair_free(cref_pair *p, int clean)
{
    if (p->client != NULL)
        SSL_shutdown(p->client);
    if (p->server != NULL && clean)
        SSL_shutdown(p->server);
    SSL_free(p->client);
    SSL_free(p->server);
    OPENSSL_free(p);
    ERR_clear_error();
}

/* A server's handshake on a blocking socket, and nothing after it. */
int cref_ssl_id_context(SSL *ssl, const char *sid)
{
    return SSL_set_session_id_context(ssl, (const unsigned char *)sid, (unsigned int)strlen(sid));
}

int cref_ctx_id_context(SSL_CTX *ctx, const char *sid)
{
    return SSL_CTX_set_session_id_context(ctx, (const unsigned char *)sid, (unsigned int)strlen(sid));
}

int cref_accept(SSL_CTX *ctx, int fd)
{
    SSL *ssl = SSL_new(ctx);
    int ok = ssl != NULL && SSL_set_fd(ssl, fd) && SSL_accept(ssl) == 1;

    SSL_free(ssl);
    ERR_clear_error();
    return ok;
}
