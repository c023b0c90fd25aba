/*
 * ssl_ctx.c: making and configuring an SSL_CTX, and handing over the error
 * queue of what failed.
 */
#include "bridge.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

/* ---- errors ----------------------------------------------------------------- */

/* ERR_clear_error goes over all 16 places, full or not: 125 ns against 20. */
void scb_clear_errs(void)
{
    if (ERR_peek_error() != 0)
        ERR_clear_error();
}

void scb_take_errs(scb_errs **errs)
{
    scb_errs *all = OPENSSL_zalloc(sizeof(*all));
    const char *file, *func = NULL, *data;
    unsigned long code;
    int line, flags;

    if (all == NULL)
        return;
    for (;;) {
        scb_err *e = &all->e[all->n];

#ifdef SCB_HAVE_ERR_GET_ERROR_ALL
        code = ERR_get_error_all(&file, &line, &func, &data, &flags);
#else
        code = ERR_get_error_line_data(&file, &line, &data, &flags);
        if (code != 0)
            func = ERR_func_error_string(code);
#endif
        if (code == 0)
            break;
        if (all->n == SCB_MAX_ERRS)
            continue; /* the queue itself holds no more */
        e->code = code;
        e->line = line;
        OPENSSL_strlcpy(e->file, file == NULL ? "" : file, sizeof(e->file));
        OPENSSL_strlcpy(e->func, func == NULL ? "" : func, sizeof(e->func));
        if (data != NULL && (flags & ERR_TXT_STRING))
            OPENSSL_strlcpy(e->data, data, sizeof(e->data));
        all->n++;
    }
    scb_errs_free(*errs);
    *errs = all;
}

void scb_put_errs(const scb_errs *all)
{
    for (int i = 0; all != NULL && i < all->n; i++) {
        const scb_err *e = &all->e[i];

#ifdef SCB_HAVE_ERR_GET_ERROR_ALL
        ERR_new();
        ERR_set_debug(e->file, e->line, e->func);
        ERR_set_error(ERR_GET_LIB(e->code), ERR_GET_REASON(e->code), e->data[0] != '\0' ? "%s" : NULL, e->data);
#else
        /* The queue keeps the pointer to the file's name, which would dangle. */
        ERR_put_error(ERR_GET_LIB(e->code), ERR_GET_FUNC(e->code), ERR_GET_REASON(e->code), "", e->line);
        if (e->data[0] != '\0')
            ERR_add_error_data(1, e->data);
#endif
    }
}

void scb_errs_free(scb_errs *e)
{
    OPENSSL_free(e);
}

static int scb_done(int ok, scb_errs **errs)
{
    if (ok <= 0)
        scb_take_errs(errs);
    scb_clear_errs();
    return ok > 0 ? SCB_OK : SCB_FAIL;
}

/* ---- making one --------------------------------------------------------------- */

SSL_CTX *scb_ctx_new(int client, scb_errs **errs)
{
    SSL_CTX *ctx;

    scb_clear_errs();
    ctx = SSL_CTX_new(client ? TLS_client_method() : TLS_server_method());
    if (ctx == NULL)
        goto fail;
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    if (!SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION))
        goto fail;
    if (client) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        if (!SSL_CTX_set_default_verify_paths(ctx))
            goto fail;
    }
    scb_clear_errs();
    return ctx;

fail:
    scb_take_errs(errs);
    SSL_CTX_free(ctx);
    scb_clear_errs();
    return NULL;
}

/* ---- certificates --------------------------------------------------------------- */

/* An encrypted key must fail, not ask on the terminal. */
static int scb_no_password_cb(char *buf, int size, int rwflag, void *arg)
{
    (void)buf, (void)size, (void)rwflag, (void)arg;
    return 0;
}

/* Certificates up to the end of the PEM text; NULL if one is malformed or
 * there is none. */
