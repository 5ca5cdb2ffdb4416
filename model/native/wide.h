/* The inner loops, compiled for several widths of register: whatever is computed for many hits at once. */

#ifndef RECALL_WIDE_H
#define RECALL_WIDE_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#define WIDTH 32     /* hits in a block */
#define SIFTED 16    /* items in a block of codes */
#define MOST_QUERIES 4
#define GROUPS 32    /* groups of scores */
#define ALIGNMENT 64 /* bytes, of a block's columns */

/* The order of a score, the highest first, above a place. */
static inline uint64_t key_of(int32_t order, int64_t place) {
    return (uint64_t)~((uint32_t)order ^ 0x80000000u) << 32 | (uint32_t)place;
}

/* The score of a key; both zeros are 0.0. */
static inline float score_of(uint64_t key) {
    int32_t bits = (int32_t)(~(uint32_t)(key >> 32) ^ 0x80000000u);
    float score;
    bits ^= bits >> 31 & INT32_MAX;
    memcpy(&score, &bits, sizeof score);
    return score;
}

typedef struct {
    const char *name;

    /* Finds the best hit of a block, of equal ones the first: its worth in the order of integers, and its place. */
    void (*find_best)(const float *worth, int32_t *bound, int32_t *place);

    /* Writes the vectors (num_hits, dim) of a block as columns (dim, WIDTH) of length 1, and what made them so. */
    void (*make_columns)(const float *vectors, int64_t num_hits, int64_t dim, float *columns, float *inverses);

    /* Lowers what the hits of a block are worth beside `num` items taken, (num, dim) of length 1; dim >= 1. */
    void (*lower)(const float *columns, int64_t dim, const float *taken, int64_t num, const float *relevance,
                  float share, float *worth);

    /* Finds which hits of a block are worth at least so much: bit n for place n. */
    uint32_t (*worth_at_least)(const float *worth, float bound);

    /* The inner product in double precision. */
    double (*exact_product)(const float *left, const float *right, int64_t dim);

    /* What the scores of all items are at least and at most, (num, num_blocks * SIFTED), from their codes (num_blocks,
       num_pairs, SIFTED, 2) and queries (num, num_pairs, 2), num = 1 .. MOST_QUERIES. NULL where the processor cannot. */
    void (*sift)(const int8_t *codes, int64_t num_blocks, int64_t num_pairs, const float *scales, const float *margins,
                 const int16_t *queries, int64_t num, const float *query_scales, const float *lengths, float *lowest,
                 float *highest);

    /* The scores of the items at the places of keys. NULL where the processor cannot. */
    void (*score)(const float *vectors, int64_t dim, const float *query, const uint64_t *keys, int64_t num,
                  float *scores);

    /* Deals scores out to groups, a multiple of GROUPS, and writes the highest of each in the order of integers. */
    void (*highest)(const float *scores, int64_t num, int64_t num_groups, int32_t *most);

    /* Writes the keys of the scores that reach a bound, in the order of places; tells how many there are. */
    int64_t (*gather)(const float *scores, int64_t num, int32_t bound, uint64_t *keys);
} Wide;

extern const Wide wide_plain;
#ifdef __x86_64__
extern const Wide wide_avx2, wide_avx512;
#endif

/* The widest that this processor has; set when the module is loaded. */
extern const Wide *wide;

#endif
