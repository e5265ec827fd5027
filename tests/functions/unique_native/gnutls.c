/* GnuTLS: bytes of its three levels, and keys. */
#include "draw.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>

static void must(int status) {
    if (status < 0) abort();
}

void draw(void) {
    static const gnutls_rnd_level_t levels[] = {GNUTLS_RND_NONCE, GNUTLS_RND_RANDOM, GNUTLS_RND_KEY};
    unsigned char bytes[16];
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        must(gnutls_rnd(levels[i], bytes, sizeof bytes));
        drew(bytes, sizeof bytes);
    }
    gnutls_privkey_t key;
    gnutls_datum_t k;
    must(gnutls_privkey_init(&key));
    must(gnutls_privkey_generate(key, GNUTLS_PK_EDDSA_ED25519, 0, 0));
    must(gnutls_privkey_export_ecc_raw2(key, NULL, NULL, NULL, &k, 0));
    drew(k.data, k.size);
    gnutls_free(k.data);
    gnutls_privkey_deinit(key);
}

void reseed(void) {
    gnutls_rnd_refresh();
}
