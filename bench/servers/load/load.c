/*
 * The client of bench/servers: OpenSSL alone, one connection a thread at a time.
 *
 *   load IPV4 PORT 1.2|1.3 full|resumed THREADS
 *   load version
 *
 * A connection is: TCP connect, handshake, GET, the answer to its end, close. The client offers
 * X25519 and one cipher, so that every server does the same arithmetic. It offers no ticket of
 * TLS 1.2, and does not verify the certificate.
 *
 * The second form prints the version of OpenSSL. With the first one it is a co-process. A line "prime" makes one connection on each thread, which gives the thread
 * its session, and is answered with "primed". A line "run N RATE" makes N connections and is
 * answered with
 *
 *   CONNECTIONS RESUMED SECONDS CPU_SECONDS P50 P99
 *
 * RATE is how many connections to start a second, whether or not earlier ones are over; 0 is as
 * fast as the threads can. CPU_SECONDS are the program's own. P50 and P99 are seconds from the start of a connection to the end of
 * its handshake. With a RATE they begin at the time at which it should have started.
 *
 * The client sends no close_notify: most servers have closed by then, and would answer with a reset.
 * A thread replaces its session after each connection, so no ticket of TLS 1.3 is used twice.
 * Any failure ends the program: a wrong sample must not pass for a fast one.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 256

static void die(const char *what)
{
    fprintf(stderr, "load: %s%s%s\n", what, errno != 0 ? ": " : "", errno != 0 ? strerror(errno) : "");
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_time(void)
{
    struct rusage u;

    if (getrusage(RUSAGE_SELF, &u) != 0)
        die("getrusage");
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void sleep_until(double when)
{
    struct timespec t = { .tv_sec = (time_t)when };

    t.tv_nsec = (long)((when - (double)t.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

struct worker {
    pthread_t thread;
    SSL_CTX *ctx;         /* its own: threads that share one wait for its locks */
    SSL_SESSION *session; /* to offer; NULL: a full handshake */
    long resumed;
};

static struct {
    struct sockaddr_in addr;
    int resume;
    int threads;
    struct worker workers[MAX_THREADS];
} load;

/* one command */
static struct {
    long n;
    double rate; /* 0: none */
    double start;
    double *latency; /* of each connection */
    atomic_long next;
} job;

static SSL_CTX *make_ctx(int version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

    if (ctx == NULL || !SSL_CTX_set_min_proto_version(ctx, version) ||
        !SSL_CTX_set_max_proto_version(ctx, version) || !SSL_CTX_set1_groups_list(ctx, "X25519") ||
        !SSL_CTX_set_cipher_list(ctx, "ECDHE-RSA-AES128-GCM-SHA256") ||
        !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256"))
        die("SSL_CTX");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(ctx, 1); /* half the reads: the client must not be what limits a server */
    if (version == TLS1_2_VERSION)
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    return ctx;
}

/* ---- one connection ---- */

static int dial(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
        die("socket");
    if (connect(fd, (const struct sockaddr *)&load.addr, sizeof load.addr) != 0)
        die("connect");
    return fd;
}

/* converse sends the request and reads the answer up to its end, with or without a close_notify */
static void converse(SSL *ssl)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char answer[4096];
    size_t had = 0;
    int n;

    if (SSL_write(ssl, request, sizeof request - 1) != sizeof request - 1)
        die("request");
    for (errno = 0; (n = SSL_read(ssl, answer + had, (int)(sizeof answer - had))) > 0; errno = 0)
        had += (size_t)n;
    if (had == sizeof answer || had < 12 || memcmp(answer, "HTTP/1.1 200", 12) != 0)
        die("the answer is not 200, or not small");
    if (SSL_get_error(ssl, n) != SSL_ERROR_ZERO_RETURN && (SSL_get_error(ssl, n) != SSL_ERROR_SYSCALL || errno != 0))
        die("the end of the answer");
}

