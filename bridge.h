/*
 * bridge.h: the functions of C that Go may call, and the structs that they fill.
 *
 * One section for each .c file, in the order in which the files build on each
 * other. A section's second part is for the other .c files only.
 *
 * Names: scb_* is for Go to call, scb_*_cb is a static trampoline that OpenSSL
 * calls, scbGo* is exported by Go. Every function here leaves this thread's
 * OpenSSL error queue empty or returns its content as an scb_errs. A second call
 * for the errors could run on another thread.
 */
#ifndef SCB_BRIDGE_H
#define SCB_BRIDGE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

/*
 * Versions. Only this block compares OPENSSL_VERSION_NUMBER; all other code asks
 * for a feature by its name. The version says nothing about behaviour that
 * distributions back-port.
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
#define SCB_HAVE_VERIFY_STORE 1        /* SSL_get0_verify_cert_store */
#define SCB_HAVE_PARAM_NAMES 1         /* X509_VERIFY_PARAM_get0_host and family */
#define SCB_HAVE_PROVIDERS 1           /* OSSL_PROVIDER_add_builtin */
#define SCB_EX_DUP_FROM void **        /* CRYPTO_EX_dup's third parameter */
#define SCB_LOOKUP_CONST const         /* parameters of X509_STORE_CTX_lookup_crls_fn */
#else
#define SCB_EX_DUP_FROM void *
#define SCB_LOOKUP_CONST
typedef struct ossl_lib_ctx_st OSSL_LIB_CTX; /* there is none */
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
#define SCB_HAVE_QUIC 1                /* SSL_is_quic */
#define SCB_HAVE_RAW_KEYS 1            /* SSL_SESSION_get0_peer_rpk */
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30400000L
#define SCB_HAVE_TIME_EX 1             /* SSL_SESSION_get_time_ex and family */
#define SCB_HAVE_GET1_OBJECTS 1        /* X509_STORE_get1_objects */
#endif
#if OPENSSL_VERSION_NUMBER >= 0x40000000L
#define SCB_HAVE_PARAM_PURPOSE 1       /* X509_VERIFY_PARAM_get_purpose */
#else
#define SCB_HAVE_V2_HELLO 1            /* SSL_client_hello_isv2 */
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
#ifndef SSL_OP_ENABLE_KTLS
#define SSL_OP_ENABLE_KTLS 0
#endif
#ifndef SSL_OP_ENABLE_KTLS_TX_ZEROCOPY_SENDFILE
#define SSL_OP_ENABLE_KTLS_TX_ZEROCOPY_SENDFILE 0
#endif
/* They are for DTLS and for sockets that OpenSSL itself writes to. */
#define SCB_OPS_FOR_OTHER_IO (SSL_OP_ENABLE_KTLS | SSL_OP_ENABLE_KTLS_TX_ZEROCOPY_SENDFILE | SSL_OP_NO_QUERY_MTU \
                              | SSL_OP_COOKIE_EXCHANGE | SSL_OP_CISCO_ANYCONNECT)
#ifndef SSL_SESS_CACHE_UPDATE_TIME
#define SSL_SESS_CACHE_UPDATE_TIME 0x0400
#endif

/* Answers of functions that return int. */
#define SCB_FAIL 0
#define SCB_OK 1
#define SCB_REENTRANT (-2)

/* ---- errs.c: the error queue --------------------------------------------- */

/* One failed call with its whole queue, oldest entry first. */
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
/* Tells the entries of failed handshakes apart. */
#define SCB_ERR_OTHER 0
#define SCB_ERR_ALERT 1         /* of the peer */
#define SCB_ERR_CALLBACK 2      /* a callback has refused */
int scb_err_kind(unsigned long code);

/* For C only. */
void scb_clear_errs(void);
/* Empties the queue into *errs, and frees the errors that were there. */
void scb_take_errs(scb_errs **errs);
/* Puts taken errors back into the queue. */
void scb_put_errs(const scb_errs *all);
/* Ends a call of OpenSSL that returned ok: takes or clears its errors. Returns
 * SCB_OK or SCB_FAIL. */
int scb_done(int ok, scb_errs **errs);

/* ---- thread.c: calls under way on this thread, and where Go cannot run --- */

typedef struct scb_conn scb_conn; /* see ssl_io.c */

/* Does the caller run in a remove handler that may hold ctx's lock? */
int scb_ctx_in_remove(SSL_CTX *ctx);
/* Does the caller run in a remove handler of ctx for s, or for a session of the
 * same id? */
int scb_session_in_remove(SSL_CTX *ctx, SSL_SESSION *s);
/* Does the caller run in a handler, inside a step or a removal? */
int scb_in_handler(void);
/* Does this thread run a step of c, so that the caller is a handler? */
int scb_conn_stepping(scb_conn *c);
/* A Goexit unwinds the goroutine over all C frames on this thread: forgets the
 * pointers into them. */
void scb_abandon(void);

/* For C only. */
/* In the child of a fork only the thread that forked goes on. Go's runtime does
 * not run, and a lock that another thread held stays locked. */
int scb_in_fork(void);
/* Can Go run here? It cannot in the child of a fork, which says so on standard
 * error once, nor on the stack of an ASYNC job. */
int scb_may_call_go(void);
/* These do nothing in the child of a fork. */
void scb_read_lock(CRYPTO_RWLOCK *lock);
void scb_write_lock(CRYPTO_RWLOCK *lock);
void scb_unlock(CRYPTO_RWLOCK *lock);
/* Enclose a call that may run a remove handler. unlocked is the SSL_CTX whose
 * removals are known to hold no lock, or NULL. */
