/* A `provided` runtime for the tests: one static program that takes events from the Runtime API
 * and answers what the event asks for. It is small and quick to start, so that a test can deploy it
 * without paying for an interpreter's start.
 *
 * An event is JSON with an "op" and at most a number "n" and a number "m"; anything else in it is
 * carried along. It is looked through for these three names, not parsed: the tests write it.
 *
 *   echo                the event itself
 *   size n              a JSON string of n bytes in all
 *   who                 what tells one instance from another: random bytes, clocks, a counter, code
 *   sleep n             n milliseconds of waiting
 *   spin n              n milliseconds of CPU time
 *   touch n             n MiB written to, and freed again
 *   avx n               n seconds of the AVX check in avx.c
 *   print n m           n lines of m bytes on standard output
 *   multiply            processes until the kernel starts no more; then they end
 *   exit n / kill n     the process ends with status n / by signal n
 *   stream n m          a result in n chunks of m bytes, each of which begins with its number;
 *                       "prelude" puts the beginning of an HTTP response before them, and "end" says
 *                       how it ends: "fail", "exit", "hang", "cut", or else well
 *
 * With HOOK in its environment and `snap-start` it waits to be restored, and after that does what
 * HOOK says: "fail", "hang", "exit", or else nothing.
 */
#define _GNU_SOURCE
#include "avx.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_BODY (8u << 20)
#define MAX_HEAD 8192
#define MAX_CHUNK (1u << 20)

static char head[MAX_HEAD + 1];
static char body[MAX_BODY + 1];
static size_t body_len;
static char answer[MAX_BODY];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int dial(const char *api) {
    char host[64];
    const char *colon = strchr(api, ':');
    if (!colon || (size_t)(colon - api) >= sizeof host) {
        fprintf(stderr, "AWS_LAMBDA_RUNTIME_API is not host:port: %s\n", api);
        exit(1);
    }
    memcpy(host, api, (size_t)(colon - api));
    host[colon - api] = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1) {
        fprintf(stderr, "not an address: %s\n", host);
        exit(1);
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) die("runtime api");
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void send_all(int fd, const char *data, size_t len) {
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) die("write");
        data += n;
        len -= (size_t)n;
    }
}

static size_t read_some(int fd, char *data, size_t room) {
    for (;;) {
        ssize_t n = read(fd, data, room);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) die("read");
        return (size_t)n;
    }
}

/* Value of a header of the response in `head`, or NULL. */
static const char *header(const char *name) {
    static char value[512];
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':') {
            const char *start = line + 3 + len;
            start += strspn(start, " ");
            size_t n = strcspn(start, "\r");
            if (n >= sizeof value) n = sizeof value - 1;
            memcpy(value, start, n);
            value[n] = 0;
            return value;
        }
    }
    return NULL;
}

/* Reads one response with a Content-Length into `head` and `body`; returns its status. */
static int receive(int fd) {
    size_t got = 0;
    char *end;
    for (;;) {
        if (got == MAX_HEAD) die("response head too long");
        got += read_some(fd, head + got, MAX_HEAD - got);
        head[got] = 0;
        if ((end = strstr(head, "\r\n\r\n"))) break;
    }
    size_t extra = got - (size_t)(end + 4 - head);
    memcpy(body, end + 4, extra);
    end[2] = 0;
    const char *length = header("content-length");
    body_len = length ? strtoul(length, NULL, 10) : 0;
    if (body_len > MAX_BODY) die("response body too long");
    while (extra < body_len) extra += read_some(fd, body + extra, body_len - extra);
    body[body_len] = 0;
    return atoi(head + sizeof "HTTP/1.1");
}

static long number(const char *name) {
    char key[16];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = strstr(body, key);
    if (!at) return 0;
    at += strlen(key);
    /* A query's numbers are strings. */
    return strtol(at + (*at == '"'), NULL, 10);
}

static int asked(const char *op) {
    char key[32];
    snprintf(key, sizeof key, "\"op\":\"%s\"", op);
    return strstr(body, key) != NULL;
}

static size_t say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(answer, sizeof answer, format, args);
    va_end(args);
    return (size_t)n;
}

