#include "xxtea.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the chunk format is little-endian; this host would need byte swaps"
#endif

#define DELTA 0x9e3779b9u

/* The mixing function of both directions: y follows, z precedes the word in the ring. */
#define MIX(y, z, sum, k) \
    (((((z) >> 5) ^ ((y) << 2)) + (((y) >> 3) ^ ((z) << 4))) ^ (((sum) ^ (y)) + ((k) ^ (z))))

void zerofs_xxtea_encrypt(uint32_t *v, size_t n, const uint32_t key[4])
{
    uint32_t sum = 0, z = v[n - 1];
    for (size_t rounds = 6 + 52 / n; rounds > 0; rounds--) {
        sum += DELTA;
        const uint32_t e = (sum >> 2) & 3;
        size_t p = 0;
        for (; p < n - 1; p++)
            z = v[p] += MIX(v[p + 1], z, sum, key[(p & 3) ^ e]);
        z = v[p] += MIX(v[0], z, sum, key[(p & 3) ^ e]);
    }
}

void zerofs_xxtea_decrypt(uint32_t *v, size_t n, const uint32_t key[4])
{
    const uint32_t rounds = (uint32_t)(6 + 52 / n);
    uint32_t y = v[0];
    for (uint32_t sum = rounds * DELTA; sum != 0; sum -= DELTA) {
        const uint32_t e = (sum >> 2) & 3;
        size_t p = n - 1;
        for (; p > 0; p--)
            y = v[p] -= MIX(y, v[p - 1], sum, key[(p & 3) ^ e]);
        y = v[0] -= MIX(y, v[n - 1], sum, key[e]);
    }
}
