/* Search of a few queries without reading all vectors: a table of 8 bits a number tells which items may be among the
   best, and those alone are scored. See model/native/sieve.py.

   Scores are sums in the order of the dimensions, each step fused: what oneDNN's product gives, to the last bit. */

#include "native.h"
#include "wide.h"
#include <math.h>

typedef struct {
    int64_t num_items, dim, num_queries, limit, most; /* most: candidates of a query, beyond which a product is faster */
    const float *vectors, *queries;
    uint64_t *keys; /* (3 * num_items,) */
    float *lowest, *highest; /* (num_queries, num_blocks * SIFTED) what a score is at least, and at most */
} Search;

/* The queries in 16 bits, two dimensions beside each other; a scale and a length of each. 0 where one is too small or too large. */
static int round_queries(const Search *search, int64_t num_pairs, int16_t *rounded, float *scales, float *lengths) {
    for (int64_t query = 0; query < search->num_queries; query++) {
        const float *own = search->queries + query * search->dim;
        double square = 0, most = 0;
        for (int64_t d = 0; d < search->dim; d++) {
            square += (double)own[d] * own[d];
            most = fabs(own[d]) > most ? fabs(own[d]) : most;
        }
        /* sums of smaller ones may lose their digits, larger ones overflow; nor is one taken that is no number */
        if (!(square > 1e-20 && square < 1e30))
            return 0;
        scales[query] = (float)(most / INT16_MAX);
        lengths[query] = (float)(sqrt(square) * (1 + 1e-6));
        for (int64_t d = 0; d < 2 * num_pairs; d++)
            rounded[query * 2 * num_pairs + d] =
                d < search->dim && most > 0 ? (int16_t)lrint(own[d] * (INT16_MAX / most)) : 0;
    }
    return 1;
}

/* The best of one query; 0 where too many may be among them. */
static int best_of_sifted(const Search *search, int64_t query, int64_t stride, int64_t *rows, float *values) {
    const float *highest = search->highest + query * stride, *own = search->queries + query * search->dim;
    int64_t num = search->num_items;
    uint64_t *keys = search->keys;
    int32_t bound = bound_of(search->lowest + query * stride, num, search->limit, keys);
    if (bound == INT32_MIN)
        return 0;
    int64_t num_kept = wide->gather(highest, num, bound, keys);
    if (num_kept > search->most)
        return 0;
    float *scores = (float *)(keys + 2 * num);
    wide->score(search->vectors, search->dim, own, keys, num_kept, scores);
    for (int64_t n = 0; n < num_kept; n++) {
        uint32_t place = (uint32_t)keys[n];
        keys[n] = key_of(ordered(highest[place] == -INFINITY ? -INFINITY : scores[n]), place);
    }
    const uint64_t *order = sorted(keys, keys + num, num_kept);
    for (int64_t n = 0; n < search->limit; n++) {
        rows[n] = (int64_t)(uint32_t)order[n] + 1;
        values[n] = score_of(order[n]);
    }
    return 1;
}

/* Searches all queries; 0 where a product has to do it. */
static int search_all(const Search *search, int64_t stride, int64_t *rows, float *values) {
    for (int64_t query = 0; query < search->num_queries; query++)
        if (!best_of_sifted(search, query, stride, rows + query * search->limit, values + query * search->limit))
            return 0;
    return 1;
}

enum { MANY_ITEMS = 50000 }; /* from here on the last part takes long enough to let other threads run */

enum { CODES, SCALES, MARGINS, VECTORS, QUERIES, WHOSE, EXCLUDED, ROWS, VALUES, NUM };

