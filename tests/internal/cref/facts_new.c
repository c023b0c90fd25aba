/* facts_new.c: section 1, new_session_cb. */
#include "lab.h"

/* ---- F1.1, F1.2: when it runs ----------------------------------------------- */

typedef struct sent {
    int flight; /* at the call, bytes are written that have not crossed yet */
    int finished;
} sent;

static void note_sent(cref_lab *lab, SSL *ssl, SSL_SESSION *s)
{
    sent *n = lab->arg;

    (void)s;
    n->flight = BIO_pending(SSL_get_wbio(ssl)) > 0;
    n->finished = SSL_is_init_finished(ssl);
}

static void when_new_runs(cref_report *r, int version)
{
    cref_lab *lab = cref_lab_new(version);
    sent n = {0, 0};
    int ok;

    CREF_MUST(r, lab != NULL);
    cref_lab_store(lab);
    lab->arg = &n;
    lab->on_new = note_sent;
    CREF_MUST(r, cref_visit(lab, lab->server, NULL, &ok, NULL, NULL) && ok);
    cref_say(r, "full handshake", "new %d, its flight was already written %s", lab->news, cref_yes(n.flight));
    if (version == TLS1_3_VERSION)
        cref_say(r, "state", "handshake finished %s", cref_yes(n.finished));
    cref_lab_free(lab);
}

static void f1_1(cref_report *r)
{
    when_new_runs(r, TLS1_2_VERSION);
}

static void f1_2(cref_report *r)
{
    when_new_runs(r, TLS1_3_VERSION);
}

const cref_scenario cref_new_facts[] = {
    {"F1.1", f1_1},
    {"F1.2", f1_2},
    {NULL, NULL},
};
