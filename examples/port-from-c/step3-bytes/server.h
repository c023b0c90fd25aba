#ifndef SERVER_H
#define SERVER_H

#include <openssl/ssl.h>

/* Returns NULL on failure, with a message on stderr. client_cas may be NULL. */
SSL_CTX *server_ctx(const char *cert, const char *key, const char *client_cas, long lifetime);
/* Returns a listening socket on a free port of 127.0.0.1, or -1. */
int server_listen(int *port);
/* Accepts and serves until accept fails, and returns its errno. */
int server_run(SSL_CTX *ctx, int listener);

#endif
