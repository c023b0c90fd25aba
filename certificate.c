/*
 * certificate.c: certificates with their keys, the set of them that a context
 * has, OCSP staples and the timestamps of certificate transparency.
 */
#include "bridge.h"

#include <openssl/crypto.h>
#include <openssl/ct.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>

static int scb_staple_idx = -1;
static int scb_certs_idx = -1;

struct scb_cert {
    X509 *leaf;
    STACK_OF(X509) *chain;      /* without the leaf; never NULL, or OpenSSL builds one */
    EVP_PKEY *key;
    int signer;                 /* the key is a Signer in Go */
};

/* ---- staples --------------------------------------------------------------- */

/* Belongs to a leaf, so that every SSL which sends the leaf finds it. */
typedef struct scb_staple {
    CRYPTO_RWLOCK *lock;
    unsigned char *der;         /* NULL for none */
    size_t len;
} scb_staple;

static void scb_staple_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_staple *s = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (s == NULL)
        return;
    CRYPTO_THREAD_lock_free(s->lock);
    OPENSSL_free(s->der);
    OPENSSL_free(s);
}

/* A copy of an X509 or SSL_CTX starts without what belongs to the original. */
static int scb_no_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx, long argl,
                         void *argp)
{
    (void)to, (void)from, (void)idx, (void)argl, (void)argp;
    *(void **)from_d = NULL;
    return 1;
}

static int scb_staple_add(X509 *leaf)
{
    scb_staple *s = OPENSSL_zalloc(sizeof(*s));

    if (s != NULL && (s->lock = CRYPTO_THREAD_lock_new()) != NULL && X509_set_ex_data(leaf, scb_staple_idx, s))
        return 1;
    if (s != NULL)
        CRYPTO_THREAD_lock_free(s->lock);
    OPENSSL_free(s);
    return 0;
}

int scb_cert_staple(scb_cert *c, const unsigned char *der, size_t len)
{
    scb_staple *s = X509_get_ex_data(c->leaf, scb_staple_idx);
    unsigned char *copy = len == 0 ? NULL : OPENSSL_memdup(der, len);

    scb_clear_errs();
    if (len > 0 && copy == NULL)
        return SCB_FAIL;
    scb_write_lock(s->lock);
    OPENSSL_free(s->der);
    s->der = copy;
    s->len = len;
    scb_unlock(s->lock);
    return SCB_OK;
}

static int scb_staple_cb(SSL *ssl, void *arg)
{
    X509 *leaf = SSL_get_certificate(ssl);
    scb_staple *s = leaf == NULL ? NULL : X509_get_ex_data(leaf, scb_staple_idx);
    unsigned char *copy = NULL;
    size_t len = 0;

    (void)arg;
    if (s == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    scb_read_lock(s->lock);
    if (s->der != NULL && (copy = OPENSSL_memdup(s->der, s->len)) != NULL)
        len = s->len;
    scb_unlock(s->lock);
    if (copy == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)len); /* which owns it then */
    return SSL_TLSEXT_ERR_OK;
}

size_t scb_conn_staple(scb_conn *c, const unsigned char **der)
{
    long len = SSL_get_tlsext_status_ocsp_resp(c->ssl, der);

    return len > 0 && *der != NULL ? (size_t)len : 0;
}

/* ---- timestamps of certificate transparency ---------------------------------- */

#ifndef OPENSSL_NO_CT
/* OpenSSL asks for timestamps, and keeps them, where this is set. It has looked for
 * them in the extension, the OCSP response and the certificate before. Errors of
 * that stay in the queue, where SSL_get_error would take them for the handshake's. */
static int scb_scts_cb(const CT_POLICY_EVAL_CTX *policy, const STACK_OF(SCT) *scts, void *arg)
{
    (void)policy, (void)scts, (void)arg;
    scb_clear_errs();
    return 1;
}

