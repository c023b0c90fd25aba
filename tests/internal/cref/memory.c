/*
 * memory.c: OpenSSL's allocations, counted by the place that made them, and made to fail. OpenSSL takes such functions
 * only before its first allocation, so a process asks for them with an environment variable.
 */
#include "cref.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CREF_SITES 16384

typedef struct cref_site {
    const char *file;
    int line;
    long live;
} cref_site;

typedef union cref_block {
    cref_site *site;
    max_align_t align;
} cref_block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static cref_site sites[CREF_SITES]; /* a hash table; the last stands for all that find no place */
static long made, failed, left = -1;
static int counts, all_fail;
static char only[64]; /* count and fail those alone whose file has this in its name */

static cref_site *cref_site_of(const char *file, int line)
{
    size_t at = ((uintptr_t)file * 31 + (unsigned int)line * 7919u) % (CREF_SITES - 1);

    for (int i = 0; i < 64; i++, at = (at + 1) % (CREF_SITES - 1)) {
        if (sites[at].file == NULL) {
            sites[at].file = file;
            sites[at].line = line;
        }
        if (sites[at].file == file && sites[at].line == line)
            return &sites[at];
    }
    return &sites[CREF_SITES - 1];
}

/* Counts an allocation, and tells whether it has to fail. */
static int cref_memory_fails(const char *file)
{
    int fails;

    pthread_mutex_lock(&mutex);
    if (only[0] != '\0' && (file == NULL || strstr(file, only) == NULL)) {
        pthread_mutex_unlock(&mutex);
        return 0;
    }
    made++;
    fails = left == 0;
    if (left > 0 || (fails && !all_fail))
        left--;
    failed += fails;
    pthread_mutex_unlock(&mutex);
    return fails;
}

static void *cref_malloc(size_t n, const char *file, int line)
{
    cref_block *b;

    if (n == 0 || cref_memory_fails(file) || (b = malloc(sizeof(*b) + n)) == NULL)
        return NULL;
    pthread_mutex_lock(&mutex);
    b->site = cref_site_of(file == NULL ? "" : file, line);
    b->site->live++;
    pthread_mutex_unlock(&mutex);
    return b + 1;
}

static void cref_free(void *p, const char *file, int line)
{
    cref_block *b = p;

    (void)file;
    (void)line;
    if (p == NULL)
        return;
    pthread_mutex_lock(&mutex);
    b[-1].site->live--;
    pthread_mutex_unlock(&mutex);
    free(b - 1);
}

static void *cref_realloc(void *p, size_t n, const char *file, int line)
{
    cref_block *b = p;

    if (p == NULL)
        return cref_malloc(n, file, line);
    if (n == 0) {
        cref_free(p, file, line);
        return NULL;
    }
    if (cref_memory_fails(file) || (b = realloc(b - 1, sizeof(*b) + n)) == NULL)
        return NULL;
    return b + 1;
}

__attribute__((constructor)) static void cref_memory_init(void)
{
    if (getenv("CREF_MEMORY") != NULL)
        counts = CRYPTO_set_mem_functions(cref_malloc, cref_realloc, cref_free);
}

int cref_memory_counts(void) { return counts; }

void cref_memory_fail(long after, int all)
{
    pthread_mutex_lock(&mutex);
    left = after;
    all_fail = all;
    pthread_mutex_unlock(&mutex);
}

void cref_memory_only(const char *file)
{
    pthread_mutex_lock(&mutex);
    strncpy(only, file, sizeof(only) - 1);
    pthread_mutex_unlock(&mutex);
}

long cref_memory_made(void)
{
    long n;

    pthread_mutex_lock(&mutex);
    n = made;
    pthread_mutex_unlock(&mutex);
    return n;
}

long cref_memory_failed(void)
{
    long n;

    pthread_mutex_lock(&mutex);
    n = failed;
    pthread_mutex_unlock(&mutex);
    return n;
}

int cref_memory_site(int i, const char **file, int *line, long *live)
{
    if (i >= CREF_SITES)
        return 0;
    pthread_mutex_lock(&mutex);
    *file = sites[i].file;
    *line = sites[i].line;
    *live = sites[i].live;
    pthread_mutex_unlock(&mutex);
    return 1;
}
