/*
 * crls.c: what else a peer is verified by: revocation lists, and the algorithms
 * of signatures.
 */
#include "bridge.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>

/* Reads all lists of a PEM text. NULL if one is malformed, or there is none. */
static STACK_OF(X509_CRL) *scb_read_crls(const unsigned char *pem, int len)
{
    BIO *b = BIO_new_mem_buf(pem, len);
    STACK_OF(X509_CRL) *all = sk_X509_CRL_new_null();
    X509_CRL *x = NULL;
    unsigned long last;

    while (b != NULL && all != NULL && (x = PEM_read_bio_X509_CRL(b, NULL, NULL, NULL)) != NULL) {
        if (!sk_X509_CRL_push(all, x)) {
            X509_CRL_free(x);
            break;
        }
    }
    last = ERR_peek_last_error();
    BIO_free(b);
    if (x == NULL && sk_X509_CRL_num(all) > 0 && ERR_GET_LIB(last) == ERR_LIB_PEM
        && ERR_GET_REASON(last) == PEM_R_NO_START_LINE) {
        scb_clear_errs(); /* the end of the text has left an entry */
        return all;
    }
    sk_X509_CRL_pop_free(all, X509_CRL_free);
    return NULL;
}

int scb_ctx_add_crls(SSL_CTX *ctx, const unsigned char *pem, int len, scb_errs **errs)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    const unsigned long flags = X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL;
    STACK_OF(X509_CRL) *crls;
    int ok;

    scb_clear_errs();
    crls = scb_read_crls(pem, len);
    ok = crls != NULL;
    for (int i = 0; ok && i < sk_X509_CRL_num(crls); i++)
        ok = X509_STORE_add_crl(store, sk_X509_CRL_value(crls, i));
    /* Where the store is replaced the parameters of the SSL_CTX go on asking. */
    ok = ok && X509_STORE_set_flags(store, flags) && X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), flags);
    sk_X509_CRL_pop_free(crls, X509_CRL_free);
    return scb_done(ok, errs);
}

int scb_ctx_set_sigalgs(SSL_CTX *ctx, const char *list, scb_errs **errs)
{
    scb_clear_errs();
    return scb_done((int)SSL_CTX_set1_sigalgs_list(ctx, (char *)list), errs);
}
