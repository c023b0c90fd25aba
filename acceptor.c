/*
 * acceptor.c: threads outside Go that accept connections and take their handshakes
 * on, for all Listeners of the process. A connection whose handshake is complete
 * goes to Go, and so does one that needs Go: to wait for a store, to ask a handler,
 * or to fail.
 */
#define _GNU_SOURCE /* accept4, pthread_setname_np */
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef enum scb_kind { SCB_WAKE, SCB_POST, SCB_PEER } scb_kind;

/* A connection whose handshake is under way, on one thread. */
typedef struct scb_peer {
    scb_kind kind;              /* SCB_PEER */
    int watched;                /* is the socket in the thread's epoll? */
    struct scb_post *post;
    struct scb_peer *next, **link; /* in the list of the post */
    int64_t began, due;         /* ns */
    scb_arrival a;
} scb_peer;

/* A Listener. Its threads and Go hold it; lock guards the fields from fd to last; fd and ctx
 * change under scb_pool_lock too. */
struct scb_acceptor {
    pthread_mutex_t lock;
    int fd;                     /* listens; -1 once closed */
    SSL_CTX *ctx;               /* NULL once its Context is closed */
    scb_peer *first, **last;    /* what Go has not taken yet */
    scb_peer *farewell;         /* the last one, made in advance */
    int ready;                  /* an eventfd that Go waits on */
    int64_t limit;              /* ns of a handshake */
    int64_t max;                /* of taken */
    int64_t taken;              /* places: atomic */
    int under_way;              /* handshakes that Go has not taken over: atomic */
    int paused;                 /* SCB_PAUSED_*: atomic, and changed under scb_pool_lock */
    int posts, closed;          /* under scb_pool_lock, like the list of all */
    const SSL_CTX *of;          /* never dereferenced */
    scb_acceptor *next;
};

#define SCB_PAUSED_FULL 1
#define SCB_PAUSED_FAILED 2     /* until Go asks for more */

/* A Listener's place on a thread. Its thread alone changes the list of posts, under scb_pool_lock. */
typedef struct scb_post {
    scb_kind kind;              /* SCB_POST */
    int armed;                  /* is the Listener in the thread's epoll? Under scb_pool_lock */
    scb_acceptor *a;
    struct scb_thread *t;
    scb_peer *peers, **end;     /* the oldest first, so in the order of due */
    struct scb_post *next;
} scb_post;

#define SCB_IN (18 << 10)
#define SCB_OUT (68 << 10)

typedef struct scb_thread {
    scb_kind kind;              /* SCB_WAKE */
    int ep, wake;
    int leaving;                /* under scb_pool_lock */
    scb_post *posts;
    struct scb_thread *next;
    unsigned char in[SCB_IN], out[SCB_OUT];
} scb_thread;

static pthread_mutex_t scb_pool_lock = PTHREAD_MUTEX_INITIALIZER;
static scb_thread *scb_pool;
static scb_acceptor *scb_acceptors;
static int scb_pool_size, scb_pool_wanted, scb_open_acceptors;
static int scb_bare;            /* connections without a Conn in Go: atomic */

static int64_t scb_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void scb_signal(int eventfd)
{
    uint64_t one = 1;
    ssize_t n = write(eventfd, &one, sizeof(one));

    (void)n; /* it fails only where the count is far from 0 anyway */
}

/* ---- what Go gets -------------------------------------------------------- */

static void scb_give(scb_acceptor *a, scb_peer *p)
{
    int wakes;

    p->next = NULL;
    pthread_mutex_lock(&a->lock);
    wakes = a->first == NULL;
    *a->last = p;
    a->last = &p->next;
    if (wakes) /* under the lock: Go frees a when it has taken the last one */
        scb_signal(a->ready);
    pthread_mutex_unlock(&a->lock);
}

/* Gives Go what is no connection. p may be NULL for lack of memory: of a failed accept4 Go then hears the next time. */
static void scb_tell(scb_acceptor *a, scb_peer *p, int kind, int err)
{
    if (p == NULL)
        return;
    p->a.kind = kind;
    p->a.fd = -1;
    p->a.err = err;
    scb_give(a, p);
}

