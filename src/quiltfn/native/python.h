// SPDX-License-Identifier: Apache-2.0
//
// The part of Python's stable ABI (PEP 384) that this package uses. It is declared here, so that
// building needs a compiler and nothing of Python. Every Python from 3.11 on has these names and
// layouts, except one without a global lock, for which __init__.py does not load the library.
#pragma once

#include <stdint.h>
#include <sys/types.h>

typedef struct object {
    ssize_t references;
    void *type;
} PyObject;

typedef PyObject *py_function(PyObject *module, PyObject *const *arguments, ssize_t count);

enum { METH_FASTCALL = 0x80, PYTHON_ABI_VERSION = 3 };

typedef struct {
    const char *name;
    py_function *function;
    int flags;
    const char *help;
} PyMethodDef;

typedef struct {
    struct {
        PyObject object;
        PyObject *(*create)(void);
        ssize_t index;
        PyObject *copy;
    } base;
    const char *name, *help;
    ssize_t size;
    PyMethodDef *methods;
    void *slots, *traverse, *clear, *free;
} PyModuleDef;

extern PyObject _Py_NoneStruct, *PyExc_TypeError;

PyObject *PyModule_Create2(PyModuleDef *definition, int abi_version);
void Py_IncRef(PyObject *object);
void Py_DecRef(PyObject *object);
PyObject *PyErr_NoMemory(void);
PyObject *PyErr_Occurred(void);
void PyErr_Clear(void);
void PyErr_SetString(PyObject *type, const char *message);
PyObject *PyBool_FromLong(long value);
PyObject *PyBytes_FromStringAndSize(const char *bytes, ssize_t size);
int PyBytes_AsStringAndSize(PyObject *bytes, char **at, ssize_t *size);
const char *PyUnicode_AsUTF8AndSize(PyObject *text, ssize_t *size);
PyObject *PyUnicode_FromStringAndSize(const char *utf8, ssize_t size);
unsigned long long PyLong_AsUnsignedLongLong(PyObject *number);
PyObject *PyTuple_New(ssize_t size);
int PyDict_Next(PyObject *dict, ssize_t *at, PyObject **key, PyObject **item);
int PyTuple_SetItem(PyObject *tuple, ssize_t at, PyObject *item);
