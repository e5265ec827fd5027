/* NSS: bytes, and keys of its own kind of token. */
#include "draw.h"

#include <keyhi.h>
#include <nss.h>
#include <pk11pub.h>
#include <stdlib.h>

static void must(SECStatus status) {
    if (status != SECSuccess) abort();
}

void draw(void) {
    unsigned char bytes[16];
    if (!NSS_IsInitialized()) must(NSS_NoDB_Init(NULL));
    must(PK11_GenerateRandom(bytes, sizeof bytes));
    drew(bytes, sizeof bytes);
    PK11SlotInfo *slot = PK11_GetInternalSlot();
    if (!slot) abort();
    PK11SymKey *key = PK11_KeyGen(slot, CKM_AES_KEY_GEN, NULL, 16, NULL);
    if (!key) abort();
    must(PK11_ExtractKeyValue(key));
    SECItem *value = PK11_GetKeyData(key);
    drew(value->data, value->len);
    PK11_FreeSymKey(key);
    PK11_FreeSlot(slot);
}

void reseed(void) {
    static const char word[] = "restored";
    must(PK11_RandomUpdate((void *)word, sizeof word));
}
