/*
 * exporter.c: keying material and the channel binding of a connection.
 */
#include "bridge.h"

int scb_conn_export(scb_conn *c, unsigned char *out, size_t len, const char *label, size_t label_len,
                    const unsigned char *context, size_t context_len, int has_context, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_export_keying_material(c->ssl, out, len, label, label_len, context, context_len, has_context), errs);
}

int scb_conn_extms(scb_conn *c)
{
    return SSL_get_extms_support(c->ssl) == 1;
}

size_t scb_conn_unique(scb_conn *c, unsigned char *out, size_t cap)
{
    int reused = SSL_session_reused(c->ssl);

    if (SSL_version(c->ssl) >= TLS1_3_VERSION || (reused && !scb_conn_extms(c)))
        return 0;
    /* The first Finished is the client's in a full handshake and the server's in
     * a resumed one. */
    return SSL_is_server(c->ssl) == reused ? SSL_get_finished(c->ssl, out, cap) : SSL_get_peer_finished(c->ssl, out, cap);
}