static size_t who(long count) {
    unsigned char random[32];
    char hex[65], tag[128] = "", pid_random[64] = "";
    if (getrandom(random, sizeof random, 0) != sizeof random) die("getrandom");
    for (size_t i = 0; i < sizeof random; i++) sprintf(hex + 2 * i, "%02x", random[i]);
    int fd = open("/var/task/tag", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, tag, sizeof tag - 1);
        tag[n > 0 ? n : 0] = 0;
        close(fd);
    }
    /* The kernel makes this one of its own generator, not of getrandom's per-CPU key. */
    fd = open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, pid_random, 36);
        pid_random[n > 0 ? n : 0] = 0;
        close(fd);
    }
    const char *env = getenv("TAG");
    const char *name = getenv("AWS_LAMBDA_FUNCTION_NAME");
    return say("{\"random\":\"%s\",\"uuid\":\"%s\",\"realtime_ns\":%lld,\"monotonic_ns\":%lld,"
               "\"count\":%ld,\"code\":\"%s\",\"env\":\"%s\",\"name\":\"%s\",\"uid\":%d}",
               hex, pid_random, (long long)clock_ns(CLOCK_REALTIME),
               (long long)clock_ns(CLOCK_MONOTONIC), count, tag, env ? env : "", name ? name : "",
               (int)getuid());
}

static size_t touch(long mib) {
    size_t len = (size_t)mib << 20;
    volatile char *memory = malloc(len);
    if (!memory) return say("{\"touched\":0}");
    for (size_t i = 0; i < len; i += 4096) memory[i] = 1;
    free((void *)memory);
    return say("{\"touched\":%ld}", mib);
}

static size_t print(long lines, long width) {
    for (long i = 0; i < lines; i++) {
        int n = printf("line %ld ", i);
        for (; n < width; n++) putchar('.');
        putchar('\n');
    }
    fflush(stdout);
    return say("{\"printed\":%ld}", lines);
}

static int wait_for_end(void *unused) {
    for (;;) pause();
    return unused != NULL;
}

/* They share this process's memory: what is to be met is the limit on processes. */
static size_t multiply(void) {
    enum { MOST = 4096, STACK = 1024 };
    static char stacks[MOST][STACK] __attribute__((aligned(16)));
    static pid_t started[MOST];
    int n = 0, error = 0;
    while (n < MOST && !error) {
        pid_t pid = clone(wait_for_end, stacks[n] + STACK, CLONE_VM | SIGCHLD, NULL);
        if (pid < 0) error = errno;
        else started[n++] = pid;
    }
    for (int i = 0; i < n; i++) kill(started[i], SIGKILL);
    for (int i = 0; i < n; i++) waitpid(started[i], NULL, 0);
    return say("{\"started\":%d,\"refused_with\":\"%s\"}", n, error ? strerrorname_np(error) : "");
}

static size_t run(long count) {
    long n = number("n"), m = number("m");
    if (asked("size")) {
        if (n < 2 || n > (long)sizeof answer) return say("{\"refused\":%ld}", n);
        memset(answer, 'a', (size_t)n);
        answer[0] = answer[n - 1] = '"';
        return (size_t)n;
    }
    if (asked("who")) return who(count);
    if (asked("sleep")) {
        struct timespec t = {n / 1000, n % 1000 * 1000000};
        nanosleep(&t, NULL);
        return say("{\"slept\":%ld}", n);
    }
    if (asked("spin")) {
        int64_t until = clock_ns(CLOCK_PROCESS_CPUTIME_ID) + n * 1000000;
        /* Asking the clock is a call into the guest's kernel; compute a while between calls. */
        while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < until)
            for (volatile int i = 0; i < 3000000; i++) {}
        return say("{\"spun\":%ld}", n);
    }
    if (asked("touch")) return touch(n);
    if (asked("avx")) return avx_report(n, answer, sizeof answer);
    if (asked("print")) return print(n, m);
    if (asked("multiply")) return multiply();
    if (asked("exit")) exit((int)n);
    if (asked("kill")) raise((int)n);
    memcpy(answer, body, body_len);
    return body_len;
}

static void send_chunk(int fd, const char *data, size_t len) {
    static char framed[MAX_CHUNK + 32];
    int n = snprintf(framed, sizeof framed, "%zx\r\n", len);
    memcpy(framed + n, data, len);
    memcpy(framed + n + len, "\r\n", 2);
    send_all(fd, framed, (size_t)n + len + 2);
}

