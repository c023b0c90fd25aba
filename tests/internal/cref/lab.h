/*
 * lab.h: the tools of the scenarios in C. A lab is a server's and a client's SSL_CTX. A link is one connection between
 * them, over memory, where the scenario sees every byte.
 *
 * A scenario is a function that leaves lines "case: text" in a report; the package tests/conformance holds the same
 * scenario in Go, whose lines must be equal, and what the lines have to say on each release.
 */
#ifndef CREF_LAB_H
#define CREF_LAB_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

/* ---- reports -------------------------------------------------------------- */

typedef struct cref_report {
    char *text;
    size_t len, cap;
    int broken; /* the scenario could not be run: the text says why */
} cref_report;

void cref_say(cref_report *r, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
void cref_broken(cref_report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the scenario when a call fails that must not. */
#define CREF_MUST(r, what)                                                                                             \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            cref_broken(r, "%s:%d: %s", __FILE__, __LINE__, #what);                                                    \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)

static inline const char *cref_yes(int b) { return b ? "yes" : "no"; }

typedef struct cref_scenario {
    const char *name; /* "F1.1", or "F2.10 blank 1.3" for one that runs in a process of its own */
    void (*run)(cref_report *r);
} cref_scenario;

/* One table a file, ended by a NULL name. */
extern const cref_scenario cref_new_facts[], cref_get_facts[], cref_remove_facts[], cref_thread_facts[],
    cref_tls13_facts[], cref_hello_facts[], cref_serial_facts[], cref_exdata_facts[];

/* ---- labs ----------------------------------------------------------------- */

#define CREF_LAB_ENTRIES 64

typedef struct cref_entry {
    unsigned char id[SSL_MAX_SSL_SESSION_ID_LENGTH];
    unsigned int id_len;
    unsigned char *der; /* NULL: a free place */
    int der_len;
} cref_entry;

/*
 * The callbacks of cref_lab_store find the lab through the SSL_CTX that an SSL was made with. They count, trace
 * themselves as N, G and R, keep DER in entries, and answer with a fresh object and *copy = 0. Each on_ hook, where
 * set, runs first; a hook that answers replaces the answer.
 */
typedef struct cref_lab {
    SSL_CTX *server, *client;
    int news, gets, hits, removes;
    char trace[256];
    cref_entry entries[CREF_LAB_ENTRIES];
    int keep;           /* what new returns; its reference is the hook's to keep then */
    int take;           /* get deletes the entry it answers with */
    int deaf;           /* get answers with nothing */
    void *arg;          /* the scenario's */
    void (*on_new)(struct cref_lab *lab, SSL *ssl, SSL_SESSION *s);
    void (*on_get)(struct cref_lab *lab, SSL *ssl, const unsigned char *id, int len);
    SSL_SESSION *(*answer)(struct cref_lab *lab, SSL *ssl, const unsigned char *id, int len, int *copy);
    void (*on_remove)(struct cref_lab *lab, SSL_CTX *ctx, SSL_SESSION *s);
    pthread_t lockers[32];
    int nlockers;
} cref_lab;

/*
 * Contexts for one protocol version: a P-256 certificate, an id context, one ticket, cache mode SERVER | NO_INTERNAL,
 * SSL_OP_NO_TICKET, so ids in TLS 1.2 and stateful tickets in TLS 1.3; the client verifies nothing. No callback is
 * installed. NULL where OpenSSL fails.
 */
cref_lab *cref_lab_new(int version);
void cref_lab_free(cref_lab *lab);
/* Another server for the same lab's client: own SSL_CTX, same certificate and settings; its callbacks, if installed
 * with cref_lab_store_on, share the lab's entries and counters. */
SSL_CTX *cref_lab_server(cref_lab *lab);
int cref_use_certificate(SSL_CTX *ctx);
void cref_lab_store(cref_lab *lab);
void cref_lab_store_on(cref_lab *lab, SSL_CTX *ctx);
cref_lab *cref_lab_of(const SSL_CTX *ctx);
cref_lab *cref_lab_of_ssl(SSL *ssl);
cref_entry *cref_lab_find(cref_lab *lab, const unsigned char *id, size_t len); /* NULL: none */
cref_entry *cref_lab_put(cref_lab *lab, SSL_SESSION *s);
int cref_lab_count(cref_lab *lab); /* entries in use */
void cref_lab_reset(cref_lab *lab); /* counters and trace, not the entries */

/* Is a lock of ctx held, so that another thread must wait for it? Asked by flushing what expired in 1970. */
int cref_lock_held(cref_lab *lab, SSL_CTX *ctx);

/* Has another thread hold ctx's lock, on every release, until cref_release_lock. Two duplicates of like are put into
 * the cache for it, where the second stays. */
void *cref_hold_lock(SSL_CTX *ctx, SSL_SESSION *like);
void cref_release_lock(void *lock);

/* Flushing and times, whose functions were renamed in 3.4. at 0 flushes all. */
void cref_flush_at(SSL_CTX *ctx, long at);
long cref_session_time(SSL_SESSION *s);
void cref_session_set_time(SSL_SESSION *s, long t);

/* ---- links ---------------------------------------------------------------- */

typedef struct cref_link {
    SSL *client, *server;
    int client_done, server_done, failed;
    unsigned long client_error, server_error; /* the first entry of the queue of the end that failed */
    size_t from_client, from_server;          /* bytes that have crossed */
    /* Sees, changes, cuts (len 0) or lengthens (up to cap) what is about to cross. */
    void (*wire)(struct cref_link *k, int from_server, unsigned char *buf, size_t *len, size_t cap);
    void *arg;
    int early;         /* the server's end reads early data first */
    size_t early_read; /* what it has read */
} cref_link;

/* offer may be NULL, name too. The SSLs are made and nothing has been sent. */
int cref_link_open(cref_link *k, cref_lab *lab, SSL_CTX *server, const char *name, SSL_SESSION *offer);
/* Drives both ends until their handshakes are over, then moves a byte each way, which brings tickets. 1 if all of it
 * went well; else the errors tell. Returns early with 0 and failed == 0 where an end waits for something else, such as
 * a parked ClientHello: call it again. */
int cref_link_run(cref_link *k);
/* Moves what both ends have written, once. */
void cref_link_pump(cref_link *k);
int cref_link_byte(cref_link *k, int from_server);
int cref_link_resumed(cref_link *k);
/* Before cref_link_run: has the client write a byte of early data, and the server read it. 0 where that fails. */
int cref_link_early(cref_link *k);
int cref_link_early_accepted(cref_link *k);
/* The number of the alert that an end's error stands for, 0 if it stands for none. */
int cref_alert(unsigned long error);
#define CREF_CLEAN 0   /* close_notify from both ends, then SSL_free */
#define CREF_UNCLEAN 1 /* SSL_free of the server, no close_notify; the client leaves politely */
void cref_link_close(cref_link *k, int how);

/* Opens a connection, runs it, closes it clean. *session is the client's afterwards, the caller's to free. Reports
 * whether the handshake went well in *ok and whether it resumed in *resumed; any of them may be NULL. 0 only where the
 * SSLs could not be made. */
int cref_visit(cref_lab *lab, SSL_CTX *server, SSL_SESSION *offer, int *ok, int *resumed, SSL_SESSION **session);

#endif
