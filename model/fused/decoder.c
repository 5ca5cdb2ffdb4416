/* A causal decoder from histories to query vectors in one call: what model/networks/recgpt.py computes as
   model/generation/prompts.py asks it to, from the embeddings to the generated items.

   Every number is a sum in an order that depends on its own history alone, so a history has the same bits in any batch,
   and none is padded. The network stays the definition: Python compares both before it relies on this one. */

#include "layers.h"
#include <stdlib.h>
#include <string.h>

#ifdef HAS_VECTORS

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")

#include "vectors.h"

enum { GROUP = 16 }; /* histories that share one reading of the item table */

/* A history that grows; the last token's state is what generates. */
typedef struct {
    const int64_t *items;
    int64_t length, user, slot; /* slot: where the next token goes */
    float *state;               /* (D,) */
    float *soft;                /* (D,) mean of the items */
    float *sum;                 /* (D,) of the items so far, older ones less; where tokens hold their past */
    float *smoothed;            /* (D,) such a token, before it is embedded */
    float *scores;              /* of all items, where they are wanted */
    const Memory *memories;     /* one a block */
    int64_t best;               /* the item that ranks first */
} Sequence;

static void add(const Decoder *decoder, Sequence *sequence, float *tokens, int64_t rows, const Scratch *scratch) {
    extend(decoder, sequence->memories, sequence->slot, tokens, rows, scratch);
    memcpy(sequence->state, tokens + (rows - 1) * decoder->dim, sizeof(float) * (size_t)decoder->dim);
    sequence->slot += rows;
}

/* Embeds the next item of a sequence: by itself, or with the items before it, older ones less. */
static void take(const Decoder *decoder, Sequence *sequence, const float *item, int64_t position, int64_t segment,
                 float *token) {
    if (decoder->recency > 0) {
        for (int64_t d = 0; d < decoder->dim; d += LANES) {
            Vector own = load(item + d), past = decoder->recency * load(sequence->sum + d);
            store(sequence->smoothed + d, own + decoder->past_weight * past);
            store(sequence->sum + d, own + past);
        }
        item = sequence->smoothed;
    }
    embed(decoder, item, position, sequence->user, segment, token);
}

static void append(const Decoder *decoder, Sequence *sequence, const float *item, int64_t position, int64_t segment,
                   const Scratch *scratch) {
    take(decoder, sequence, item, position, segment, scratch->tokens);
    add(decoder, sequence, scratch->tokens, 1, scratch);
}

/* The scores of 16 rows (16, D) of the table. */
INLINE Vector scores_of(const float *state, const float *rows, int64_t dim) {
    Vector sums[LANES];
    for (int i = 0; i < LANES; i++)
        sums[i] = load(state) * load(rows + i * dim);
    for (int64_t d = LANES; d < dim; d += LANES)
        for (int i = 0; i < LANES; i++)
            sums[i] += load(state + d) * load(rows + i * dim + d);
    return sums_of(sums);
}

/* Names the best item of each of `count` sequences, of equal ones the first; keeps the scores where they have room. */
static void rank(const Decoder *decoder, Sequence *const *sequences, int count) {
    int64_t dim = decoder->dim, num_items = decoder->num_items;
    Vector highest[GROUP];
    Whole places[GROUP];
    for (int i = 0; i < count; i++)
        highest[i] = all(-INFINITY), places[i] = PLACES;
    for (int64_t start = 0; start < num_items; start += LANES) {
        /* the last 16 lie partly over those before, which are no higher than themselves */
        int64_t first = start + LANES <= num_items ? start : num_items - LANES;
        for (int i = 0; i < count; i++) {
            Vector scores = scores_of(sequences[i]->state, decoder->items + (1 + first) * dim, dim);
            places[i] = choose(scores > highest[i], PLACES + (int32_t)first, places[i]);
            highest[i] = larger(scores, highest[i]);
            if (sequences[i]->scores)
                store(sequences[i]->scores + first, scores);
        }
    }
    for (int i = 0; i < count; i++) {
        float most = largest(highest[i]);
        int64_t best = num_items - 1;
        for (int lane = 0; lane < LANES; lane++)
            if (highest[i][lane] == most && places[i][lane] < best)
                best = places[i][lane];
        sequences[i]->best = 1 + best;
    }
}

