/* The layers of a causal decoder, for one sequence at a time. */

#ifndef RECALL_LAYERS_H
#define RECALL_LAYERS_H

#include "decoder.h"

/* written for AVX-512, in the vectors of GCC */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_VECTORS
#endif

/* What attention has read of a sequence, in one block. There is room for whole groups of 16 slots. */
typedef struct {
    float *keys;   /* (slots / 16, D, 16): 16 keys side by side */
    float *values; /* (slots, D) */
} Memory;

/* Room to work in, for the tokens that are added at once. */
typedef struct {
    float *tokens;  /* (tokens, D) */
    float *work;    /* (tokens, 6 D) */
    float *weights; /* (slots,) of attention */
} Scratch;

#pragma GCC visibility push(hidden)

/* Writes the vector (D,) of a token: of item (D,), position, user and segment together, normalised. */
void embed(const Decoder *decoder, const float *item, int64_t position, int64_t user, int64_t segment, float *to);

/* Adds tokens (rows, D) to a sequence that fills its memories (one a block) up to `slot`. They are written over: the
   last row becomes the state of the last token. */
void extend(const Decoder *decoder, const Memory *memories, int64_t slot, float *tokens, int64_t rows,
            const Scratch *scratch);

#pragma GCC visibility pop

#endif