SSL_CTX *scb_begin_call(SSL_CTX *unlocked);
void scb_end_call(SSL_CTX *outer);
/* Enclose a remove handler; r is on the caller's stack. */
typedef struct scb_removal {
    SSL_CTX *ctx;
    SSL_SESSION *sess;
    int locked;                 /* may the lock of ctx be held? */
    SSL_CTX *unlocked;          /* of the call around the handler */
    struct scb_removal *outer;
} scb_removal;
void scb_begin_removal(scb_removal *r, SSL_CTX *ctx, SSL_SESSION *sess);
void scb_end_removal(scb_removal *r);
/* Enclose a step of c. */
void scb_begin_step(scb_conn *c);
void scb_end_step(scb_conn *c);
/* The connection whose step is calling back for ssl, NULL if C drives ssl. */
scb_conn *scb_stepping_conn(SSL *ssl);
/* Its handle, 0 for NULL. */
uint64_t scb_ssl_conn_handle(SSL *ssl);
/* Handle of the connection whose step runs on this thread, 0 if there is none. */
uint64_t scb_stepping_handle(void);
/* The SSL_CTX that this connection has now, NULL if there is none. */
SSL_CTX *scb_stepping_ctx(void);

/* ---- libctx.c: where the algorithms of an SSL_CTX come from --------------- */

int scb_libctx_init(void);
int scb_have_providers(void);
/* Are all default fetches those of FIPS? */
int scb_fips(void);
#define SCB_MAX_NAMES 16
typedef struct scb_names {
    int n;
    char name[SCB_MAX_NAMES][32];
} scb_names;
/* The providers that a library context has loaded. */
scb_names scb_providers(OSSL_LIB_CTX *libctx);

/* For C only. */
/* Is SSL_CTX_new_ex. The functions below make what belongs to ctx: with its library
 * context and property query if scb_libctx_new was given them, else with the default
 * ones. */
SSL_CTX *scb_libctx_new(OSSL_LIB_CTX *libctx, const char *propq, const SSL_METHOD *method);
SSL_CTX *scb_libctx_sibling(SSL_CTX *ctx, const SSL_METHOD *method);
/* These are NULL if the providers have no such algorithm. */
const EVP_MD *scb_sha256(SSL_CTX *ctx);
const EVP_CIPHER *scb_aes_cbc(SSL_CTX *ctx);
int scb_random(SSL_CTX *ctx, unsigned char *out, size_t len);
X509 *scb_x509_new(SSL_CTX *ctx);
X509_CRL *scb_crl_new(SSL_CTX *ctx);
X509_STORE_CTX *scb_chain_new(SSL_CTX *ctx);
/* x itself, with a reference more, if it verifies where ctx does, else a copy that
 * does. */
X509 *scb_x509_in(SSL_CTX *ctx, X509 *x);
OSSL_LIB_CTX *scb_libctx_of(SSL_CTX *ctx);

/* ---- slots.c: the Context of an SSL_CTX or SSL --------------------------- */

/* Callbacks for which SSL_CTX has getters, so that detaching can put back C's. */
#define SCB_SESS_NEW 0
#define SCB_SESS_GET 1
#define SCB_SESS_REMOVE 2
#define SCB_KEYLOG 3
#define SCB_KINDS 4

/* Handle of the SSL_CTX, 0 if it has no Context. */
uint64_t scb_ctx_handle(SSL_CTX *ctx);
/* Handle of the SSL_CTX that ssl was made with, 0 if it has no Context. */
uint64_t scb_ssl_ctx_handle(SSL *ssl);
/* Handle of the SSL_CTX that ssl has now: after a switch by server name it is
 * not the one that ssl was made with. */
uint64_t scb_ssl_current_handle(SSL *ssl);
/* Who has made SSLs with an SSL_CTX, or switched some to it? From 3.2 on an SSL
 * that C made counts from its first callback or handshake. */
#define SCB_MADE_BY_GO 1
#define SCB_MADE_BY_C 2
int scb_ctx_made(SSL_CTX *ctx);
/* Enclose changes of settings: one at a time for each SSL_CTX. */
void scb_settings_change(SSL_CTX *ctx);
void scb_settings_end_change(SSL_CTX *ctx);
/* Gives an SSL_CTX its handle. */
int scb_ctx_adopt(SSL_CTX *ctx, uint64_t ctx_handle, scb_errs **errs);
/* Prepares an SSL_CTX whose Context was closed for the next Context. */
void scb_ctx_attach(SSL_CTX *ctx);

/* The function in an SSL_CTX's callback: none, our trampoline, or one that C has
 * installed. */
typedef enum scb_installed_fn {
    SCB_INSTALLED_NONE,
    SCB_INSTALLED_OURS,
    SCB_INSTALLED_FOREIGN
} scb_installed_fn;
/* *fn is the function itself, NULL for none. */
scb_installed_fn scb_installed(SSL_CTX *ctx, int which, void **fn);

/* For C only. */
/* A union converts between function and data pointers without a cast. */
typedef union scb_fn {
    void *p;
    int (*new_cb)(SSL *, SSL_SESSION *);
    SSL_SESSION *(*get_cb)(SSL *, const unsigned char *, int, int *);
    void (*remove_cb)(SSL_CTX *, SSL_SESSION *);
    void (*keylog_cb)(const SSL *, const char *);
} scb_fn;
/*
 * Belongs to an SSL_CTX that has a Context. The ex_data free hook frees it: it
 * runs once, after the last possible callback (SEMANTICS F8.1). An SSL's slot
 * points to the scb_ctx of the SSL_CTX that the SSL was made with. The SSL holds a
 * reference on that one; after a switch SSL_get_SSL_CTX names another (F1.11).
 */
