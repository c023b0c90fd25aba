/*
 * bridge.h: everything Go may call in C, and the structs that answer.
 *
 * Names: scb_* is for Go to call, scb_*_cb is a static trampoline that OpenSSL
 * calls, scbGo* is exported by Go. Every function here leaves this thread's
 * OpenSSL error queue empty or hands its content over as an scb_errs: errors
 * are never fetched in a second call, which could run on another thread.
 */
#ifndef SCB_BRIDGE_H
#define SCB_BRIDGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <openssl/ssl.h>

/*
 * Versions. The only place that compares OPENSSL_VERSION_NUMBER: the rest asks
 * for a feature by its name. Behaviour that was back-ported is never guessed
 * from the version.
 */
#if defined(LIBRESSL_VERSION_NUMBER) || defined(OPENSSL_IS_BORINGSSL) || defined(OPENSSL_IS_AWSLC) \
    || !defined(OPENSSL_VERSION_NUMBER)
#error "libssl works with OpenSSL 1.1.1 or later only. Point PKG_CONFIG_PATH at one."
#elif OPENSSL_VERSION_NUMBER < 0x10101000L
#error "libssl needs OpenSSL 1.1.1 or later. Point PKG_CONFIG_PATH at one."
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
#define SCB_HAVE_ERR_GET_ERROR_ALL 1   /* ERR_get_error_all names the function */
#define SCB_HAVE_GET1_PEER_CERT 1      /* SSL_get1_peer_certificate */
#define SCB_HAVE_NEGOTIATED_GROUP 1    /* SSL_get_negotiated_group */
#define SCB_HAVE_TICKET_EVP 1          /* SSL_CTX_set_tlsext_ticket_key_evp_cb */
#define SCB_EX_DUP_FROM void **        /* CRYPTO_EX_dup's third parameter */
#else
#define SCB_EX_DUP_FROM void *
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
#define SCB_HAVE_QUIC 1                /* SSL_is_quic */
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30400000L
#define SCB_HAVE_TIME_EX 1             /* SSL_SESSION_get_time_ex and family */
#define SCB_HAVE_GET1_OBJECTS 1        /* X509_STORE_get1_objects */
#endif

/* Options that a release does not know are 0: setting them changes nothing. */
#ifndef SSL_OP_ALLOW_CLIENT_RENEGOTIATION
#define SSL_OP_ALLOW_CLIENT_RENEGOTIATION 0
#endif
#ifndef SSL_OP_IGNORE_UNEXPECTED_EOF
#define SSL_OP_IGNORE_UNEXPECTED_EOF 0
#endif
#ifndef SSL_OP_NO_EXTENDED_MASTER_SECRET
#define SSL_OP_NO_EXTENDED_MASTER_SECRET 0
#endif
#ifndef SSL_SESS_CACHE_UPDATE_TIME
#define SSL_SESS_CACHE_UPDATE_TIME 0x0400
#endif

/* Errors: one failed call with its whole queue, oldest first. */
#define SCB_MAX_ERRS 16
typedef struct scb_err {
    unsigned long code;
    int line;
    char file[96], func[64], data[256];
} scb_err;
typedef struct scb_errs {
    int n;
    scb_err e[SCB_MAX_ERRS];
} scb_errs;
void scb_errs_free(scb_errs *e);

/* Answers of functions that return int. */
#define SCB_FAIL 0
#define SCB_OK 1
#define SCB_REENTRANT (-2)

int scb_init(void);

/* ---- SSL_CTX ---------------------------------------------------------- */

/* Callbacks that SSL_CTX has getters for, so that what C had can be put back. */
#define SCB_SESS_NEW 0
#define SCB_SESS_GET 1
#define SCB_SESS_REMOVE 2
#define SCB_KEYLOG 3
#define SCB_KINDS 4

SSL_CTX *scb_ctx_new(int client, scb_errs **errs);
/* Handle of the SSL_CTX, 0 if it has none. */
uint64_t scb_ctx_handle(SSL_CTX *ctx);
int scb_ctx_adopt(SSL_CTX *ctx, uint64_t handle, scb_errs **errs);
void scb_ctx_up_ref(SSL_CTX *ctx);
void scb_ctx_free(SSL_CTX *ctx);
int scb_ctx_in_remove(SSL_CTX *ctx);
/* Is the caller, on this thread, a handler inside a step or a removal? */
int scb_in_handler(void);
void scb_ctx_forget(SSL_CTX *ctx);

