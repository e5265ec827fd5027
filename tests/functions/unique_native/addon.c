/* A Node.js addon with an OpenSSL of its own inside: a function that draws, and answers in JSON. What
 * of Node-API it needs is declared here, as its manual has it, since not every Node.js comes with
 * its headers. */
#include "drawn.h"

#include <stdlib.h>
#include <string.h>

typedef void *napi_env, *napi_value, *napi_callback_info;
typedef napi_value (*napi_callback)(napi_env env, napi_callback_info info);

int napi_create_function(
    napi_env env, const char *name, size_t length, napi_callback call, void *data, napi_value *made);
int napi_create_string_utf8(napi_env env, const char *text, size_t length, napi_value *made);
int napi_set_named_property(napi_env env, napi_value object, const char *name, napi_value value);

static napi_value call(napi_env env, napi_callback_info info) {
    (void)info;
    napi_value made = NULL;
    char *list = draw_twice();
    napi_create_string_utf8(env, list, strlen(list), &made);
    free(list);
    return made;
}

napi_value napi_register_module_v1(napi_env env, napi_value exports) {
    napi_value made = NULL;
    if (napi_create_function(env, "draw", strlen("draw"), call, NULL, &made) != 0) return NULL;
    return napi_set_named_property(env, exports, "draw", made) == 0 ? exports : NULL;
}
