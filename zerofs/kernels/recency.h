/* Which slot of the recency file a name has, and bytes in it that many processes write without a lock. */
#ifndef ZEROFS_RECENCY_H
#define ZEROFS_RECENCY_H

#include <stdint.h>
#include <string.h>

#define ZEROFS_SLOTS (1u << 20)

/* Names hold a cryptographic hash, as bytes or as hexadecimal digits: a few of them, mixed once, are enough. */
static inline uint32_t zerofs_slot(const char *name, size_t size)
{
    uint64_t first = 0, last = 0, mixed;
    size_t most = size < 8 ? size : 8;
    memcpy(&last, name + size - most, most);
    if (size > 8) { /* the first byte is the codec's */
        most = size - 1 < 8 ? size - 1 : 8;
        memcpy(&first, name + 1, most);
    }
    mixed = (last ^ (first << 29 | first >> 35)) * 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93u;
    return (uint32_t)(mixed >> 44);
}

/* Read first: a line of memory that all processors share stays shared where nothing changes. */
static inline void zerofs_mark(uint8_t *place, uint8_t value)
{
    if (__atomic_load_n(place, __ATOMIC_RELAXED) != value)
        __atomic_store_n(place, value, __ATOMIC_RELAXED);
}

static inline uint8_t zerofs_marked(const uint8_t *place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }

#endif