void scb_set_callback(SSL_CTX *ctx, int which, int on);
/* Puts back what C had installed; attach makes an SSL_CTX whose Context was
 * closed ready for the next one. */
void scb_ctx_detach(SSL_CTX *ctx);
void scb_ctx_attach(SSL_CTX *ctx);
/* 0: none, 1: ours, 2: somebody else's, whose pointer is put into *fn. */
int scb_installed(SSL_CTX *ctx, int which, void **fn);
int scb_sess_call_new(void *fn, SSL *ssl, SSL_SESSION *sess);
SSL_SESSION *scb_sess_call_get(void *fn, SSL *ssl, const unsigned char *id, int len);
void scb_sess_call_remove(void *fn, SSL_CTX *ctx, SSL_SESSION *sess);

void scb_ctx_hook_hello(SSL_CTX *ctx, int names);
void scb_ctx_hook_names(SSL_CTX *ctx);
void scb_ctx_hook_ids(SSL_CTX *ctx, int on);

int scb_ctx_use_pem(SSL_CTX *ctx, const unsigned char *cert, int cert_len, const unsigned char *key, int key_len, scb_errs **errs);
int scb_ctx_add_cas(SSL_CTX *ctx, const unsigned char *pem, int len, int fresh, int announce, scb_errs **errs);
int scb_ctx_set_versions(SSL_CTX *ctx, int min, int max, scb_errs **errs);
int scb_ctx_set_ciphers(SSL_CTX *ctx, const char *list, scb_errs **errs);
int scb_ctx_set_ciphersuites(SSL_CTX *ctx, const char *list, scb_errs **errs);
int scb_ctx_set_groups(SSL_CTX *ctx, const char *list, scb_errs **errs);
int scb_ctx_set_alpn(SSL_CTX *ctx, const unsigned char *wire, size_t len);
void scb_ctx_set_verify(SSL_CTX *ctx, int mode);
int scb_ctx_verify_mode(SSL_CTX *ctx);
uint64_t scb_ctx_set_options(SSL_CTX *ctx, uint64_t set, uint64_t clear);
int scb_ctx_set_num_tickets(SSL_CTX *ctx, size_t n);
int scb_ctx_set_max_early_data(SSL_CTX *ctx, uint32_t n);
uint32_t scb_ctx_max_early_data(SSL_CTX *ctx);
int scb_ctx_set_id_context(SSL_CTX *ctx, const unsigned char *sid, unsigned int len, scb_errs **errs);
long scb_ctx_set_cache_mode(SSL_CTX *ctx, long mode);
long scb_ctx_set_cache_size(SSL_CTX *ctx, long n);
long scb_ctx_set_timeout(SSL_CTX *ctx, long seconds);
int scb_ctx_policy(SSL_CTX *ctx, unsigned char digest[32]);

int scb_ctx_add_session(SSL_CTX *ctx, SSL_SESSION *s);
int scb_ctx_remove_session(SSL_CTX *ctx, SSL_SESSION *s);
int scb_ctx_flush(SSL_CTX *ctx, int64_t at);

typedef struct scb_ctx_stats {
    long number, connect, connect_good, accept, accept_good, hits, cb_hits, misses, timeouts, cache_full;
} scb_ctx_stats;
scb_ctx_stats scb_ctx_get_stats(SSL_CTX *ctx);

/* ---- Ticket keys (ticket_keys.c) ----------------------------------------- */

typedef struct scb_ticket_key {
    unsigned char name[16], aes[32], hmac[32];
    int64_t not_before; /* it seals from then on */
} scb_ticket_key;
/* Copies n keys, newest first. */
int scb_ctx_set_ticket_keys(SSL_CTX *ctx, const scb_ticket_key *keys, size_t n, scb_errs **errs);

/* ---- SSL_SESSION ------------------------------------------------------ */