typedef struct scb_ctx {
    uint64_t handle;
    SSL_CTX *ssl_ctx;
    CRYPTO_RWLOCK *lock;        /* guards the fields from uses to alpn_len */
    long uses;                  /* SSLs, and calls under way that may run a remove handler */
    unsigned int to_uninstall;  /* trampolines to take out when uses is 0 */
    unsigned int uninstalled;   /* trampolines taken out: so the pointer is NULL */
    int asks;                   /* SCB_ASKS_*: atomic */
    int made;                   /* SCB_MADE_BY_*: atomic */
    /* Context.settings in Go guards these two. */
    STACK_OF(X509_NAME) *ca_names; /* instead of those of the SSL_CTX; NULL if those are right */
    X509_STORE *former_store;   /* was replaced; an SSL may be reading it */
    scb_fn before[SCB_KINDS];   /* functions that the trampolines have replaced */
    unsigned char *alpn;
    size_t alpn_len;
    pthread_mutex_t gate;       /* guards readers and changing */
    pthread_cond_t passed;
    int readers, changing;      /* of the settings */
    struct scb_ctx *next, **link; /* of the list of all */
} scb_ctx;
/* trampolines has SCB_KINDS entries, and is kept. */
int scb_slots_init(const scb_fn *trampolines);
/* NULL if there is no Context. */
scb_ctx *scb_ctx_of(SSL_CTX *ctx);
scb_ctx *scb_ctx_of_ssl(SSL *ssl);
/* The SSL_CTX that ssl was made with, NULL if it has no Context. */
SSL_CTX *scb_ssl_origin(SSL *ssl);
/* Is SSL_new, for an SSL that Go drives. */
SSL *scb_ssl_new(SSL_CTX *ctx);
/* While an SSL_CTX is in use none of its callback pointers becomes NULL. */
/* Enclose what reads the settings of an SSL_CTX on a thread of acceptor.c. It waits
 * while Go changes them, which Go encloses in the other two. */
void scb_settings_read(SSL_CTX *ctx);
void scb_settings_end_read(SSL_CTX *ctx);
void scb_begin_use(scb_ctx *c);
void scb_end_use(scb_ctx *c);
/* The callers of all these hold c's lock. */
void scb_install(scb_ctx *c, int which);
void scb_uninstall_when_idle(scb_ctx *c, int which);
void scb_keep_installed(scb_ctx *c, int which); /* revokes scb_uninstall_when_idle */
void scb_set_fn(SSL_CTX *ctx, int which, scb_fn f);
/* Has C changed the pointer since scb_install or scb_uninstall_when_idle? */
int scb_changed_by_c(scb_ctx *c, int which, void **fn);

/* ---- server_name.c: the server name of a ClientHello --------------------- */

int scb_name_init(void);

/* For C only. */
/* Notes the server_name extension of a ClientHello. Answers 0, or the alert with
 * which the handshake has to end. */
int scb_name_note(SSL *ssl, const unsigned char *ext, size_t len);
/* Is the extension the one that was noted? */
int scb_name_holds(SSL *ssl, const unsigned char *ext, size_t len);
/* The name that was noted, "" for none; NULL if no ClientHello was seen. */
const char *scb_name_of(SSL *ssl);
/* May a session resume under the name in the ClientHello? It may under the name
 * that it was made under, and under others for which the same certificate is good.
 * For callbacks in which OpenSSL looks a session up. */
int scb_name_resumes(SSL *ssl, SSL_SESSION *s);
/* As crypto/tls: whole-label wildcards only, and never the common name. */
#define SCB_HOST_FLAGS (X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT)

/* ---- peer.c: the peer's certificates of a session ------------------------- */

/* When the session's client certificate expires; 0 without one, long ago if that
 * cannot be told. */
int64_t scb_peer_until(SSL_SESSION *s);

/* For C only. */
/* In seconds since 1970; 1, which is long ago, if t cannot be read. */
int64_t scb_time_of(const ASN1_TIME *t);
/* Keeps the client's intermediate certificates in the application data of a new
 * session, with the time of the full handshake and its name. With NULL as the name
 * it does so only if there are intermediates. A session that resumed, and its
 * renewal, have them already. It leaves data of C code alone, which is an error
 * with a name. */
int scb_session_keep(SSL *ssl, SSL_SESSION *s, const unsigned char *origin);
/* Keeps the server's intermediate certificates in the application data of the new
 * session of a client, which is verifying chain. */
void scb_session_keep_server(SSL *ssl, X509_STORE_CTX *chain);
/* The name of the full handshake, and when it was; NULL if the session does not
 * say. */
const unsigned char *scb_session_made(SSL_SESSION *s, int64_t *made);
/* May a session resume by its client certificate? It may if a full handshake on
 * this SSL would accept the certificate now, or would not ask for one and the
 * session has none. For callbacks in which OpenSSL looks a session up. */
int scb_peer_resumes(SSL *ssl, SSL_SESSION *s);
/* Reasons why a client that verifies must not offer a session. */
#define SCB_OFFER_UNVERIFIED (-3)
#define SCB_OFFER_OTHER_NAME (-4)
#define SCB_OFFER_REFUSED (-5) /* a full handshake would not accept the certificate now */
/* May c resume the session, which is set on it? vetted tells that its certificates
 * were verified by the same settings a short time ago. */
int scb_peer_offers(scb_conn *c, SSL_SESSION *s, const char *name, int name_kind, int vetted);
/* Of a connection that has resumed, borrowed: the intermediates that the peer sent in
 * the full handshake, and the chain that verifies; NULL if there is none. */
STACK_OF(X509) *scb_peer_sent(scb_conn *c);
STACK_OF(X509) *scb_peer_verified(scb_conn *c);

/* ---- origin.c: the full handshake behind a connection --------------------- */

