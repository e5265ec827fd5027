/* The runtime's end of Hearth's mailbox (libhearth_mailbox.so): answers an invocation and receives the
 * next one without the guest's kernel.
 *
 * The first event comes from the Runtime API, as on Lambda. The functions are not thread-safe: only the
 * thread that answers may call them. A forked child must not call them. */
#ifndef HEARTH_MAILBOX_H
#define HEARTH_MAILBOX_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Results of hearth_mailbox_answer and hearth_mailbox_next. */
#define HEARTH_MAILBOX_NOT_HERE 0 /* The mailbox can't be used for this answer: post it to the Runtime
                                   * API, and ask there for the next event. */
#define HEARTH_MAILBOX_AGENT 1    /* The answer was taken; ask the Runtime API for the next event. */
#define HEARTH_MAILBOX_EVENT 2    /* The answer was taken, and the next event is in the mailbox: call
                                   * hearth_mailbox_take. */
#define HEARTH_MAILBOX_CLOCK 3    /* As HEARTH_MAILBOX_EVENT, but the guest's wall clock is wrong: request
                                   * GET /hearth/clock of the Runtime API before working on the event,
                                   * which sets the clock. */

/* Opens the mailbox that the agent has given this process. Returns 1, or 0 if it has none. */
int hearth_mailbox_open(void);

/* Answers the current invocation and waits for the next event. `failed` is nonzero if the body is the
 * function's error. `meta` consists of header lines, each ending in \r\n: Lambda-Runtime-Aws-Request-Id is
 * required; Content-Type and Lambda-Runtime-Function-Error-Type have the meaning that they have in the
 * Runtime API. At most 32 KiB of headers and 6 MiB + 100 bytes of body; for longer ones the result is
 * HEARTH_MAILBOX_NOT_HERE. */
int hearth_mailbox_answer(int failed, const void *meta, size_t meta_len, const void *body, size_t body_len);

/* The same in two steps, for runtimes that run code of the function between their answer and their call
 * for the next event. Whatever that code does, the host gets the answer: at once, with the call for the
 * next event, within 100 ms, or when the process ends.
 *
 * hearth_mailbox_give takes the answer, once for each event. It returns 1, or 0 if the mailbox can't be
 * used: post the answer to the Runtime API. hearth_mailbox_next waits for the next event, after an answer
 * that was taken; HEARTH_MAILBOX_NOT_HERE means that the answer has to be posted after all. */
int hearth_mailbox_give(int failed, const void *meta, size_t meta_len, const void *body, size_t body_len);
int hearth_mailbox_next(void);

/* Lengths of the event in the mailbox: of its headers (as in the Runtime API), and of its body. */
size_t hearth_mailbox_event_meta(void);
size_t hearth_mailbox_event_body(void);

/* Copies the event into buffers of these lengths. Call it once for each event. */
void hearth_mailbox_take(void *meta, void *body);

#ifdef __cplusplus
}
#endif

#endif
