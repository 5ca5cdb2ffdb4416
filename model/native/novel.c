/* Maximal marginal relevance, as service/lists/diversity.py defines it.

   Hits stand in blocks of 32. What a block's best hit is worth can only fall while items are taken, so the value of
   an earlier step is a bound: a block is brought up to date when its bound is the highest of all, and then for all
   items that were taken meanwhile. Hits of little relevance are never looked at.

   That is done in single precision, whose rounding is bounded. Hits that lie closer together than that are decided in
   double precision, so that a list is that of the definition; of equal hits the one that stands first is taken. */

#include "native.h"
#include "wide.h"
#include <math.h>

typedef struct {
    int64_t num_hits, num_blocks, dim, num_taken;
    double share, lowest, scale; /* relevance is (score - lowest) * scale, or scale where all scores are equal */
    int is_flat;
    float rounding;          /* values in single precision that differ by more stand in their right order */
    const float *scores;     /* (num_hits,) */
    const float *vectors;    /* (num_hits, dim) */
    float *columns;          /* (num_blocks, dim, WIDTH) vectors of length 1, once a block was asked for */
    float *inverses;         /* (num_blocks * WIDTH,) of the lengths, where there are columns */
    float *relevance;        /* (num_blocks * WIDTH,) */
    float *worth;            /* (num_blocks * WIDTH,) -inf where a hit is gone */
    int32_t *bounds;         /* (num_blocks,) the best worth of a block, in the order of integers */
    int32_t *places;         /* (num_blocks,) where it stands in the block */
    int64_t *num_seen;       /* (num_blocks,) items taken that the block knows; -1 = it has no columns yet */
    float *taken;            /* (room, dim) vectors of length 1 */
    const float **originals; /* (room,) the vectors that came of those taken */
    double *lengths;         /* (room,) of the originals */
    double *exact;           /* (num_hits,) worth in double precision, once a hit was asked for */
    int64_t *num_exact;      /* (num_hits,) items taken that `exact` knows */
} Pool;

static double length_of(const float *vector, int64_t dim) {
    double length = sqrt(wide->exact_product(vector, vector, dim));
    return length > 1e-12 ? length : 1e-12;
}

static double relevance_of(const Pool *pool, int64_t place) {
    return pool->is_flat ? pool->scale : ((double)pool->scores[place] - pool->lowest) * pool->scale;
}

/* What a hit is worth in double precision. */
static double exact_worth(Pool *pool, int64_t place) {
    int64_t seen = pool->num_exact[place];
    if (!seen)
        pool->exact[place] = relevance_of(pool, place);
    if (seen == pool->num_taken)
        return pool->exact[place];
    const float *own = pool->vectors + place * pool->dim;
    double relevance = relevance_of(pool, place), length = length_of(own, pool->dim), worth = pool->exact[place];
    for (; seen < pool->num_taken; seen++) {
        double likeness = wide->exact_product(own, pool->originals[seen], pool->dim) / (length * pool->lengths[seen]);
        double value = relevance - pool->share * likeness;
        worth = value < worth ? value : worth;
    }
    pool->num_exact[place] = seen;
    return pool->exact[place] = worth;
}

static void update(Pool *pool, int64_t block) {
    int64_t first = block * WIDTH, left = pool->num_hits - first, dim = pool->dim;
    float *columns = pool->columns + first * dim;
    if (pool->num_seen[block] < 0) {
        wide->make_columns(pool->vectors + first * dim, left < WIDTH ? left : WIDTH, dim, columns, pool->inverses + first);
        pool->num_seen[block] = 0;
    }
    int64_t seen = pool->num_seen[block];
    if (seen == pool->num_taken)
        return;
    wide->lower(columns, dim, pool->taken + seen * dim, pool->num_taken - seen, pool->relevance + first,
          (float)pool->share, pool->worth + first);
    pool->num_seen[block] = pool->num_taken;
    wide->find_best(pool->worth + first, pool->bounds + block, pool->places + block);
}

/* The best of the hits that single precision cannot tell from the best one, which stands at `place`. */
static int64_t decide(Pool *pool, int64_t place) {
    float close = pool->worth[place] - pool->rounding;
    int32_t bound = ordered(close);
    int64_t best = place;
    double highest = 0;
    int is_alone = 1;
    for (int64_t block = 0; block < pool->num_blocks; block++) {
        if (pool->bounds[block] < bound)
            continue;
        update(pool, block);
        uint32_t rivals = wide->worth_at_least(pool->worth + block * WIDTH, close);
        for (; rivals; rivals &= rivals - 1) {
            int64_t rival = block * WIDTH + __builtin_ctz(rivals);
            if (is_alone && rival == place)
                continue;
            if (is_alone)
                highest = exact_worth(pool, place);
            is_alone = 0;
            double worth = exact_worth(pool, rival);
            if (worth > highest || (worth == highest && rival < best)) {
                highest = worth;
                best = rival;
            }
        }
    }
    return best;
}

