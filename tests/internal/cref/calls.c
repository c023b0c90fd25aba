/*
 * calls.c: calls on an SSL that libssl does not wrap.
 */
#include "cref.h"

#include <openssl/err.h>

int cref_ssl_write(SSL *ssl, const unsigned char *p, int n)
{
    return SSL_write(ssl, p, n);
}

int cref_ssl_read(SSL *ssl, unsigned char *p, int n)
{
    int got = SSL_read(ssl, p, n);

    return got > 0 ? got : -SSL_get_error(ssl, got);
}

int cref_ssl_update_key(SSL *ssl)
{
    return SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) && SSL_do_handshake(ssl) == 1;
}

void cref_ssl_let_ask(SSL *ssl)
{
    SSL_set_post_handshake_auth(ssl, 1);
}

int cref_ssl_ask(SSL *ssl)
{
    SSL_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_POST_HANDSHAKE, NULL);
    return SSL_verify_client_post_handshake(ssl) && SSL_do_handshake(ssl) == 1;
}

void cref_ssl_let_renegotiate(SSL *ssl)
{
    SSL_clear_options(ssl, SSL_OP_NO_RENEGOTIATION);
#ifdef SSL_OP_ALLOW_CLIENT_RENEGOTIATION /* 1.1.1 always does */
    SSL_set_options(ssl, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
#endif
}

int cref_errors(int leave_one)
{
    int found = ERR_peek_error() != 0;

    if (leave_one)
        ERR_put_error(ERR_LIB_USER, 0, 1, "calls.c", 1);
    return found;
}
