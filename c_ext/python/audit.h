/*
 * python/audit.h - the auditor's part of the CPython module tde._core.
 */
#ifndef TDE_PYTHON_AUDIT_H
#define TDE_PYTHON_AUDIT_H

#include "python/module.h"

/* Methods of tde._core.Cipher. */
PyObject *tde_python_audit_pages(PyObject *cipher, PyObject *args);
PyObject *tde_python_audit_wal(PyObject *cipher, PyObject *args);
PyObject *tde_python_find_segment(PyObject *cipher, PyObject *args);

/* Functions of the module. */
PyObject *tde_python_audit_random(PyObject *module, PyObject *data);
PyObject *tde_python_sector_skew(PyObject *module, PyObject *data);
PyObject *tde_python_find_bytes(PyObject *module, PyObject *args);

int tde_python_audit_add_constants(PyObject *module);

#endif
