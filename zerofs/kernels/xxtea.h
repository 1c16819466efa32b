/* XXTEA (Corrected Block TEA) over one chunk: arithmetic only, no allocation, no Python. */
#ifndef ZEROFS_XXTEA_H
#define ZEROFS_XXTEA_H

#include <stddef.h>
#include <stdint.h>

/* Both work in place on `n` little-endian words, n >= 2, in host order (little-endian hosts only). */
void zerofs_xxtea_encrypt(uint32_t *words, size_t n, const uint32_t key[4]);
void zerofs_xxtea_decrypt(uint32_t *words, size_t n, const uint32_t key[4]);

#endif
