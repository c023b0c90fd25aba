/*
 * lssl.c: the functions of lssl.h. They check their arguments as far as C can,
 * and do not call Go in a forked child, where it cannot run.
 */
#include "cabi.h"
#include "_cgo_export.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct lssl_cache {
    uint64_t handle;
};

static __thread char lssl_text[512];

static int lssl_forked;

static void lssl_fork_child(void)
{
    lssl_forked = 1;
}

/* Runs when the library is loaded: the process may fork before Go has started. */
static void __attribute__((constructor)) lssl_loaded(void)
{
    pthread_atfork(NULL, NULL, lssl_fork_child);
}

static int lssl_fail(int code, const char *text)
{
    snprintf(lssl_text, sizeof(lssl_text), "lssl: %s", text);
    return code;
}

static int lssl_fail_forked(void)
{
    return lssl_fail(LSSL_EFORK, "this process was forked from one that had the library loaded: fork first, then load it");
}

int lssl_abi_version(void)
{
    return LSSL_ABI_VERSION;
}

const char *lssl_error(void)
{
    return lssl_text;
}

/*
 * Fields that the program's header does not have become 0. Fields that this
 * library does not have must be 0.
 */
static int lssl_copy_options(struct lssl_options *to, const struct lssl_options *from)
{
    const struct lssl_options none = LSSL_OPTIONS_INIT;
    const unsigned char *bytes = (const unsigned char *)from;

    *to = none;
    if (from == NULL)
        return LSSL_OK;
    if (from->struct_size < offsetof(struct lssl_options, on_error_arg) + sizeof(from->on_error_arg))
        return lssl_fail(LSSL_EINVAL, "options: struct_size is not set: begin with LSSL_OPTIONS_INIT");
    for (size_t i = sizeof(*to); i < from->struct_size; i++)
        if (bytes[i] != 0)
            return lssl_fail(LSSL_EINVAL, "options: the program uses one that is newer than this library");
    *to = *from;
    if (to->flags & ~(LSSL_PARK | LSSL_WRITE_BEHIND | LSSL_SINGLE_USE | LSSL_PLAINTEXT | LSSL_REVOCABLE))
        return lssl_fail(LSSL_EINVAL, "options: a flag that this library does not know");
    if (to->keyring != NULL && to->flags & LSSL_PLAINTEXT)
        return lssl_fail(LSSL_EINVAL, "options: keyring and LSSL_PLAINTEXT exclude each other");
    if (to->id_context_len > SSL_MAX_SID_CTX_LENGTH || (to->id_context == NULL) != (to->id_context_len == 0))
        return lssl_fail(LSSL_EINVAL, "options: an id context has 1 to 32 bytes");
    return LSSL_OK;
}

static int lssl_check_ctx(SSL_CTX *ctx)
{
    /* Many methods are for DTLS or for clients. An SSL has getters that tell, an SSL_CTX has none. */
    SSL *ssl = SSL_new(ctx);
    int dtls, server;

    if (ssl == NULL)
        return lssl_fail(LSSL_EUNSUPPORTED, "the SSL_CTX makes no SSL");
    dtls = SSL_is_dtls(ssl);
    server = SSL_is_server(ssl);
    SSL_free(ssl);
    if (dtls)
        return lssl_fail(LSSL_EUNSUPPORTED, "the SSL_CTX is for DTLS");
    if (!server)
        return lssl_fail(LSSL_EUNSUPPORTED, "the SSL_CTX is for clients");
    if (SSL_CTX_get_mode(ctx) & SSL_MODE_ASYNC)
        return lssl_fail(LSSL_EUNSUPPORTED, "the SSL_CTX has SSL_MODE_ASYNC: Go cannot run in ASYNC jobs");
    return LSSL_OK;
}

int lssl_use_store(SSL_CTX *ctx, const char *url, const struct lssl_options *opt, struct lssl_cache **out)
{
    struct lssl_options o;
    struct lssl_cache *cache;
    int ret;

    if (out != NULL)
        *out = NULL;
    if (ctx == NULL || url == NULL || out == NULL)
        return lssl_fail(LSSL_EINVAL, "use store: a NULL argument");
    if (lssl_forked)
        return lssl_fail_forked();
    if ((ret = lssl_copy_options(&o, opt)) != LSSL_OK || (ret = lssl_check_ctx(ctx)) != LSSL_OK)
        return ret;
    if ((cache = malloc(sizeof(*cache))) == NULL)
        return lssl_fail(LSSL_EFAIL, "out of memory");
    ret = lsslGoUseStore(ctx, (char *)url, &o, &cache->handle, lssl_text, sizeof(lssl_text));
    if (ret != LSSL_OK) {
        free(cache);
        return ret;
    }
    *out = cache;
    return LSSL_OK;
}

int lssl_fd(SSL *ssl)
{
    return lssl_forked ? -1 : lsslGoFd(ssl);
}

int lssl_origin(SSL *ssl, unsigned char origin[LSSL_ORIGIN_SIZE])
{
    const unsigned char none[LSSL_ORIGIN_SIZE] = { 0 };

    if (origin != NULL)
        memset(origin, 0, LSSL_ORIGIN_SIZE);
    if (ssl == NULL || origin == NULL)
        return lssl_fail(LSSL_EINVAL, "origin: a NULL argument");
    if (lssl_forked)
        return lssl_fail_forked();
    lsslGoOrigin(ssl, origin);
    if (memcmp(origin, none, sizeof(none)) == 0)
        return lssl_fail(LSSL_EINVAL, "origin: the SSL is no server's with a store, or its handshake is not complete");
    return LSSL_OK;
}

int lssl_revoke(struct lssl_cache *cache, const unsigned char origin[LSSL_ORIGIN_SIZE])
{
    if (cache == NULL || origin == NULL)
        return lssl_fail(LSSL_EINVAL, "revoke: a NULL argument");
    if (lssl_forked)
        return lssl_fail_forked();
    return lsslGoRevoke(cache->handle, (unsigned char *)origin, lssl_text, sizeof(lssl_text));
}

int lssl_stats(const struct lssl_cache *cache, struct lssl_stats *out)
{
    struct lssl_stats all = { 0 };
    size_t size;

    if (cache == NULL || out == NULL || out->struct_size < sizeof(out->struct_size))
        return lssl_fail(LSSL_EINVAL, "stats: a NULL argument, or struct_size is not set");
    if (lssl_forked)
        return lssl_fail_forked();
    lsslGoStats(cache->handle, &all);
    size = out->struct_size;
    memset(out, 0, size); /* for counters that this library does not have */
    memcpy(out, &all, size < sizeof(all) ? size : sizeof(all));
    out->struct_size = size;
    return LSSL_OK;
}

int lssl_close(struct lssl_cache *cache, unsigned int timeout_ms)
{
    int ret;

    if (cache == NULL)
        return LSSL_OK;
    ret = lssl_forked ? lssl_fail_forked() : lsslGoClose(cache->handle, timeout_ms, lssl_text, sizeof(lssl_text));
    free(cache);
    return ret;
}

/* ---- for Go ---------------------------------------------------------------------- */

void cabi_tell(void (*on_error)(void *, const char *), void *arg, char *text)
{
    on_error(arg, text);
}

int cabi_fd_new(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void cabi_fd_wake(int fd)
{
    eventfd_write(fd, 1);
}

void cabi_fd_close(int fd)
{
    close(fd);
}