#define SCB_ORIGIN_SIZE 16
int scb_origin_init(void);
/* The random name of the full handshake behind ssl, a server's: its own, or that
 * of the session which it resumed. It is valid until the next ClientHello; NULL if
 * memory is short. */
const unsigned char *scb_origin_of(SSL *ssl);
/* Tells the name that a session carries, before OpenSSL has it. */
int scb_origin_offer(SSL *ssl, const unsigned char *origin);

/* For C only. */
/* For the first ClientHello of a handshake. */
void scb_origin_forget(SSL *ssl);

/* ---- sess_callbacks.c: the trampolines ----------------------------------- */

int scb_init(void);
/* With on 0 it takes the trampoline out. */
void scb_set_callback(SSL_CTX *ctx, int which, int on);
/* Puts back the functions that C had installed. */
void scb_ctx_detach(SSL_CTX *ctx);
void scb_ctx_hook_ids(SSL_CTX *ctx, int on);
/* May the answer of a get handler resume? */
int scb_sess_resumes(SSL *ssl, SSL_SESSION *sess);
int scb_sess_call_new(void *fn, SSL *ssl, SSL_SESSION *sess);
/* The caller owns a reference to the session, whichever value fn gave *copy. */
SSL_SESSION *scb_sess_call_get(void *fn, SSL *ssl, const unsigned char *id, int len);
void scb_sess_call_remove(void *fn, SSL_CTX *ctx, SSL_SESSION *sess);

/* ---- signer.c: private keys whose signatures Go makes -------------------- */

/* For C only. */
/* The key of a certificate that the signer signs for, NULL after a failure, whose
 * errors stay in the queue. The signer's handle lives as long as the key. */
EVP_PKEY *scb_signer_key(X509 *leaf, uint64_t signer_handle);

/* ---- certificate.c: certificates, and the set of a context ---------------- */

int scb_certs_init(void);
/* A leaf with its chain and key, and with a staple that may change. */
typedef struct scb_cert scb_cert;
#define SCB_CERT_GOOD 0
#define SCB_CERT_BAD 1
#define SCB_CERT_NO_CERT 2
#define SCB_CERT_NO_KEY 3
#define SCB_CERT_PASSPHRASE 4   /* it is needed, or wrong */
#define SCB_CERT_OTHER_KEY 5
#define SCB_CERT_SCHEME 6       /* no provider knows it */
#define SCB_CERT_MANY 7         /* keys or certificates */
#define SCB_CERT_HIDDEN 8       /* no key is there without a passphrase, or with this one */
typedef struct scb_cert_read {
    scb_cert *cert;             /* NULL: see why and errs */
    int why;
    scb_errs *errs;
} scb_cert_read;
/* Reads PEM or DER. With key_len 0 cert is PKCS#12. passphrase, NULL for none, ends
 * with a zero byte. */
scb_cert_read scb_cert_parse(const unsigned char *cert, int cert_len, int cert_pem, const unsigned char *key, int key_len,
                             int key_pem, const char *passphrase, size_t len);
/* Reads certificates in DER, one after the other, the leaf first. The certificate
 * keeps the signer's handle; after a failure it is the caller's. */
scb_cert_read scb_cert_signer(const unsigned char *chain, size_t len, uint64_t signer_handle);
void scb_cert_free(scb_cert *c);
/* The leaf in DER; the caller frees it with scb_wipe. */
size_t scb_cert_leaf(scb_cert *c, unsigned char **der);
/* Sets the OCSP staple; len 0 is none. Safe while connections send it. */
int scb_cert_staple(scb_cert *c, const unsigned char *der, size_t len);
/* The staple that a client was sent, borrowed. */
size_t scb_conn_staple(scb_conn *c, const unsigned char **der);
/* The timestamps in the handshake that a client was sent, each after its length in
 * two bytes, big-endian; the caller frees *out with scb_wipe. None if the list is
 * malformed. */
size_t scb_conn_scts(scb_conn *c, unsigned char **out);
#define SCB_REPLACE_ALL 0
#define SCB_KEEP_OTHERS 1       /* those of other types of key than the first */
#define SCB_SAME_KEY_TYPE (-6)
/* Replaces the set of an SSL_CTX; new SSLs have it. */
int scb_ctx_use_certs(SSL_CTX *ctx, scb_cert **cert, int n, int others, scb_errs **errs);
int scb_ctx_has_set(SSL_CTX *ctx);
/* When the first certificate of an SSL_CTX expires, 0 without one. */
int64_t scb_ctx_expires(SSL_CTX *ctx);
/* Gives an SSL this certificate in the place of all that it has, NULL for none. */
int scb_ssl_use_cert(SSL *ssl, scb_cert *c, scb_errs **errs);

/* For C only. */
typedef struct scb_pass {
    const char *p;              /* NULL if there is none */
    size_t len;
    int asked;
} scb_pass;
/* Answers with an scb_pass: without a callback OpenSSL asks on the terminal. */
int scb_give_pass(char *buf, int size, int rwflag, void *arg);
scb_cert *scb_cert_new(void);
/* Fills c with the first of certs that one of the n keys fits, and its issuers.
 * Returns SCB_CERT_GOOD or what is wrong. */
int scb_cert_pick(scb_cert *c, STACK_OF(X509) *certs, EVP_PKEY **keys, int n);
/* Ends the reading of a certificate. */
void scb_cert_done(scb_cert_read *r);
/* Reads all certificates of a PEM text, for ctx, which may be NULL. NULL if one is
 * malformed, or there is none. */
