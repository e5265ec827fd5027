/* What bootstrap.c and addon.c want of a library's file: openssl.c, gcrypt.c, gnutls.c, nss.c. */
#ifndef DRAW_H
#define DRAW_H
#include <stddef.h>

/* Takes from the library's generators, and hands over each value with `drew`. */
void draw(void);

/* After a restore, where the function has a hook: what the library's manual says to do then. */
void reseed(void);

/* Keeps a value that was drawn. */
void drew(const void *bytes, size_t length);

#endif
