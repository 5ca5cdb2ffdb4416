/* Common to the loops of this folder. They know nothing of NumPy: arrays come by the buffer protocol, as pointers.

   Floating point is that of the source: no contraction to fused operations and no reordering (the flags stand in
   setup.py), so that every processor gives the same bits, however wide its registers are. */

#ifndef RECALL_NATIVE_H
#define RECALL_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define VERSION 3 /* of the contracts in loops.py, which has the same number */

PyObject *most_novel(PyObject *module, PyObject *const *args, Py_ssize_t num_args);
PyObject *best(PyObject *module, PyObject *const *args, Py_ssize_t num_args);
PyObject *search_sifted(PyObject *module, PyObject *const *args, Py_ssize_t num_args);
PyObject *exact_scores(PyObject *module, PyObject *const *args, Py_ssize_t num_args);
PyObject *merge(PyObject *module, PyObject *const *args, Py_ssize_t num_args);

/* Arrays that a function takes. */
typedef struct {
    const char *formats; /* letters of the struct module, any of them */
    int ndim, is_written;
} Kind;

/* Asks for the memory of C-contiguous arrays. Returns 0, or -1 with an exception set; the caller releases. */
int views_of(const char *function, PyObject *const *args, Py_ssize_t num_args, const Kind *kinds, int num,
             Py_buffer *views);
void release(Py_buffer *views, int num);

/* Sorts keys by their upper halves, stable; `other` is as long. Returns where the sorted keys are. */
uint64_t *sorted(uint64_t *keys, uint64_t *other, int64_t num);

/* A bound that at least `limit` scores reach, and not many more, in the order of integers; INT32_MIN where there are too
   few to tell. `keys` has room for three times as many as there are scores. */
int32_t bound_of(const float *scores, int64_t num, int64_t limit, uint64_t *keys);

/* Sets the scores of pairs of query and row to -inf, rows of scores being `stride` apart; -1 with an exception set for a
   pair that is not there. */
int exclude(float *scores, int64_t num_queries, int64_t num, int64_t stride, const Py_buffer *queries,
            const Py_buffer *rows);

/* Memory of a call; NULL with an exception set. Up to SPARE_BYTES it is that of an earlier call. Both are called with
   the interpreter's lock held. */
#define SPARE_BYTES ((size_t)1 << 22)
void *borrow(size_t size);
void give_back(void *room, size_t size);

/* Scores in the order of integers; both zeros are equal. */
static inline int32_t ordered(float score) {
    int32_t bits;
    score += 0.0f; /* -0.0 becomes 0.0 */
    memcpy(&bits, &score, sizeof bits);
    return bits ^ ((bits >> 31) & INT32_MAX);
}

#define ORDER_OF_MINUS_INFINITY ((int32_t)0x807fffff) /* ordered(-INFINITY) */

#endif