STACK_OF(X509) *scb_read_certs(SSL_CTX *ctx, const unsigned char *pem, int len);
/* Prepares a new SSL_CTX for a set and for staples. */
int scb_ctx_hold_certs(SSL_CTX *ctx, int client);
/* Gives a new SSL, or one that was switched to ctx, the set of ctx if it has one.
 * Answers 0 for a failure, SCB_USES_SIGNER if one of the keys is a Signer, else 1. */
#define SCB_USES_SIGNER 2
int scb_ssl_use_set(SSL *ssl, SSL_CTX *ctx);
/* Calls f for each certificate of ctx until it returns 0, which is the answer then. */
int scb_ctx_each_leaf(SSL_CTX *ctx, int (*f)(void *arg, X509 *leaf), void *arg);

/* ---- crls.c: what else a peer is verified by ------------------------------ */

int scb_crls_init(void);
/* Adds lists, each in place of those that OpenSSL would no longer use beside it. */
int scb_ctx_add_crls(SSL_CTX *ctx, const unsigned char *pem, int len, scb_errs **errs);
int scb_ctx_set_sigalgs(SSL_CTX *ctx, const char *list, scb_errs **errs);
int scb_ctx_set_verify_depth(SSL_CTX *ctx, int depth);
int scb_ctx_set_purpose(SSL_CTX *ctx, int purpose, scb_errs **errs);
/* Each name ends with a zero byte, and so does the list. */
int scb_ctx_set_verify_names(SSL_CTX *ctx, const char *names, scb_errs **errs);

/* For C only. */
#define SCB_CRL_FLAGS (X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL)
/* Adds lists to a store and has it ask for them. */
int scb_store_add_crls(X509_STORE *store, STACK_OF(X509_CRL) *more);
/* The lists that were added, with references. NULL if memory is short. */
STACK_OF(X509_CRL) *scb_store_crls(X509_STORE *store);

/* ---- uri.c: certificates and keys that OSSL_STORE finds ------------------- */

/* Reads content, or without it what the URI names. passphrase is as for
 * scb_cert_parse. */
scb_cert_read scb_cert_open(const char *uri, const char *scheme, const unsigned char *content, size_t content_len,
                            const char *passphrase, size_t len);

/* ---- ssl_ctx.c: making, configuring and freeing an SSL_CTX --------------- */

SSL_CTX *scb_ctx_new(int client, OSSL_LIB_CTX *libctx, const char *propq, scb_errs **errs);
void scb_ctx_up_ref(SSL_CTX *ctx);
void scb_ctx_free(SSL_CTX *ctx);
/* Frees the SSL_CTX of a Context that was never closed. No handler runs: the
 * caller is a cleanup function of the garbage collector. No handshake runs either,
 * which could call a pointer that just became NULL (SEMANTICS F4.2): a Conn keeps
 * its Context, and so does Pointer. */
void scb_ctx_forget(SSL_CTX *ctx);

int scb_ctx_use_pem(SSL_CTX *ctx, const unsigned char *cert, int cert_len, const unsigned char *key, int key_len, scb_errs **errs);
int scb_ctx_add_cas(SSL_CTX *ctx, const unsigned char *pem, int len, int fresh, int announce, scb_errs **errs);

int scb_ctx_set_versions(SSL_CTX *ctx, int min, int max, scb_errs **errs);
int scb_ctx_security_level(SSL_CTX *ctx);
/* The level, at most that of ctx, at which OpenSSL allows a version; -1 if it has
 * not got it. */
int scb_ctx_level_for(SSL_CTX *ctx, int version);
int scb_ctx_set_ciphers(SSL_CTX *ctx, const char *list, scb_errs **errs);
int scb_ctx_set_ciphersuites(SSL_CTX *ctx, const char *list, scb_errs **errs);
int scb_ctx_set_groups(SSL_CTX *ctx, const char *list, scb_errs **errs);
void scb_ctx_set_verify(SSL_CTX *ctx, int mode);
int scb_ctx_verify_mode(SSL_CTX *ctx);
uint64_t scb_ctx_set_options(SSL_CTX *ctx, uint64_t set, uint64_t clear);
int scb_ctx_set_max_early_data(SSL_CTX *ctx, uint32_t n);
uint32_t scb_ctx_max_early_data(SSL_CTX *ctx);
int scb_ctx_set_num_tickets(SSL_CTX *ctx, size_t n);
int scb_ctx_set_id_context(SSL_CTX *ctx, const unsigned char *sid, unsigned int len, scb_errs **errs);
long scb_ctx_set_cache_mode(SSL_CTX *ctx, long mode);
long scb_ctx_set_cache_size(SSL_CTX *ctx, long n);
long scb_ctx_set_timeout(SSL_CTX *ctx, long seconds);

/* Tells the kind of SSL that the method of ctx makes. SCB_FAIL: it makes none. */
#define SCB_KIND_SERVER 1
#define SCB_KIND_CLIENT 2
#define SCB_KIND_DTLS 3
int scb_ctx_kind(SSL_CTX *ctx);

typedef struct scb_ctx_stats {
    long number, connect, connect_good, accept, accept_good, hits, cb_hits, misses, timeouts, cache_full;
} scb_ctx_stats;
scb_ctx_stats scb_ctx_get_stats(SSL_CTX *ctx);

/* These return SCB_REENTRANT in a remove handler that may hold the lock. */
int scb_ctx_add_session(SSL_CTX *ctx, SSL_SESSION *s);
int scb_ctx_remove_session(SSL_CTX *ctx, SSL_SESSION *s);
int scb_ctx_flush(SSL_CTX *ctx, int64_t at);

/* For C only. */
/* Notes that ssl reads ctx from now on, and gives it copies of what a later setter
 * changes. */
int scb_ctx_serve(SSL_CTX *ctx, SSL *ssl);

/* ---- policy.c: a digest of the policy of an SSL_CTX ------------------------ */

