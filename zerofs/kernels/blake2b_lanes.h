/* BLAKE2b (RFC 7693), without a key, over several messages at once, one in each 64-bit lane of a vector. */
#ifndef ZEROFS_BLAKE2B_LANES_H
#define ZEROFS_BLAKE2B_LANES_H

#include "lanes.h"

struct zerofs_message {
    const uint8_t *data; /* any alignment; may be NULL where `size` is 0 */
    size_t size;
    uint8_t *digest; /* room for `digest_size` bytes */
};

/* Any number of messages of any lengths; `digest_size` is 1 to 64 bytes. */
void zerofs_blake2b_lanes(enum zerofs_path path, const struct zerofs_message *messages, size_t count,
                          size_t digest_size);

#endif
