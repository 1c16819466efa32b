#include "snappy.h"

#include <string.h>

enum { LITERAL = 0, COPY_1 = 1, COPY_2 = 2 };

#define LONGEST_LENGTH 5 /* bytes of a length of 32 bits, 7 of them in each */
#define SHORT 16         /* bytes that are copied at once, of which the last ones may be superfluous */

int64_t zerofs_snappy_length(const uint8_t *block, size_t size, size_t *used)
{
    uint64_t length = 0;
    for (size_t i = 0; i < size && i < LONGEST_LENGTH; i++) {
        length |= (uint64_t)(block[i] & 0x7f) << (7 * i);
        if (block[i] < 0x80) {
            *used = i + 1;
            return length <= UINT32_MAX ? (int64_t)length : -1;
        }
    }
    return -1;
}

/* Copy `length` bytes within the output from `offset` bytes before; where they overlap, the pattern is repeated.
 * `room`: bytes that may be written, `length` at least. */
static inline void repeat(uint8_t *out, size_t offset, size_t length, size_t room)
{
    const uint8_t *from = out - offset;
    if (offset >= SHORT && room >= length + SHORT) {
        for (size_t done = 0; done < length; done += SHORT)
            memcpy(out + done, from + done, SHORT);
    } else if (offset >= length) {
        memcpy(out, from, length);
    } else if (offset == 1) {
        memset(out, *from, length);
    } else {
        for (size_t done = 0; done < length; done++)
            out[done] = from[done];
    }
}

int zerofs_snappy_decompress(const uint8_t *in, size_t size, uint8_t *out, size_t length)
{
    const uint8_t *const in_end = in + size;
    uint8_t *const begin = out;
    uint8_t *const out_end = out + length;

    while (in < in_end) {
        const unsigned tag = *in++;
        const size_t left = (size_t)(in_end - in);
        const size_t room = (size_t)(out_end - out);
        size_t count = tag >> 2, offset;
        switch (tag & 3) {
        case LITERAL:
            count++;
            if (count <= SHORT && left >= SHORT && room >= SHORT) {
                memcpy(out, in, SHORT);
            } else {
                if (count > 60) {
                    const size_t digits = count - 60; /* bytes of a length of its own */
                    if (left < 4) /* who writes a length of its own has at least 61 bytes to follow */
                        return 0;
                    count = 0;
                    for (size_t i = 0; i < digits; i++)
                        count |= (size_t)in[i] << (8 * i);
                    in += digits;
                    if (count >= left - digits)
                        return 0;
                    count++;
                } else if (count > left) {
                    return 0;
                }
                if (count > room)
                    return 0;
                memcpy(out, in, count);
            }
            in += count;
            out += count;
            continue;
        case COPY_1:
            if (left < 1)
                return 0;
            count = (count & 7) + 4;
            offset = (size_t)(tag & 0xe0) << 3 | in[0];
            in += 1;
            break;
        case COPY_2:
            if (left < 2)
                return 0;
            count++;
            offset = (size_t)in[0] | (size_t)in[1] << 8;
            in += 2;
            break;
        default:
            if (left < 4)
                return 0;
            count++;
            offset = (size_t)in[0] | (size_t)in[1] << 8 | (size_t)in[2] << 16 | (size_t)in[3] << 24;
            in += 4;
            break;
        }
        if (offset == 0 || offset > (size_t)(out - begin) || count > room)
            return 0;
        repeat(out, offset, count, room);
        out += count;
    }
    return out == out_end;
}