static STACK_OF(X509) *scb_read_certs(const unsigned char *pem, int len)
{
    BIO *b = BIO_new_mem_buf(pem, len);
    STACK_OF(X509) *all = sk_X509_new_null();
    X509 *x;
    unsigned long last;

    if (b == NULL || all == NULL)
        goto fail;
    while ((x = PEM_read_bio_X509_AUX(b, NULL, scb_no_password_cb, NULL)) != NULL) {
        if (!sk_X509_push(all, x)) {
            X509_free(x);
            goto fail;
        }
    }
    last = ERR_peek_last_error();
    if (sk_X509_num(all) == 0 || ERR_GET_LIB(last) != ERR_LIB_PEM || ERR_GET_REASON(last) != PEM_R_NO_START_LINE)
        goto fail;
    scb_clear_errs(); /* the end of the text is an entry too */
    BIO_free(b);
    return all;

fail:
    BIO_free(b);
    sk_X509_pop_free(all, X509_free);
    return NULL;
}

/* All is read and checked before anything changes, so a failure leaves the
 * context as it was. */
int scb_ctx_use_pem(SSL_CTX *ctx, const unsigned char *cert, int cert_len, const unsigned char *key, int key_len, scb_errs **errs)
{
    STACK_OF(X509) *certs, *chain = NULL;
    EVP_PKEY *pkey = NULL;
    BIO *b = NULL;
    int ok = 0;

    scb_clear_errs();
    certs = scb_read_certs(cert, cert_len);
    if (certs == NULL)
        goto end;
    b = BIO_new_mem_buf(key, key_len);
    if (b == NULL || (pkey = PEM_read_bio_PrivateKey(b, NULL, scb_no_password_cb, NULL)) == NULL)
        goto end;
    if (!X509_check_private_key(sk_X509_value(certs, 0), pkey))
        goto end;
    chain = sk_X509_new_null();
    if (chain == NULL)
        goto end;
    for (int i = 1; i < sk_X509_num(certs); i++)
        if (!sk_X509_push(chain, sk_X509_value(certs, i)))
            goto end;
    ok = SSL_CTX_use_cert_and_key(ctx, sk_X509_value(certs, 0), pkey, chain, 1);

end:
    scb_done(ok, errs);
    BIO_free(b);
    EVP_PKEY_free(pkey);
    sk_X509_free(chain);
    sk_X509_pop_free(certs, X509_free);
    return ok > 0 ? SCB_OK : SCB_FAIL;
}

int scb_ctx_add_cas(SSL_CTX *ctx, const unsigned char *pem, int len, int fresh, int announce, scb_errs **errs)
{
    STACK_OF(X509) *certs;
    X509_STORE *store = NULL;
    int ok = 0;

    scb_clear_errs();
    certs = scb_read_certs(pem, len);
    if (certs == NULL)
        goto end;
    if (fresh && (store = X509_STORE_new()) == NULL)
        goto end;
    for (int i = 0; i < sk_X509_num(certs); i++)
        if (!X509_STORE_add_cert(fresh ? store : SSL_CTX_get_cert_store(ctx), sk_X509_value(certs, i))
            || (announce && !SSL_CTX_add_client_CA(ctx, sk_X509_value(certs, i))))
            goto end;
    if (fresh) {
        SSL_CTX_set_cert_store(ctx, store);
        store = NULL;
    }
    ok = 1;

end:
    scb_done(ok, errs);
    X509_STORE_free(store);
    sk_X509_pop_free(certs, X509_free);
    return ok;
}

/* ---- what a session of this context was agreed under ------------------------------ */

static int scb_hash_cert(EVP_MD_CTX *md, X509 *x)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;

    return X509_digest(x, EVP_sha256(), digest, &len) && EVP_DigestUpdate(md, digest, len);
}

static int scb_hash_certs(EVP_MD_CTX *md, SSL_CTX *ctx)
{
    X509 *current = SSL_CTX_get0_certificate(ctx);
    int ok = 1;

    if (current == NULL)
        return 1;
    for (long op = SSL_CERT_SET_FIRST; ok && SSL_CTX_set_current_cert(ctx, op); op = SSL_CERT_SET_NEXT)
        ok = scb_hash_cert(md, SSL_CTX_get0_certificate(ctx));
    SSL_CTX_select_current_cert(ctx, current);
    return ok;
}

