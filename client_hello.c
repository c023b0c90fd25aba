/*
 * client_hello.c: the ClientHello hook, the switch to the SSL_CTX of a server
 * name, and attached SSLs. The hook shows the hello to Go, which may park the
 * handshake, look a session up without holding a thread, and step again.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/crypto.h>
#include <openssl/tls1.h>

/* ---- attached SSLs ------------------------------------------------------- */

static int scb_attached_idx = -1;

typedef struct scb_attached {
    uint64_t handle;
} scb_attached;

static void scb_attached_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_attached *a = ptr;
    int reused = 1; /* if unknown: an entry that was taken from the store is spent */

    (void)ad, (void)idx, (void)argl, (void)argp;
    if (a == NULL || scb_in_fork())
        return;
#ifdef SCB_HAVE_QUIC
    if (!SSL_is_quic(parent)) /* a QUIC connection is gone by now */
#endif
        reused = SSL_session_reused(parent) || SSL_in_before(parent); /* SSL_clear forgets that it resumed */
    scbGoAttachedGone(a->handle, reused);
    OPENSSL_free(a);
}

/* SSL_dup makes another connection: it starts without a handle. */
static int scb_attached_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx,
                               long argl, void *argp)
{
    (void)to, (void)from, (void)idx, (void)argl, (void)argp;
    *(void **)from_d = NULL;
    return 1;
}

int scb_attached_init(void)
{
    scb_attached_idx = SSL_get_ex_new_index(0, NULL, NULL, scb_attached_dup_cb, scb_attached_free_cb);
    return scb_attached_idx > 0;
}

uint64_t scb_ssl_attached(SSL *ssl)
{
    scb_attached *a = SSL_get_ex_data(ssl, scb_attached_idx);

    return a == NULL ? 0 : a->handle;
}

int scb_ssl_set_attached(SSL *ssl, uint64_t attached_handle)
{
    scb_attached *a = OPENSSL_malloc(sizeof(*a));

    if (a != NULL) {
        a->handle = attached_handle;
        if (SSL_set_ex_data(ssl, scb_attached_idx, a))
            return SCB_OK;
        OPENSSL_free(a);
    }
    scb_clear_errs();
    return SCB_FAIL;
}

/* ---- the hook ------------------------------------------------------------ */

static int scb_client_hello_cb(SSL *ssl, int *alert, void *arg)
{
    scb_hello h;
    long max = SSL_get_max_proto_version(ssl);
    uint64_t options = SSL_get_options(ssl);

    (void)alert, (void)arg;
    if (!scb_may_call_go())
        return SSL_CLIENT_HELLO_SUCCESS;
    memset(&h, 0, sizeof(h));
    h.random_len = SSL_client_hello_get0_random(ssl, &h.random);
    h.session_id_len = SSL_client_hello_get0_session_id(ssl, &h.session_id);
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &h.server_name, &h.server_name_len))
        h.server_name = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &h.versions, &h.versions_len))
        h.versions = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &h.psk, &h.psk_len))
        h.psk = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_session_ticket, &h.ticket, &h.ticket_len))
        h.ticket = NULL;
    h.tls13 = (max == 0 || max >= TLS1_3_VERSION) && !(options & SSL_OP_NO_TLSv1_3);
    h.tickets = !(options & SSL_OP_NO_TICKET);
    h.first = SSL_get_pending_cipher(ssl) == NULL; /* an earlier hello sets it; SSL_clear resets it */
    if (scbGoClientHello(scb_ssl_ctx_handle(ssl), scb_ssl_conn_handle(ssl), ssl, &h) == SCB_HELLO_PARK)
        return SSL_CLIENT_HELLO_RETRY;
    return SSL_CLIENT_HELLO_SUCCESS;
}

/* Go deals with the name at the ClientHello. This callback makes OpenSSL confirm
 * the name to the client and note it in the session, from which a resumed TLS 1.2
 * connection has its name. */
static int scb_servername_cb(SSL *ssl, int *alert, void *arg)
{
    (void)ssl, (void)alert, (void)arg;
    return SSL_TLSEXT_ERR_OK;
}

void scb_ctx_hook_hello(SSL_CTX *ctx, int names)
{
    SSL_CTX_set_client_hello_cb(ctx, scb_client_hello_cb, NULL);
    if (names) /* else C may have a callback of its own there, and OpenSSL has no getter */
        scb_ctx_hook_names(ctx);
}

void scb_ctx_hook_names(SSL_CTX *ctx)
{
    SSL_CTX_set_tlsext_servername_callback(ctx, scb_servername_cb);
}

/* ---- the switch ---------------------------------------------------------- */

static int scb_verify_cb(int ok, X509_STORE_CTX *chain)
{
    (void)chain;
    return ok;
}

/* SSL_set_SSL_CTX carries the certificates over, but not the policy on client
 * certificates. SSL_set_verify ignores a NULL callback and would leave the one
 * of the former context. */
void scb_ssl_switch(SSL *ssl, SSL_CTX *ctx)
{
    SSL_verify_cb verify = SSL_CTX_get_verify_callback(ctx);

    SSL_set_SSL_CTX(ssl, ctx);
    SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ctx), verify != NULL ? verify : scb_verify_cb);
    SSL_set_verify_depth(ssl, SSL_CTX_get_verify_depth(ctx));
    scb_clear_errs();
}

int scb_ssl_set_id_context(SSL *ssl, const unsigned char *sid, unsigned int len)
{
    return SSL_set_session_id_context(ssl, sid, len);
}
