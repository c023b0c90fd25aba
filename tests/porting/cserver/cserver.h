/*
 * A TLS server as C programs are: an SSL_CTX of its own, a pool of threads that
 * accept and serve, and, if it likes, a session cache with the three callbacks.
 */
#ifndef CSERVER_H
#define CSERVER_H

#include <openssl/ssl.h>

typedef struct cserver cserver;

/* cached: with callbacks of its own; else OpenSSL's internal cache is all it has. Tickets are ids. */
cserver *cserver_new(const char *cert, const char *key, int version, int cached);
SSL_CTX *cserver_ctx(cserver *s);
/* Serves with n threads; the port, or 0. */
int cserver_serve(cserver *s, int n);
/* Waits until n connections have ended since the start. */
void cserver_await(cserver *s, long n);
/* Connections end without a goodbye from now on, or with one. */
void cserver_be_rude(cserver *s, int rude);
/* A key log callback too. */
void cserver_log_keys(cserver *s);
/* The callbacks' calls since the last time, a letter each: N, G, R, K. The caller frees the string. */
char *cserver_trace(cserver *s);
/* One connection, served by the child of a fork; its standard error, which the
 * caller frees, and NULL where it did not come to a good end. */
char *cserver_fork(cserver *s);
void cserver_copy_callbacks(cserver *to, cserver *from);
void cserver_free(cserver *s);

/* The results from an SSL_CTX's getters: callback pointers, modes, options. */
typedef struct cserver_looks {
    int new_cb, get_cb, remove_cb, keylog_cb, padding_arg;
    long mode;
    unsigned long long options;
    unsigned int max_early_data;
} cserver_looks;
cserver_looks cserver_look(cserver *s);

#endif