typedef struct scb_digest {
    unsigned char b[32];
} scb_digest;

static int scb_compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(scb_digest));
}

/* The CAs of a store, in an order of their own: the store's depends on who was
 * added, or looked up, first. */
static int scb_hash_cas(EVP_MD_CTX *md, X509_STORE *store)
{
    scb_digest *all;
    size_t n = 0;
    int ok = 1, num;
    STACK_OF(X509_OBJECT) *objects;

#ifdef SCB_HAVE_GET1_OBJECTS
    objects = X509_STORE_get1_objects(store);
    if (objects == NULL)
        return 0;
#else
    X509_STORE_lock(store);
    objects = X509_STORE_get0_objects(store);
#endif
    num = sk_X509_OBJECT_num(objects);
    all = num <= 0 ? NULL : OPENSSL_malloc((size_t)num * sizeof(*all));
    for (int i = 0; ok && i < num; i++) {
        X509 *x = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));

        ok = all != NULL && (x == NULL || X509_digest(x, EVP_sha256(), all[n].b, NULL));
        n += x != NULL;
    }
#ifdef SCB_HAVE_GET1_OBJECTS
    sk_X509_OBJECT_pop_free(objects, X509_OBJECT_free);
#else
    X509_STORE_unlock(store);
#endif
    if (ok && n > 0) {
        qsort(all, n, sizeof(*all), scb_compare_digests);
        ok = EVP_DigestUpdate(md, all, n * sizeof(*all));
    }
    OPENSSL_free(all);
    return ok;
}

/*
 * A digest of the certificates, the policy on client certificates with its CAs,
 * and the ciphers: two contexts with the same one may resume each other's
 * sessions. Each part starts with a byte of its own, so that none can be taken
 * for another.
 */
int scb_ctx_policy(SSL_CTX *ctx, unsigned char digest[32])
{
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ctx);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char mode = (unsigned char)SSL_CTX_get_verify_mode(ctx);
    int ok;

    scb_clear_errs();
    ok = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) && EVP_DigestUpdate(md, "k", 1)
         && scb_hash_certs(md, ctx) && EVP_DigestUpdate(md, "v", 1) && EVP_DigestUpdate(md, &mode, 1);
    if (ok && (mode & SSL_VERIFY_PEER))
        ok = scb_hash_cas(md, SSL_CTX_get_cert_store(ctx));
    ok = ok && EVP_DigestUpdate(md, "c", 1);
    for (int i = 0; ok && i < sk_SSL_CIPHER_num(ciphers); i++) {
        uint16_t id = SSL_CIPHER_get_protocol_id(sk_SSL_CIPHER_value(ciphers, i));
        unsigned char wire[2] = { (unsigned char)(id >> 8), (unsigned char)id };

        ok = EVP_DigestUpdate(md, wire, sizeof(wire));
    }
    ok = ok && EVP_DigestFinal_ex(md, digest, NULL);
    EVP_MD_CTX_free(md);
    scb_clear_errs();
    return ok;
}

/* ---- settings ------------------------------------------------------------------- */

int scb_ctx_set_versions(SSL_CTX *ctx, int min, int max, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_CTX_set_min_proto_version(ctx, min) && SSL_CTX_set_max_proto_version(ctx, max), errs);
}

int scb_ctx_set_ciphers(SSL_CTX *ctx, const char *list, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_CTX_set_cipher_list(ctx, list), errs);
}

int scb_ctx_set_ciphersuites(SSL_CTX *ctx, const char *list, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_CTX_set_ciphersuites(ctx, list), errs);
}

int scb_ctx_set_groups(SSL_CTX *ctx, const char *list, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done((int)SSL_CTX_set1_groups_list(ctx, (char *)list), errs);
}

void scb_ctx_set_verify(SSL_CTX *ctx, int mode)
{
    SSL_CTX_set_verify(ctx, mode, SSL_CTX_get_verify_callback(ctx));
}