int scb_acceptor_take(scb_acceptor *a, scb_arrival *out, int max)
{
    scb_peer *all, *p;
    int n = 0;

    pthread_mutex_lock(&a->lock);
    all = a->first;
    for (p = all; p != NULL && n < max; p = p->next)
        out[n++] = p->a;
    a->first = p;
    if (p == NULL)
        a->last = &a->first;
    pthread_mutex_unlock(&a->lock);
    while (all != p) {
        scb_peer *next = all->next;

        OPENSSL_free(all);
        all = next;
    }
    return n;
}

void scb_acceptor_took(scb_acceptor *a, scb_arrival *arrivals, int n)
{
    int peers = 0, bare = 0;

    for (int i = 0; i < n; i++) {
        bare += arrivals[i].bare;
        OPENSSL_free(arrivals[i].in);
        OPENSSL_free(arrivals[i].out);
        peers += arrivals[i].fd >= 0;
    }
    __atomic_sub_fetch(&a->under_way, peers, __ATOMIC_SEQ_CST);
    __atomic_sub_fetch(&scb_bare, bare, __ATOMIC_SEQ_CST);
}

void scb_conn_seen(scb_conn *c)
{
    if (c->by_thread && c->handle != 0)
        __atomic_sub_fetch(&scb_bare, 1, __ATOMIC_SEQ_CST);
}

int scb_bare_conns(void)
{
    return __atomic_load_n(&scb_bare, __ATOMIC_SEQ_CST);
}

/* ---- handshakes ---------------------------------------------------------- */

static void scb_peer_unlink(scb_peer *p)
{
    *p->link = p->next;
    if (p->next != NULL)
        p->next->link = p->link;
    else
        p->post->end = p->link;
}

/* A copy for Go; NULL if there is nothing, or no memory. */
static unsigned char *scb_keep(const unsigned char *data, size_t len)
{
    unsigned char *copy = len == 0 ? NULL : OPENSSL_malloc(len);

    if (copy != NULL)
        memcpy(copy, data, len);
    return copy;
}

/* Go goes on with the connection: with input that was read and not taken, and with output that was not sent. Without
 * memory for them the connection fails. */
static void scb_peer_leave(scb_peer *p, int kind, const unsigned char *in, size_t in_len, const unsigned char *out,
                           size_t out_len)
{
    scb_post *post = p->post;

    scb_peer_unlink(p);
    /* Go's descriptor is another one of the same socket, which would stay in the epoll. */
    if (p->watched)
        epoll_ctl(post->t->ep, EPOLL_CTL_DEL, p->a.fd, NULL);
    p->a.kind = kind;
    p->a.in = scb_keep(in, in_len);
    p->a.in_len = p->a.in == NULL ? 0 : in_len;
    p->a.out = scb_keep(out, out_len);
    p->a.out_len = p->a.out == NULL ? 0 : out_len;
    if (p->a.in_len != in_len || p->a.out_len != out_len)
        p->a.err = ENOMEM;
    p->a.took = scb_now() - p->began;
    p->a.bare = p->a.conn != NULL && p->a.conn->handle == 0;
    scb_give(post->a, p);
}

/* Sends as much as it can without waiting, and returns how much. */
static size_t scb_send(int fd, const unsigned char *out, size_t len)
{
    ssize_t n;

    do
        n = send(fd, out, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? 0 : (size_t)n;
}

static void scb_peer_step(scb_peer *p, size_t len)
{
    scb_thread *t = p->post->t;
    scb_conn *c = p->a.conn;
    size_t sent = 0;
    int goes_on;

    scb_step(c, SCB_OP_HANDSHAKE, NULL, 0, t->in, len, t->out, SCB_OUT);
    p->a.stepped = 1;
    goes_on = !c->held && c->spill_len == 0 && (c->err == SSL_ERROR_NONE || (c->err == SSL_ERROR_WANT_READ && c->in_len == 0));
    if (goes_on && c->out_len > 0) {
        p->a.answered = 1;
        sent = scb_send(p->a.fd, t->out, c->out_len);
    }
    if (!goes_on || sent < c->out_len)
        scb_peer_leave(p, SCB_ARRIVED_UNDER_WAY, t->in + len - c->in_len, c->in_len, t->out + sent, c->out_len - sent);
    else if (c->err == SSL_ERROR_NONE)
        scb_peer_leave(p, SCB_ARRIVED_COMPLETE, t->in + len - c->in_len, c->in_len, NULL, 0);
}

/* Is it the start of a TLS record, or of an SSL 2 ClientHello? */
static int scb_speaks_tls(const unsigned char *in, size_t len)
{
    return len >= 5 && (in[0] == 21 || in[0] == 22 || in[0] >= 0x80);
}

static int scb_peer_watch(scb_peer *p)
{
    struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = p };

    if (p->watched)
        return 1;
    p->watched = epoll_ctl(p->post->t->ep, EPOLL_CTL_ADD, p->a.fd, &e) == 0;
    return p->watched;
}