/* Pointers into the session: valid while the caller holds it. */
typedef struct scb_session_info {
    const unsigned char *id, *sid_ctx, *alpn;
    const char *hostname;
    size_t alpn_len;
    unsigned int id_len, sid_ctx_len;
    int64_t time, timeout;
    uint32_t max_early_data;
    uint16_t version, cipher;
    int resumable, has_ticket;
} scb_session_info;

SSL_SESSION *scb_session_parse(const unsigned char *der, size_t len, scb_errs **errs);
/* p begins with room unset bytes; the caller wipes and frees it with scb_wipe.
 * len counts them too, and is 0 after a failure. */
typedef struct scb_der {
    unsigned char *p;
    size_t len;
} scb_der;
scb_der scb_session_der(SSL_SESSION *s, size_t room, scb_errs **errs);
void scb_wipe(void *p, size_t len);
void scb_session_up_ref(SSL_SESSION *s);
void scb_session_free(SSL_SESSION *s);
SSL_SESSION *scb_session_dup(SSL_SESSION *s, scb_errs **errs);
scb_session_info scb_session_get_info(SSL_SESSION *s);
int scb_session_hand_over(SSL_SESSION *s, int copy);
int scb_session_set_time(SSL_SESSION *s, int64_t t);
int scb_session_set_timeout(SSL_SESSION *s, int64_t seconds);

/* Why an entry of a store must not reach OpenSSL (SEMANTICS F2.10). */
#define SCB_ENTRY_UNDECODABLE 1
#define SCB_ENTRY_NO_CIPHER 2
#define SCB_ENTRY_OTHER_ID 3
#define SCB_ENTRY_OTHER_VERSION 4
#define SCB_ENTRY_OTHER_CONTEXT 5
#define SCB_ENTRY_EXPIRED 6
typedef struct scb_checked {
    SSL_SESSION *sess;          /* NULL: see why */
    int why;
} scb_checked;
scb_checked scb_session_check(SSL *ssl, const unsigned char *der, size_t len, const unsigned char *id, unsigned int id_len,
                              const unsigned char *sid_ctx, unsigned int sid_ctx_len, int64_t now);

/* ---- SSL, as handlers see it ------------------------------------------- */

const char *scb_ssl_servername(SSL *ssl);
int scb_ssl_version(SSL *ssl);
uint64_t scb_ssl_options(SSL *ssl);
/* Handle of the context that an SNI switch may have put in. */
uint64_t scb_ssl_current_handle(SSL *ssl);
int scb_ssl_reused(SSL *ssl);
void scb_ssl_switch(SSL *ssl, SSL_CTX *ctx);
int scb_ssl_set_id_context(SSL *ssl, const unsigned char *sid, unsigned int len);

/* What a parked ClientHello says (suspend.c). A pointer is NULL where the
 * extension is absent; all are valid during the call only. */
typedef struct scb_hello {
    const unsigned char *random, *session_id, *server_name, *versions, *psk, *ticket;
    size_t random_len, session_id_len, server_name_len, versions_len, psk_len, ticket_len;
    uint64_t guest;     /* see scb_ssl_guest */
    int tls13, tickets; /* enabled on this side */
    int first;          /* of its handshake, not the one after a HelloRetryRequest */
} scb_hello;
#define SCB_HELLO_GO_ON 1
#define SCB_HELLO_PARK 0
/* What the store layer keeps for an SSL that C made: a handle that goes with
 * the SSL, 0 if there is none. */
uint64_t scb_ssl_guest(SSL *ssl);
int scb_ssl_set_guest(SSL *ssl, uint64_t handle);

/* ---- Connections that Go drives (ssl_io.c) ------------------------------ */

#define SCB_OP_HANDSHAKE 0
#define SCB_OP_READ 1
#define SCB_OP_WRITE 2
#define SCB_OP_SHUTDOWN 3
#define SCB_OP_DRAIN 4
#define SCB_OP_READ_EARLY 5
#define SCB_OP_WRITE_EARLY 6