static size_t scb_put_sct(const SCT *sct, unsigned char *out)
{
    int len;

    if (SCT_get_source(sct) != SCT_SOURCE_TLS_EXTENSION)
        return 0;
    len = i2o_SCT(sct, NULL);
    if (len <= 0)
        return 0;
    if (out != NULL) {
        out[0] = (unsigned char)(len >> 8);
        out[1] = (unsigned char)len;
        out += 2;
        i2o_SCT(sct, &out);
    }
    return 2 + (size_t)len;
}
#endif

static int scb_ctx_ask_scts(SSL_CTX *ctx)
{
#ifndef OPENSSL_NO_CT
    return SSL_CTX_set_ct_validation_callback(ctx, scb_scts_cb, NULL);
#else
    return ctx != NULL;
#endif
}

size_t scb_conn_scts(scb_conn *c, unsigned char **out)
{
    size_t len = 0;
#ifndef OPENSSL_NO_CT
    const STACK_OF(SCT) *scts = SSL_get0_peer_scts(c->ssl);
    size_t done = 0;

    for (int i = 0; i < sk_SCT_num(scts); i++)
        len += scb_put_sct(sk_SCT_value(scts, i), NULL);
    *out = len > 0 ? OPENSSL_malloc(len) : NULL;
    if (*out == NULL)
        len = 0;
    /* OpenSSL keeps them in the reverse order. */
    for (int i = sk_SCT_num(scts) - 1; len > 0 && i >= 0; i--)
        done += scb_put_sct(sk_SCT_value(scts, i), *out + done);
#else
    (void)c;
    *out = NULL;
#endif
    scb_clear_errs();
    return len;
}

/* ---- reading --------------------------------------------------------------- */

int scb_give_pass(char *buf, int size, int rwflag, void *arg)
{
    scb_pass *pass = arg;

    (void)rwflag;
    if (pass == NULL)
        return -1;
    pass->asked = 1;
    if (pass->p == NULL || pass->len > (size_t)size)
        return -1;
    memcpy(buf, pass->p, pass->len);
    return (int)pass->len;
}

STACK_OF(X509) *scb_read_certs(SSL_CTX *ctx, const unsigned char *pem, int len)
{
    BIO *b = BIO_new_mem_buf(pem, len);
    STACK_OF(X509) *all = sk_X509_new_null();
    X509 *x = NULL;
    unsigned long last;

    if (b == NULL || all == NULL)
        goto fail;
    while ((x = scb_x509_new(ctx)) != NULL && PEM_read_bio_X509_AUX(b, &x, scb_give_pass, NULL) != NULL) {
        if (!sk_X509_push(all, x))
            goto fail;
        x = NULL;
    }
    X509_free(x);
    x = NULL;
    last = ERR_peek_last_error();
    if (sk_X509_num(all) == 0 || ERR_GET_LIB(last) != ERR_LIB_PEM || ERR_GET_REASON(last) != PEM_R_NO_START_LINE)
        goto fail;
    scb_clear_errs(); /* the end of the text has left an entry */
    BIO_free(b);
    return all;

fail:
    X509_free(x);
    BIO_free(b);
    sk_X509_pop_free(all, X509_free);
    return NULL;
}

static int scb_read_chain(scb_cert *c, const unsigned char *in, int len, int pem)
{
    const unsigned char *p = in;

    if (!pem) {
        c->leaf = d2i_X509(NULL, &p, len);
        c->chain = sk_X509_new_null();
        return c->leaf != NULL && c->chain != NULL && p == in + len;
    }
    c->chain = scb_read_certs(NULL, in, len);
    if (c->chain != NULL)
        c->leaf = sk_X509_shift(c->chain);
    return c->leaf != NULL;
}

static int scb_read_key(scb_cert *c, const unsigned char *in, int len, int pem, scb_pass *pass)
{
    BIO *b = BIO_new_mem_buf(in, len);

    if (b != NULL && pem) {
        c->key = PEM_read_bio_PrivateKey(b, NULL, scb_give_pass, pass);
    } else if (b != NULL) {
        c->key = d2i_PKCS8PrivateKey_bio(b, NULL, scb_give_pass, pass);
        if (c->key == NULL && !pass->asked && BIO_reset(b) >= 0) {
            scb_clear_errs(); /* it is not encrypted */
            c->key = d2i_PrivateKey_bio(b, NULL);
        }
    }
    BIO_free(b);
    return c->key != NULL;
}