int scb_ctx_verify_mode(SSL_CTX *ctx)
{
    return SSL_CTX_get_verify_mode(ctx);
}

uint64_t scb_ctx_set_options(SSL_CTX *ctx, uint64_t set, uint64_t clear)
{
    if (clear != 0)
        SSL_CTX_clear_options(ctx, clear);
    return SSL_CTX_set_options(ctx, set);
}

/* A server reads as much as it has offered: a ticket may be from before a change. */
int scb_ctx_set_max_early_data(SSL_CTX *ctx, uint32_t n)
{
    uint32_t before = SSL_CTX_get_recv_max_early_data(ctx);

    return SSL_CTX_set_recv_max_early_data(ctx, n > before ? n : before) && SSL_CTX_set_max_early_data(ctx, n);
}

uint32_t scb_ctx_max_early_data(SSL_CTX *ctx)
{
    return SSL_CTX_get_max_early_data(ctx);
}

int scb_ctx_set_num_tickets(SSL_CTX *ctx, size_t n)
{
    return SSL_CTX_set_num_tickets(ctx, n);
}

int scb_ctx_set_id_context(SSL_CTX *ctx, const unsigned char *sid, unsigned int len, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_CTX_set_session_id_context(ctx, sid, len), errs);
}

long scb_ctx_set_cache_mode(SSL_CTX *ctx, long mode)
{
    return SSL_CTX_set_session_cache_mode(ctx, mode);
}

long scb_ctx_set_cache_size(SSL_CTX *ctx, long n)
{
    return SSL_CTX_sess_set_cache_size(ctx, n);
}

long scb_ctx_set_timeout(SSL_CTX *ctx, long seconds)
{
    return SSL_CTX_set_timeout(ctx, seconds);
}

scb_ctx_stats scb_ctx_get_stats(SSL_CTX *ctx)
{
    scb_ctx_stats s;

    s.number = SSL_CTX_sess_number(ctx);
    s.connect = SSL_CTX_sess_connect(ctx);
    s.connect_good = SSL_CTX_sess_connect_good(ctx);
    s.accept = SSL_CTX_sess_accept(ctx);
    s.accept_good = SSL_CTX_sess_accept_good(ctx);
    s.hits = SSL_CTX_sess_hits(ctx);
    s.cb_hits = SSL_CTX_sess_cb_hits(ctx);
    s.misses = SSL_CTX_sess_misses(ctx);
    s.timeouts = SSL_CTX_sess_timeouts(ctx);
    s.cache_full = SSL_CTX_sess_cache_full(ctx);
    return s;
}

/* ---- SSL, as handlers see it ------------------------------------------------------ */

const char *scb_ssl_servername(SSL *ssl)
{
    return SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
}

int scb_ssl_version(SSL *ssl)
{
    return SSL_version(ssl);
}

uint64_t scb_ssl_options(SSL *ssl)
{
    return SSL_get_options(ssl);
}

uint64_t scb_ssl_current_handle(SSL *ssl)
{
    return scb_ctx_handle(SSL_get_SSL_CTX(ssl));
}

int scb_ssl_reused(SSL *ssl)
{
    return SSL_session_reused(ssl);
}

static int scb_verify_cb(int ok, X509_STORE_CTX *chain)
{
    (void)chain;
    return ok;
}

/* Certificates follow the context by themselves; the policy on client
 * certificates has to be carried over. SSL_set_verify ignores a NULL callback
 * and would leave the one of the former context. */
void scb_ssl_switch(SSL *ssl, SSL_CTX *ctx)
{
    SSL_verify_cb verify = SSL_CTX_get_verify_callback(ctx);

    SSL_set_SSL_CTX(ssl, ctx);
    SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ctx), verify != NULL ? verify : scb_verify_cb);
    SSL_set_verify_depth(ssl, SSL_CTX_get_verify_depth(ctx));
    scb_clear_errs();
}

int scb_ssl_set_id_context(SSL *ssl, const unsigned char *sid, unsigned int len)
{
    return SSL_set_session_id_context(ssl, sid, len);
}
