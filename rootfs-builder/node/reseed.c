/* What the launcher of the Node.js images needs to see to random generators.
 *
 * A function's process is restored from one snapshot many times, and each copy would draw the same
 * numbers. The agent is told where in memory a generator's state is, and it is filled with random
 * bytes before a restored process runs; JavaScript can't tell an address, nor talk to the agent without
 * a library of HTTP. OpenSSL, on which all of Node's crypto draws, needs nothing from here: the sandbox
 * finds its generators.
 *
 *   state()         an ArrayBuffer of 16 random bytes
 *   address(buffer) where the bytes of an ArrayBuffer are, a number
 *   register(text)  tells the agent (its generators/registered.rs); the HTTP status, or -1
 */
#include <node_api.h>
#include <openssl/rand.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { STATE = 16, MAX_TEXT = 16 * 1024, HEAD = 128 };
/* Abstract: protocol/src/guest.rs. */
static const char ADDRESS[] = "hearth-runtime-api";

static napi_value state(napi_env env, napi_callback_info info) {
  (void)info;
  void *bytes;
  napi_value buffer;
  if (napi_create_arraybuffer(env, STATE, &bytes, &buffer) != napi_ok)
    return NULL;
  if (RAND_bytes(bytes, STATE) != 1) {
    napi_throw_error(env, NULL, "OpenSSL's random generator could not be seeded");
    return NULL;
  }
  return buffer;
}

static napi_value address(napi_env env, napi_callback_info info) {
  size_t count = 1, length;
  void *bytes;
  napi_value buffer, number;
  if (napi_get_cb_info(env, info, &count, &buffer, NULL, NULL) != napi_ok || count != 1 ||
      napi_get_arraybuffer_info(env, buffer, &bytes, &length) != napi_ok ||
      napi_create_double(env, (double)(uintptr_t)bytes, &number) != napi_ok) {
    napi_throw_type_error(env, NULL, "not an ArrayBuffer");
    return NULL;
  }
  return number;
}

static int send_all(int socket, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t sent = send(socket, bytes, length, MSG_NOSIGNAL);
    if (sent <= 0)
      return -1;
    bytes += sent;
    length -= (size_t)sent;
  }
  return 0;
}

/* Posts `text` and returns the status. Only the first line of the answer is of interest. */
static int post(const char *text, size_t length) {
  int status = -1;
  char head[HEAD];
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  memcpy(to.sun_path + 1, ADDRESS, sizeof ADDRESS - 1);
  socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof ADDRESS);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  int written = snprintf(head, sizeof head,
                         "POST /hearth/generators HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", length);
  if (connect(fd, (struct sockaddr *)&to, size) == 0 &&
      send_all(fd, head, (size_t)written) == 0 && send_all(fd, text, length) == 0) {
    size_t have = 0;
    while (have < sizeof head - 1) {
      ssize_t got = recv(fd, head + have, sizeof head - 1 - have, 0);
      if (got <= 0)
        break;
      have += (size_t)got;
      head[have] = 0;
      if (sscanf(head, "HTTP/1.1 %3d ", &status) == 1 && have > sizeof "HTTP/1.1 200")
        break;
    }
  }
  close(fd);
  return status;
}

static napi_value tell(napi_env env, napi_callback_info info) {
  size_t count = 1, length;
  napi_value text, status;
  char *bytes = malloc(MAX_TEXT);
  if (bytes == NULL || napi_get_cb_info(env, info, &count, &text, NULL, NULL) != napi_ok ||
      count != 1 || napi_get_value_string_utf8(env, text, bytes, MAX_TEXT, &length) != napi_ok ||
      napi_create_int32(env, post(bytes, length), &status) != napi_ok) {
    free(bytes);
    napi_throw_type_error(env, NULL, "not a text");
    return NULL;
  }
  free(bytes);
  return status;
}

static napi_value init(napi_env env, napi_value exports) {
  static const struct {
    const char *name;
    napi_callback call;
  } functions[] = {{"state", state}, {"address", address}, {"register", tell}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL,
                             &function) != napi_ok ||
        napi_set_named_property(env, exports, functions[i].name, function) != napi_ok)
      return NULL;
  }
  return exports;
}

NAPI_MODULE(reseed, init)
