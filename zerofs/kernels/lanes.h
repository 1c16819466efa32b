/* Which width of vector the kernels use that work on several chunks at once.  Arithmetic only. */
#ifndef ZEROFS_LANES_H
#define ZEROFS_LANES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#define ZEROFS_X86 1
#endif

/* Each path gives the same bytes; a path that `zerofs_path_supported` denies must not be taken. */
enum zerofs_path {
    ZEROFS_PORTABLE, /* 16-byte vectors: what every x86-64 and AArch64 has, and any compiler can lower */
    ZEROFS_AVX2,
    ZEROFS_AVX512,
    ZEROFS_PATHS
};

static inline int zerofs_path_supported(enum zerofs_path path)
{
    switch (path) {
    case ZEROFS_PORTABLE:
        return 1;
#ifdef ZEROFS_X86
    case ZEROFS_AVX2:
        return __builtin_cpu_supports("avx2") != 0;
    case ZEROFS_AVX512:
        return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx2") != 0;
#endif
    default:
        return 0;
    }
}

#endif
