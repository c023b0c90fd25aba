/*
 * cabi.h: what the two halves of the library, lssl.c and the Go files, call in
 * each other, apart from Go's exports.
 */
#ifndef LSSL_CABI_H
#define LSSL_CABI_H

#include "lssl.h"

/* Calls a program's on_error. */
void cabi_tell(void (*on_error)(void *, const char *), void *arg, char *text);

/* A descriptor for one parked handshake, or -1 and errno; what makes it readable. */
int cabi_fd_new(void);
void cabi_fd_wake(int fd);
void cabi_fd_close(int fd);

#endif
