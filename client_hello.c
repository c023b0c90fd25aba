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

static int scb_asks(SSL *ssl)
{
    scb_ctx *c = scb_ctx_of_ssl(ssl);

    return c == NULL ? 0 : __atomic_load_n(&c->asks, __ATOMIC_RELAXED);
}

/* A handshake whose SSL_CTX or certificate a handler chooses must not go on
 * without it. */
static int scb_unasked(SSL *ssl, int *alert)
{
    *alert = SSL_AD_INTERNAL_ERROR;
    return scb_asks(ssl) & (SCB_ASKS_NAME | SCB_ASKS_CERT) ? SSL_CLIENT_HELLO_ERROR : SSL_CLIENT_HELLO_SUCCESS;
}

/* Answers 0, or the alert with which the handshake has to end: what the first
 * ClientHello was judged by holds for the second. */
static int scb_see_name(SSL *ssl, scb_hello *h)
{
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &h->server_name, &h->server_name_len)) {
        h->server_name = NULL;
        h->server_name_len = 0;
    }
    h->first = SSL_get_pending_cipher(ssl) == NULL; /* an earlier hello sets it; SSL_clear resets it */
    h->judged = !h->first && scb_name_of(ssl) != NULL;
    if (h->first)
        scb_origin_forget(ssl);
    if (!h->judged)
        return scb_name_note(ssl, h->server_name, h->server_name_len);
    return scb_name_holds(ssl, h->server_name, h->server_name_len) ? 0 : SSL_AD_ILLEGAL_PARAMETER;
}

static int scb_client_hello_cb(SSL *ssl, int *alert, void *arg)
{
    scb_hello h;
    long max = SSL_get_max_proto_version(ssl);
    uint64_t options = SSL_get_options(ssl);
    scb_conn *c = scb_stepping_conn(ssl);
    int ret, bare;

    (void)arg;
    memset(&h, 0, sizeof(h));
    if ((*alert = scb_see_name(ssl, &h)) != 0)
        return SSL_CLIENT_HELLO_ERROR;
    if (c != NULL && c->by_thread && (c->signs || scb_asks(ssl) & SCB_ASKS_USER)) {
        c->unseen = 1; /* Go takes the connection over, and the hook sees the ClientHello again */
        return SSL_CLIENT_HELLO_RETRY;
    }
    if (!(scb_asks(ssl) & SCB_ASKS_HELLO))
        return SSL_CLIENT_HELLO_SUCCESS;
    if (!scb_may_call_go())
        return scb_unasked(ssl, alert);
    h.random_len = SSL_client_hello_get0_random(ssl, &h.random);
    h.session_id_len = SSL_client_hello_get0_session_id(ssl, &h.session_id);
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &h.versions, &h.versions_len))
        h.versions = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &h.psk, &h.psk_len))
        h.psk = NULL;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_session_ticket, &h.ticket, &h.ticket_len))
        h.ticket = NULL;
    h.tls13 = (max == 0 || max >= TLS1_3_VERSION) && !(options & SSL_OP_NO_TLSv1_3);
    h.tickets = !(options & SSL_OP_NO_TICKET);
    h.switched = SSL_get_SSL_CTX(ssl) != scb_ssl_origin(ssl);
    bare = c != NULL && c->handle == 0;
    ret = scbGoClientHello(scb_ssl_ctx_handle(ssl), c, ssl, &h);
    if (bare)
        scb_conn_seen(c);
    if (ret == SCB_HELLO_UNSEEN)
        return scb_unasked(ssl, alert);
    if (ret < 0)
        *alert = -ret;
    return ret < 0 ? SSL_CLIENT_HELLO_ERROR : ret == SCB_HELLO_PARK ? SSL_CLIENT_HELLO_RETRY : SSL_CLIENT_HELLO_SUCCESS;
}

/*
 * The hook deals with the name. In a full handshake this callback makes OpenSSL
 * confirm the name to the client and note it in the session. It also sees the
 * second ClientHello where the SSL_CTX that was chosen for the first has no hook.
 */
