/* Snappy's raw block format, decompressed: arithmetic only, no allocation, no Python. */
#ifndef ZEROFS_SNAPPY_H
#define ZEROFS_SNAPPY_H

#include <stddef.h>
#include <stdint.h>

/* The plain length that stands at the start of a block of `size` bytes; the bytes that say so go to `*used`.
 * -1 where there is none that fits into 32 bits. */
int64_t zerofs_snappy_length(const uint8_t *block, size_t size, size_t *used);

/* Decompress what follows the length.  Whether it was sound and gave `length` bytes, no more and no less; nothing
 * outside of `in` is read and nothing outside of `out` written whatever the bytes are. */
int zerofs_snappy_decompress(const uint8_t *in, size_t size, uint8_t *out, size_t length);

#endif