/* The mean of all items by the softmax of a sequence's scores, which become their weights. */
static void soften(const Decoder *decoder, Sequence *const *sequences, int count, float temperature) {
    int64_t dim = decoder->dim, num_items = decoder->num_items;
    const float *table = decoder->items + dim;
    float totals[GROUP];
    for (int i = 0; i < count; i++) {
        float *scores = sequences[i]->scores, most = scores[sequences[i]->best - 1];
        Vector total = {0};
        for (int64_t start = 0; start < num_items; start += LANES) {
            Vector weights = exponential((load(scores + start) - most) / temperature);
            weights = pick(PLACES < (int32_t)(num_items - start), weights, all(0.0f));
            store(scores + start, weights);
            total += weights;
        }
        totals[i] = sum(total);
        memset(sequences[i]->soft, 0, sizeof(float) * (size_t)dim);
    }
    for (int64_t start = 0; start < num_items; start += LANES) {
        int64_t end = start + LANES < num_items ? start + LANES : num_items;
        for (int i = 0; i < count; i++)
            for (int64_t d = 0; d < dim; d += LANES) {
                Vector mean = load(sequences[i]->soft + d);
                for (int64_t row = start; row < end; row++)
                    mean += sequences[i]->scores[row] * load(table + row * dim + d);
                store(sequences[i]->soft + d, mean);
            }
    }
    for (int i = 0; i < count; i++)
        for (int64_t d = 0; d < dim; d += LANES)
            store(sequences[i]->soft + d, load(sequences[i]->soft + d) / totals[i]);
}

/* Generates the next item of each of `count` sequences, and adds it; position 0: behind the end. */
static void generate(const Decoder *decoder, const Plan *plan, Sequence *const *sequences, int count, int64_t position,
                     int64_t number, const Scratch *scratch) {
    int64_t segment = number < decoder->num_segments ? number : decoder->num_segments - 1;
    rank(decoder, sequences, count);
    if (plan->is_soft)
        soften(decoder, sequences, count, plan->temperature);
    for (int i = 0; i < count; i++) {
        Sequence *sequence = sequences[i];
        const float *item = plan->is_soft ? sequence->soft : decoder->items + sequence->best * decoder->dim;
        /* what is generated behind the end stands before an unknown item; no later position was ever trained */
        int64_t next = sequence->length < decoder->max_length ? sequence->length + 1 : decoder->max_length;
        append(decoder, sequence, item, position ? position : next, segment, scratch);
    }
}

/* Reads histories, with what the plan generates inside them. */
static void read_histories(const Decoder *decoder, const Plan *plan, Sequence *sequences, int count,
                           const Scratch *scratch) {
    int64_t dim = decoder->dim, longest = 0;
    for (int i = 0; i < count; i++) {
        Sequence *sequence = sequences + i;
        int64_t start = plan->num_inside && sequence->length ? 1 : sequence->length;
        memset(sequence->sum, 0, sizeof(float) * (size_t)dim);
        take(decoder, sequence, decoder->items + (decoder->num_items + 1) * dim, 0, 0, scratch->tokens);
        for (int64_t t = 1; t <= start; t++)
            take(decoder, sequence, decoder->items + sequence->items[t - 1] * dim, t, 0, scratch->tokens + t * dim);
        add(decoder, sequence, scratch->tokens, 1 + start, scratch);
        longest = sequence->length > longest ? sequence->length : longest;
    }
    for (int64_t t = 2; plan->num_inside && t <= longest; t++) {
        Sequence *longer[GROUP];
        int num_longer = 0;
        for (int i = 0; i < count; i++)
            if (sequences[i].length >= t)
                longer[num_longer++] = sequences + i;
        for (int64_t number = 0; number < plan->num_inside; number++)
            generate(decoder, plan, longer, num_longer, t, 1, scratch);
        for (int i = 0; i < num_longer; i++)
            append(decoder, longer[i], decoder->items + longer[i]->items[t - 1] * dim, t, 0, scratch);
    }
}

