/*
 * errs.c: OpenSSL's error queue of this thread: taking it out, putting it back
 * and clearing it.
 */
#include "bridge.h"

#include <openssl/err.h>

/* ERR_clear_error clears all 16 places even when the queue is empty, which
 * takes 125 ns; the test takes 20. */
void scb_clear_errs(void)
{
    if (ERR_peek_error() != 0)
        ERR_clear_error();
}

void scb_take_errs(scb_errs **errs)
{
    scb_errs *all = OPENSSL_zalloc(sizeof(*all));
    const char *file, *func = NULL, *data;
    unsigned long code;
    int line, flags;

    if (all == NULL)
        return;
    for (;;) {
        scb_err *e = &all->e[all->n];

#ifdef SCB_HAVE_ERR_GET_ERROR_ALL
        code = ERR_get_error_all(&file, &line, &func, &data, &flags);
#else
        code = ERR_get_error_line_data(&file, &line, &data, &flags);
        if (code != 0)
            func = ERR_func_error_string(code);
#endif
        if (code == 0)
            break;
        if (all->n == SCB_MAX_ERRS)
            continue; /* the queue itself holds no more */
        e->code = code;
        e->line = line;
        OPENSSL_strlcpy(e->file, file == NULL ? "" : file, sizeof(e->file));
        OPENSSL_strlcpy(e->func, func == NULL ? "" : func, sizeof(e->func));
        if (data != NULL && (flags & ERR_TXT_STRING))
            OPENSSL_strlcpy(e->data, data, sizeof(e->data));
        all->n++;
    }
    scb_errs_free(*errs);
    *errs = all;
}

int scb_err_kind(unsigned long code)
{
    int reason = ERR_GET_REASON(code);

    if (ERR_GET_LIB(code) != ERR_LIB_SSL)
        return SCB_ERR_OTHER;
    if (reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
        return SCB_ERR_ALERT;
    return reason == SSL_R_CALLBACK_FAILED ? SCB_ERR_CALLBACK : SCB_ERR_OTHER;
}

void scb_put_errs(const scb_errs *all)
{
    for (int i = 0; all != NULL && i < all->n; i++) {
        const scb_err *e = &all->e[i];

#ifdef SCB_HAVE_ERR_GET_ERROR_ALL
        ERR_new();
        ERR_set_debug(e->file, e->line, e->func);
        ERR_set_error(ERR_GET_LIB(e->code), ERR_GET_REASON(e->code), e->data[0] != '\0' ? "%s" : NULL, e->data);
#else
        /* The queue keeps the pointer to the file's name, which would dangle. */
        ERR_put_error(ERR_GET_LIB(e->code), ERR_GET_FUNC(e->code), ERR_GET_REASON(e->code), "", e->line);
        if (e->data[0] != '\0')
            ERR_add_error_data(1, e->data);
#endif
    }
}

void scb_errs_free(scb_errs *e)
{
    OPENSSL_free(e);
}

int scb_done(int ok, scb_errs **errs)
{
    if (ok <= 0)
        scb_take_errs(errs);
    scb_clear_errs();
    return ok > 0 ? SCB_OK : SCB_FAIL;
}
