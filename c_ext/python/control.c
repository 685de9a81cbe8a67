/*
 * python/control.c - the state in pg_control, for conversions in place.
 */
#include "python/module.h"

#include "format/control.h"

#include <string.h>

/* (first sector of pg_control, whether to hide its state) -> the sector to store or to read */
PyObject *tde_python_control_state(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint8_t sector[TDE_CONTROL_SECTOR];
    Py_buffer given;
    int hide;
    bool whole;

    if (!PyArg_ParseTuple(args, "y*p:control_state", &given, &hide))
        return NULL;
    whole = given.len == (Py_ssize_t)sizeof sector;
    if (whole)
        memcpy(sector, given.buf, sizeof sector);
    PyBuffer_Release(&given);
    if (!whole) {
        PyErr_SetString(PyExc_ValueError, "the first sector of pg_control has 512 bytes");
        return NULL;
    }
    if (hide)
        tde_format_control_hide(sector);
    else
        tde_format_control_show(sector);
    return PyBytes_FromStringAndSize((const char *)sector, sizeof sector);
}
