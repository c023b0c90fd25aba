/*
 * signer.c: private keys whose signatures Go makes. Each is an EVP_PKEY of a
 * provider of ours. The provider has a library context of its own: no fetch in
 * another one, whatever its properties, can choose these algorithms.
 */
#include "bridge.h"
#include "_cgo_export.h"

#ifdef SCB_HAVE_PROVIDERS

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/proverr.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdlib.h>

/* No library context has another algorithm of this name. So OpenSSL finds none in
 * the context of an SSL_CTX, and asks the key's own provider. */
#define SCB_SIGNER_NAME "LIBSSL-SIGNER"

/* ---- the key --------------------------------------------------------------- */

typedef struct scb_signer {
    uint64_t handle;
    EVP_PKEY *cert_key; /* the certificate's: answers every question but the signature */
} scb_signer;

#define SCB_PARAM_HANDLE "libssl-handle"
#define SCB_PARAM_CERT_KEY "libssl-cert-key"

/* OpenSSL's types of these functions. A function that differs does not compile,
 * which makes the conversion in SCB_DISPATCH safe. */
static OSSL_FUNC_keymgmt_new_fn scb_signer_new;
static OSSL_FUNC_keymgmt_free_fn scb_signer_free;
static OSSL_FUNC_keymgmt_has_fn scb_signer_has;
static OSSL_FUNC_keymgmt_import_fn scb_signer_import;
static OSSL_FUNC_keymgmt_export_fn scb_signer_export;
static OSSL_FUNC_keymgmt_import_types_fn scb_signer_types;
static OSSL_FUNC_keymgmt_get_params_fn scb_signer_get_params;
static OSSL_FUNC_keymgmt_gettable_params_fn scb_signer_gettable;
static OSSL_FUNC_keymgmt_query_operation_name_fn scb_signer_operation;
static OSSL_FUNC_signature_newctx_fn scb_signing_new;
static OSSL_FUNC_signature_freectx_fn scb_signing_free;
static OSSL_FUNC_signature_digest_sign_init_fn scb_signing_init;
static OSSL_FUNC_signature_digest_sign_fn scb_signing_sign;
static OSSL_FUNC_signature_set_ctx_params_fn scb_signing_set_params;
static OSSL_FUNC_signature_settable_ctx_params_fn scb_signing_settable;
static OSSL_FUNC_provider_query_operation_fn scb_provider_query;
static OSSL_provider_init_fn scb_provider_init;
#define SCB_DISPATCH(id, f) { (id), (void (*)(void))(f) }

static void *scb_signer_new(void *provctx)
{
    (void)provctx;
    return OPENSSL_zalloc(sizeof(scb_signer));
}

static void scb_signer_free(void *key)
{
    scb_signer *k = key;

    if (k == NULL)
        return;
    if (k->handle != 0 && scb_may_call_go())
        scbGoSignerFree(k->handle);
    EVP_PKEY_free(k->cert_key);
    OPENSSL_free(k);
}

static int scb_signer_has(const void *key, int selection)
{
    (void)selection;
    return key != NULL;
}

/* Only scb_signer_key has these parameters: no other key turns into one of ours. */
static int scb_signer_import(void *key, int selection, const OSSL_PARAM params[])
{
    const OSSL_PARAM *handle = OSSL_PARAM_locate_const(params, SCB_PARAM_HANDLE);
    const OSSL_PARAM *cert_key = OSSL_PARAM_locate_const(params, SCB_PARAM_CERT_KEY);
    scb_signer *k = key;
    const void *p;
    size_t len;

    (void)selection;
    if (handle == NULL || cert_key == NULL || !OSSL_PARAM_get_octet_ptr(cert_key, &p, &len)
        || !EVP_PKEY_up_ref((EVP_PKEY *)p))
        return 0;
    k->cert_key = (EVP_PKEY *)p;
    return OSSL_PARAM_get_uint64(handle, &k->handle);
}

/* The public part, whatever is asked for: 3.0 asks for all parts of a key when it
 * compares it with a certificate's. The private part has left no memory of ours. */
static int scb_signer_export(void *key, int selection, OSSL_CALLBACK *cb, void *arg)
{
    scb_signer *k = key;
    OSSL_PARAM *params = NULL;
    int ok;

    (void)selection;
    ok = EVP_PKEY_todata(k->cert_key, EVP_PKEY_PUBLIC_KEY, &params) && cb(params, arg);
    OSSL_PARAM_free(params);
    return ok;
}

static const OSSL_PARAM *scb_signer_types(int selection)
{
    static const OSSL_PARAM none[] = { OSSL_PARAM_END };

    (void)selection;
    return none;
}

static int scb_signer_get_params(void *key, OSSL_PARAM params[])
{
    scb_signer *k = key;

    return EVP_PKEY_get_params(k->cert_key, params);
}

static const OSSL_PARAM *scb_signer_gettable(void *provctx)
{
    static const OSSL_PARAM all[] = {
        OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
        OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),
        OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_MANDATORY_DIGEST, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
        OSSL_PARAM_END
    };

    (void)provctx;
    return all;
}

