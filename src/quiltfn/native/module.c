// SPDX-License-Identifier: Apache-2.0
//
// The functions for Python; compiled.pyi describes them.

#include "guest_frames.h"
#include "python.h"
#include "request.h"
#include "response.h"

#include <stdlib.h>
#include <string.h>

// A reference to an object is owned by the caller of a function that returns it, or by nobody.
static PyObject *none(void)
{
    Py_IncRef(&_Py_NoneStruct);
    return &_Py_NoneStruct;
}

// Takes the references to the parts.
static PyObject *tuple_of(PyObject *const *parts, ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (ssize_t i = 0; i < count; i++) {
        if (parts[i] == NULL || tuple == NULL || PyTuple_SetItem(tuple, i, parts[i]) < 0) {
            if (tuple != NULL)
                Py_DecRef(tuple);
            return NULL; // Memory is exhausted; the other parts are lost.
        }
    }
    return tuple;
}

static PyObject *string(struct text text)
{
    return text.at == NULL ? none() : PyUnicode_FromStringAndSize(text.at, (ssize_t)text.length);
}

static PyObject *payload_of(struct text payload)
{
    if (payload.at == NULL)
        return none();
    if (memchr(payload.at, '\\', payload.length) == NULL)
        return PyBytes_FromStringAndSize(payload.at, (ssize_t)payload.length);
    char *to = malloc(payload.length);
    if (to == NULL)
        return PyErr_NoMemory();
    PyObject *bytes = PyBytes_FromStringAndSize(to, (ssize_t)unescape(payload, to));
    free(to);
    return bytes;
}

static PyObject *request(PyObject *module, PyObject *const *arguments, ssize_t count)
{
    (void)module;
    char *bytes;
    ssize_t length;
    struct request found;
    if (count != 1) {
        PyErr_SetString(PyExc_TypeError, "request(data)");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(arguments[0], &bytes, &length) < 0)
        return NULL;
    if (!read_request(bytes, (size_t)length, &found))
        return none();
    PyObject *parts[] = {PyBool_FromLong(found.is_by_name), string(found.function), string(found.host), string(found.key),
                              string(found.request_id), payload_of(found.payload)};
    return tuple_of(parts, 6);
}

enum { STRINGS = 5, BYTES = 3, NUMBERS = 7 };

static bool take_strings(PyObject *const *from, struct text *const to[STRINGS])
{
    for (int i = 0; i < STRINGS; i++) {
        ssize_t length;
        to[i]->at = PyUnicode_AsUTF8AndSize(from[i], &length);
        if (to[i]->at == NULL)
            return false;
        to[i]->length = (size_t)length;
    }
    return true;
}

static bool take_bytes(PyObject *const *from, struct text *const to[BYTES])
{
    for (int i = 0; i < BYTES; i++) {
        char *at;
        ssize_t length;
        if (PyBytes_AsStringAndSize(from[i], &at, &length) < 0)
            return false;
        *to[i] = (struct text){at, (size_t)length};
    }
    return true;
}

static bool take_numbers(PyObject *const *from, uint64_t *const to[NUMBERS])
{
    for (int i = 0; i < NUMBERS; i++) {
        *to[i] = PyLong_AsUnsignedLongLong(from[i]);
        if (PyErr_Occurred() != NULL)
            return false;
    }
    return true;
}

static PyObject *response(PyObject *module, PyObject *const *arguments, ssize_t count)
{
    (void)module;
    struct success of;
    struct text *const strings[STRINGS] = {&of.request_id, &of.invocation_id, &of.function_id, &of.function_name, &of.node_id};
    struct text *const bytes[BYTES] = {&of.begin, &of.out, &of.err};
    uint64_t *const numbers[NUMBERS] = {&of.version, &of.started_at, &of.ended_at, &of.duration_ms, &of.queued_us, &of.ran_us, &of.recorded_us};
    if (count != STRINGS + BYTES + NUMBERS) {
        PyErr_SetString(PyExc_TypeError, "response() takes 5 strings, 3 bytes, and 7 numbers");
        return NULL;
    }
    if (!take_strings(arguments, strings) || !take_bytes(arguments + STRINGS, bytes))
        return NULL;
    if (!take_numbers(arguments + STRINGS + BYTES, numbers)) {
        PyErr_Clear();
        return none();
    }
    if (!is_utf8(of.out.at, of.out.length) || !is_utf8(of.err.at, of.err.length))
        return none();
    char *to = malloc(response_room(&of));
    if (to == NULL)
        return PyErr_NoMemory();
    PyObject *data = PyBytes_FromStringAndSize(to, (ssize_t)write_response(&of, to));
    free(to);
    return data;
}

