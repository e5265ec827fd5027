/* See avx.c. */
#ifndef AVX_H
#define AVX_H
#include <stddef.h>

/* Runs the check for `seconds` and writes a JSON report of at most `room` bytes; returns its length.
 * {"avx":false} where the CPU has no AVX2, else {"avx":true,"rounds":N,"corrupted":N}. */
size_t avx_report(long seconds, char *report, size_t room);

#endif
