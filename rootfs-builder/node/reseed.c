/* reseed(): gives OpenSSL's random generators inside Node.js new seeds from the kernel's, and
 * returns an ArrayBuffer of 16 random bytes.
 *
 * A function's process is restored from one snapshot many times. The kernel's generator is seeded
 * anew in each, but OpenSSL's, on which all of Node's crypto draws, keeps its state in the
 * process: without this, two instances would make the same keys. OpenSSL has no way to be told
 * from JavaScript. Seeding the primary generator makes it take fresh entropy from the kernel, and
 * the generators of every thread follow at their next use. */
#include <node_api.h>
#include <openssl/rand.h>

enum { BYTES = 16 };

static napi_value reseed(napi_env env, napi_callback_info info) {
  (void)info;
  static const char word[] = "restored";
  void *bytes;
  napi_value buffer;
  if (napi_create_arraybuffer(env, BYTES, &bytes, &buffer) != napi_ok)
    return NULL;
  RAND_seed(word, sizeof word);
  if (RAND_bytes(bytes, BYTES) != 1) {
    napi_throw_error(env, NULL, "OpenSSL's random generator could not be seeded");
    return NULL;
  }
  return buffer;
}

static napi_value init(napi_env env, napi_value exports) {
  (void)exports;
  napi_value function;
  if (napi_create_function(env, "reseed", NAPI_AUTO_LENGTH, reseed, NULL, &function) != napi_ok)
    return NULL;
  return function;
}

NAPI_MODULE(reseed, init)