/* Parts of a policy that have no getter. */
#define SCB_POLICY_NO_CERT (-3)  /* no certificate: a callback in C gives one */
#define SCB_POLICY_CALLBACK (-4) /* a verify callback */
#define SCB_POLICY_LAZY_CAS (-5) /* CAs that join the store when they are asked for */
#define SCB_POLICY_NO_CAS (-6)   /* clients are verified, and no CA is there */
/* The digest covers the names of the certificates, whether a callback in Go
 * chooses others, the policy on client
 * certificates with all that has a getter, and the ciphers. SSL_CTXs with equal
 * digests may resume each other's sessions. It is set also where the answer names
 * a part that it does not cover. */
int scb_ctx_policy(SSL_CTX *ctx, unsigned char digest[32]);

/* ---- alpn.c: ALPN -------------------------------------------------------- */

int scb_ctx_set_alpn(SSL_CTX *ctx, const unsigned char *wire, size_t len);
/* A copy of the list that was set; the caller frees it with scb_wipe. */
size_t scb_ctx_alpn(SSL_CTX *ctx, unsigned char **copy);
int scb_conn_set_alpn(scb_conn *c, const unsigned char *wire, unsigned int len);

/* ---- verify.c: what a connection was refused for ------------------------- */

/* Why a chain did not verify. Certificates are encoded as by scb_encode_certs. */
typedef struct scb_refusal {
    int code, depth;            /* of X509_STORE_CTX */
    unsigned char *cert, *sent; /* the one at that depth; those that the peer sent */
    size_t cert_len, sent_len;
} scb_refusal;
/* The text of a code. */
const char *scb_verify_reason(long code);
/* Has a TLS 1.3 server ask Go about each client certificate. */
void scb_ctx_hook_verify(SSL_CTX *ctx);
/* Is all that the handshake agrees on known? From then on Go judges it, before the
 * output is sent. */
int scb_conn_settled(scb_conn *c);
/* May an alert that is not encrypted take the place of the unsent output? */
int scb_conn_takes_plain_alert(scb_conn *c);
void scb_conn_drop_spill(scb_conn *c);

/* For C only. */
void scb_refusal_free(scb_refusal *r);
/* Notes refusals, and asks the verify callback that the SSL has. */
void scb_conn_hook_verify(scb_conn *c);
/* SSL_set_verify, for a callback that may be NULL. */
void scb_ssl_set_verify(SSL *ssl, int mode, SSL_verify_cb verify);
/* Each certificate as DER after its length in four bytes, big-endian. leaf may be
 * NULL. The caller frees *out. */
size_t scb_encode_certs(X509 *leaf, STACK_OF(X509) *chain, unsigned char **out);

/* ---- ssl_io.c: connections that Go drives -------------------------------- */

#define SCB_OP_HANDSHAKE 0
#define SCB_OP_READ 1
#define SCB_OP_WRITE 2
#define SCB_OP_SHUTDOWN 3
#define SCB_OP_DRAIN 4
#define SCB_OP_READ_EARLY 5
#define SCB_OP_WRITE_EARLY 6

/* The results of a step, among others; Go reads them as plain memory. */
struct scb_conn {
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
    int early;                  /* the result of SSL_read_early_data */
    uint32_t early_sent;        /* early data, and half-RTT data, that was written */
    uint32_t owed;              /* at most so many bytes of answers to the peer wait to be sent; Go counts them */
    long refused;               /* the verify result if that is why a step failed, else X509_V_OK */
    scb_refusal *refusal;       /* details of the last one, NULL if there was none */
    SSL_verify_cb verify;       /* C's verify callback, NULL for none */
    X509_STORE_CTX *chain;      /* that Go judges */
    int by_thread;              /* of acceptor.c: then handle is 0 until Go was called */
    int signs;                  /* a Signer in Go has one of the keys */
    int unseen;                 /* likewise: Go has to see the ClientHello for which the handshake is parked */
    int held;                   /* likewise: Go stores sessions before the output is sent */
    scb_conn *outer;            /* the step around this one, on the same thread */
    /* Of the session that is resumed: the peer's intermediates, and the chain that was built of them; or NULL. */
    STACK_OF(X509) *sent, *verified;
};

#define SCB_NAME_NONE 0
#define SCB_NAME_DNS 1
#define SCB_NAME_IP 2
/* A struct that is returned stays on Go's stack; one that C gets the address of
 * goes to Go's heap. */
typedef struct scb_made {
    scb_conn *conn;             /* NULL: see errs */
    scb_errs *errs;
} scb_made;
scb_made scb_conn_new(SSL_CTX *ctx, uint64_t conn_handle, int client, const char *name, int name_kind);
void scb_conn_free(scb_conn *c, int abort);
void scb_step(scb_conn *c, int op, unsigned char *buf, size_t len, const unsigned char *in, size_t in_len,
              unsigned char *out, size_t out_cap);

/* ---- acceptor.c: threads that accept and shake hands ---------------------- */

/*
 * The threads of a Listener give these to Go: connections, with input that OpenSSL has
 * not taken, and output that was not sent. Go owns the socket and the scb_conn from
 * then on; conn is NULL if it could not be made.
 */