/* connection makes one, and returns the time at which its handshake was complete */
static double connection(struct worker *w)
{
    SSL *ssl = SSL_new(w->ctx);
    int fd = dial();
    double done;

    if (ssl == NULL || !SSL_set_fd(ssl, fd))
        die("SSL_new");
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
    SSL_set_options(ssl, SSL_OP_IGNORE_UNEXPECTED_EOF);
#endif
    if (w->session != NULL && !SSL_set_session(ssl, w->session))
        die("SSL_set_session");
    if (SSL_connect(ssl) != 1)
        die("handshake");
    done = now();
    w->resumed += SSL_session_reused(ssl);
    converse(ssl);
    if (load.resume) {
        SSL_SESSION_free(w->session);
        w->session = SSL_get1_session(ssl);
        if (w->session == NULL || !SSL_SESSION_is_resumable(w->session))
            die("no session to resume");
    }
    SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* or the session would be marked as bad */
    SSL_free(ssl);
    close(fd);
    return done;
}

/* ---- commands ---- */

static void *prime(void *arg)
{
    connection(arg);
    return NULL;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    long i;

    prctl(PR_SET_TIMERSLACK, 1); /* sleep_until is exact */
    while ((i = atomic_fetch_add(&job.next, 1)) < job.n) {
        double from = now();

        if (job.rate > 0) {
            from = job.start + (double)i / job.rate;
            sleep_until(from);
        }
        job.latency[i] = connection(w) - from;
    }
    return NULL;
}

static void on_each(void *(*f)(void *))
{
    for (int i = 0; i < load.threads; i++)
        if ((errno = pthread_create(&load.workers[i].thread, NULL, f, &load.workers[i])) != 0)
            die("pthread_create");
    for (int i = 0; i < load.threads; i++)
        pthread_join(load.workers[i].thread, NULL);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void run(long n, double rate)
{
    long resumed = 0;
    double took, cpu = cpu_time();

    job.n = n;
    job.rate = rate;
    job.next = 0;
    job.latency = calloc((size_t)n, sizeof *job.latency);
    if (job.latency == NULL)
        die("latencies");
    for (int i = 0; i < load.threads; i++)
        load.workers[i].resumed = 0;
    job.start = now();
    on_each(work);
    took = now() - job.start;
    cpu = cpu_time() - cpu;
    for (int i = 0; i < load.threads; i++)
        resumed += load.workers[i].resumed;
    qsort(job.latency, (size_t)n, sizeof *job.latency, by_size);
    printf("%ld %ld %.6f %.6f %.6f %.6f\n", n, resumed, took, cpu, job.latency[n / 2], job.latency[n - 1 - n / 100]);
    free(job.latency);
}

static void usage(const char *program)
{
    fprintf(stderr, "usage: %s IPV4 PORT 1.2|1.3 full|resumed THREADS, or %s version\n", program, program);
    exit(2);
}

static void parse(char **argv)
{
    int version = strcmp(argv[3], "1.2") == 0 ? TLS1_2_VERSION : strcmp(argv[3], "1.3") == 0 ? TLS1_3_VERSION : 0;

    load.addr.sin_family = AF_INET;
    load.addr.sin_port = htons((uint16_t)atoi(argv[2]));
    load.resume = strcmp(argv[4], "resumed") == 0;
    load.threads = atoi(argv[5]);
    if (inet_pton(AF_INET, argv[1], &load.addr.sin_addr) != 1 || version == 0 ||
        (!load.resume && strcmp(argv[4], "full") != 0) || load.threads < 1 || load.threads > MAX_THREADS)
        usage(argv[0]);
    for (int i = 0; i < load.threads; i++)
        load.workers[i].ctx = make_ctx(version);
}

int main(int argc, char **argv)
{
    char line[128];

    if (argc == 2 && strcmp(argv[1], "version") == 0)
        return puts(OpenSSL_version(OPENSSL_VERSION)) < 0;
    if (argc != 6)
        usage(argv[0]);
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL); /* nor do settings of this machine change the client */
    parse(argv);
    signal(SIGPIPE, SIG_IGN);
    errno = 0;
    while (fgets(line, sizeof line, stdin) != NULL) {
        long n;
        double rate;

        if (strcmp(line, "prime\n") == 0) {
            on_each(prime);
            puts("primed");
        } else if (sscanf(line, "run %ld %lf", &n, &rate) == 2 && n > 0 && rate >= 0) {
            run(n, rate);
        } else {
            die("expected: prime, or run N RATE");
        }
        fflush(stdout);
    }
    return 0;
}