/* The place of the best hit of all; -1 where none is left. */
static int64_t best_place(Pool *pool) {
    for (;;) {
        int64_t highest = 0;
        for (int64_t block = 1; block < pool->num_blocks; block++)
            if (pool->bounds[block] > pool->bounds[highest])
                highest = block;
        if (pool->bounds[highest] == ORDER_OF_MINUS_INFINITY)
            return -1;
        if (pool->num_seen[highest] == pool->num_taken)
            return decide(pool, highest * WIDTH + pool->places[highest]);
        update(pool, highest);
    }
}

static void remove_hit(Pool *pool, int64_t place) {
    int64_t block = place / WIDTH;
    pool->worth[place] = -INFINITY;
    wide->find_best(pool->worth + block * WIDTH, pool->bounds + block, pool->places + block);
}

static void add_taken(Pool *pool, int64_t place) {
    const float *vector = pool->vectors + place * pool->dim;
    for (int64_t d = 0; d < pool->dim; d++)
        pool->taken[pool->num_taken * pool->dim + d] = vector[d] * pool->inverses[place];
    pool->originals[pool->num_taken] = vector;
    pool->lengths[pool->num_taken++] = length_of(vector, pool->dim);
}

/* The vectors that stand before the list. */
static void add_before(Pool *pool, const float *vectors, int64_t num) {
    for (; num--; vectors += pool->dim) {
        double length = length_of(vectors, pool->dim);
        for (int64_t d = 0; d < pool->dim; d++)
            pool->taken[pool->num_taken * pool->dim + d] = (float)(vectors[d] / length);
        pool->originals[pool->num_taken] = vectors;
        pool->lengths[pool->num_taken++] = length;
    }
}

/* Fills in what is known before anything is taken. */
static void begin(Pool *pool, const float *before, int64_t num_before) {
    double lowest = pool->scores[0], highest = lowest;
    for (int64_t place = 1; place < pool->num_hits; place++) {
        lowest = pool->scores[place] < lowest ? pool->scores[place] : lowest;
        highest = pool->scores[place] > highest ? pool->scores[place] : highest;
    }
    pool->lowest = lowest;
    pool->is_flat = !(highest > lowest);
    pool->scale = pool->is_flat ? 1 - pool->share : (1 - pool->share) / (highest - lowest);
    /* each of the sums over D of a likeness rounds D times, a relevance and a value a few times, by 2^-24 each */
    pool->rounding = (float)((pool->share * (2 * pool->dim + 10) + 4) * 0x1p-23);
    for (int64_t place = 0; place < pool->num_blocks * WIDTH; place++) {
        int is_hit = place < pool->num_hits;
        pool->relevance[place] = is_hit ? (float)relevance_of(pool, place) : 0.0f;
        pool->worth[place] = is_hit ? pool->relevance[place] : -INFINITY;
    }
    for (int64_t block = 0; block < pool->num_blocks; block++) {
        pool->num_seen[block] = -1;
        wide->find_best(pool->worth + block * WIDTH, pool->bounds + block, pool->places + block);
    }
    memset(pool->num_exact, 0, pool->num_hits * sizeof(int64_t));
    add_before(pool, before, num_before);
}

/* Takes up to `limit` places; -1 with an exception set where `take` raised one. */
static int64_t choose(Pool *pool, int64_t limit, PyObject *take, int64_t *chosen) {
    int64_t num_chosen = 0, place;
    while (num_chosen < limit && (place = best_place(pool)) >= 0) {
        remove_hit(pool, place);
        if (take) {
            PyObject *answer = PyObject_CallFunction(take, "L", (long long)place);
            int may_be_taken = answer ? PyObject_IsTrue(answer) : -1;
            Py_XDECREF(answer);
            if (may_be_taken < 0)
                return -1;
            if (!may_be_taken)
                continue;
        }
        add_taken(pool, place);
        chosen[num_chosen++] = place;
    }
    return num_chosen;
}

