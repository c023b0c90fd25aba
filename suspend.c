/*
 * suspend.c: the ClientHello hook. It shows Go the hello; Go may park the
 * handshake, look a session up with no thread held, and step again.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/crypto.h>
#include <openssl/tls1.h>

/* ---- guests: SSLs that C made and the store layer deals with ---------------- */

static int scb_guest_idx = -1;

typedef struct scb_guest {
    uint64_t handle;
} scb_guest;

static void scb_guest_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_guest *g = ptr;
    int reused = 1; /* where nobody can tell: what was taken is spent */

    (void)ad, (void)idx, (void)argl, (void)argp;
    if (g == NULL || scb_in_fork())
        return;
#ifdef SCB_HAVE_QUIC
    if (!SSL_is_quic(parent)) /* of those the connection has gone by now */
#endif
        reused = SSL_session_reused(parent) || SSL_in_before(parent); /* SSL_clear forgets that it resumed */
    scbGoGuestGone(g->handle, reused);
    OPENSSL_free(g);
}

/* SSL_dup makes another connection. */
static int scb_guest_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx, long argl,
                            void *argp)
{
    (void)to, (void)from, (void)idx, (void)argl, (void)argp;
    *(void **)from_d = NULL;
    return 1;
}

int scb_guests_init(void)
{
    scb_guest_idx = SSL_get_ex_new_index(0, NULL, NULL, scb_guest_dup_cb, scb_guest_free_cb);
    return scb_guest_idx > 0;
}

uint64_t scb_ssl_guest(SSL *ssl)
{
    scb_guest *g = SSL_get_ex_data(ssl, scb_guest_idx);

    return g == NULL ? 0 : g->handle;
}

int scb_ssl_set_guest(SSL *ssl, uint64_t handle)
{
    scb_guest *g = OPENSSL_malloc(sizeof(*g));

    if (g != NULL) {
        g->handle = handle;
        if (SSL_set_ex_data(ssl, scb_guest_idx, g))
            return SCB_OK;
        OPENSSL_free(g);
    }
    scb_clear_errs();
    return SCB_FAIL;
}

/* ---- the hook -------------------------------------------------------------- */

int scb_client_hello_cb(SSL *ssl, int *alert, void *arg)
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
    h.guest = scb_ssl_guest(ssl);
    h.first = SSL_get_pending_cipher(ssl) == NULL; /* an earlier hello has chosen one; SSL_clear forgets it */
    if (scbGoClientHello(scb_ssl_ctx_handle(ssl), scb_ssl_conn_handle(ssl), ssl, &h) == SCB_HELLO_PARK)
        return SSL_CLIENT_HELLO_RETRY;
    return SSL_CLIENT_HELLO_SUCCESS;
}