static bool take_frames(PyObject *const *arguments, ssize_t count, struct text *data, uint64_t *nonce)
{
    char *bytes;
    ssize_t length;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "the arguments are data and a nonce");
        return false;
    }
    *nonce = PyLong_AsUnsignedLongLong(arguments[1]);
    if (PyErr_Occurred() != NULL || PyBytes_AsStringAndSize(arguments[0], &bytes, &length) < 0)
        return false;
    *data = (struct text){bytes, (size_t)length};
    return true;
}

static PyObject *clean(PyObject *module, PyObject *const *arguments, ssize_t count)
{
    (void)module;
    struct text data;
    uint64_t nonce;
    if (!take_frames(arguments, count, &data, &nonce))
        return NULL;
    return PyBool_FromLong(is_clean(data.at, data.length, nonce));
}

static PyObject *reply(PyObject *module, PyObject *const *arguments, ssize_t count)
{
    (void)module;
    struct text data;
    uint64_t nonce;
    struct reply found;
    if (!take_frames(arguments, count, &data, &nonce))
        return NULL;
    if (!read_reply(data.at, data.length, nonce, &found))
        return none();
    PyObject *parts[] = {string((struct text){found.is_error ? "stderr" : "stdout", 6}),
                         PyBytes_FromStringAndSize(found.output.at, (ssize_t)found.output.length),
                         PyBool_FromLong(found.is_clean)};
    return tuple_of(parts, 3);
}

// The variables of `environment` in the frame at `to`; returns their number, or -1 if one of them is
// not ordinary.
static ssize_t put_variables(char *to, PyObject *environment, size_t *used)
{
    PyObject *key, *item;
    ssize_t at = 0, count = 0;
    while (PyDict_Next(environment, &at, &key, &item)) {
        ssize_t name_length, value_length;
        const char *name = PyUnicode_AsUTF8AndSize(key, &name_length), *value = PyUnicode_AsUTF8AndSize(item, &value_length);
        if (name == NULL || value == NULL) { // A lone surrogate.
            PyErr_Clear();
            return -1;
        }
        *used = put_variable(to, *used, (struct text){name, (size_t)name_length}, (struct text){value, (size_t)value_length});
        if (*used == 0)
            return -1;
        count++;
    }
    return count;
}

static PyObject *call(PyObject *module, PyObject *const *arguments, ssize_t count)
{
    (void)module;
    struct call of = {.payload = {NULL, 0}};
    char frame[CALL_ROOM], *payload;
    ssize_t length;
    size_t used = 0;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "call(nonce, timeout_ms, flags, environment, payload)");
        return NULL;
    }
    of.nonce = PyLong_AsUnsignedLongLong(arguments[0]);
    unsigned long long timeout_ms = PyLong_AsUnsignedLongLong(arguments[1]), flags = PyLong_AsUnsignedLongLong(arguments[2]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    if (arguments[4] != &_Py_NoneStruct) {
        if (PyBytes_AsStringAndSize(arguments[4], &payload, &length) < 0)
            return NULL;
        of.payload = (struct text){payload, (size_t)length};
    }
    ssize_t variables = put_variables(frame, arguments[3], &used);
    if (variables < 0 || timeout_ms > UINT32_MAX || flags > UINT32_MAX)
        return none();
    of.timeout_ms = (uint32_t)timeout_ms;
    of.flags = (uint32_t)flags;
    size_t size = put_call(frame, used, (uint32_t)variables, &of);
    return size == 0 ? none() : PyBytes_FromStringAndSize(frame, (ssize_t)size);
}

static PyMethodDef methods[] = {
    {"request", request, METH_FASTCALL, NULL},
    {"reply", reply, METH_FASTCALL, NULL},
    {"clean", clean, METH_FASTCALL, NULL},
    {"call", call, METH_FASTCALL, NULL},
    {"response", response, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef definition = {.base = {.object = {.references = 1}}, .name = "compiled", .size = -1, .methods = methods};

PyObject *PyInit_compiled(void);
PyObject *PyInit_compiled(void)
{
    return PyModule_Create2(&definition, PYTHON_ABI_VERSION);
}