/* Moves the issuers from all to the chain, in their order. */
static int scb_order_chain(scb_cert *c, STACK_OF(X509) *all)
{
    X509 *last = c->leaf;

    for (int i = 0; i < sk_X509_num(all);) {
        X509 *x = sk_X509_value(all, i);

        if (X509_check_issued(x, last) != X509_V_OK) {
            i++;
            continue;
        }
        if (!sk_X509_push(c->chain, x))
            return 0;
        sk_X509_delete(all, i);
        last = x;
        i = 0;
    }
    return 1;
}

/* Answers SCB_CERT_GOOD or what is wrong. */
static int scb_read_pkcs12(scb_cert *c, const unsigned char *in, int len, scb_pass *pass)
{
    const unsigned char *p = in;
    PKCS12 *p12 = d2i_PKCS12(NULL, &p, len);
    STACK_OF(X509) *others = NULL;
    const char *word = NULL;
    int why = SCB_CERT_BAD;

    if (p12 == NULL)
        goto end;
    if (!PKCS12_mac_present(p12) || PKCS12_verify_mac(p12, "", 0)) {
        word = "";
    } else if (PKCS12_verify_mac(p12, NULL, 0)) {
        word = NULL;
    } else {
        pass->asked = 1;
        if (pass->p == NULL || !PKCS12_verify_mac(p12, pass->p, (int)pass->len)) {
            why = SCB_CERT_PASSPHRASE;
            goto end;
        }
        word = pass->p;
    }
    scb_clear_errs();
    c->chain = sk_X509_new_null();
    if (c->chain == NULL || !PKCS12_parse(p12, word, &c->key, &c->leaf, &others))
        goto end;
    why = c->leaf == NULL ? SCB_CERT_NO_CERT : c->key == NULL ? SCB_CERT_NO_KEY : SCB_CERT_GOOD;
    if (why == SCB_CERT_GOOD && !scb_order_chain(c, others))
        why = SCB_CERT_BAD;

end:
    sk_X509_pop_free(others, X509_free);
    PKCS12_free(p12);
    return why;
}

typedef struct scb_cert_input {
    const unsigned char *cert, *key;
    int cert_len, key_len;      /* key_len is 0 for PKCS#12 */
    int cert_pem, key_pem;
} scb_cert_input;

static int scb_read(scb_cert *c, const scb_cert_input *in, scb_pass *pass)
{
    int why;

    if (in->key_len == 0) {
        why = scb_read_pkcs12(c, in->cert, in->cert_len, pass);
        if (why != SCB_CERT_GOOD)
            return why;
    } else {
        if (!scb_read_chain(c, in->cert, in->cert_len, in->cert_pem))
            return SCB_CERT_NO_CERT;
        if (!scb_read_key(c, in->key, in->key_len, in->key_pem, pass))
            return pass->asked ? SCB_CERT_PASSPHRASE : SCB_CERT_NO_KEY;
    }
    if (!X509_check_private_key(c->leaf, c->key))
        return SCB_CERT_OTHER_KEY;
    return scb_staple_add(c->leaf) ? SCB_CERT_GOOD : SCB_CERT_BAD;
}

int scb_cert_pick(scb_cert *c, STACK_OF(X509) *certs, EVP_PKEY **keys, int n)
{
    if (sk_X509_num(certs) <= 0 || n == 0)
        return n == 0 && sk_X509_num(certs) > 0 ? SCB_CERT_NO_KEY : SCB_CERT_NO_CERT;
    for (int i = 0; i < sk_X509_num(certs); i++)
        for (int k = 0; k < n; k++) {
            if (!X509_check_private_key(sk_X509_value(certs, i), keys[k]))
                continue;
            scb_clear_errs();
            c->leaf = sk_X509_delete(certs, i);
            c->key = EVP_PKEY_up_ref(keys[k]) ? keys[k] : NULL;
            c->chain = sk_X509_new_null();
            return c->key != NULL && c->chain != NULL && scb_order_chain(c, certs) && scb_staple_add(c->leaf)
                       ? SCB_CERT_GOOD
                       : SCB_CERT_BAD;
        }
    return SCB_CERT_OTHER_KEY;
}

