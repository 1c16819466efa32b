/* Which slot of the recency file a name has, and bytes in it that many processes write without a lock. */
#ifndef ZEROFS_RECENCY_H
#define ZEROFS_RECENCY_H

#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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

/* A number that grows, in memory that processes share, and who waits for that. */
static inline uint32_t zerofs_asked(uint32_t *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }

static inline void zerofs_ask(uint32_t *place)
{
    __atomic_fetch_add(place, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, place, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/* Returns when it is not `seen`, after that time, or for no reason; -1 where it cannot be waited for. */
static inline int zerofs_await_asked(uint32_t *place, uint32_t seen, int64_t nanoseconds)
{
    struct timespec most = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    long result = syscall(SYS_futex, place, FUTEX_WAIT, seen, &most, NULL, 0);
    return result == 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT ? 0 : -1;
}

static inline uint8_t zerofs_marked(const uint8_t *place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }

#endif