static void scb_peer_ready(scb_peer *p)
{
    scb_thread *t = p->post->t;
    ssize_t n;

    do
        n = recv(p->a.fd, t->in, SCB_IN, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        if (!scb_peer_watch(p))
            scb_peer_leave(p, SCB_ARRIVED_UNDER_WAY, NULL, 0, NULL, 0);
        return;
    }
    if (n <= 0) {
        p->a.ended = 1;
        p->a.err = n < 0 ? errno : 0;
        scb_peer_leave(p, SCB_ARRIVED_UNDER_WAY, NULL, 0, NULL, 0);
    } else if (!p->a.stepped && !scb_speaks_tls(t->in, (size_t)n)) {
        scb_peer_leave(p, SCB_ARRIVED_UNDER_WAY, t->in, (size_t)n, NULL, 0);
    } else {
        /* Before the step, which may be the last. */
        if (scb_peer_watch(p))
            scb_peer_step(p, (size_t)n);
        else
            scb_peer_leave(p, SCB_ARRIVED_UNDER_WAY, t->in, (size_t)n, NULL, 0);
    }
}

/* ---- accepting ----------------------------------------------------------- */

static SSL_CTX *scb_acceptor_ctx(scb_acceptor *a)
{
    SSL_CTX *ctx;

    pthread_mutex_lock(&a->lock);
    ctx = a->ctx;
    if (ctx != NULL)
        SSL_CTX_up_ref(ctx);
    pthread_mutex_unlock(&a->lock);
    return ctx;
}

static void scb_welcome(scb_post *post, int fd)
{
    scb_acceptor *a = post->a;
    scb_peer *p = OPENSSL_zalloc(sizeof(*p));
    SSL_CTX *ctx;
    scb_made made;

    if (p == NULL) {
        close(fd);
        scb_acceptor_leave(a, 1);
        return;
    }
    __atomic_add_fetch(&a->under_way, 1, __ATOMIC_SEQ_CST);
    p->kind = SCB_PEER;
    p->post = post;
    p->a.fd = fd;
    p->began = scb_now();
    p->due = p->began + a->limit;
    p->link = post->end;
    *post->end = p;
    post->end = &p->next;
    ctx = scb_acceptor_ctx(a);
    if (ctx != NULL) {
        scb_settings_read(ctx);
        made = scb_conn_new(ctx, 0, 0, NULL, SCB_NAME_NONE);
        scb_settings_end_read(ctx);
        scb_errs_free(made.errs); /* Go tries again and hears of it */
        p->a.conn = made.conn;
        SSL_CTX_free(ctx);
    }
    if (p->a.conn == NULL) {
        scb_peer_leave(p, SCB_ARRIVED_UNDER_WAY, NULL, 0, NULL, 0);
        return;
    }
    __atomic_add_fetch(&scb_bare, 1, __ATOMIC_SEQ_CST);
    p->a.conn->by_thread = 1;
    scb_peer_ready(p);
}

static int scb_arm(scb_post *post, int on)
{
    struct epoll_event e = { .events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = post };

    if (post->armed == on || post->a->fd < 0)
        return 1;
    if (epoll_ctl(post->t->ep, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, post->a->fd, &e) != 0)
        return 0;
    post->armed = on;
    return 1;
}

static scb_post *scb_post_of(scb_thread *t, scb_acceptor *a)
{
    scb_post *post = t->posts;

    while (post != NULL && post->a != a)
        post = post->next;
    return post;
}

static void scb_arm_all(scb_acceptor *a, int on)
{
    for (scb_thread *t = scb_pool; t != NULL; t = t->next) {
        scb_post *post = scb_post_of(t, a);

        if (post != NULL && !(on && t->leaving))
            scb_arm(post, on);
    }
}