#define SCB_ARRIVED_COMPLETE 1  /* the handshake is complete, and all output sent */
#define SCB_ARRIVED_UNDER_WAY 2 /* Go goes on with the handshake */
#define SCB_ARRIVED_ERROR 3     /* accept4 failed; nothing is accepted until scb_acceptor_resume */
#define SCB_ARRIVED_LAST 4      /* of a Listener that is closed */
typedef struct scb_arrival {
    int kind, fd;
    scb_conn *conn;
    unsigned char *in, *out;
    size_t in_len, out_len;
    int64_t took;               /* ns since accept4 */
    int err;                    /* errno, 0 for none */
    int stepped;                /* the handshake has begun */
    int answered;               /* output was sent */
    int bare;                   /* no Conn was made for it */
    int ended;                  /* the client has ended the connection, or err has */
} scb_arrival;
typedef struct scb_acceptor scb_acceptor;
/* Accepts connections of ctx on a duplicate of fd, at most max at a time, whose
 * handshakes may take limit ns. There is something to take whenever the eventfd
 * *ready is readable; Go closes it after scb_acceptor_free. NULL if no thread could
 * be started. */
scb_acceptor *scb_acceptor_open(SSL_CTX *ctx, int fd, int64_t limit, int64_t max, int *ready);
int scb_acceptor_take(scb_acceptor *a, scb_arrival *out, int max);
/* Ends what scb_acceptor_take began: frees in and out. */
void scb_acceptor_took(scb_acceptor *a, scb_arrival *arrivals, int n);
/* n connections are not among the max any more. */
void scb_acceptor_leave(scb_acceptor *a, int n);
void scb_acceptor_resume(scb_acceptor *a);
/* Nothing is accepted from its return on. Connections under way arrive, and then
 * SCB_ARRIVED_LAST, after which a has to be freed. */
void scb_acceptor_close(scb_acceptor *a);
void scb_acceptor_free(scb_acceptor *a);
/* The number of threads, as long as there are Listeners. */
void scb_acceptors_size(int n);
int scb_acceptor_threads(void);
/* Gives references on ctx back: its connections arrive without an scb_conn. */
void scb_acceptors_forget(SSL_CTX *ctx);
int scb_acceptors_under_way(SSL_CTX *ctx);
/* Connections for which no Conn was made yet. */
int scb_bare_conns(void);

/* For C only. */
void scb_conn_seen(scb_conn *c); /* Go has made a Conn for it */

/* ---- ssl_state.c: the state of an SSL ------------------------------------ */

const char *scb_ssl_servername(SSL *ssl);
int scb_ssl_version(SSL *ssl);
uint64_t scb_ssl_options(SSL *ssl);
int scb_ssl_reused(SSL *ssl);
/* Is ssl a server's, with its handshake complete? */
int scb_ssl_served(SSL *ssl);

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
/* Answers SCB_OFFER_* for a session that must not be offered. See scb_peer_offers. */
int scb_conn_set_session(scb_conn *c, SSL_SESSION *s, const char *name, int name_kind, int vetted);
/* The amount of early data that the offered session allows. */
uint32_t scb_conn_early_limit(scb_conn *c);
int scb_conn_early_accepted(scb_conn *c);

/* ---- exporter.c: keying material and channel binding --------------------- */

int scb_conn_export(scb_conn *c, unsigned char *out, size_t len, const char *label, size_t label_len,
                    const unsigned char *context, size_t context_len, int has_context, scb_errs **errs);
/* Has the session an extended master secret? */
int scb_conn_extms(scb_conn *c);
/* The tls-unique of a connection. Returns its length, 0 where there is none. */
size_t scb_conn_unique(scb_conn *c, unsigned char *out, size_t cap);

/* ---- conn_do.c: lending an SSL to other code ----------------------------- */

typedef struct scb_lent {
    SSL *ssl;
    SSL_CTX *outer;             /* for scb_conn_take_back */
} scb_lent;
/* Both enclose that code, on one thread. in is pinned. Output is spilt. */
scb_lent scb_conn_lend(scb_conn *c, const unsigned char *in, size_t in_len);
/* Returns how much input is left. */
size_t scb_conn_take_back(scb_conn *c, SSL_CTX *outer);

/* ---- cert_callbacks.c: callbacks that choose a certificate ---------------- */

/* Lists in the ClientHello that the hook sees, valid during its call only. A
 * pointer is NULL if the extension is absent. */
typedef struct scb_hello_lists {
    const unsigned char *ciphers, *versions, *sigalgs, *alpn;
    size_t ciphers_len, versions_len, sigalgs_len, alpn_len;
    unsigned int legacy_version;
} scb_hello_lists;
scb_hello_lists scb_hello_read(SSL *ssl);
int scb_ssl_set_id_context(SSL *ssl, const unsigned char *sid, unsigned int len);
/* Go's answers for a client's certificate. */
#define SCB_CHOSEN 1
#define SCB_CHOSEN_FAIL 0
#define SCB_CHOSEN_PARK (-1)
/* New SSLs of ctx ask Go for a certificate when their server wants one. */
void scb_ctx_hook_client_cert(SSL_CTX *ctx, int on);
/* The names of CAs in a CertificateRequest, as by scb_encode_certs. */
size_t scb_ssl_ca_names(SSL *ssl, unsigned char **out);
/* The number of signature schemes that the peer accepts, and the i-th of them. */
int scb_ssl_peer_sigalgs(SSL *ssl);
uint16_t scb_ssl_peer_sigalg(SSL *ssl, int i);

/* ---- client_hello.c: the ClientHello hook, and attached SSLs ------------- */

int scb_attached_init(void);
/* Handle of the store layer's state for an SSL that C made, 0 if it has none. The
 * SSL frees it. */
uint64_t scb_ssl_attached(SSL *ssl);
int scb_ssl_set_attached(SSL *ssl, uint64_t attached_handle);

/* The fields of a ClientHello. A pointer is NULL if the extension is absent; all
 * are valid during the call only. */