scb_cert *scb_cert_new(void)
{
    return OPENSSL_zalloc(sizeof(scb_cert));
}

void scb_cert_done(scb_cert_read *r)
{
    if (r->why != SCB_CERT_GOOD) {
        scb_take_errs(&r->errs);
        scb_cert_free(r->cert);
        r->cert = NULL;
    }
    scb_clear_errs();
}

scb_cert_read scb_cert_parse(const unsigned char *cert, int cert_len, int cert_pem, const unsigned char *key, int key_len,
                             int key_pem, const char *passphrase, size_t len)
{
    scb_cert_read r = { NULL, SCB_CERT_BAD, NULL };
    scb_cert_input in = { cert, key, cert_len, key_len, cert_pem, key_pem };
    scb_pass pass = { passphrase, len, 0 };

    scb_clear_errs();
    r.cert = scb_cert_new();
    if (r.cert != NULL)
        r.why = scb_read(r.cert, &in, &pass);
    scb_cert_done(&r);
    return r;
}

static int scb_read_signer(scb_cert *c, const unsigned char *p, size_t len, uint64_t signer_handle)
{
    const unsigned char *end = p + len;
    X509 *x;

    c->leaf = d2i_X509(NULL, &p, (long)len);
    c->chain = sk_X509_new_null();
    if (c->leaf == NULL || c->chain == NULL)
        return SCB_CERT_BAD;
    while (p < end) {
        x = d2i_X509(NULL, &p, (long)(end - p));
        if (x == NULL || !sk_X509_push(c->chain, x)) {
            X509_free(x);
            return SCB_CERT_BAD;
        }
    }
    c->key = scb_signer_key(c->leaf, signer_handle);
    c->signer = 1;
    return c->key != NULL && X509_check_private_key(c->leaf, c->key) && scb_staple_add(c->leaf) ? SCB_CERT_GOOD
                                                                                               : SCB_CERT_BAD;
}

scb_cert_read scb_cert_signer(const unsigned char *chain, size_t len, uint64_t signer_handle)
{
    scb_cert_read r = { NULL, SCB_CERT_BAD, NULL };

    scb_clear_errs();
    r.cert = scb_cert_new();
    if (r.cert != NULL)
        r.why = scb_read_signer(r.cert, chain, len, signer_handle);
    scb_cert_done(&r);
    return r;
}

void scb_cert_free(scb_cert *c)
{
    if (c == NULL)
        return;
    X509_free(c->leaf);
    sk_X509_pop_free(c->chain, X509_free);
    EVP_PKEY_free(c->key);
    OPENSSL_free(c);
}

/* NULL if there is no memory. */
static scb_cert *scb_cert_copy(const scb_cert *c)
{
    scb_cert *copy = OPENSSL_zalloc(sizeof(*copy));

    if (copy == NULL)
        return NULL;
    copy->chain = X509_chain_up_ref(c->chain);
    if (copy->chain == NULL) {
        OPENSSL_free(copy);
        return NULL;
    }
    X509_up_ref(c->leaf);
    EVP_PKEY_up_ref(c->key);
    copy->leaf = c->leaf;
    copy->key = c->key;
    copy->signer = c->signer;
    return copy;
}

size_t scb_cert_leaf(scb_cert *c, unsigned char **der)
{
    int len;

    *der = NULL;
    len = i2d_X509(c->leaf, der);
    scb_clear_errs();
    return len > 0 ? (size_t)len : 0;
}

/* ---- the set of a context -------------------------------------------------- */

typedef struct scb_set {
    int refs, n;                /* refs is guarded by the lock of the slot */
    scb_cert *cert[];
} scb_set;

/* Belongs to an SSL_CTX that this package made. */
typedef struct scb_certs {
    CRYPTO_RWLOCK *lock;
    scb_set *set;               /* NULL: the certificates are those of the SSL_CTX itself */
} scb_certs;