void scb_acceptor_resume(scb_acceptor *a)
{
    pthread_mutex_lock(&scb_pool_lock);
    __atomic_store_n(&a->paused, 0, __ATOMIC_SEQ_CST);
    scb_arm_all(a, 1);
    pthread_mutex_unlock(&scb_pool_lock);
}

static void scb_acceptor_pause(scb_acceptor *a, int why)
{
    pthread_mutex_lock(&scb_pool_lock);
    __atomic_store_n(&a->paused, why, __ATOMIC_SEQ_CST);
    scb_arm_all(a, 0);
    pthread_mutex_unlock(&scb_pool_lock);
}

void scb_acceptor_leave(scb_acceptor *a, int n)
{
    __atomic_sub_fetch(&a->taken, n, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&a->paused, __ATOMIC_SEQ_CST) == SCB_PAUSED_FULL)
        scb_acceptor_resume(a);
}

/* Takes a place for a connection. Where there is none, accepting pauses until scb_acceptor_leave. */
static int scb_acceptor_enter(scb_acceptor *a)
{
    if (__atomic_add_fetch(&a->taken, 1, __ATOMIC_SEQ_CST) <= a->max)
        return 1;
    __atomic_sub_fetch(&a->taken, 1, __ATOMIC_SEQ_CST);
    scb_acceptor_pause(a, SCB_PAUSED_FULL);
    if (__atomic_load_n(&a->taken, __ATOMIC_SEQ_CST) < a->max)
        scb_acceptor_resume(a); /* one has left meanwhile */
    return 0;
}

/* The lock keeps the descriptor open meanwhile. */
static int scb_accept4(scb_acceptor *a)
{
    int fd = -1;

    pthread_mutex_lock(&a->lock);
    errno = EAGAIN;
    if (a->fd >= 0)
        fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC);
    pthread_mutex_unlock(&a->lock);
    return fd;
}

static void scb_post_ready(scb_post *post)
{
    scb_acceptor *a = post->a;
    int fd, err;

    if (!scb_acceptor_enter(a))
        return;
    fd = scb_accept4(a);
    err = errno;
    if (fd >= 0) {
        scb_welcome(post, fd);
        return;
    }
    scb_acceptor_leave(a, 1);
    if (err == EAGAIN || err == EWOULDBLOCK || err == EINTR || err == ECONNABORTED)
        return;
    scb_acceptor_pause(a, SCB_PAUSED_FAILED);
    scb_tell(a, OPENSSL_zalloc(sizeof(scb_peer)), SCB_ARRIVED_ERROR, err);
}

/* ---- threads ------------------------------------------------------------- */

static int scb_post_add(scb_thread *t, scb_acceptor *a)
{
    scb_post *post = OPENSSL_zalloc(sizeof(*post));

    if (post == NULL)
        return 0;
    post->kind = SCB_POST;
    post->a = a;
    post->t = t;
    post->end = &post->peers;
    if (!__atomic_load_n(&a->paused, __ATOMIC_SEQ_CST) && !scb_arm(post, 1)) {
        OPENSSL_free(post);
        return 0;
    }
    post->next = t->posts;
    t->posts = post;
    a->posts++;
    return 1;
}

void scb_acceptor_free(scb_acceptor *a)
{
    pthread_mutex_lock(&scb_pool_lock);
    for (scb_acceptor **link = &scb_acceptors; *link != NULL; link = &(*link)->next)
        if (*link == a) {
            *link = a->next;
            break;
        }
    pthread_mutex_unlock(&scb_pool_lock);
    pthread_mutex_destroy(&a->lock);
    OPENSSL_free(a);
}

/* Ends the post of a Listener that is closed, or of a thread that is leaving and has no connection any more. */
static void scb_post_end(scb_post *post)
{
    scb_acceptor *a = post->a;

    while (post->peers != NULL)
        scb_peer_leave(post->peers, SCB_ARRIVED_UNDER_WAY, NULL, 0, NULL, 0);
    scb_arm(post, 0);
    OPENSSL_free(post);
    if (--a->posts == 0 && a->closed)
        scb_tell(a, a->farewell, SCB_ARRIVED_LAST, 0);
}

