/* XXTEA over several chunks at once, one in each 32-bit lane of a few vectors.  Arithmetic only.
 *
 * XXTEA is serial within a chunk: every step needs the word of the step before, and every round the
 * last word of the round before.  Chunks do not depend on each other, so all lanes take the same step at
 * the same time, and a lane sits out the steps and rounds that its own chunk does not have.
 */
#ifndef ZEROFS_XXTEA_LANES_H
#define ZEROFS_XXTEA_LANES_H

#include "lanes.h"

/* Chunks in a call.  More do not pay: their words would not come out of the caches any faster. */
#define ZEROFS_XXTEA_LANES 8

struct zerofs_xxtea_lane {
    const uint8_t *in; /* `size` bytes, any alignment */
    uint8_t *out;      /* 4 * `words` bytes, any alignment; must not overlap any `in` */
    size_t size;       /* at most 4 * `words`; the rest reads as zeros */
    uint32_t words;    /* 2 to ZEROFS_XXTEA_MOST_WORDS */
    uint32_t last;     /* encrypting: the last word, in place of what `in` says */
    uint32_t key[4];
};

#define ZEROFS_XXTEA_MOST_WORDS ((size_t)1 << 28) /* so that eight times as many fit into 32 bits */

/* The bytes of scratch that a call needs for chunks of up to `words` words. */
size_t zerofs_xxtea_scratch(size_t words);

/* `lanes`: 1 to ZEROFS_XXTEA_LANES of them, the longest first.  `scratch` is aligned to 64 bytes. */
void zerofs_xxtea_encrypt_lanes(enum zerofs_path path, const struct zerofs_xxtea_lane *lanes, size_t count,
                                uint32_t *scratch);
void zerofs_xxtea_decrypt_lanes(enum zerofs_path path, const struct zerofs_xxtea_lane *lanes, size_t count,
                                uint32_t *scratch);

#endif
