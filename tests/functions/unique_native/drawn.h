#ifndef DRAWN_H
#define DRAWN_H

/* Draws two times: a list in JSON, which is the caller's to free. */
char *draw_twice(void);

#endif
