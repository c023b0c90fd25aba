/*
 * cref.h does for tests in C alone: it counts sessions, installs callbacks with the literal flags, and drives both ends
 * of a handshake.
 */
#ifndef CREF_H
#define CREF_H

#include <stddef.h>
#include <openssl/ssl.h>

/* ---- SSL_SESSIONs counted by ex_data hooks (sessions.c) ------------------- */

int cref_init(void);
long cref_sessions_made(void);
long cref_sessions_destroyed(void);
size_t cref_master_key(SSL_SESSION *s, unsigned char *out, size_t size);
SSL_SESSION *cref_session_without_cipher(void);
long cref_ctxs_destroyed(void);
/* Watches one object, in the place of the one before: has its last reference been given back? */
void cref_watch(SSL_SESSION *s);
int cref_watched_gone(void);

/* ---- callbacks written in C (callbacks.c) --------------------------------- */

typedef struct cref_callbacks {
    int keep;           /* what new returns; 1 keeps the reference in kept */
    int copy;           /* what get sets *copy to; negative: it leaves it as it is */
    SSL_SESSION *answer; /* what get answers; with copy 0 it is spent by that */
    SSL_SESSION *kept[64];
    int nkept, news, gets, removes;
    unsigned char *der; /* the last one that new saw */
    int der_len;
} cref_callbacks;

cref_callbacks *cref_install(SSL_CTX *ctx, int which);
void cref_callbacks_free(cref_callbacks *cb);
int cref_installed(SSL_CTX *ctx, int which); /* 0 none, 1 cref's, 2 another */
int cref_answer_der(cref_callbacks *cb, const unsigned char *der, size_t len);
#define CREF_NEW 1
#define CREF_GET 2
#define CREF_REMOVE 4

/* ---- contexts and both ends of a connection (pair.c) ---------------------- */

SSL_CTX *cref_ctx_new(int client);
SSL_CTX *cref_ctx_new_dtls(void);
void cref_ctx_free(SSL_CTX *ctx);
void cref_flush(SSL_CTX *ctx);
void cref_sni_switch(SSL_CTX *ctx, SSL_CTX *to);
void cref_sni_switch_in_hello(SSL_CTX *ctx, SSL_CTX *to);
void cref_let_all_in(SSL_CTX *ctx); /* a verify callback that is content with anything */
int cref_demand(SSL_CTX *ctx, unsigned long flags, int purpose, const char *host);
int cref_trust_none(SSL_CTX *ctx);
int cref_verify_by(SSL_CTX *ctx, const char *pem, int len);
void cref_let_none_in(SSL_CTX *ctx);
int cref_ca_dir(SSL_CTX *ctx, const char *dir);
int cref_announce(SSL_CTX *ctx, const char *pem, int len);
unsigned long cref_ca_hash(const char *pem, int len);
int cref_add_crl(SSL_CTX *ctx, const char *pem, int len);
/* A certificate and its key. */
void *cref_pair_read(const char *cert, int cert_len, const char *key, int key_len);
void cref_pair_drop(void *pair);
int cref_certify_by_callback(SSL_CTX *ctx, const char *cert, int cert_len, const char *key, int key_len);
void cref_renew_tickets(SSL_CTX *ctx);
int cref_ask_for_fragments(SSL_CTX *ctx, int n);
void cref_watch_names(SSL_CTX *ctx);
long cref_names_confirmed(void);
int cref_set_early_data(SSL_CTX *ctx, uint32_t max);
void cref_ctx_set_async(SSL_CTX *ctx);
int cref_in_async_job(void);

typedef struct cref_pair {
    SSL *client, *server;
} cref_pair;

cref_pair *cref_pair_new(SSL_CTX *client, SSL_CTX *server, const char *name, SSL_SESSION *offer);
int cref_pair_run(cref_pair *p);
int cref_pair_step(cref_pair *p);
int cref_pair_clear(cref_pair *p, SSL_CTX *client, SSL_SESSION *offer);
int cref_pair_run_on_thread(cref_pair *p);
int cref_pair_renegotiate(cref_pair *p);
int cref_pair_reused(cref_pair *p);
SSL_SESSION *cref_pair_session(cref_pair *p);
void cref_pair_free(cref_pair *p, int clean);
int cref_accept(SSL_CTX *ctx, int fd);
int cref_ssl_id_context(SSL *ssl, const char *sid);
int cref_ctx_id_context(SSL_CTX *ctx, const char *sid);

/* ---- calls on an SSL (calls.c) -------------------------------------------- */

int cref_ssl_write(SSL *ssl, const unsigned char *p, int n);
int cref_ssl_read(SSL *ssl, unsigned char *p, int n);
int cref_ssl_update_key(SSL *ssl);
void cref_ssl_let_ask(SSL *ssl);
int cref_ssl_ask(SSL *ssl);
void cref_ssl_let_renegotiate(SSL *ssl);
int cref_errors(int leave_one);

/* ---- library contexts (libctx.c) ------------------------------------------ */

void *cref_libctx_new(const char *config);
int cref_default_properties(const char *query);

/* ---- OpenSSL's memory (memory.c) ------------------------------------------ */

int cref_memory_counts(void); /* only where CREF_MEMORY is in the environment */
/* After so many more allocations one fails, or all from there on; a negative number ends it. */
void cref_memory_fail(long after, int all);
void cref_memory_only(const char *file);
long cref_memory_made(void);
long cref_memory_failed(void);
/* A place in the source and how many of its allocations live; 0 after the last. */
int cref_memory_site(int i, const char **file, int *line, long *live);

#endif