static void scb_set_free(scb_set *s)
{
    for (int i = 0; s != NULL && i < s->n; i++)
        scb_cert_free(s->cert[i]);
    OPENSSL_free(s);
}

static void scb_certs_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    scb_certs *c = ptr;

    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    if (c == NULL)
        return;
    scb_set_free(c->set);
    CRYPTO_THREAD_lock_free(c->lock);
    OPENSSL_free(c);
}

int scb_certs_init(void)
{
    scb_staple_idx = X509_get_ex_new_index(0, NULL, NULL, scb_no_dup_cb, scb_staple_free_cb);
    scb_certs_idx = SSL_CTX_get_ex_new_index(0, NULL, NULL, scb_no_dup_cb, scb_certs_free_cb);
    return scb_staple_idx > 0 && scb_certs_idx >= 0;
}

int scb_ctx_hold_certs(SSL_CTX *ctx, int client)
{
    scb_certs *c = OPENSSL_zalloc(sizeof(*c));

    if (c == NULL || (c->lock = CRYPTO_THREAD_lock_new()) == NULL || !SSL_CTX_set_ex_data(ctx, scb_certs_idx, c)) {
        if (c != NULL)
            CRYPTO_THREAD_lock_free(c->lock);
        OPENSSL_free(c);
        return 0;
    }
    if (client)
        return SSL_CTX_set_tlsext_status_type(ctx, TLSEXT_STATUSTYPE_ocsp) != 0 && scb_ctx_ask_scts(ctx);
    return SSL_CTX_set_tlsext_status_cb(ctx, scb_staple_cb) != 0;
}

static scb_set *scb_set_get(SSL_CTX *ctx)
{
    scb_certs *c = SSL_CTX_get_ex_data(ctx, scb_certs_idx);
    scb_set *s;

    if (c == NULL)
        return NULL;
    scb_write_lock(c->lock);
    s = c->set;
    if (s != NULL)
        s->refs++;
    scb_unlock(c->lock);
    return s;
}

static void scb_set_release(SSL_CTX *ctx, scb_set *s)
{
    scb_certs *c = SSL_CTX_get_ex_data(ctx, scb_certs_idx);
    int left;

    scb_write_lock(c->lock);
    left = --s->refs;
    scb_unlock(c->lock);
    if (left == 0)
        scb_set_free(s);
}

int scb_ctx_has_set(SSL_CTX *ctx)
{
    scb_certs *c = SSL_CTX_get_ex_data(ctx, scb_certs_idx);
    int has;

    if (c == NULL)
        return 0;
    scb_read_lock(c->lock);
    has = c->set != NULL;
    scb_unlock(c->lock);
    return has;
}

static int scb_set_apply(SSL *ssl, const scb_set *s)
{
    int ok = 1, signs = 0;

    SSL_certs_clear(ssl);
    for (int i = 0; ok && i < s->n; i++) {
        ok = SSL_use_cert_and_key(ssl, s->cert[i]->leaf, s->cert[i]->key, s->cert[i]->chain, 1);
        signs |= s->cert[i]->signer;
    }
    return ok && signs ? SCB_USES_SIGNER : ok;
}

int scb_ssl_use_set(SSL *ssl, SSL_CTX *ctx)
{
    scb_set *s = scb_set_get(ctx);
    int ok = s == NULL ? 1 : scb_set_apply(ssl, s);

    if (s != NULL)
        scb_set_release(ctx, s);
    return ok;
}

int scb_ssl_use_cert(SSL *ssl, scb_cert *c, scb_errs **errs)
{
    scb_clear_errs();
    SSL_certs_clear(ssl);
    return scb_done(c == NULL || SSL_use_cert_and_key(ssl, c->leaf, c->key, c->chain, 1), errs);
}

