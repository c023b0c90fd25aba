/*
 * suspend.c: the ClientHello hook. It shows Go the hello; Go may park the
 * handshake, look a session up with no thread held, and step again.
 */
#include "bridge.h"
#include "_cgo_export.h"

#include <openssl/tls1.h>

int scb_client_hello_cb(SSL *ssl, int *alert, void *arg)
{
    scb_hello h;
    long max = SSL_get_max_proto_version(ssl);
    uint64_t options = SSL_get_options(ssl);

    (void)alert, (void)arg;
    memset(&h, 0, sizeof(h));
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
    if (scbGoClientHello(scb_ssl_ctx_handle(ssl), scb_ssl_conn_handle(ssl), ssl, &h) == SCB_HELLO_PARK)
        return SSL_CLIENT_HELLO_RETRY;
    return SSL_CLIENT_HELLO_SUCCESS;
}
