/*
 * eviction_chain.c: an evicted session that is inserted again breaks the walk over the evicted ones.
 *
 * The defect. SSL_CTX_add_session() on a context whose cache is full evicts sessions. Since "Don't call
 * remove_session_cb under a lock" (PR 31540) the evicted are chained, while the lock is held, through their own pointer
 * "next"; after the unlock the chain is walked, remove_session_cb is called for each, and each is freed. A session of the
 * chain that is inserted again before its turn gets that pointer overwritten. The walk then leaves the chain for the
 * list of cached sessions. The end marker of that list, an address inside the SSL_CTX, is handed to SSL_SESSION_free(),
 * and the process dies. In a debugger the address is ctx + 72, on 3.6.5 and on 4.0.3.
 *
 * SSL_CTX_add_session(3) does not say that a session may not be inserted again. Ways to it:
 *  - the callback calls SSL_CTX_add_session() for another session: what this program does, it needs no luck;
 *  - another thread calls SSL_CTX_add_session() for a session that this one is evicting: "eviction_chain threads", four
 *    threads with a cache of 3, died within 12 ms in each of 12 runs;
 *  - a get_session_cb that answers with sessions it shares should do it too, since OpenSSL inserts the answers. That was
 *    tried through handshakes and not seen.
 *
 * Seen with 3.6.5 and 4.0.3, with another program also with 4.0.2. This program survives on 1.1.1w, 3.0.19 and 3.5.9,
 * the other one also on 3.0.22, 3.5.7 and 3.6.3: these call remove_session_cb under the lock. The change was ported back
 * within 3.6, so release numbers do not tell.
 *
 * Why. SSL_CTX_add_session(), ssl/ssl_sess.c:824 and 843 to 850 in 4.0.2: from the unlock on nothing protects the pointer
 * that chains the evicted, and SSL_SESSION_list_add() writes it. That the callback runs without the lock is right.
 * SSL_CTX_flush_sessions() before the change knew the problem: it collected the sessions to free after the unlock on a
 * stack. Its comment says that a session could be added again meanwhile, so the list's pointers must not be used.
 *
 * Suggested remedy. Collect the evicted, with the reference that was the cache's, on a STACK_OF(SSL_SESSION), and walk
 * that after the unlock; where it cannot grow, stop evicting, a cache that is too large for a moment does no harm. Or
 * evict one session at a time: unlock, call back and free between two rounds. That needs no memory.
 *
 * Build and run: gcc eviction_chain.c -lssl -lcrypto -lpthread && ./a.out [threads]
 * It dies of a signal where the defect is there and exits with 1 where this OpenSSL does not show it; 2 is a failure of
 * the program itself.
 */
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SESSIONS 8
#define EVICTED 4

static SSL_SESSION *sessions[SESSIONS];
static SSL_CTX *ctx;
static int calls, inserted;

static void fail(const char *what)
{
    fprintf(stderr, "cannot try: %s\n", what);
    exit(2);
}

static void remove_cb(SSL_CTX *c, SSL_SESSION *s)
{
    if (calls++ > 0)
        return;
    for (int i = 0; i < EVICTED; i++)
        if (sessions[i] != s)
            inserted += SSL_CTX_add_session(c, sessions[i]);
}

static void from_the_callback(void)
{
    for (int i = 0; i < EVICTED; i++)
        SSL_CTX_add_session(ctx, sessions[i]);
    SSL_CTX_sess_set_remove_cb(ctx, remove_cb);
    SSL_CTX_sess_set_cache_size(ctx, 1); /* the next insertion evicts all of them at once */
    printf("%d sessions are cached, now all are evicted, and the first callback inserts the others again\n", EVICTED);
    fflush(stdout);
    SSL_CTX_add_session(ctx, sessions[EVICTED]);
    printf("survived: %d callbacks, %d insertions accepted\n", calls, inserted);
    SSL_CTX_sess_set_remove_cb(ctx, NULL);
}

static void *insert(void *arg)
{
    unsigned int seed = *(unsigned int *)arg;
    time_t end = time(NULL) + 2;

    while (time(NULL) < end) {
        for (int i = 0; i < 1000; i++) {
            seed = seed * 1664525u + 1013904223u;
            SSL_CTX_add_session(ctx, sessions[(seed >> 16) % SESSIONS]);
        }
    }
    return NULL;
}

static void from_threads(void)
{
    pthread_t threads[4];
    unsigned int seeds[4] = {1, 2, 3, 4};

    SSL_CTX_sess_set_cache_size(ctx, 3);
    printf("four threads insert %d sessions into a cache of 3\n", SESSIONS);
    fflush(stdout);
    for (int i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, insert, &seeds[i]) != 0)
            fail("pthread_create");
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("survived\n");
}

int main(int argc, char **argv)
{
    printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
    ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL)
        fail("SSL_CTX_new");
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER);
    for (int i = 0; i < SESSIONS; i++) {
        unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];

        memset(id, i + 1, sizeof(id));
        sessions[i] = SSL_SESSION_new();
        if (sessions[i] == NULL || SSL_SESSION_set_protocol_version(sessions[i], TLS1_2_VERSION) != 1
            || SSL_SESSION_set1_id(sessions[i], id, sizeof(id)) != 1)
            fail("SSL_SESSION_new");
    }
    if (argc > 1 && strcmp(argv[1], "threads") == 0)
        from_threads();
    else
        from_the_callback();
    for (int i = 0; i < SESSIONS; i++)
        SSL_SESSION_free(sessions[i]);
    SSL_CTX_free(ctx);
    return 1;
}
