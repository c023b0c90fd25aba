/*
 * conn_do.c: lending an SSL to the code of a user, outside our own steps.
 */
#include "bridge.h"

scb_lent scb_conn_lend(scb_conn *c, const unsigned char *in, size_t in_len)
{
    scb_lent lent;

    lent.ssl = c->ssl;
    lent.outer = scb_begin_call(NULL);
    scb_begin_step(c);
    c->in = in;
    c->in_len = in_len;
    c->out_len = c->out_cap = 0; /* all output is spilt */
    scb_clear_errs();
    return lent;
}

size_t scb_conn_take_back(scb_conn *c, SSL_CTX *outer)
{
    size_t left = c->in_len;

    c->in = NULL;
    c->in_len = 0;
    c->starved = 0;
    scb_clear_errs();
    scb_end_call(outer);
    scb_end_step(c);
    return left;
}
