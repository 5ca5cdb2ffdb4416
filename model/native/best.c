/* The best of scores that are all there, as index/best.py defines it: best first, ties in the order of rows.

   A row is dealt out to twice as many groups as items are wanted. Of the best of each group the one that stands at the
   limit is a bound that as many items reach, and not many more. Those are sorted by digits, which keeps the order of
   rows within a tie. However the scores lie, it takes a time that is linear in their number. */

#include "native.h"
#include "wide.h"
#include <math.h>

#define LEAST 4          /* scores in a group */
#define UNLOCKED 100000  /* scores, from which on other threads may run meanwhile */

uint64_t *sorted(uint64_t *keys, uint64_t *other, int64_t num) {
    for (int shift = 32; shift < 64; shift += 8) {
        int64_t counts[256] = {0}, place = 0;
        for (int64_t n = 0; n < num; n++)
            counts[keys[n] >> shift & 255]++;
        if (counts[keys[0] >> shift & 255] == num)
            continue; /* all have the same digit */
        for (int digit = 0; digit < 256; digit++) {
            int64_t own = counts[digit];
            counts[digit] = place;
            place += own;
        }
        for (int64_t n = 0; n < num; n++)
            other[counts[keys[n] >> shift & 255]++] = keys[n];
        uint64_t *swapped = keys;
        keys = other;
        other = swapped;
    }
    return keys;
}

int32_t bound_of(const float *scores, int64_t num, int64_t limit, uint64_t *keys) {
    int32_t *highest = (int32_t *)(keys + 2 * num);
    int64_t num_groups = (2 * limit + GROUPS - 1) / GROUPS * GROUPS;
    if (num < LEAST * num_groups)
        return INT32_MIN;
    wide->highest(scores, num, num_groups, highest);
    for (int64_t n = 0; n < num_groups; n++)
        keys[n] = key_of(highest[n], n);
    return highest[(uint32_t)sorted(keys, keys + num, num_groups)[limit - 1]];
}

/* The best of a row of scores. `keys` has room for three times as many as there are scores. */
static void best_of(const float *scores, int64_t num, int64_t limit, uint64_t *keys, int64_t *rows, float *values) {
    int64_t num_kept = wide->gather(scores, num, bound_of(scores, num, limit, keys), keys);
    const uint64_t *order = sorted(keys, keys + num, num_kept);
    for (int64_t n = 0; n < limit; n++) {
        uint32_t place = (uint32_t)order[n];
        rows[n] = (int64_t)place + 1;
        values[n] = scores[place];
    }
}

static void best_of_each(const float *scores, int64_t num_queries, int64_t num, int64_t limit, uint64_t *keys,
                         int64_t *rows, float *values) {
    for (int64_t query = 0; query < num_queries; query++)
        best_of(scores + query * num, num, limit, keys, rows + query * limit, values + query * limit);
}

int exclude(float *scores, int64_t num_queries, int64_t num, int64_t stride, const Py_buffer *queries,
            const Py_buffer *rows) {
    const int64_t *own_queries = queries->buf, *own_rows = rows->buf;
    if (queries->shape[0] != rows->shape[0]) {
        PyErr_SetString(PyExc_ValueError, "excluded queries and rows are not as many");
        return -1;
    }
    for (int64_t n = 0; n < rows->shape[0]; n++) {
        int64_t query = own_queries[n], row = own_rows[n];
        if (query < 0 || query >= num_queries || row < 1 || row > num) {
            PyErr_Format(PyExc_IndexError, "row %lld of query %lld is not among the scores", row, query);
            return -1;
        }
        scores[query * stride + row - 1] = -INFINITY;
    }
    return 0;
}

static int fill(const Py_buffer *scores, const Py_buffer *rows, const Py_buffer *values) {
    int64_t num_queries = scores->shape[0], num = scores->shape[1], limit = rows->shape[1];
    if (rows->shape[0] != num_queries || values->shape[0] != num_queries || values->shape[1] != limit ||
        limit > num || num > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "scores (Q, N), rows and values (Q, K), K <= N, differ in Q or K");
        return -1;
    }
    if (!num_queries || !limit)
        return 0;
    size_t size = 3 * num * sizeof(uint64_t);
    uint64_t *keys = borrow(size);
    if (!keys)
        return -1;
    if (num_queries * num < UNLOCKED) {
        best_of_each(scores->buf, num_queries, num, limit, keys, rows->buf, values->buf);
    } else {
        Py_BEGIN_ALLOW_THREADS
        best_of_each(scores->buf, num_queries, num, limit, keys, rows->buf, values->buf);
        Py_END_ALLOW_THREADS
    }
    give_back(keys, size);
    return 0;
}

PyObject *best(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    static const Kind kinds[] = {{"f", 2, 1}, {"lq", 1, 0}, {"lq", 1, 0}, {"lq", 2, 1}, {"f", 2, 1}};
    enum { SCORES, QUERIES, EXCLUDED, ROWS, VALUES, NUM };
    Py_buffer views[NUM];
    (void)module;
    if (views_of("best", args, num_args, kinds, NUM, views) < 0)
        return NULL;
    int64_t num_queries = views[SCORES].shape[0], num = views[SCORES].shape[1];
    int failed = exclude(views[SCORES].buf, num_queries, num, num, &views[QUERIES], &views[EXCLUDED]) < 0 ||
                 fill(&views[SCORES], &views[ROWS], &views[VALUES]) < 0;
    release(views, NUM);
    return failed ? NULL : Py_NewRef(Py_None);
}
