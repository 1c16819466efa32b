#include "blake2b_lanes.h"

#include <string.h>
#ifdef ZEROFS_X86
#include <immintrin.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "BLAKE2b is little-endian; this host would need byte swaps"
#endif

#define BLOCK 128 /* bytes */
#define ROUNDS 12

static const uint64_t IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const uint8_t SIGMA[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
};

#define SHIFTED(x, bits) (((x) >> (bits)) | ((x) << (64 - (bits))))

static inline uint64_t load(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

#define ROTATE_32(x) SHIFTED(x, 32)
#define ROTATE_24(x) SHIFTED(x, 24)
#define ROTATE_16(x) SHIFTED(x, 16)
#define ROTATE_63(x) SHIFTED(x, 63)

#define NAME(x) portable_##x
#define TARGET
#define LANES 4
#include "blake2b_lanes.inc"
#undef NAME
#undef TARGET
#undef LANES

#ifdef ZEROFS_X86
#define NAME(x) avx512_##x
#define TARGET __attribute__((target("avx512f"))) /* which rotates in one instruction */
#define LANES 8
#include "blake2b_lanes.inc"
#undef NAME
#undef TARGET
#undef LANES

/* Rotations by whole bytes are shuffles. */
#undef ROTATE_32
#undef ROTATE_24
#undef ROTATE_16
#define BYTES(a, b, c, d, e, f, g, h)                                                        \
    _mm256_broadcastsi128_si256(_mm_setr_epi8(a, b, c, d, e, f, g, h, a + 8, b + 8, c + 8,   \
                                              d + 8, e + 8, f + 8, g + 8, h + 8))
#define ROTATE_32(x) ((avx2_vec)_mm256_shuffle_epi32((__m256i)(x), 0xb1))
#define ROTATE_24(x) ((avx2_vec)_mm256_shuffle_epi8((__m256i)(x), BYTES(3, 4, 5, 6, 7, 0, 1, 2)))
#define ROTATE_16(x) ((avx2_vec)_mm256_shuffle_epi8((__m256i)(x), BYTES(2, 3, 4, 5, 6, 7, 0, 1)))

#define NAME(x) avx2_##x
#define TARGET __attribute__((target("avx2")))
#define LANES 4
#include "blake2b_lanes.inc"
#undef NAME
#undef TARGET
#undef LANES
#endif

typedef void hash(const struct zerofs_message *messages, size_t count, size_t digest_size);

static hash *const paths[ZEROFS_PATHS] = {
    [ZEROFS_PORTABLE] = portable_hash,
#ifdef ZEROFS_X86
    [ZEROFS_AVX2] = avx2_hash,
    [ZEROFS_AVX512] = avx512_hash,
#endif
};

void zerofs_blake2b_lanes(enum zerofs_path path, const struct zerofs_message *messages, size_t count,
                          size_t digest_size)
{
    paths[path](messages, count, digest_size);
}