/* Also the name of operations that there are not, such as decryption. Without one
 * OpenSSL would hand the public part to an algorithm of the default provider. */
static const char *scb_signer_operation(int operation)
{
    (void)operation;
    return SCB_SIGNER_NAME;
}

/* ---- the signature --------------------------------------------------------- */

/* libssl signs whole messages with EVP_DigestSign, in all versions of TLS. */
typedef struct scb_signing {
    scb_signer *key; /* the EVP_PKEY_CTX holds it */
    EVP_MD *md;      /* NULL: the key signs the message itself */
    int pss;
    char *propq;
} scb_signing;

static void *scb_signing_new(void *provctx, const char *propq)
{
    scb_signing *s = OPENSSL_zalloc(sizeof(*s));

    (void)provctx;
    if (s != NULL && propq != NULL && (s->propq = OPENSSL_strdup(propq)) == NULL) {
        OPENSSL_free(s);
        return NULL;
    }
    return s;
}

static void scb_signing_free(void *ctx)
{
    scb_signing *s = ctx;

    if (s == NULL)
        return;
    EVP_MD_free(s->md);
    OPENSSL_free(s->propq);
    OPENSSL_free(s);
}

static int scb_signing_init(void *ctx, const char *mdname, void *key, const OSSL_PARAM params[])
{
    scb_signing *s = ctx;
    int digests = mdname != NULL && mdname[0] != '\0';

    if (key == NULL || digests == EVP_PKEY_is_a(((scb_signer *)key)->cert_key, "ED25519")) {
        ERR_raise(ERR_LIB_PROV, PROV_R_INVALID_DIGEST);
        return 0;
    }
    s->key = key;
    s->pss = 0;
    EVP_MD_free(s->md);
    s->md = NULL;
    if (digests && ((s->md = EVP_MD_fetch(scb_libctx_of(scb_stepping_ctx()), mdname, s->propq)) == NULL || EVP_MD_get_type(s->md) == NID_undef))
        return 0;
    return scb_signing_set_params(s, params);
}

/* PKCS #1 and PSS as TLS has them: the salt is as long as the digest, and MGF1
 * takes the same digest. OpenSSL names them by number or by name. Other parameters
 * are hints for other providers. */
static int scb_signing_set_params(void *ctx, const OSSL_PARAM params[])
{
    scb_signing *s = ctx;
    const OSSL_PARAM *pad = params == NULL ? NULL : OSSL_PARAM_locate_const(params, OSSL_SIGNATURE_PARAM_PAD_MODE);
    const OSSL_PARAM *salt = params == NULL ? NULL : OSSL_PARAM_locate_const(params, OSSL_SIGNATURE_PARAM_PSS_SALTLEN);
    const char *name;
    int n;

    if (pad != NULL) {
        if (pad->data_type == OSSL_PARAM_UTF8_STRING)
            n = strcmp(pad->data, OSSL_PKEY_RSA_PAD_MODE_PSS) == 0       ? RSA_PKCS1_PSS_PADDING
                : strcmp(pad->data, OSSL_PKEY_RSA_PAD_MODE_PKCSV15) == 0 ? RSA_PKCS1_PADDING
                                                                         : 0;
        else if (!OSSL_PARAM_get_int(pad, &n))
            return 0;
        if (!EVP_PKEY_is_a(s->key->cert_key, "RSA") || (n != RSA_PKCS1_PSS_PADDING && n != RSA_PKCS1_PADDING))
            return 0;
        s->pss = n == RSA_PKCS1_PSS_PADDING;
    }
    return salt == NULL
           || (OSSL_PARAM_get_utf8_string_ptr(salt, &name) && strcmp(name, OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST) == 0);
}

static const OSSL_PARAM *scb_signing_settable(void *ctx, void *provctx)
{
    static const OSSL_PARAM all[] = {
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0),
        OSSL_PARAM_END
    };

    (void)ctx, (void)provctx;
    return all;
}

static int scb_signing_sign(void *ctx, unsigned char *sig, size_t *siglen, size_t sigsize, const unsigned char *tbs,
                            size_t tbslen)
{
    scb_signing *s = ctx;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int digest_len;
    int hash = NID_undef;
    char *why;

    if (sig == NULL) {
        *siglen = (size_t)EVP_PKEY_get_size(s->key->cert_key);
        return 1;
    }
    if (s->md != NULL) {
        if (!EVP_Digest(tbs, tbslen, digest, &digest_len, s->md, NULL))
            return 0;
        tbs = digest;
        tbslen = digest_len;
        hash = EVP_MD_get_type(s->md);
    }
    if (!scb_may_call_go()) {
        ERR_raise_data(ERR_LIB_PROV, PROV_R_FAILED_TO_SIGN, "Go does not run here");
        return 0;
    }
    why = scbGoSign(s->key->handle, scb_stepping_handle(), hash, s->pss, (unsigned char *)tbs, tbslen, sig, sigsize,
                    siglen);
    if (why != NULL)
        ERR_raise_data(ERR_LIB_PROV, PROV_R_FAILED_TO_SIGN, "%s", why);
    free(why);
    return why == NULL;
}