/* What a step left behind; Go reads it as plain memory. */
typedef struct scb_conn {
    SSL *ssl;
    uint64_t handle;
    const unsigned char *in;    /* borrowed for one step */
    unsigned char *out;         /* likewise */
    size_t in_len;              /* input not consumed */
    size_t out_len, out_cap;
    unsigned char *spill;       /* output that did not fit */
    size_t spill_len, spill_cap;
    size_t n;                   /* plaintext moved */
    scb_errs *errs;             /* when err is SSL_ERROR_SSL or _SYSCALL, or setting the session failed */
    int err;                    /* SSL_get_error */
    int reused;                 /* SSL_session_reused, after a handshake step */
    int starved;                /* a read can only ask for more input */
    int early;                  /* what SSL_read_early_data said */
    uint32_t early_sent;        /* early data that a client has written */
    struct scb_conn *outer;     /* the step around this one, on the same thread */
} scb_conn;

#define SCB_NAME_NONE 0
#define SCB_NAME_DNS 1
#define SCB_NAME_IP 2
/* What is passed to C by address goes to Go's heap; answers do not. */
typedef struct scb_made {
    scb_conn *conn;             /* NULL: see errs */
    scb_errs *errs;
} scb_made;
scb_made scb_conn_new(SSL_CTX *ctx, uint64_t handle, int client, const char *name, int name_kind);
void scb_conn_free(scb_conn *c, int abort);
void scb_step(scb_conn *c, int op, unsigned char *buf, size_t len, const unsigned char *in, size_t in_len,
              unsigned char *out, size_t out_cap);
/* Is this thread inside a step of c, so that the caller is a handler? */
int scb_conn_stepping(scb_conn *c);

typedef struct scb_conn_info {
    const char *server_name;
    const unsigned char *alpn;
    unsigned int alpn_len;
    uint16_t version, cipher, group;
    int reused;
} scb_conn_info;
scb_conn_info scb_conn_get_info(scb_conn *c);
/* Certificates as DER, each after its length in four bytes, big-endian; the
 * caller frees *out. */
#define SCB_CERTS_PEER 0
#define SCB_CERTS_VERIFIED 1
size_t scb_conn_certs(scb_conn *c, int which, unsigned char **out);
SSL_SESSION *scb_conn_get1_session(scb_conn *c);
/* How much early data the session that is offered allows. */
uint32_t scb_conn_early_limit(scb_conn *c);
int scb_conn_early_accepted(scb_conn *c);
int scb_conn_set_session(scb_conn *c, SSL_SESSION *s);

/* ---- shared between the .c files ----------------------------------------- */

void scb_take_errs(scb_errs **errs);
/* Puts what was taken back into the queue. */
void scb_put_errs(const scb_errs *all);
void scb_clear_errs(void);
uint64_t scb_ssl_ctx_handle(SSL *ssl);
/* The SSL_CTX that it was made with, if that has a Context; NULL otherwise. */
SSL_CTX *scb_ssl_origin(SSL *ssl);
int scb_tickets_init(void);
int scb_guests_init(void);
/* Only the thread that forked goes on in the child: Go's runtime does not, and
 * who held a lock will never give it up. */
int scb_in_fork(void);
/* Can Go run where the caller is? Not in the child of a fork, which is told on
 * standard error once, and not on the stack of an ASYNC job. */
int scb_may_call_go(void);
void scb_read_lock(CRYPTO_RWLOCK *lock);
void scb_write_lock(CRYPTO_RWLOCK *lock);
void scb_unlock(CRYPTO_RWLOCK *lock);
/* Handle of the connection whose step is calling back for ssl, 0 if C drives it. */
uint64_t scb_ssl_conn_handle(SSL *ssl);
/* Handle of the connection whose step runs on this thread, 0 if none does. */
uint64_t scb_stepping_handle(void);
SSL *scb_ssl_new(SSL_CTX *ctx);
void scb_ssl_free(SSL *ssl);
/* A Goexit unwinds the goroutine over all of C's frames on this thread: what
 * points into them is forgotten. */
void scb_abandon(void);
void scb_abandon_steps(void);
int scb_client_hello_cb(SSL *ssl, int *alert, void *arg);
/* Around whatever may call a remove handler; unlocked is the context whose
 * removals are known to hold no lock, or NULL. */
SSL_CTX *scb_enter(SSL_CTX *unlocked);
void scb_leave(SSL_CTX *outer);

#endif
