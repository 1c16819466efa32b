#include "xxtea_lanes.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the chunk format is little-endian; this host would need byte swaps"
#endif

#define DELTA 0x9e3779b9u

/* The mixing function of both directions: y follows, z precedes the word in the ring. */
#define MIX(y, z, sum, k) \
    (((((z) >> 5) ^ ((y) << 2)) + (((y) >> 3) ^ ((z) << 4))) ^ (((sum) ^ (y)) + ((k) ^ (z))))

/* Words of each chunk that are turned into rows at a time: a cache line. */
#define BLOCK 16

typedef uint32_t quad __attribute__((vector_size(16), may_alias));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (quad){__VA_ARGS__})
#endif

/* Four words of four chunks become four rows of four words, and the other way round. */
#define TRANSPOSE(a, b, c, d)                                                              \
    do {                                                                                   \
        const quad ab = SHUFFLE(a, b, 0, 4, 1, 5), ab2 = SHUFFLE(a, b, 2, 6, 3, 7);        \
        const quad cd = SHUFFLE(c, d, 0, 4, 1, 5), cd2 = SHUFFLE(c, d, 2, 6, 3, 7);        \
        a = SHUFFLE(ab, cd, 0, 1, 4, 5), b = SHUFFLE(ab, cd, 2, 3, 6, 7);                  \
        c = SHUFFLE(ab2, cd2, 0, 1, 4, 5), d = SHUFFLE(ab2, cd2, 2, 3, 6, 7);              \
    } while (0)

static inline __attribute__((always_inline)) quad load_quad(const struct zerofs_xxtea_lane *lane, size_t p)
{
    quad value = {0};
    const size_t at = p * 4;
    if (at + 16 <= lane->size)
        memcpy(&value, lane->in + at, 16);
    else if (at < lane->size)
        memcpy(&value, lane->in + at, lane->size - at);
    return value;
}

static inline __attribute__((always_inline)) void store_quad(const struct zerofs_xxtea_lane *lane, size_t p,
                                                             quad value)
{
    if (p + 4 <= lane->words)
        memcpy(lane->out + p * 4, &value, 16);
    else if (p < lane->words)
        memcpy(lane->out + p * 4, &value, (lane->words - p) * 4);
}

#define LANES ZEROFS_XXTEA_LANES

#define NAME(x) portable_##x
#define TARGET
#define WIDTH 4
#include "xxtea_lanes.inc"
#undef NAME
#undef TARGET
#undef WIDTH

#ifdef ZEROFS_X86
#define NAME(x) avx2_##x
#define TARGET __attribute__((target("avx2")))
#define WIDTH 8
#include "xxtea_lanes.inc"
#undef NAME
#undef TARGET
#undef WIDTH
#endif

typedef void transform(const struct zerofs_xxtea_lane *lanes, size_t count, uint32_t *rows);

static const struct {
    transform *encrypt, *decrypt;
} paths[ZEROFS_PATHS] = {
    [ZEROFS_PORTABLE] = {portable_encrypt, portable_decrypt},
#ifdef ZEROFS_X86
    [ZEROFS_AVX2] = {avx2_encrypt, avx2_decrypt},
    /* Sixteen lanes wait for memory twice as long as eight. */
    [ZEROFS_AVX512] = {avx2_encrypt, avx2_decrypt},
#endif
};

size_t zerofs_xxtea_scratch(size_t words)
{
    /* Rows come in whole blocks, and encrypting looks at one row more. */
    return (words / BLOCK + 2) * BLOCK * LANES * sizeof(uint32_t);
}

/* Lanes without a chunk do the last one's work once more; nobody takes their result. */
static void fill(struct zerofs_xxtea_lane *all, const struct zerofs_xxtea_lane *lanes, size_t count)
{
    memcpy(all, lanes, count * sizeof *lanes);
    for (size_t i = count; i < LANES; i++)
        all[i] = lanes[count - 1];
}

void zerofs_xxtea_encrypt_lanes(enum zerofs_path path, const struct zerofs_xxtea_lane *lanes, size_t count,
                                uint32_t *scratch)
{
    struct zerofs_xxtea_lane all[LANES];
    fill(all, lanes, count);
    paths[path].encrypt(all, count, scratch);
}

void zerofs_xxtea_decrypt_lanes(enum zerofs_path path, const struct zerofs_xxtea_lane *lanes, size_t count,
                                uint32_t *scratch)
{
    struct zerofs_xxtea_lane all[LANES];
    fill(all, lanes, count);
    paths[path].decrypt(all, count, scratch);
}