/* ---- the provider ---------------------------------------------------------- */

static const OSSL_DISPATCH scb_key_functions[] = {
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_NEW, scb_signer_new),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_FREE, scb_signer_free),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_HAS, scb_signer_has),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_IMPORT, scb_signer_import),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, scb_signer_types),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_EXPORT, scb_signer_export),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, scb_signer_types),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_GET_PARAMS, scb_signer_get_params),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, scb_signer_gettable),
    SCB_DISPATCH(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, scb_signer_operation),
    { 0, NULL }
};

static const OSSL_DISPATCH scb_signature_functions[] = {
    SCB_DISPATCH(OSSL_FUNC_SIGNATURE_NEWCTX, scb_signing_new),
    SCB_DISPATCH(OSSL_FUNC_SIGNATURE_FREECTX, scb_signing_free),
    SCB_DISPATCH(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, scb_signing_init),
    SCB_DISPATCH(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, scb_signing_sign),
    SCB_DISPATCH(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, scb_signing_set_params),
    SCB_DISPATCH(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, scb_signing_settable),
    { 0, NULL }
};

/* The caller of SignerCertificate has chosen the signer, also for a Context whose
 * properties are "fips=yes". */
#define SCB_SIGNER_PROPERTIES "provider=libssl-signer,fips=yes"

/* The names of each type are those by which libssl knows a key's type. */
static const OSSL_ALGORITHM scb_keys[] = {
    { "RSA:rsaEncryption", SCB_SIGNER_PROPERTIES, scb_key_functions, NULL },
    { "EC:id-ecPublicKey", SCB_SIGNER_PROPERTIES, scb_key_functions, NULL },
    { "ED25519", SCB_SIGNER_PROPERTIES, scb_key_functions, NULL },
    { NULL, NULL, NULL, NULL }
};

static const OSSL_ALGORITHM scb_signatures[] = {
    { SCB_SIGNER_NAME, SCB_SIGNER_PROPERTIES, scb_signature_functions, NULL },
    { NULL, NULL, NULL, NULL }
};

static const OSSL_ALGORITHM *scb_provider_query(void *provctx, int operation, int *no_cache)
{
    (void)provctx;
    *no_cache = 0;
    if (operation == OSSL_OP_KEYMGMT)
        return scb_keys;
    return operation == OSSL_OP_SIGNATURE ? scb_signatures : NULL;
}

static int scb_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
                             void **provctx)
{
    static const OSSL_DISPATCH functions[] = {
        SCB_DISPATCH(OSSL_FUNC_PROVIDER_QUERY_OPERATION, scb_provider_query),
        { 0, NULL }
    };

    (void)in;
    *out = functions;
    *provctx = (void *)core;
    return 1;
}

/* Stays for the life of the process. NULL if it cannot be made at the moment. */
static OSSL_LIB_CTX *scb_signer_context(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static OSSL_LIB_CTX *made;
    OSSL_LIB_CTX *ctx;

    pthread_mutex_lock(&lock);
    if (made == NULL && (ctx = OSSL_LIB_CTX_new()) != NULL) {
        if (OSSL_PROVIDER_add_builtin(ctx, "libssl-signer", scb_provider_init)
            && OSSL_PROVIDER_load(ctx, "libssl-signer") != NULL)
            made = ctx;
        else
            OSSL_LIB_CTX_free(ctx);
    }
    ctx = made;
    pthread_mutex_unlock(&lock);
    return ctx;
}

static EVP_PKEY *scb_signer_make(X509 *leaf, uint64_t signer_handle)
{
    void *cert_key = X509_get0_pubkey(leaf);
    OSSL_LIB_CTX *libctx = scb_signer_context();
    EVP_PKEY_CTX *ctx;
    EVP_PKEY *key = NULL;
    OSSL_PARAM params[3];

    if (cert_key == NULL || libctx == NULL)
        return NULL;
    params[0] = OSSL_PARAM_construct_uint64(SCB_PARAM_HANDLE, &signer_handle);
    params[1] = OSSL_PARAM_construct_octet_ptr(SCB_PARAM_CERT_KEY, &cert_key, 0);
    params[2] = OSSL_PARAM_construct_end();
    ctx = EVP_PKEY_CTX_new_from_name(libctx, EVP_PKEY_get0_type_name(cert_key), NULL);
    if (ctx != NULL && EVP_PKEY_fromdata_init(ctx) > 0 && EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, params) <= 0)
        key = NULL;
    EVP_PKEY_CTX_free(ctx);
    return key;
}

#endif

EVP_PKEY *scb_signer_key(X509 *leaf, uint64_t signer_handle)
{
#ifdef SCB_HAVE_PROVIDERS
    return scb_signer_make(leaf, signer_handle);
#else
    (void)leaf, (void)signer_handle;
    return NULL;
#endif
}
