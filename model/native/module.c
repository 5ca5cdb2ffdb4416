/* The extension module: its functions, and what they share. Their contracts stand in model/native/loops.py. */

#include "native.h"
#include "wide.h"
#include <stdlib.h>

static int view_of(PyObject *array, Py_buffer *view, Kind kind) {
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (kind.is_written ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(array, view, flags) < 0)
        return -1;
    /* a plain letter is a number in the machine's own order */
    if (view->ndim == kind.ndim && strlen(view->format) == 1 && strchr(kind.formats, view->format[0]) &&
        view->itemsize == (kind.formats[0] == 'b' ? 1 : kind.formats[0] == 'f' ? 4 : 8))
        return 0;
    PyErr_Format(PyExc_TypeError, "an array of %d dimensions of type %s was expected, not %d of %s", kind.ndim,
                 kind.formats, view->ndim, view->format);
    PyBuffer_Release(view);
    return -1;
}

void release(Py_buffer *views, int num) {
    while (num)
        PyBuffer_Release(&views[--num]);
}

int views_of(const char *function, PyObject *const *args, Py_ssize_t num_args, const Kind *kinds, int num,
             Py_buffer *views) {
    if (num_args != num) {
        PyErr_Format(PyExc_TypeError, "%s takes %d arrays, not %zd", function, num, num_args);
        return -1;
    }
    for (int n = 0; n < num; n++)
        if (view_of(args[n], &views[n], kinds[n]) < 0) {
            release(views, n);
            return -1;
        }
    return 0;
}

/* Memory that a call left for the next: the system clears fresh pages, which takes longer than many a loop. */
static void *spare = NULL;

void *borrow(size_t size) {
    void *room = spare;
    if (size > SPARE_BYTES)
        room = malloc(size);
    else if (room)
        spare = NULL;
    else
        room = malloc(SPARE_BYTES);
    return room ? room : PyErr_NoMemory();
}

void give_back(void *room, size_t size) {
    if (spare || size > SPARE_BYTES)
        free(room);
    else
        spare = room;
}

static PyMethodDef functions[] = {
    {"most_novel", (PyCFunction)(void (*)(void))most_novel, METH_FASTCALL, NULL},
    {"best", (PyCFunction)(void (*)(void))best, METH_FASTCALL, NULL},
    {"merge", (PyCFunction)(void (*)(void))merge, METH_FASTCALL, NULL},
    {"search_sifted", (PyCFunction)(void (*)(void))search_sifted, METH_FASTCALL, NULL},
    {"exact_scores", (PyCFunction)(void (*)(void))exact_scores, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

const Wide *wide = &wide_plain;

static int set_up(PyObject *module) {
#ifdef __x86_64__
    __builtin_cpu_init();
    /* asked of the processor, and of the system that has to keep its registers */
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma"))
        wide = &wide_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        wide = &wide_avx2;
#endif
    if (PyModule_AddIntConstant(module, "CAN_SIFT", wide->sift != NULL) < 0)
        return -1;
    if (PyModule_AddStringConstant(module, "WIDTH", wide->name) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, set_up}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_loops", .m_size = 0, .m_methods = functions, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__loops(void) { return PyModuleDef_Init(&definition); }
