/* A `provided` runtime that draws on one library's generators when it starts and again for each event,
 * and answers with both: {"init": {"library": […]}, "now": {"library": […]}}. As a SnapStart version
 * it waits to be restored, and then has the library reseeded, as a hook would.
 *
 * LIBRARY, the name that it answers with, comes from the compiler's command line. */
#include "draw.h"
#include "drawn.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 1 << 18 };

static char received[ROOM + 1];
static char sent[ROOM];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int dial(const char *api) {
    const char *colon = strchr(api, ':');
    char host[64];
    if (!colon || (size_t)(colon - api) >= sizeof host) die("AWS_LAMBDA_RUNTIME_API");
    memcpy(host, api, (size_t)(colon - api));
    host[colon - api] = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1) die("not an address");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) die("runtime api");
    return fd;
}

static const char *header(const char *name) {
    for (const char *line = strstr(received, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, strlen(name)) == 0) return line + 2 + strlen(name);
    return "";
}

/* Sends `length` bytes of `sent` and takes the whole response. */
static void exchange(int fd, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t n = write(fd, sent + done, length - done);
        if (n <= 0) die("write");
        done += (size_t)n;
    }
    size_t got = 0, wanted = ROOM;
    while (got < wanted) {
        ssize_t n = read(fd, received + got, wanted - got);
        if (n <= 0) die("read");
        got += (size_t)n;
        received[got] = 0;
        const char *end = strstr(received, "\r\n\r\n");
        if (end && wanted == ROOM)
            wanted = (size_t)(end + 4 - received) + strtoul(header("content-length:"), NULL, 10);
    }
}

static void get(int fd, const char *api, const char *path) {
    exchange(fd, (size_t)snprintf(sent, sizeof sent,
                                  "GET /2018-06-01/runtime/%s HTTP/1.1\r\nHost: %s\r\n\r\n", path, api));
}

int main(void) {
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    const char *kind = getenv("AWS_LAMBDA_INITIALIZATION_TYPE");
    if (!api) die("AWS_LAMBDA_RUNTIME_API");
    char *init = draw_twice();
    int fd = dial(api);
    if (kind && strcmp(kind, "snap-start") == 0) {
        get(fd, api, "restore/next");
        reseed();
    }
    for (;;) {
        get(fd, api, "invocation/next");
        char id[128] = "";
        sscanf(header("lambda-runtime-aws-request-id:"), " %127[^\r]", id);
        char *now = draw_twice();
        size_t length = strlen(init) + strlen(now) + strlen("{'init':{'':},'now':{'':}}")
                        + 2 * strlen(LIBRARY);
        exchange(fd, (size_t)snprintf(sent, sizeof sent,
                                      "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\n"
                                      "Host: %s\r\nContent-Length: %zu\r\n\r\n"
                                      "{\"init\":{\"%s\":%s},\"now\":{\"%s\":%s}}",
                                      id, api, length, LIBRARY, init, LIBRARY, now));
        free(now);
    }
}
