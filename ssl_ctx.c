/*
 * ssl_ctx.c: making, configuring and freeing an SSL_CTX, and the sessions of its
 * internal cache.
 */
#include "bridge.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

/* ---- making and freeing -------------------------------------------------- */

SSL_CTX *scb_ctx_new(int client, OSSL_LIB_CTX *libctx, const char *propq, scb_errs **errs)
{
    SSL_CTX *ctx;

    scb_clear_errs();
    ctx = scb_libctx_new(libctx, propq, client ? TLS_client_method() : TLS_server_method());
    if (ctx == NULL)
        goto fail;
    if (!scb_ctx_hold_certs(ctx, client))
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

void scb_ctx_up_ref(SSL_CTX *ctx)
{
    SSL_CTX_up_ref(ctx);
}

void scb_ctx_free(SSL_CTX *ctx)
{
    SSL_CTX *outer = scb_begin_call(NULL);

    SSL_CTX_free(ctx);
    scb_end_call(outer);
    scb_clear_errs();
}

void scb_ctx_forget(SSL_CTX *ctx)
{
    SSL_CTX_sess_set_remove_cb(ctx, NULL);
    scb_ctx_free(ctx);
}

/* ---- certificates -------------------------------------------------------- */

/* Without it OpenSSL asks on the terminal for the password of an encrypted key;
 * this way the key fails. */
static int scb_no_password_cb(char *buf, int size, int rwflag, void *arg)
{
    (void)buf, (void)size, (void)rwflag, (void)arg;
    return 0;
}

/* Reads and checks everything before it changes anything, so that a failure
 * leaves the SSL_CTX as it was. */
int scb_ctx_use_pem(SSL_CTX *ctx, const unsigned char *cert, int cert_len, const unsigned char *key, int key_len, scb_errs **errs)
{
    STACK_OF(X509) *certs, *chain = NULL;
    EVP_PKEY *pkey = NULL;
    BIO *b = NULL;
    int ok = 0;

    scb_clear_errs();
    certs = scb_read_certs(ctx, cert, cert_len);
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

static int scb_has_name(STACK_OF(X509_NAME) *names, const X509_NAME *name)
{
    for (int i = 0; i < sk_X509_NAME_num(names); i++)
        if (X509_NAME_cmp(sk_X509_NAME_value(names, i), name) == 0)
            return 1;
    return 0;
}

/* The names that ctx tells clients, and those of certs, each once. */
static STACK_OF(X509_NAME) *scb_more_names(SSL_CTX *ctx, STACK_OF(X509) *certs)
{
    scb_ctx *c = scb_ctx_of(ctx);
    STACK_OF(X509_NAME) *now = c->ca_names != NULL ? c->ca_names : SSL_CTX_get_client_CA_list(ctx), *names;

    names = now == NULL ? sk_X509_NAME_new_null() : SSL_dup_CA_list(now);
    for (int i = 0; names != NULL && i < sk_X509_num(certs); i++) {
        X509_NAME *name;

        if (scb_has_name(names, X509_get_subject_name(sk_X509_value(certs, i))))
            continue;
        name = X509_NAME_dup(X509_get_subject_name(sk_X509_value(certs, i)));
        if (name == NULL || !sk_X509_NAME_push(names, name)) {
            X509_NAME_free(name);
            sk_X509_NAME_pop_free(names, X509_NAME_free);
            names = NULL;
        }
    }
    return names;
}

/* OpenSSL reads the names of the SSL_CTX in the middle of handshakes, so they stay
 * as they are once there was one: see scb_ctx_serve. */
static void scb_set_names(SSL_CTX *ctx, STACK_OF(X509_NAME) *names)
{
    scb_ctx *c = scb_ctx_of(ctx);

    if (scb_ctx_made(ctx) == 0) {
        SSL_CTX_set_client_CA_list(ctx, names);
        return;
    }
    sk_X509_NAME_pop_free(c->ca_names, X509_NAME_free);
    c->ca_names = names;
}

/* Likewise it reads the store. */
static void scb_set_store(SSL_CTX *ctx, X509_STORE *store)
{
    scb_ctx *c = scb_ctx_of(ctx);

    if (scb_ctx_made(ctx) != 0 && c->former_store == NULL && X509_STORE_up_ref(SSL_CTX_get_cert_store(ctx)))
        c->former_store = SSL_CTX_get_cert_store(ctx);
    SSL_CTX_set_cert_store(ctx, store);
}

int scb_ctx_serve(SSL_CTX *ctx, SSL *ssl)
{
    scb_ctx *c = scb_ctx_of(ctx), *before = scb_ctx_of_ssl(ssl);
    STACK_OF(X509_NAME) *names = NULL;

    __atomic_or_fetch(&c->made, SCB_MADE_BY_GO, __ATOMIC_SEQ_CST);
    if (c->ca_names != NULL && (names = SSL_dup_CA_list(c->ca_names)) == NULL)
        return 0;
    if (names != NULL || (before != NULL && before != c))
        SSL_set_client_CA_list(ssl, names); /* NULL: those of the SSL_CTX */
    return 1;
}

/* The revocation lists of a store go on to the one that replaces it. */
static int scb_keep_crls(X509_STORE *from, X509_STORE *to)
{
    STACK_OF(X509_CRL) *crls = scb_store_crls(from);
    int ok = crls != NULL && (sk_X509_CRL_num(crls) == 0 || scb_store_add_crls(to, crls));

    sk_X509_CRL_pop_free(crls, X509_CRL_free);
    return ok;
}

int scb_ctx_add_cas(SSL_CTX *ctx, const unsigned char *pem, int len, int fresh, int announce, scb_errs **errs)
{
    STACK_OF(X509) *certs;
    STACK_OF(X509_NAME) *names = NULL;
    X509_STORE *store = NULL;
    int ok = 0;

    scb_clear_errs();
    certs = scb_read_certs(ctx, pem, len);
    if (certs == NULL)
        goto end;
    if (fresh && ((store = X509_STORE_new()) == NULL || !scb_keep_crls(SSL_CTX_get_cert_store(ctx), store)))
        goto end;
    if (announce && (names = scb_more_names(ctx, certs)) == NULL)
        goto end;
    for (int i = 0; i < sk_X509_num(certs); i++)
        if (!X509_STORE_add_cert(fresh ? store : SSL_CTX_get_cert_store(ctx), sk_X509_value(certs, i)))
            goto end;
    if (fresh) {
        scb_set_store(ctx, store);
        store = NULL;
    }
    if (announce) {
        scb_set_names(ctx, names);
        names = NULL;
    }
    ok = 1;

end:
    scb_done(ok, errs);
    sk_X509_NAME_pop_free(names, X509_NAME_free);
    X509_STORE_free(store);
    sk_X509_pop_free(certs, X509_free);
    return ok;
}

/* ---- settings ------------------------------------------------------------ */

int scb_ctx_set_versions(SSL_CTX *ctx, int min, int max, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done(SSL_CTX_set_min_proto_version(ctx, min) && SSL_CTX_set_max_proto_version(ctx, max), errs);
}

int scb_ctx_security_level(SSL_CTX *ctx)
{
    return SSL_CTX_get_security_level(ctx);
}

/* Is OpenSSL built with the version? */
static int scb_version_built(int version)
{
#ifdef OPENSSL_NO_TLS1
    if (version == TLS1_VERSION)
        return 0;
#endif
#ifdef OPENSSL_NO_TLS1_1
    if (version == TLS1_1_VERSION)
        return 0;
#endif
    return version >= TLS1_VERSION;
}

/* Only an SSL can be asked. It is of another SSL_CTX, so that ctx has made none. */
int scb_ctx_level_for(SSL_CTX *ctx, int version)
{
    SSL_CTX *scratch = scb_libctx_sibling(ctx, TLS_method());
    SSL *ssl = scratch == NULL ? NULL : SSL_new(scratch);
    int level = SSL_CTX_get_security_level(ctx);

    if (!scb_version_built(version) || ssl == NULL)
        level = -1;
    for (; level >= 0; level--) {
        SSL_set_security_level(ssl, level);
        if (SSL_CTX_get_security_callback(ctx)(ssl, NULL, SSL_SECOP_VERSION, 0, version, NULL,
                                               SSL_CTX_get0_security_ex_data(ctx)))
            break;
    }
    SSL_free(ssl);
    SSL_CTX_free(scratch);
    scb_clear_errs();
    return level;
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

/* The limit on reading never falls: a ticket from before a change may carry the
 * larger limit. */
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

int scb_ctx_kind(SSL_CTX *ctx)
{
    /* Many methods are for DTLS or for clients. An SSL has getters that tell, an SSL_CTX has none. */
    SSL *ssl = scb_ssl_new(ctx);
    int kind = SCB_KIND_SERVER;

    if (ssl == NULL)
        kind = SCB_FAIL;
    else if (SSL_is_dtls(ssl))
        kind = SCB_KIND_DTLS;
    else if (!SSL_is_server(ssl))
        kind = SCB_KIND_CLIENT;
    SSL_free(ssl);
    scb_clear_errs();
    return kind;
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

/* ---- the internal cache -------------------------------------------------- */

int scb_ctx_add_session(SSL_CTX *ctx, SSL_SESSION *s)
{
    SSL_CTX *outer;
    int ret;

    if (scb_ctx_in_remove(ctx))
        return SCB_REENTRANT;
    scb_begin_use(scb_ctx_of(ctx));
    outer = scb_begin_call(NULL);
    ret = SSL_CTX_add_session(ctx, s);
    scb_end_call(outer);
    scb_end_use(scb_ctx_of(ctx));
    scb_clear_errs();
    return ret;
}

int scb_ctx_remove_session(SSL_CTX *ctx, SSL_SESSION *s)
{
    SSL_CTX *outer;
    int ret;

    /* OpenSSL would call the remove handler for it again, without an end. */
    if (scb_ctx_in_remove(ctx) || scb_session_in_remove(ctx, s))
        return SCB_REENTRANT;
    scb_begin_use(scb_ctx_of(ctx));
    outer = scb_begin_call(ctx);
    ret = SSL_CTX_remove_session(ctx, s);
    scb_end_call(outer);
    scb_end_use(scb_ctx_of(ctx));
    scb_clear_errs();
    return ret;
}

int scb_ctx_flush(SSL_CTX *ctx, int64_t at)
{
    SSL_CTX *outer;

    if (scb_ctx_in_remove(ctx))
        return SCB_REENTRANT;
    scb_begin_use(scb_ctx_of(ctx));
    outer = scb_begin_call(NULL);
#ifdef SCB_HAVE_TIME_EX
    SSL_CTX_flush_sessions_ex(ctx, (time_t)at);
#else
    SSL_CTX_flush_sessions(ctx, (long)at);
#endif
    scb_end_call(outer);
    scb_end_use(scb_ctx_of(ctx));
    scb_clear_errs();
    return SCB_OK;
}
