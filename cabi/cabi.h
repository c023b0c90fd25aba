/*
 * cabi.h: the functions of lssl.c that the Go files call. The functions that
 * lssl.c calls in Go are in _cgo_export.h.
 */
#ifndef LSSL_CABI_H
#define LSSL_CABI_H

#include "lssl.h"

/* Calls the on_error function of the program. */
void cabi_tell(void (*on_error)(void *, const char *), void *arg, char *text);

/*
 * cabi_fd_new returns a descriptor for one parked handshake, or -1 with errno;
 * cabi_fd_wake makes it readable.
 */
int cabi_fd_new(void);
void cabi_fd_wake(int fd);
void cabi_fd_close(int fd);

#endif
