/*
 * python/audit.h - the auditor's part of the CPython module tde._core.
 */
#ifndef TDE_PYTHON_AUDIT_H
#define TDE_PYTHON_AUDIT_H

#include "python/module.h"

/* Methods of tde._core.Cipher. */
PyObject *core_audit_pages(PyObject *cipher, PyObject *args);
PyObject *core_audit_wal(PyObject *cipher, PyObject *args);
PyObject *core_find_segment(PyObject *cipher, PyObject *args);

/* Functions of the module. */
PyObject *core_audit_random(PyObject *module, PyObject *data);
PyObject *core_sector_skew(PyObject *module, PyObject *data);
PyObject *core_page_checksum(PyObject *module, PyObject *args);
PyObject *core_find_bytes(PyObject *module, PyObject *args);

int core_audit_add_constants(PyObject *module);

#endif
