/* OpenSSL: bytes, private bytes, keys, and signatures by a key that is kept from the beginning. */
#include "draw.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>

static void must(int done) {
    if (done != 1) abort();
}

static EVP_PKEY *new_key(void) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    must(key != NULL);
    return key;
}

static void draw_key(void) {
    unsigned char bytes[32];
    BIGNUM *number = NULL;
    EVP_PKEY *key = new_key();
    must(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_PRIV_KEY, &number));
    must(BN_bn2binpad(number, bytes, sizeof bytes) == sizeof bytes);
    drew(bytes, sizeof bytes);
    BN_clear_free(number);
    EVP_PKEY_free(key);
}

/* Of one key and one text: two that are alike say that their nonces were. */
static void draw_signature(void) {
    static EVP_PKEY *kept;
    static const unsigned char text[] = "one text";
    unsigned char bytes[128];
    size_t length = sizeof bytes;
    if (!kept) kept = new_key();
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    must(context != NULL);
    must(EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, kept));
    must(EVP_DigestSign(context, bytes, &length, text, sizeof text));
    drew(bytes, length);
    EVP_MD_CTX_free(context);
}

void draw(void) {
    unsigned char bytes[16];
    must(RAND_bytes(bytes, sizeof bytes));
    drew(bytes, sizeof bytes);
    must(RAND_priv_bytes(bytes, sizeof bytes));
    drew(bytes, sizeof bytes);
    draw_key();
    draw_signature();
}

void reseed(void) {
    static const char word[] = "restored";
    RAND_seed(word, sizeof word);
}
