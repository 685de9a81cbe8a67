/*
 * python/checksum.c - PostgreSQL's data checksums: to look at one, and to set those of many pages.
 */
#include "python/module.h"

#include "format/page.h"

#include <string.h>

/* (page, block number) -> PostgreSQL's checksum */
PyObject *tde_python_page_checksum(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer page;
    PyObject *result = NULL;
    uint32_t number;

    if (!PyArg_ParseTuple(args, "y*O&:page_checksum", &page, tde_python_convert_uint32, &number))
        return NULL;
    if (page.len == TDE_BLOCK_SIZE)
        result = PyLong_FromUnsignedLong(tde_format_page_checksum(page.buf, number));
    else
        PyErr_SetString(PyExc_ValueError, "a page has 8192 bytes");
    PyBuffer_Release(&page);
    return result;
}

static void set_checksums(uint8_t *blocks, size_t count, uint32_t first, char *refused)
{
    for (size_t i = 0; i < count; i++)
        refused[i] = !tde_format_page_set_checksum(blocks + i * TDE_BLOCK_SIZE,
                                                   first + (uint32_t)i);
}

/* (plain blocks, first block) -> one byte per block, not zero where it is no page */
PyObject *tde_python_set_checksums(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer blocks;
    PyObject *refused = NULL;
    uint32_t first;
    size_t count;

    if (!PyArg_ParseTuple(args, "w*O&:set_checksums", &blocks, tde_python_convert_uint32, &first))
        return NULL;
    count = (size_t)blocks.len / TDE_BLOCK_SIZE;
    if (blocks.len % TDE_BLOCK_SIZE != 0 || count > UINT32_MAX - first)
        PyErr_SetString(PyExc_ValueError, "not a whole number of blocks of one fork");
    else
        refused = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (refused != NULL) {
        char *to = PyBytes_AS_STRING(refused);

        Py_BEGIN_ALLOW_THREADS
        set_checksums(blocks.buf, count, first, to);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&blocks);
    return refused;
}
