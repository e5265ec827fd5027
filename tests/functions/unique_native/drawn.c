/* The values that were drawn, as a JSON list of texts in hexadecimal. */
#include "drawn.h"

#include "draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 1 << 16 };

static char text[ROOM];
static size_t used;

void drew(const void *bytes, size_t length) {
    const unsigned char *byte = bytes;
    if (used + 2 * length + 4 > sizeof text) abort();
    used += (size_t)sprintf(text + used, "%s\"", used ? "," : "");
    for (size_t i = 0; i < length; i++) used += (size_t)sprintf(text + used, "%02x", byte[i]);
    used += (size_t)sprintf(text + used, "\"");
}

char *draw_twice(void) {
    used = 0;
    draw();
    draw();
    char *list = malloc(used + 3);
    if (!list) abort();
    sprintf(list, "[%s]", text);
    return list;
}
