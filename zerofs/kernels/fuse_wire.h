/* The kernel's FUSE protocol, as far as a read-only server speaks it, and the atomics that it needs.
 *
 * The structs are the kernel's own (linux/fuse.h); what headers older than the running kernel lack stands here. */
#ifndef ZEROFS_FUSE_WIRE_H
#define ZEROFS_FUSE_WIRE_H

#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>

#ifndef FUSE_INIT_EXT
#define FUSE_INIT_EXT (1 << 30)
#endif
#define ZEROFS_HAS_RESEND (1ULL << 39) /* FUSE_HAS_RESEND, Linux 6.9 */

/* fuse_init_in and fuse_init_out grew over time: these are their longest forms. */
struct zerofs_init_in {
    uint32_t major, minor, max_readahead, flags, flags2;
};

struct zerofs_init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
    uint16_t request_timeout;
    uint16_t unused[11];
};

static inline void *zerofs_load_pointer(void *const *place) { return __atomic_load_n(place, __ATOMIC_SEQ_CST); }
static inline void zerofs_store_pointer(void **place, void *value) { __atomic_store_n(place, value, __ATOMIC_SEQ_CST); }
static inline uint32_t zerofs_load(const uint32_t *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }
static inline void zerofs_store(uint32_t *place, uint32_t value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }
/* What was read before this was read before all that is read after it. */
static inline void zerofs_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
/* Whether nobody else has set this flag. */
static inline int zerofs_set_first(uint8_t *place) { return __atomic_exchange_n(place, 1, __ATOMIC_RELAXED) == 0; }
/* A counter that one thread writes and others read: no barrier, no locked instruction. */
static inline void zerofs_tally(uint64_t *place, uint64_t more)
{
    __atomic_store_n(place, __atomic_load_n(place, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}
static inline uint64_t zerofs_tallied(const uint64_t *place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }
#endif