/* Streams a result; returns the connection for the next request. */
static int stream(int fd, const char *api, const char *id) {
    static const char prelude[] =
        "{\"statusCode\":201,\"headers\":{\"content-type\":\"text/plain\",\"x-from\":\"guest\"},"
        "\"cookies\":[\"a=1\",\"b=2\"]}\0\0\0\0\0\0\0";
    int has_prelude = strstr(body, "\"prelude\":") != NULL;
    int fail = strstr(body, "\"end\":\"fail\"") != NULL;
    int n = snprintf(head, sizeof head,
                     "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: %s\r\n"
                     "Transfer-Encoding: chunked\r\nContent-Type: %s\r\n"
                     "Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n",
                     id, api,
                     has_prelude ? "application/vnd.awslambda.http-integration-response"
                                 : "text/x-guest");
    send_all(fd, head, (size_t)n);
    if (has_prelude) send_chunk(fd, prelude, sizeof prelude);
    long chunks = number("n"), size = number("m");
    if (size < 8 || size > (long)MAX_CHUNK) size = 8;
    memset(answer, '.', (size_t)size);
    for (long i = 0; i < chunks; i++) {
        char digits[16];
        int len = snprintf(digits, sizeof digits, "%07ld", i);
        memcpy(answer, digits, (size_t)len);
        send_chunk(fd, answer, (size_t)size);
    }
    if (strstr(body, "\"end\":\"exit\"")) exit(3);
    if (strstr(body, "\"end\":\"hang\"")) for (;;) pause();
    if (strstr(body, "\"end\":\"cut\"")) {
        close(fd);
        return dial(api);
    }
    n = snprintf(head, sizeof head, "0\r\n%s\r\n",
                 !fail ? ""
                       : "Lambda-Runtime-Function-Error-Type: Function.Broken\r\n"
                         /* {"errorType":"Function.Broken","errorMessage":"half-way"} */
                         "Lambda-Runtime-Function-Error-Body: "
                         "eyJlcnJvclR5cGUiOiJGdW5jdGlvbi5Ccm9rZW4iLCJlcnJvck1lc3NhZ2UiOiJoYWxmLXdh"
                         "eSJ9\r\n");
    send_all(fd, head, (size_t)n);
    receive(fd);
    return fd;
}

static void restore(int fd, const char *api, const char *hook) {
    char request[512];
    int n = snprintf(request, sizeof request,
                     "GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nHost: %s\r\n\r\n", api);
    send_all(fd, request, (size_t)n);
    if (receive(fd) != 200) die("restore/next");
    if (strcmp(hook, "hang") == 0) for (;;) pause();
    if (strcmp(hook, "exit") == 0) exit(5);
    if (strcmp(hook, "fail") != 0) return;
    n = snprintf(request, sizeof request,
                 "POST /2018-06-01/runtime/restore/error HTTP/1.1\r\nHost: %s\r\n"
                 "Lambda-Runtime-Function-Error-Type: Runtime.Stale\r\nContent-Length: 2\r\n\r\n{}",
                 api);
    send_all(fd, request, (size_t)n);
    receive(fd);
    exit(1);
}

int main(void) {
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    if (!api) {
        fprintf(stderr, "AWS_LAMBDA_RUNTIME_API is not set\n");
        return 1;
    }
    char next[256], post[1024], id[128];
    int n = snprintf(next, sizeof next,
                     "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: %s\r\n\r\n", api);
    int fd = dial(api);
    const char *hook = getenv("HOOK"), *kind = getenv("AWS_LAMBDA_INITIALIZATION_TYPE");
    if (hook && kind && strcmp(kind, "snap-start") == 0) restore(fd, api, hook);
    for (long count = 1;; count++) {
        send_all(fd, next, (size_t)n);
        int status = receive(fd);
        const char *request = header("lambda-runtime-aws-request-id");
        if (status != 200 || !request) {
            fprintf(stderr, "next answered %d\n", status);
            return 1;
        }
        snprintf(id, sizeof id, "%s", request);
        if (asked("stream")) {
            printf("streaming\n");
            fflush(stdout);
            fd = stream(fd, api, id);
            continue;
        }
        size_t len = run(count);
        int m = snprintf(post, sizeof post,
                         "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: %s\r\n"
                         "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                         id, api, len);
        send_all(fd, post, (size_t)m);
        send_all(fd, answer, len);
        /* An oversized answer is refused (413); the runtime goes on either way. */
        receive(fd);
    }
}