/* Room for so many items of so many bytes behind *size bytes, which grow by it. */
static size_t reserve(size_t *size, int64_t num, size_t bytes) {
    size_t start = *size;
    *size += (num * bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return start;
}

static PyObject *list_of(const int64_t *numbers, int64_t num) {
    PyObject *list = PyList_New(num);
    for (int64_t n = 0; list && n < num; n++) {
        PyObject *number = PyLong_FromLongLong(numbers[n]);
        if (!number || PyList_SetItem(list, n, number) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *chosen_list(Pool *pool, const Py_buffer *before, int64_t limit, PyObject *take) {
    int64_t blocks = pool->num_blocks, hits = blocks * WIDTH, num_before = before->shape[0], dim = pool->dim;
    limit = limit < pool->num_hits ? limit : pool->num_hits;
    int64_t most = num_before + limit;
    size_t size = 0;
    size_t columns = reserve(&size, hits * dim, sizeof(float)), taken = reserve(&size, most * dim, sizeof(float));
    size_t relevance = reserve(&size, hits, sizeof(float)), worth = reserve(&size, hits, sizeof(float));
    size_t inverses = reserve(&size, hits, sizeof(float));
    size_t bounds = reserve(&size, blocks, sizeof(int32_t)), places = reserve(&size, blocks, sizeof(int32_t));
    size_t seen = reserve(&size, blocks, sizeof(int64_t)), originals = reserve(&size, most, sizeof(float *));
    size_t lengths = reserve(&size, most, sizeof(double)), exact = reserve(&size, hits, sizeof(double));
    size_t num_exact = reserve(&size, hits, sizeof(int64_t)), chosen = reserve(&size, limit, sizeof(int64_t));
    char *room = borrow(size += ALIGNMENT);
    if (!room)
        return NULL;
    char *base = (char *)(((uintptr_t)room + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    pool->columns = (float *)(base + columns), pool->taken = (float *)(base + taken);
    pool->relevance = (float *)(base + relevance), pool->worth = (float *)(base + worth);
    pool->inverses = (float *)(base + inverses);
    pool->bounds = (int32_t *)(base + bounds), pool->places = (int32_t *)(base + places);
    pool->num_seen = (int64_t *)(base + seen), pool->originals = (const float **)(base + originals);
    pool->lengths = (double *)(base + lengths), pool->exact = (double *)(base + exact);
    pool->num_exact = (int64_t *)(base + num_exact);
    int64_t num_chosen, *numbers = (int64_t *)(base + chosen);
    if (take) {
        begin(pool, before->buf, num_before);
        num_chosen = choose(pool, limit, take, numbers);
    } else {
        Py_BEGIN_ALLOW_THREADS
        begin(pool, before->buf, num_before);
        num_chosen = choose(pool, limit, NULL, numbers);
        Py_END_ALLOW_THREADS
    }
    PyObject *list = num_chosen < 0 ? NULL : list_of(numbers, num_chosen);
    give_back(room, size);
    return list;
}

PyObject *most_novel(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    static const Kind kinds[] = {{"f", 1, 0}, {"f", 2, 0}, {"f", 2, 0}};
    enum { SCORES, VECTORS, BEFORE, NUM, SHARE = NUM, LIMIT, TAKE };
    Py_buffer views[NUM];
    PyObject *list = NULL;
    (void)module;
    if (num_args != TAKE + 1) {
        PyErr_SetString(PyExc_TypeError, "most_novel takes scores, vectors, before, share, limit, take");
        return NULL;
    }
    double share = PyFloat_AsDouble(args[SHARE]);
    int64_t limit = PyLong_AsLongLong(args[LIMIT]);
    if (PyErr_Occurred() || views_of("most_novel", args, NUM, kinds, NUM, views) < 0)
        return NULL;
    int64_t num_hits = views[SCORES].shape[0], dim = views[VECTORS].shape[1];
    Pool pool = {.num_hits = num_hits, .num_blocks = (num_hits + WIDTH - 1) / WIDTH, .dim = dim, .share = share,
                 .scores = views[SCORES].buf, .vectors = views[VECTORS].buf};
    if (views[VECTORS].shape[0] != num_hits || views[BEFORE].shape[1] != dim || !num_hits || !dim)
        PyErr_SetString(PyExc_ValueError, "scores (P,), vectors (P, D) and before (T, D) differ in P or D, or are empty");
    else
        list = chosen_list(&pool, &views[BEFORE], limit > 0 ? limit : 0, args[TAKE] == Py_None ? NULL : args[TAKE]);
    release(views, NUM);
    return list;
}