int scb_ctx_each_leaf(SSL_CTX *ctx, int (*f)(void *arg, X509 *leaf), void *arg)
{
    X509 *current = SSL_CTX_get0_certificate(ctx);
    scb_set *s = scb_set_get(ctx);
    int ok = 1;

    if (s != NULL) {
        for (int i = 0; ok && i < s->n; i++)
            ok = f(arg, s->cert[i]->leaf);
        scb_set_release(ctx, s);
    } else if (current != NULL) {
        for (long op = SSL_CERT_SET_FIRST; ok && SSL_CTX_set_current_cert(ctx, op); op = SSL_CERT_SET_NEXT)
            ok = f(arg, SSL_CTX_get0_certificate(ctx));
        SSL_CTX_select_current_cert(ctx, current);
    }
    return ok;
}

static int scb_note_end(void *arg, X509 *leaf)
{
    int64_t *first = arg, end = scb_time_of(X509_get0_notAfter(leaf));

    if (*first == 0 || end < *first)
        *first = end;
    return 1;
}

int64_t scb_ctx_expires(SSL_CTX *ctx)
{
    X509 *current = SSL_CTX_get0_certificate(ctx);
    int64_t first = 0;

    /* Where C makes SSLs the walk over the certificates could disturb it. */
    if (SSL_CTX_get_ex_data(ctx, scb_certs_idx) != NULL && !(scb_ctx_made(ctx) & SCB_MADE_BY_C))
        scb_ctx_each_leaf(ctx, scb_note_end, &first);
    else if (current != NULL)
        scb_note_end(&first, current);
    scb_clear_errs();
    return first;
}

/* OpenSSL judges the certificates, as it will for each connection: by the
 * security level, and one for each type of key. */
static int scb_set_try(SSL_CTX *ctx, const scb_set *s)
{
    SSL_CTX *scratch = scb_libctx_sibling(ctx, TLS_method());
    int ok = scratch == NULL ? SCB_FAIL : SCB_OK, n = 0;

    if (ok)
        SSL_CTX_set_security_level(scratch, SSL_CTX_get_security_level(ctx));
    for (int i = 0; ok && i < s->n; i++)
        ok = SSL_CTX_use_cert_and_key(scratch, s->cert[i]->leaf, s->cert[i]->key, s->cert[i]->chain, 1) ? SCB_OK : SCB_FAIL;
    for (long op = SSL_CERT_SET_FIRST; ok && SSL_CTX_set_current_cert(scratch, op); op = SSL_CERT_SET_NEXT)
        n++;
    SSL_CTX_free(scratch);
    return ok && n != s->n ? SCB_SAME_KEY_TYPE : ok;
}

int scb_ctx_use_certs(SSL_CTX *ctx, scb_cert **cert, int n, int others, scb_errs **errs)
{
    scb_certs *c = SSL_CTX_get_ex_data(ctx, scb_certs_idx);
    scb_set *before = others == SCB_KEEP_OTHERS ? scb_set_get(ctx) : NULL, *s, *old;
    int kept = before == NULL ? 0 : before->n, ok = SCB_FAIL;

    scb_clear_errs();
    s = OPENSSL_zalloc(sizeof(*s) + (size_t)(kept + n) * sizeof(*s->cert));
    for (int i = 0; s != NULL && i < kept; i++) {
        if (EVP_PKEY_base_id(before->cert[i]->key) == EVP_PKEY_base_id(cert[0]->key))
            continue;
        if ((s->cert[s->n] = scb_cert_copy(before->cert[i])) == NULL)
            goto end;
        s->n++;
    }
    for (int i = 0; s != NULL && i < n; i++) {
        if ((s->cert[s->n] = scb_cert_copy(cert[i])) == NULL)
            goto end;
        s->n++;
    }
    if (s == NULL || (ok = scb_set_try(ctx, s)) != SCB_OK)
        goto end;
    s->refs = 1;
    scb_write_lock(c->lock);
    old = c->set;
    c->set = s;
    scb_unlock(c->lock);
    if (old != NULL)
        scb_set_release(ctx, old);
    s = NULL;

end:
    scb_set_free(s);
    if (before != NULL)
        scb_set_release(ctx, before);
    if (ok != SCB_OK)
        scb_take_errs(errs);
    scb_clear_errs();
    return ok;
}
