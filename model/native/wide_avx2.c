/* The inner loops for processors with AVX2. */

#include "native.h"
#include "wide.h"
#include <math.h>

#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define LANES 8
#define TABLE wide_avx2
#define NAME "AVX2"
#include "wide.inc"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
