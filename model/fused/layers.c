/* The layers of a causal decoder: embeddings, attention over what a sequence remembers, feed-forward. */

#include "layers.h"

#ifdef HAS_VECTORS

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")

#include "vectors.h"
#include <string.h>

enum {
    PANEL = 64, /* columns of a weight that lie side by side */
    ROWS = 6,   /* of a tile: 6 x 4 sums, 4 weights and a factor fit 32 registers */
};

/* to (rows, columns) = from (rows, K) times a panel */
INLINE void tile(const int rows, const float *from, int64_t depth, const float *panel, const float *bias,
                 int64_t width, int is_gelu, float *to, int64_t columns) {
    Vector sums[ROWS][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++)
            sums[i][j] = load(bias + LANES * j);
    for (int64_t k = 0; k < depth; k++) {
        Vector weights[4];
        for (int j = 0; j < 4; j++)
            weights[j] = load(panel + PANEL * k + LANES * j);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < 4; j++)
                sums[i][j] += from[depth * i + k] * weights[j];
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++)
            if (LANES * j < width)
                store(to + columns * i + LANES * j, is_gelu ? gelu(sums[i][j]) : sums[i][j]);
}

/* to (rows, columns) = from (rows, K) times weight, plus bias */
static void multiply(const float *from, int64_t rows, int64_t depth, const float *weight, const float *bias,
                     int64_t columns, int is_gelu, float *to) {
#define TILE(number) tile(number, left, depth, panel, own_bias, columns - column, is_gelu, right, columns)
    for (int64_t column = 0; column < columns; column += PANEL) {
        const float *panel = weight + column * depth, *own_bias = bias + column, *left = from;
        float *right = to + column;
        int64_t open = rows;
        for (; open >= ROWS; open -= ROWS, left += ROWS * depth, right += ROWS * columns)
            TILE(ROWS);
        switch (open) {
            case 5: TILE(5); break;
            case 4: TILE(4); break;
            case 3: TILE(3); break;
            case 2: TILE(2); break;
            case 1: TILE(1); break;
            default: break;
        }
    }
#undef TILE
}

/* rows (rows, D) += others, if any; then each to mean 0 and variance 1, times gain, plus shift */
static void normalise(float *row, int64_t rows, const float *other, int64_t dim, const float *gain, const float *shift,
                      float epsilon) {
    for (; rows; rows--, row += dim, other = other ? other + dim : NULL) {
        Vector total = {0}, squares = {0};
        for (int64_t d = 0; d < dim; d += LANES) {
            Vector both = load(row + d);
            if (other)
                both += load(other + d);
            store(row + d, both);
            total += both;
        }
        float mean = sum(total) / (float)dim;
        for (int64_t d = 0; d < dim; d += LANES) {
            Vector off = load(row + d) - mean;
            squares += off * off;
        }
        float scale = 1.0f / sqrtf(sum(squares) / (float)dim + epsilon);
        for (int64_t d = 0; d < dim; d += LANES)
            store(row + d, (load(row + d) - mean) * scale * load(gain + d) + load(shift + d));
    }
}

void embed(const Decoder *decoder, const float *item, int64_t position, int64_t user, int64_t segment,
                  float *to) {
    int64_t dim = decoder->dim;
    const float *positions = decoder->positions + position * dim, *users = decoder->users + user * dim;
    const float *segments = decoder->segments + segment * dim;
    for (int64_t d = 0; d < dim; d += LANES)
        store(to + d, load(item + d) + load(positions + d) + load(users + d) + load(segments + d));
    normalise(to, 1, NULL, dim, decoder->gain, decoder->shift, decoder->epsilon);
}

