/* What Python hands over: model/fused/library.py mirrors it. Addresses are those of fp32 numbers, row by row. */

#ifndef RECALL_DECODER_H
#define RECALL_DECODER_H

#include <stdint.h>

/* A block of the decoder. A weight (N, K) is filled up with zeros to whole panels of 64 columns: (N / 64, K, 64). */
typedef struct {
    const float *query, *query_bias;
    const float *memory, *memory_bias; /* keys, then values */
    const float *out, *out_bias;
    const float *wide, *wide_bias; /* of the feed-forward net */
    const float *narrow, *narrow_bias;
    const float *attention_gain, *attention_shift;
    const float *forward_gain, *forward_shift;
    float attention_epsilon, forward_epsilon;
} Block;

typedef struct {
    int64_t dim, num_heads, num_blocks, num_items, max_length, num_segments;
    const float *items; /* padding, items 1 .. N, START */
    const float *positions, *users, *segments;
    const float *gain, *shift;
    const Block *blocks;
    float epsilon;
    float recency;     /* what is left of the past from one token to the next; 0 = each token is its own item */
    float past_weight; /* of the past against a token's own item */
} Decoder;

typedef struct {
    int64_t num_inside;  /* items generated before every real one but the first */
    int64_t num_tail;    /* items generated behind the end, before the first vector is read */
    int64_t num_vectors; /* an item is generated between one and the next */
    int64_t is_soft;     /* a generated item is the mean of all, by the softmax of their scores */
    float temperature;
} Plan;

enum { VERSION = 2 }; /* of this file and of how weights lie; library.py has the same number */

/* The sizes of Decoder, Block and Plan, and the version: they tell whether both sides mean the same. 0: this processor cannot. */
int64_t decoder_layout(void);

/* Histories (rows from offsets[i] to offsets[i + 1]) of `count` users to vectors (count, num_vectors, D) and generated
   items (count, num_tail + num_vectors - 1). Returns 0, or -1 where there is no memory. */
int64_t decoder_encode(const Decoder *decoder, const Plan *plan, int64_t count, const int64_t *rows,
                       const int64_t *offsets, const int64_t *users, float *vectors, int64_t *generated);

#endif
