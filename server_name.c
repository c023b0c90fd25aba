/*
 * server_name.c: the server name in the first ClientHello of a handshake. OpenSSL
 * forgets it with the second one, and in a resumption of TLS 1.2 it says the name
 * of the session instead.
 */
#include "bridge.h"

#include <openssl/crypto.h>
#include <openssl/tls1.h>
#include <openssl/x509v3.h>
#include <strings.h>

/* The server_name extension, as it came. */
typedef struct scb_name {
    size_t len; /* 0 without the extension */
    unsigned char ext[];
} scb_name;

/* In front of the only name: the list's length, the type, the name's length. */
#define SCB_NAME_AT 5

static int scb_name_idx = -1;

static void scb_name_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    OPENSSL_free(ptr);
}

/* SSL_dup makes another connection. */
static int scb_name_dup_cb(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, SCB_EX_DUP_FROM from_d, int idx, long argl,
                           void *argp)
{
    (void)to, (void)from, (void)idx, (void)argl, (void)argp;
    *(void **)from_d = NULL;
    return 1;
}

int scb_name_init(void)
{
    scb_name_idx = SSL_get_ex_new_index(0, NULL, NULL, scb_name_dup_cb, scb_name_free_cb);
    return scb_name_idx > 0;
}

static int scb_name_is(const scb_name *n, const unsigned char *ext, size_t len)
{
    return n != NULL && n->len == len && (len == 0 || memcmp(n->ext, ext, len) == 0);
}

int scb_name_note(SSL *ssl, const unsigned char *ext, size_t len)
{
    scb_name *n = SSL_get_ex_data(ssl, scb_name_idx);

    if (scb_name_is(n, ext, len))
        return 0;
    /* OpenSSL refuses such names too, but not in a resumption of TLS 1.2. */
    if (len > SCB_NAME_AT + TLSEXT_MAXLEN_host_name
        || (len > SCB_NAME_AT && memchr(ext + SCB_NAME_AT, 0, len - SCB_NAME_AT) != NULL))
        return SSL_AD_UNRECOGNIZED_NAME;
    OPENSSL_free(n);
    n = OPENSSL_zalloc(sizeof(*n) + len + 1);
    if (!SSL_set_ex_data(ssl, scb_name_idx, n) || n == NULL) {
        OPENSSL_free(n);
        return SSL_AD_INTERNAL_ERROR;
    }
    n->len = len;
    if (len > 0)
        memcpy(n->ext, ext, len);
    return 0;
}

int scb_name_holds(SSL *ssl, const unsigned char *ext, size_t len)
{
    return scb_name_is(SSL_get_ex_data(ssl, scb_name_idx), ext, len);
}

const char *scb_name_of(SSL *ssl)
{
    scb_name *n = SSL_get_ex_data(ssl, scb_name_idx);

    if (n == NULL)
        return NULL;
    return n->len > SCB_NAME_AT ? (const char *)n->ext + SCB_NAME_AT : "";
}

static int scb_cert_covers(X509 *x, const char *name, size_t len)
{
    return x != NULL && X509_check_host(x, name, len, SCB_HOST_FLAGS, NULL) == 1;
}

int scb_name_resumes(SSL *ssl, SSL_SESSION *s)
{
    const char *was = SSL_SESSION_get0_hostname(s), *now;
    X509 *current = SSL_get_certificate(ssl);
    const unsigned char *ext;
    size_t len;
    int ok = 0;

    if (was == NULL || !SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext, &len) || len <= SCB_NAME_AT)
        return 1;
    now = (const char *)ext + SCB_NAME_AT;
    len -= SCB_NAME_AT;
    if (strlen(was) == len && strncasecmp(was, now, len) == 0)
        return 1;
    if (current == NULL)
        return 0;
    for (long op = SSL_CERT_SET_FIRST; !ok && SSL_set_current_cert(ssl, op); op = SSL_CERT_SET_NEXT)
        ok = scb_cert_covers(SSL_get_certificate(ssl), was, strlen(was))
             && scb_cert_covers(SSL_get_certificate(ssl), now, len);
    SSL_select_current_cert(ssl, current);
    return ok;
}