static int scb_servername_cb(SSL *ssl, int *alert, void *arg)
{
    const char *judged = scb_name_of(ssl), *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    int resumed = SSL_session_reused(ssl);

    (void)arg;
    /* In a resumption of TLS 1.2 name is the session's. */
    if (judged != NULL && !(resumed && SSL_version(ssl) < TLS1_3_VERSION) && strcmp(judged, name == NULL ? "" : name) != 0) {
        *alert = SSL_AD_ILLEGAL_PARAMETER;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    return resumed ? SSL_TLSEXT_ERR_NOACK : SSL_TLSEXT_ERR_OK; /* RFC 6066, section 3 */
}

void scb_ctx_hook_hello(SSL_CTX *ctx, int names)
{
    SSL_CTX_set_client_hello_cb(ctx, scb_client_hello_cb, NULL);
    if (names) /* else C may have a callback of its own there, and OpenSSL has no getter */
        SSL_CTX_set_tlsext_servername_callback(ctx, scb_servername_cb);
}

void scb_ctx_set_asks(SSL_CTX *ctx, int what, int on)
{
    int *asks = &scb_ctx_of(ctx)->asks;

    if (on)
        __atomic_or_fetch(asks, what, __ATOMIC_RELAXED);
    else
        __atomic_and_fetch(asks, ~what, __ATOMIC_RELAXED);
}

/* ---- what a ClientHello asks of a session -------------------------------- */

static int scb_offers_cipher(SSL *ssl, uint16_t id)
{
    unsigned char *list; /* OpenSSL has used up that of SSL_client_hello_get0_ciphers */
    long len = (long)SSL_get0_raw_cipherlist(ssl, &list);

    for (long i = 0; i + 1 < len; i += 2)
        if (list[i] == id >> 8 && list[i + 1] == (id & 0xff))
            return 1;
    return 0;
}

int scb_hello_fits(SSL *ssl, const SSL_SESSION *s)
{
    const SSL_CIPHER *cipher = SSL_SESSION_get0_cipher(s);
    int fragments = SSL_SESSION_get_max_fragment_length(s), wanted = 0;
    const unsigned char *ext;
    size_t len;

    if (SSL_SESSION_get_protocol_version(s) < TLS1_3_VERSION
        && (cipher == NULL || !scb_offers_cipher(ssl, SSL_CIPHER_get_protocol_id(cipher))))
        return 0;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_max_fragment_length, &ext, &len) && len == 1)
        wanted = ext[0];
    if (fragments > TLSEXT_max_fragment_length_4096)
        fragments = TLSEXT_max_fragment_length_DISABLED; /* not negotiated */
    return fragments == wanted;
}

/* ---- the switch ---------------------------------------------------------- */

/* SSL_set_SSL_CTX carries the certificates and the verify store over, but not the
 * policy on client certificates. The parameters become those that an SSL made with
 * ctx has: nothing of the former context's is left. SSL_set_verify ignores a NULL
 * callback and would leave the one of the former context. */
int scb_ssl_switch(SSL *ssl, SSL_CTX *ctx, const unsigned char *sid, unsigned int sid_len)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    uint32_t inherits = X509_VERIFY_PARAM_get_inh_flags(param);
    int ok;

    ok = SSL_set_SSL_CTX(ssl, ctx) == ctx && scb_ssl_use_set(ssl, ctx) && scb_ctx_serve(ctx, ssl);
    X509_VERIFY_PARAM_set_inh_flags(param, X509_VP_FLAG_OVERWRITE | X509_VP_FLAG_RESET_FLAGS);
    ok = ok && X509_VERIFY_PARAM_inherit(param, SSL_CTX_get0_param(ctx));
    X509_VERIFY_PARAM_set_inh_flags(param, inherits);
    scb_ssl_set_verify(ssl, SSL_CTX_get_verify_mode(ctx), SSL_CTX_get_verify_callback(ctx));
    ok = ok && SSL_set_session_id_context(ssl, sid, sid_len);
    scb_clear_errs();
    return ok ? SCB_OK : SCB_FAIL;
}