typedef struct scb_hello {
    const unsigned char *random, *session_id, *server_name, *versions, *psk, *ticket;
    size_t random_len, session_id_len, server_name_len, versions_len, psk_len, ticket_len;
    int tls13, tickets; /* enabled on this side */
    int first;          /* of its handshake, not the one after a HelloRetryRequest */
    int judged;         /* the SSL_CTX was chosen by the first one, whose name this one has */
    int switched;       /* the SSL_CTX is not the one that the SSL was made with */
} scb_hello;
/* Answers to a ClientHello. The negative of an alert ends the handshake with it. */
#define SCB_HELLO_GO_ON 1
#define SCB_HELLO_PARK 0
#define SCB_HELLO_UNSEEN 2 /* there is no Context to ask */
void scb_ctx_hook_hello(SSL_CTX *ctx, int names);
/* The hook asks Go for the sake of these: a server-name handler, a store, a
 * certificate callback. */
#define SCB_ASKS_NAME 1
#define SCB_ASKS_STORE 2
#define SCB_ASKS_CERT 4
#define SCB_ASKS_HELLO (SCB_ASKS_NAME | SCB_ASKS_STORE | SCB_ASKS_CERT)
/* Handlers of the user that run later. */
#define SCB_ASKS_SESSIONS 8
#define SCB_ASKS_KEYLOG 16
#define SCB_ASKS_VERIFY 32
/* The code of the user must not run on a thread of acceptor.c. */
#define SCB_ASKS_USER (SCB_ASKS_NAME | SCB_ASKS_CERT | SCB_ASKS_SESSIONS | SCB_ASKS_KEYLOG | SCB_ASKS_VERIFY)
void scb_ctx_set_asks(SSL_CTX *ctx, int what, int on);
/* SCB_FAIL leaves the SSL half switched: the handshake must end. */
int scb_ssl_switch(SSL *ssl, SSL_CTX *ctx, const unsigned char *sid, unsigned int sid_len);
/* For C only. */
/* Does a session have the cipher, before TLS 1.3, and the fragment length that the
 * ClientHello asks for? Resuming it would fail the handshake otherwise. For
 * callbacks in which OpenSSL looks a session up. */
int scb_hello_fits(SSL *ssl, const SSL_SESSION *s);

/* ---- ticket_keys.c: stateless tickets ------------------------------------ */

int scb_tickets_init(void);
/* Has the sessions in tickets judged by their server name and the ClientHello. */
void scb_ctx_hook_tickets(SSL_CTX *ctx);
typedef struct scb_ticket_key {
    unsigned char name[16], aes[32], hmac[32];
    int64_t not_before; /* the key seals from then on */
} scb_ticket_key;
/* Copies n keys, newest first. */
int scb_ctx_set_ticket_keys(SSL_CTX *ctx, const scb_ticket_key *keys, size_t n, scb_errs **errs);
/* How long tickets resume, renewed or not, from their full handshake on. */
int scb_ctx_set_ticket_lifetime(SSL_CTX *ctx, int64_t seconds, scb_errs **errs);

/* ---- session.c: SSL_SESSION ---------------------------------------------- */

/* Pointers into the session: valid while the caller holds it. */
typedef struct scb_session_info {
    const unsigned char *id, *sid_ctx, *alpn;
    const char *hostname;
    size_t alpn_len;
    unsigned int id_len, sid_ctx_len;
    int64_t time, timeout;
    unsigned long lifetime_hint; /* of the ticket, 0 for none */
    uint32_t max_early_data;
    uint16_t version, cipher;
    int resumable, has_ticket;
} scb_session_info;

SSL_SESSION *scb_session_parse(const unsigned char *der, size_t len, scb_errs **errs);
/* p begins with headroom unset bytes; len includes them, and is 0 after a failure.
 * The caller wipes and frees p with scb_wipe. */
typedef struct scb_der {
    unsigned char *p;
    size_t len;
} scb_der;
scb_der scb_session_der(SSL_SESSION *s, size_t headroom, scb_errs **errs);
void scb_wipe(void *p, size_t len);
void scb_session_up_ref(SSL_SESSION *s);
/* Gives OpenSSL a reference: with copy an additional one, else the caller's own.
 * Refuses, with 0, a session without a cipher, which only C can make: OpenSSL
 * would follow a NULL pointer (SEMANTICS F2.10). */
int scb_session_hand_over(SSL_SESSION *s, int copy);
void scb_session_free(SSL_SESSION *s);
SSL_SESSION *scb_session_dup(SSL_SESSION *s, scb_errs **errs);
scb_session_info scb_session_get_info(SSL_SESSION *s);
int scb_session_set_time(SSL_SESSION *s, int64_t t);
int scb_session_set_timeout(SSL_SESSION *s, int64_t seconds);

/* A negative timeout is no limit: OpenSSL decides what it means. */
int scb_session_expired(const SSL_SESSION *s, int64_t now);

/* Reasons why an entry of a store must not reach OpenSSL (SEMANTICS F2.10). */
#define SCB_ENTRY_UNDECODABLE 1
#define SCB_ENTRY_NO_CIPHER 2
#define SCB_ENTRY_OTHER_ID 3
#define SCB_ENTRY_OTHER_VERSION 4
#define SCB_ENTRY_OTHER_CONTEXT 5
#define SCB_ENTRY_EXPIRED 6
#define SCB_ENTRY_OTHER_NAME 7
#define SCB_ENTRY_OTHER_HELLO 8
#define SCB_ENTRY_PEER 9
typedef struct scb_checked {
    SSL_SESSION *sess;          /* NULL: see why */
    int why;
    int other_context;          /* its id context is not the one given; OpenSSL compares it with that of the SSL */
} scb_checked;
scb_checked scb_session_check(SSL *ssl, const unsigned char *der, size_t len, const unsigned char *id, unsigned int id_len,
                              const unsigned char *sid_ctx, unsigned int sid_ctx_len, int64_t now);

#endif