int64_t decoder_layout(void) {
    __builtin_cpu_init();
    int can = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    return can ? (int64_t)(sizeof(Decoder) + 1000 * sizeof(Block) + 1000000 * sizeof(Plan)) + 1000000000LL * VERSION : 0;
}

int64_t decoder_encode(const Decoder *decoder, const Plan *plan, int64_t count, const int64_t *rows,
                       const int64_t *offsets, const int64_t *users, float *vectors, int64_t *generated) {
    int64_t dim = decoder->dim, num_blocks = decoder->num_blocks, longest = 0;
    int64_t num_generated = plan->num_tail + plan->num_vectors - 1;
    for (int64_t i = 0; i < count; i++)
        longest = offsets[i + 1] - offsets[i] > longest ? offsets[i + 1] - offsets[i] : longest;
    int64_t slots = 1 + longest * (1 + plan->num_inside) + num_generated;
    slots = (slots + LANES - 1) / LANES * LANES;
    int64_t num_scores = plan->is_soft ? (decoder->num_items + LANES - 1) / LANES * LANES : 0;
    /* in floats: what each sequence has, and what all share */
    int64_t each = 2 * num_blocks * slots * dim + 4 * dim + num_scores, shared = 7 * (1 + longest) * dim + slots;
    int64_t group = count < GROUP ? count : GROUP;
    float *numbers = aligned_alloc(64, ((size_t)(group * each + shared) * sizeof(float) + 63) / 64 * 64);
    Memory *memories = malloc(sizeof(Memory) * (size_t)(group * num_blocks + 1));
    Scratch scratch = {numbers, numbers + (1 + longest) * dim, numbers + 7 * (1 + longest) * dim};
    for (int64_t first = 0; numbers && memories && first < count; first += GROUP) {
        int members = count - first < GROUP ? (int)(count - first) : GROUP;
        Sequence sequences[GROUP], *each_of[GROUP];
        for (int i = 0; i < members; i++) {
            float *own = numbers + shared + i * each, *state = own + 2 * num_blocks * slots * dim;
            for (int64_t block = 0; block < num_blocks; block++, own += 2 * slots * dim)
                memories[i * num_blocks + block] = (Memory){own, own + slots * dim};
            int64_t start = offsets[first + i], length = offsets[first + i + 1] - start;
            sequences[i] =
                (Sequence){rows + start, length, users[first + i], 0, state, state + dim, state + 2 * dim,
                           state + 3 * dim, num_scores ? state + 4 * dim : NULL, memories + i * num_blocks, 0};
            each_of[i] = sequences + i;
        }
        read_histories(decoder, plan, sequences, members, &scratch);
        for (int64_t number = 0; number <= num_generated; number++) {
            for (int i = 0; i < members && number >= plan->num_tail; i++)
                memcpy(vectors + ((first + i) * plan->num_vectors + number - plan->num_tail) * dim, sequences[i].state,
                       sizeof(float) * (size_t)dim);
            if (number < num_generated)
                generate(decoder, plan, each_of, members, 0, number + 1, &scratch);
            for (int i = 0; i < members && number < num_generated; i++)
                generated[(first + i) * num_generated + number] = sequences[i].best;
        }
    }
    int64_t status = numbers && memories ? 0 : -1;
    free(numbers);
    free(memories);
    return status;
}

#else

int64_t decoder_layout(void) { return 0; }

int64_t decoder_encode(const Decoder *decoder, const Plan *plan, int64_t count, const int64_t *rows,
                       const int64_t *offsets, const int64_t *users, float *vectors, int64_t *generated) {
    (void)decoder, (void)plan, (void)count, (void)rows, (void)offsets, (void)users, (void)vectors, (void)generated;
    return -1;
}

#endif
