/*
 * python/control.c - the state and the data checksums in pg_control, for conversions in place.
 */
#include "python/module.h"

#include "crypto/primitives.h"
#include "format/control.h"

#include <string.h>

/* Copy the first sector of pg_control from GIVEN, which is released.  False: an exception. */
static bool take_sector(Py_buffer *given, uint8_t sector[TDE_CONTROL_SECTOR])
{
    bool whole = given->len == (Py_ssize_t)TDE_CONTROL_SECTOR;

    if (whole)
        memcpy(sector, given->buf, TDE_CONTROL_SECTOR);
    else
        PyErr_SetString(PyExc_ValueError, "the first sector of pg_control has 512 bytes");
    PyBuffer_Release(given);
    return whole;
}

/* (first sector of pg_control, whether to hide its state) -> the sector to store or to read */
PyObject *tde_python_control_state(PyObject *module, PyObject *args)
{
    struct tde_python_state *state = PyModule_GetState(module);
    uint8_t sector[TDE_CONTROL_SECTOR];
    Py_buffer given;
    int hide;

    if (!PyArg_ParseTuple(args, "y*p:control_state", &given, &hide) ||
        !take_sector(&given, sector))
        return NULL;
    if (!tde_crypto_is_complete()) {
        /* A cluster that was shut down would look as if its server had been killed. */
        PyErr_SetString(state->page_error, TDE_CRYPTO_INCOMPLETE);
        return NULL;
    }
    if (hide)
        tde_format_control_hide(sector);
    else
        tde_format_control_show(sector);
    return PyBytes_FromStringAndSize((const char *)sector, sizeof sector);
}

/* (first sector of pg_control) -> the sector to store */
PyObject *tde_python_control_checksums(PyObject *Py_UNUSED(module), PyObject *data)
{
    uint8_t sector[TDE_CONTROL_SECTOR];
    Py_buffer given;

    if (PyObject_GetBuffer(data, &given, PyBUF_SIMPLE) != 0 || !take_sector(&given, sector))
        return NULL;
    if (!tde_format_control_turn_on_checksums(sector)) {
        PyErr_SetString(PyExc_ValueError, "not a control file in which checksums can be turned on");
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)sector, sizeof sector);
}