/* Brings the thread's posts up to date. Reports whether the thread has nothing left to do and is out of the pool. */
static int scb_thread_sync(scb_thread *t, int *leaving)
{
    int over;

    pthread_mutex_lock(&scb_pool_lock);
    *leaving = t->leaving;
    for (scb_post **link = &t->posts; *link != NULL;) {
        scb_post *post = *link;

        if (t->leaving)
            scb_arm(post, 0);
        if (post->a->closed || (t->leaving && post->peers == NULL)) {
            *link = post->next;
            scb_post_end(post);
        } else {
            link = &post->next;
        }
    }
    for (scb_acceptor *a = scb_acceptors; a != NULL && !t->leaving; a = a->next)
        if (!a->closed && scb_post_of(t, a) == NULL)
            scb_post_add(t, a); /* without memory the other threads serve it */
    over = t->leaving && t->posts == NULL;
    for (scb_thread **link = &scb_pool; over && *link != NULL; link = &(*link)->next)
        if (*link == t) {
            *link = t->next;
            scb_pool_size--;
            break;
        }
    pthread_mutex_unlock(&scb_pool_lock);
    return over;
}

/* Gives Go what is due, and returns the milliseconds until the next is; -1 for none. */
static int scb_thread_expire(scb_thread *t)
{
    int64_t now = 0, next = INT64_MAX, wait;

    for (scb_post *post = t->posts; post != NULL; post = post->next) {
        if (post->peers != NULL && now == 0)
            now = scb_now();
        while (post->peers != NULL && post->peers->due <= now)
            scb_peer_leave(post->peers, SCB_ARRIVED_UNDER_WAY, NULL, 0, NULL, 0);
        if (post->peers != NULL && post->peers->due < next)
            next = post->peers->due;
    }
    if (next == INT64_MAX)
        return -1;
    wait = (next - now) / 1000000 + 1;
    return wait > 60000 ? 60000 : (int)wait;
}

static void *scb_thread_main(void *arg)
{
    scb_thread *t = arg;
    struct epoll_event e[64];
    int sync = 1, over = 0, leaving = 0, wait;

    while (!over) {
        if (sync)
            over = scb_thread_sync(t, &leaving);
        sync = leaving;
        wait = scb_thread_expire(t);
        for (int i = 0, n = over ? 0 : epoll_wait(t->ep, e, 64, wait); i < n; i++) {
            switch (*(scb_kind *)e[i].data.ptr) {
            case SCB_WAKE: {
                uint64_t count;
                ssize_t got = read(t->wake, &count, sizeof(count));

                (void)got;
                sync = 1;
                break;
            }
            case SCB_POST:
                scb_post_ready(e[i].data.ptr);
                break;
            case SCB_PEER:
                scb_peer_ready(e[i].data.ptr);
                break;
            }
        }
    }
    close(t->ep);
    close(t->wake);
    OPENSSL_free(t);
    return NULL;
}

static int scb_thread_start(void)
{
    scb_thread *t = OPENSSL_zalloc(sizeof(*t));
    struct epoll_event e = { .events = EPOLLIN };
    sigset_t most, before;
    pthread_attr_t detached;
    pthread_t id;
    int ok;

    if (t == NULL)
        return 0;
    t->kind = SCB_WAKE;
    t->ep = epoll_create1(EPOLL_CLOEXEC);
    t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e.data.ptr = t;
    ok = t->ep >= 0 && t->wake >= 0 && epoll_ctl(t->ep, EPOLL_CTL_ADD, t->wake, &e) == 0;
    /* Those that a fault of the thread itself raises stay, and the profiler's. */
    sigfillset(&most);
    sigdelset(&most, SIGSEGV);
    sigdelset(&most, SIGBUS);
    sigdelset(&most, SIGFPE);
    sigdelset(&most, SIGILL);
    sigdelset(&most, SIGTRAP);
    sigdelset(&most, SIGABRT);
    sigdelset(&most, SIGPROF);
    pthread_sigmask(SIG_BLOCK, &most, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    t->next = scb_pool;
    ok = ok && pthread_create(&id, &detached, scb_thread_main, t) == 0;
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!ok) {
        if (t->ep >= 0)
            close(t->ep);
        if (t->wake >= 0)
            close(t->wake);
        OPENSSL_free(t);
        return 0;
    }
    scb_pool = t; /* the new thread waits for scb_pool_lock */
    scb_pool_size++;
    pthread_setname_np(id, "libssl accept");
    return 1;
}

