/* Hits of several query vectors to one list a user, as model/merging.py defines it: by quotas, or from one pool. */

#include "native.h"

#define UNLOCKED 20000 /* hits, from which on other threads may run meanwhile */

/* Hits of one user (num_queries, width), and its list (limit,). */
typedef struct {
    int64_t num_queries, width, limit, num; /* num: items that are in the list */
    const int64_t *rows;
    const float *scores;
    int64_t *own_rows, *own_sources;
    float *own_scores;
    int64_t *seen, mask; /* rows in the list, by their hash; 0 = empty */
    int64_t *heads;      /* (num_queries,) */
} List;

/* Takes a hit, unless its item stands in the list already. */
static void take(List *list, int64_t query, int64_t place) {
    int64_t row = list->rows[query * list->width + place];
    int64_t slot = (int64_t)((uint64_t)row * 0x9e3779b97f4a7c15u >> 32) & list->mask;
    for (; list->seen[slot]; slot = (slot + 1) & list->mask)
        if (list->seen[slot] == row)
            return;
    list->seen[slot] = row;
    list->own_rows[list->num] = row;
    list->own_scores[list->num] = list->scores[query * list->width + place];
    list->own_sources[list->num++] = query;
}

static void take_step(List *list, int64_t query, int64_t until) {
    for (int64_t place = 0; place < list->width && list->num < until; place++)
        if (list->rows[query * list->width + place])
            take(list, query, place);
}

static void take_by_quotas(List *list, const int64_t *shares, int64_t num_shares) {
    for (int64_t query = 0; query < num_shares; query++) {
        int64_t until = list->num + shares[query];
        take_step(list, query, until < list->limit ? until : list->limit);
    }
    for (int64_t query = 0; query < list->num_queries; query++)
        take_step(list, query, list->limit);
}

/* Tells if the hits of a query fall, ties by row, up to the first empty place, behind which all are empty. */
static int is_in_order(const int64_t *rows, const float *scores, int64_t width) {
    int64_t place = 1;
    for (; place < width && rows[place]; place++)
        if (!(scores[place - 1] > scores[place] ||
              (scores[place - 1] == scores[place] && rows[place - 1] < rows[place])))
            return 0;
    for (; place < width; place++)
        if (rows[place])
            return 0;
    return 1;
}

/* Takes the best of all queries' next hits, again and again; 0 where the hits of a query are in another order. */
static int take_from_pool(List *list) {
    for (int64_t query = 0; query < list->num_queries; query++) {
        list->heads[query] = 0;
        if (!is_in_order(list->rows + query * list->width, list->scores + query * list->width, list->width))
            return 0;
    }
    while (list->num < list->limit) {
        int64_t best = -1, best_row = 0;
        float best_score = 0;
        for (int64_t query = 0; query < list->num_queries; query++) {
            int64_t place = query * list->width + list->heads[query];
            if (list->heads[query] == list->width || !list->rows[place])
                continue;
            float score = list->scores[place];
            if (best < 0 || score > best_score || (score == best_score && list->rows[place] < best_row)) {
                best = query;
                best_row = list->rows[place];
                best_score = score;
            }
        }
        if (best < 0)
            break;
        take(list, best, list->heads[best]++);
    }
    return 1;
}

/* Merges the lists of all users, empty places behind them; 0 where hits are in an order that it does not take. */
static int merge_all(List list, int64_t num_users, const int64_t *shares, int64_t num_shares) {
    int is_merged = 1;
    for (int64_t user = 0; user < num_users && is_merged; user++) {
        memset(list.seen, 0, (list.mask + 1) * sizeof(int64_t));
        list.num = 0;
        if (num_shares)
            take_by_quotas(&list, shares, num_shares);
        else
            is_merged = take_from_pool(&list);
        for (; list.num < list.limit; list.num++) {
            list.own_rows[list.num] = list.own_sources[list.num] = 0;
            list.own_scores[list.num] = 0;
        }
        list.rows += list.num_queries * list.width;
        list.scores += list.num_queries * list.width;
        list.own_rows += list.limit;
        list.own_scores += list.limit;
        list.own_sources += list.limit;
    }
    return is_merged;
}

static PyObject *merged(const Py_buffer *rows, const Py_buffer *scores, const Py_buffer *shares,
                        const Py_buffer own[3]) {
    int64_t num_users = rows->shape[0], num_queries = rows->shape[1], width = rows->shape[2], room = 16;
    int64_t limit = own[0].shape[1];
    int is_same = shares->shape[0] <= num_queries && num_queries && width;
    for (int n = 0; n < 3; n++)
        is_same &= scores->shape[n] == rows->shape[n] && own[n].shape[0] == num_users && own[n].shape[1] == limit;
    if (!is_same) {
        PyErr_SetString(PyExc_ValueError, "rows and scores (U, Q, K), shares (Q,) and lists (U, L) differ in U, Q or L");
        return NULL;
    }
    while (room < 2 * (limit + 1))
        room *= 2;
    size_t size = (room + num_queries) * sizeof(int64_t);
    int64_t *seen = borrow(size);
    if (!seen)
        return NULL;
    List list = {.num_queries = num_queries, .width = width, .limit = limit, .rows = rows->buf,
                 .scores = scores->buf, .own_rows = own[0].buf, .own_scores = own[1].buf, .own_sources = own[2].buf,
                 .seen = seen, .mask = room - 1, .heads = seen + room};
    int is_merged;
    if (num_users * num_queries * width < UNLOCKED) {
        is_merged = merge_all(list, num_users, shares->buf, shares->shape[0]);
    } else {
        Py_BEGIN_ALLOW_THREADS
        is_merged = merge_all(list, num_users, shares->buf, shares->shape[0]);
        Py_END_ALLOW_THREADS
    }
    give_back(seen, size);
    return PyBool_FromLong(is_merged);
}

PyObject *merge(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    static const Kind kinds[] = {{"lq", 3, 0}, {"f", 3, 0}, {"lq", 1, 0}, {"lq", 2, 1}, {"f", 2, 1}, {"lq", 2, 1}};
    enum { ROWS, SCORES, SHARES, OWN, NUM = OWN + 3 };
    Py_buffer views[NUM];
    (void)module;
    if (views_of("merge", args, num_args, kinds, NUM, views) < 0)
        return NULL;
    PyObject *answer = merged(&views[ROWS], &views[SCORES], &views[SHARES], views + OWN);
    release(views, NUM);
    return answer;
}