static PyObject *sifted(const Py_buffer *views) {
    int64_t num = views[VECTORS].shape[0], dim = views[VECTORS].shape[1], blocks = views[CODES].shape[0];
    int64_t pairs = views[CODES].shape[1], num_queries = views[QUERIES].shape[0], limit = views[ROWS].shape[1];
    int64_t stride = blocks * SIFTED;
    if (!wide->sift || num > stride || stride > UINT32_MAX || views[SCALES].shape[0] != stride ||
        views[MARGINS].shape[0] != stride || dim > 2 * pairs || views[QUERIES].shape[1] != dim || !num_queries ||
        num_queries > MOST_QUERIES || views[CODES].shape[2] != 2 * SIFTED || views[ROWS].shape[0] != num_queries ||
        views[VALUES].shape[0] != num_queries || views[VALUES].shape[1] != limit || !limit || limit > num) {
        PyErr_SetString(PyExc_ValueError, "codes, vectors, queries, rows and values do not fit each other");
        return NULL;
    }
    /* more would be scored than a product is worth */
    if (limit > num / 8)
        return PyBool_FromLong(0);
    size_t keys = 3 * num * sizeof(uint64_t), scores = num_queries * stride * sizeof(float);
    size_t rounded = num_queries * 2 * pairs * sizeof(int16_t), size = keys + 2 * scores + rounded;
    char *room = borrow(size);
    if (!room)
        return NULL;
    Search search = {.num_items = num, .dim = dim, .num_queries = num_queries, .limit = limit, .most = num / 8,
                     .vectors = views[VECTORS].buf, .queries = views[QUERIES].buf, .keys = (uint64_t *)room,
                     .lowest = (float *)(room + keys), .highest = (float *)(room + keys + scores)};
    int16_t *queries = (int16_t *)(room + keys + 2 * scores);
    float scales[MOST_QUERIES], lengths[MOST_QUERIES];
    int is_done = round_queries(&search, pairs, queries, scales, lengths);
    if (is_done) {
        Py_BEGIN_ALLOW_THREADS
        wide->sift(views[CODES].buf, blocks, pairs, views[SCALES].buf, views[MARGINS].buf, queries, num_queries, scales,
                   lengths, search.lowest, search.highest);
        Py_END_ALLOW_THREADS
        if (exclude(search.lowest, num_queries, num, stride, &views[WHOSE], &views[EXCLUDED]) < 0 ||
            exclude(search.highest, num_queries, num, stride, &views[WHOSE], &views[EXCLUDED]) < 0) {
            give_back(room, size);
            return NULL;
        }
        PyThreadState *state = num >= MANY_ITEMS ? PyEval_SaveThread() : NULL;
        is_done = search_all(&search, stride, views[ROWS].buf, views[VALUES].buf);
        if (state)
            PyEval_RestoreThread(state);
    }
    give_back(room, size);
    return PyBool_FromLong(is_done);
}

PyObject *search_sifted(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    static const Kind kinds[] = {{"b", 3, 0},  {"f", 1, 0},  {"f", 1, 0},  {"f", 2, 0}, {"f", 2, 0},
                                 {"lq", 1, 0}, {"lq", 1, 0}, {"lq", 2, 1}, {"f", 2, 1}};
    Py_buffer views[NUM];
    PyObject *arrays[NUM];
    (void)module;
    if (num_args != NUM - QUERIES + 1 || !PyTuple_Check(args[0]) || PyTuple_Size(args[0]) != QUERIES) {
        PyErr_SetString(PyExc_TypeError, "search_sifted takes a tuple of four arrays, and five arrays");
        return NULL;
    }
    for (int n = 0; n < NUM; n++)
        arrays[n] = n < QUERIES ? PyTuple_GetItem(args[0], n) : args[n - QUERIES + 1];
    if (views_of("search_sifted", arrays, NUM, kinds, NUM, views) < 0)
        return NULL;
    PyObject *answer = sifted(views);
    release(views, NUM);
    return answer;
}

/* All scores of a query, as a search computes them: for the proof that they are those of a product. */
PyObject *exact_scores(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    static const Kind kinds[] = {{"f", 2, 0}, {"f", 1, 0}, {"f", 1, 1}};
    Py_buffer views[3];
    (void)module;
    if (views_of("exact_scores", args, num_args, kinds, 3, views) < 0)
        return NULL;
    int64_t num = views[0].shape[0], dim = views[0].shape[1];
    int is_right = wide->score && views[1].shape[0] == dim && views[2].shape[0] == num;
    if (!is_right)
        PyErr_SetString(PyExc_ValueError, "vectors (N, D), query (D,) and scores (N,) do not fit each other");
    Py_BEGIN_ALLOW_THREADS
    for (int64_t first = 0; is_right && first < num; first += SIFTED) {
        uint64_t keys[SIFTED];
        int64_t some = num - first < SIFTED ? num - first : SIFTED;
        for (int64_t n = 0; n < some; n++)
            keys[n] = (uint64_t)(first + n);
        wide->score(views[0].buf, dim, views[1].buf, keys, some, (float *)views[2].buf + first);
    }
    Py_END_ALLOW_THREADS
    release(views, 3);
    return is_right ? Py_NewRef(Py_None) : NULL;
}
