/* libgcrypt: nonces and numbers of both strengths. */
#include "draw.h"

#include <gcrypt.h>
#include <stdlib.h>

void draw(void) {
    unsigned char bytes[16];
    if (!gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) {
        if (!gcry_check_version(NULL)) abort();
        gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
        gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    }
    gcry_create_nonce(bytes, sizeof bytes);
    drew(bytes, sizeof bytes);
    gcry_randomize(bytes, sizeof bytes, GCRY_STRONG_RANDOM);
    drew(bytes, sizeof bytes);
    gcry_randomize(bytes, sizeof bytes, GCRY_VERY_STRONG_RANDOM);
    drew(bytes, sizeof bytes);
}

void reseed(void) {
    gcry_fast_random_poll();
}