/* to (D) = what the token in `slot` reads from the memory of slots 0 .. slot; weights: (slots,) to work in */
static void attend(const float *query, int64_t slot, const Memory *memory, int64_t dim, int64_t width, float *weights,
                   float *to) {
    int64_t last = slot / LANES;
    float scale = 1.0f / sqrtf((float)width);
    Whole is_later = PLACES > (int32_t)(slot % LANES);
    for (int64_t head = 0; head < dim; head += width) {
        Vector highest = all(-INFINITY), total = {0};
        for (int64_t part = 0; part <= last; part++) {
            const float *keys = memory->keys + (part * dim + head) * LANES;
            Vector even = {0}, odd = {0};
            for (int64_t w = 0; w < width; w += 2) {
                even += query[head + w] * load(keys + LANES * w);
                odd += query[head + w + 1] * load(keys + LANES * (w + 1));
            }
            Vector scores = (even + odd) * scale;
            if (part == last)
                scores = pick(is_later, all(-INFINITY), scores);
            store(weights + part * LANES, scores);
            highest = larger(highest, scores);
        }
        float most = largest(highest);
        for (int64_t part = 0; part <= last; part++) {
            Vector shares = exponential(load(weights + part * LANES) - most);
            if (part == last)
                shares = pick(is_later, all(0.0f), shares);
            store(weights + part * LANES, shares);
            total += shares;
        }
        float share = 1.0f / sum(total);
        for (int64_t w = head; w < head + width; w += LANES) {
            const float *values = memory->values + w;
            Vector sums[4] = {{0}, {0}, {0}, {0}};
            int64_t token = 0;
            for (; token + 3 <= slot; token += 4)
                for (int i = 0; i < 4; i++)
                    sums[i] += weights[token + i] * load(values + (token + i) * dim);
            for (int i = 0; token + i <= slot; i++)
                sums[i] += weights[token + i] * load(values + (token + i) * dim);
            store(to + w, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * share);
        }
    }
}

/* Keeps keys and values of states (rows, D) from `slot` on; both: (rows, 2 D) to work in. */
static void keep(const Block *block, const float *states, int64_t rows, int64_t slot, int64_t dim,
                 const Memory *memory, float *both) {
    multiply(states, rows, dim, block->memory, block->memory_bias, 2 * dim, 0, both);
    for (; rows; rows--, slot++, both += 2 * dim) {
        float *keys = memory->keys + slot / LANES * dim * LANES + slot % LANES;
        for (int64_t d = 0; d < dim; d++)
            keys[LANES * d] = both[d];
        memcpy(memory->values + slot * dim, both + dim, sizeof(float) * (size_t)dim);
    }
}

/* The states (rows, D) of the tokens from `slot` on, in place; their keys and values are kept already. */
static void read_memory(const Decoder *decoder, const Block *block, float *states, int64_t rows, int64_t slot,
                        const Memory *memory, const Scratch *scratch) {
    int64_t dim = decoder->dim, width = dim / decoder->num_heads;
    float *queries = scratch->work, *heads = queries + rows * dim, *wide = heads + rows * dim;
    multiply(states, rows, dim, block->query, block->query_bias, dim, 0, queries);
    for (int64_t row = 0; row < rows; row++)
        attend(queries + row * dim, slot + row, memory, dim, width, scratch->weights, heads + row * dim);
    multiply(heads, rows, dim, block->out, block->out_bias, dim, 0, queries);
    normalise(states, rows, queries, dim, block->attention_gain, block->attention_shift, block->attention_epsilon);
    multiply(states, rows, dim, block->wide, block->wide_bias, 4 * dim, 1, wide);
    multiply(wide, rows, 4 * dim, block->narrow, block->narrow_bias, dim, 0, queries);
    normalise(states, rows, queries, dim, block->forward_gain, block->forward_shift, block->forward_epsilon);
}

void extend(const Decoder *decoder, const Memory *memories, int64_t slot, float *tokens, int64_t rows,
            const Scratch *scratch) {
    int64_t dim = decoder->dim;
    for (int64_t number = 0; number < decoder->num_blocks; number++) {
        const Block *block = decoder->blocks + number;
        const Memory *memory = memories + number;
        keep(block, tokens, rows, slot, dim, memory, scratch->work);
        /* of the last block, the state of one token is wanted */
        int64_t skipped = number + 1 < decoder->num_blocks ? 0 : rows - 1;
        read_memory(decoder, block, tokens + skipped * dim, rows - skipped, slot + skipped, memory, scratch);
    }
}

#endif