/* Makes the pool as large as is wanted now. Those that leave finish the handshakes that they have. */
static void scb_pool_adjust(void)
{
    int wanted = scb_open_acceptors == 0 ? 0 : scb_pool_wanted, n = 0;

    for (scb_thread *t = scb_pool; t != NULL; t = t->next) {
        t->leaving = n++ >= wanted;
        scb_signal(t->wake);
    }
    while (n < wanted && scb_thread_start())
        n++;
}

void scb_acceptors_size(int n)
{
    pthread_mutex_lock(&scb_pool_lock);
    if (n != scb_pool_wanted) {
        scb_pool_wanted = n;
        scb_pool_adjust();
    }
    pthread_mutex_unlock(&scb_pool_lock);
}

int scb_acceptor_threads(void)
{
    int n;

    pthread_mutex_lock(&scb_pool_lock);
    n = scb_pool_size;
    pthread_mutex_unlock(&scb_pool_lock);
    return n;
}

/* ---- Listeners ----------------------------------------------------------- */

scb_acceptor *scb_acceptor_open(SSL_CTX *ctx, int fd, int64_t limit, int64_t max, int *ready)
{
    scb_acceptor *a = OPENSSL_zalloc(sizeof(*a));
    int served;

    if (a == NULL)
        return NULL;
    pthread_mutex_init(&a->lock, NULL);
    a->last = &a->first;
    a->limit = limit;
    a->max = max;
    a->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    a->ready = *ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    a->farewell = OPENSSL_zalloc(sizeof(*a->farewell));
    SSL_CTX_up_ref(ctx);
    a->ctx = ctx;
    a->of = ctx;
    pthread_mutex_lock(&scb_pool_lock);
    a->next = scb_acceptors;
    scb_acceptors = a;
    scb_open_acceptors++;
    served = a->fd >= 0 && a->ready >= 0 && a->farewell != NULL;
    if (served)
        scb_pool_adjust();
    served = served && scb_pool != NULL;
    scb_open_acceptors -= !served;
    pthread_mutex_unlock(&scb_pool_lock);
    if (served)
        return a;
    if (a->fd >= 0)
        close(a->fd);
    if (a->ready >= 0)
        close(a->ready);
    SSL_CTX_free(ctx);
    OPENSSL_free(a->farewell);
    scb_acceptor_free(a);
    return NULL;
}

static SSL_CTX *scb_acceptor_strip(scb_acceptor *a)
{
    SSL_CTX *ctx;

    pthread_mutex_lock(&a->lock);
    ctx = a->ctx;
    a->ctx = NULL;
    pthread_mutex_unlock(&a->lock);
    return ctx;
}

void scb_acceptor_close(scb_acceptor *a)
{
    SSL_CTX *ctx;
    int fd;

    pthread_mutex_lock(&scb_pool_lock);
    scb_arm_all(a, 0);
    ctx = scb_acceptor_strip(a);
    pthread_mutex_lock(&a->lock);
    fd = a->fd;
    a->fd = -1;
    pthread_mutex_unlock(&a->lock);
    close(fd);
    a->closed = 1;
    scb_open_acceptors--;
    if (a->posts == 0)
        scb_tell(a, a->farewell, SCB_ARRIVED_LAST, 0);
    scb_pool_adjust();
    pthread_mutex_unlock(&scb_pool_lock);
    SSL_CTX_free(ctx); /* not under a lock: it may call remove handlers */
}

void scb_acceptors_forget(SSL_CTX *ctx)
{
    int n = 0;

    pthread_mutex_lock(&scb_pool_lock);
    for (scb_acceptor *a = scb_acceptors; a != NULL; a = a->next)
        if (a->ctx == ctx)
            n += scb_acceptor_strip(a) != NULL;
    pthread_mutex_unlock(&scb_pool_lock);
    while (n-- > 0)
        SSL_CTX_free(ctx);
}

int scb_acceptors_under_way(SSL_CTX *ctx)
{
    int n = 0;

    pthread_mutex_lock(&scb_pool_lock);
    for (scb_acceptor *a = scb_acceptors; a != NULL; a = a->next)
        if (a->of == ctx)
            n += __atomic_load_n(&a->under_way, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&scb_pool_lock);
    return n;
}
