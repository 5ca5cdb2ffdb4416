/* Sixteen numbers at a time, in the vectors of GCC. A sum over a vector is added up in one order, always. */

#ifndef RECALL_VECTORS_H
#define RECALL_VECTORS_H

#include <math.h>
#include <stdint.h>

enum { LANES = 16 };

/* 4: a row of a tensor may start at any number */
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Whole __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define PLACES ((Whole){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})

INLINE Vector load(const float *from) { return *(const Vector *)from; }
INLINE void store(float *to, Vector vector) { *(Vector *)to = vector; }
INLINE Vector all(float number) { return number - (Vector){0}; }

/* `yes` where the condition (-1 or 0) holds, `no` elsewhere */
INLINE Whole choose(Whole condition, Whole yes, Whole no) { return (yes & condition) | (no & ~condition); }
INLINE Vector pick(Whole condition, Vector yes, Vector no) {
    return (Vector)choose(condition, (Whole)yes, (Whole)no);
}
INLINE Vector larger(Vector left, Vector right) { return pick(left > right, left, right); }

INLINE float sum(Vector v) {
    v += __builtin_shuffle(v, PLACES ^ 8);
    v += __builtin_shuffle(v, PLACES ^ 4);
    v += __builtin_shuffle(v, PLACES ^ 2);
    v += __builtin_shuffle(v, PLACES ^ 1);
    return v[0];
}

INLINE float largest(Vector v) {
    v = larger(v, __builtin_shuffle(v, PLACES ^ 8));
    v = larger(v, __builtin_shuffle(v, PLACES ^ 4));
    v = larger(v, __builtin_shuffle(v, PLACES ^ 2));
    v = larger(v, __builtin_shuffle(v, PLACES ^ 1));
    return v[0];
}

/* Adds the halves of vectors[i] and vectors[i + half]: their lower lanes, of each two groups of `half`, and the upper. */
INLINE void halve(Vector *vectors, const int half) {
    const Whole is_upper = (PLACES & half) != 0;
    const Whole lower = choose(is_upper, (PLACES ^ half) + LANES, PLACES);
    const Whole upper = choose(is_upper, PLACES + LANES, PLACES ^ half);
    for (int i = 0; i < half; i++) {
        Vector first = vectors[i], second = vectors[i + half];
        vectors[i] = __builtin_shuffle(first, second, lower) + __builtin_shuffle(first, second, upper);
    }
}

/* Lane i of the result is the sum of the lanes of vectors[i]; the 16 vectors are written over. */
INLINE Vector sums_of(Vector *vectors) {
    halve(vectors, 8);
    halve(vectors, 4);
    halve(vectors, 2);
    halve(vectors, 1);
    return vectors[0];
}

/* e to the power of x <= 0, to 2 units of the last place; below -87 as there (1.6e-38) */
INLINE Vector exponential(Vector x) {
    x = larger(x, all(-87.0f));
    /* 1.5 * 2^23: what is added to it is rounded to a whole number, which stands in its last bits */
    Vector n = x * 1.44269504f + 12582912.0f;
    Whole power = ((Whole)n) << 23;
    n -= 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    /* Cephes, expf */
    Vector y = x * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return (Vector)((Whole)y + power);
}

/* x Phi(x), with the error function of Abramowitz and Stegun 7.1.26 (off by 1.5e-7 at most) */
INLINE Vector gelu(Vector x) {
    Vector size = (Vector)((Whole)x & 0x7fffffff) * 0.70710678f;
    Vector t = 1.0f / (size * 0.3275911f + 1.0f);
    Vector y = t * 1.061405429f - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = y * t + 0.254829592f;
    Vector tail = 0.5f * y * t * exponential(-size * size); /* 1 - Phi(|x|) */
    return x * pick(x < 0.0f, tail, 1.0f - tail);
}

#endif
