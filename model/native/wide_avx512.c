/* The inner loops for processors with AVX-512. */

#include "native.h"
#include "wide.h"
#include <math.h>

#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,fma")
#endif

#define LANES 16
#define TABLE wide_avx512
#define NAME "AVX-512"
#include "wide.inc"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
