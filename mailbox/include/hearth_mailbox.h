/* The runtime's end of Hearth's mailbox (libhearth_mailbox.so): an invocation is answered, and the
 * next one received, without the guest's kernel.
 *
 * The first event comes from the Runtime API, as everywhere. Not thread-safe: the functions are for
 * the one thread that answers. A forked child must not call them. */
#ifndef HEARTH_MAILBOX_H
#define HEARTH_MAILBOX_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What became of an answer. */
#define HEARTH_MAILBOX_NOT_HERE 0 /* nothing: post it by the Runtime API, and ask there for the next */
#define HEARTH_MAILBOX_AGENT 1    /* taken; ask for the next event by the Runtime API */
#define HEARTH_MAILBOX_EVENT 2    /* taken, and the next event is here: hearth_mailbox_take */
#define HEARTH_MAILBOX_CLOCK 3    /* the same, and the wall clock is off: GET /hearth/clock of the
                                   * Runtime API sets it, before the event is worked on */

/* Opens the mailbox that the process was started with: 1, or 0 if there is none. */
int hearth_mailbox_open(void);

/* Answers the invocation at hand, and waits. `failed` says whether the body is the function's error.
 * `meta` is header lines, each with \r\n: Lambda-Runtime-Aws-Request-Id is needed; Content-Type and
 * Lambda-Runtime-Function-Error-Type mean what they do in the Runtime API. At most 32 KiB of headers
 * and 6 MiB + 100 bytes of body; what is longer is "not here". */
int hearth_mailbox_answer(int failed, const void *meta, size_t meta_len, const void *body, size_t body_len);

/* Sizes of the event that is here: its headers (as the Runtime API has them), its body. */
size_t hearth_mailbox_event_meta(void);
size_t hearth_mailbox_event_body(void);

/* Copies the event to where there is as much room; once for each. */
void hearth_mailbox_take(void *meta, void *body);

#ifdef __cplusplus
}
#endif

#endif
