/* XXH3 over what lies in several places, as the cache's entries are checked by (zerofs/cache/entry.py). */
#ifndef ZEROFS_CHECKSUM_H
#define ZEROFS_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#if XXH_VERSION_NUMBER < 800
#error "xxhash.h is older than 0.8.0, the first with the XXH3 that stays as it is"
#endif

/* Of all three, as if they were one. */
static inline uint64_t zerofs_checksum(const void *first, size_t first_size, const void *second, size_t second_size,
                                       const void *third, size_t third_size)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, first, first_size);
    XXH3_64bits_update(&state, second, second_size);
    XXH3_64bits_update(&state, third, third_size);
    return XXH3_64bits_digest(&state);
}

#endif
