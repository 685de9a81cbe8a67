/*
 * python/module.h - what the parts of the CPython module tde._core share.
 */
#ifndef TDE_PYTHON_MODULE_H
#define TDE_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct tde_pool;

/* The exceptions of tde.errors; they live in the module, not in C globals. */
struct tde_python_state {
    PyObject *page_error;
    PyObject *key_length_error;
    PyObject *buffer_length_error;
    PyObject *identity_error;
};

/* The heap type tde._core.Cipher, made by PyType_FromModuleAndSpec. */
extern PyType_Spec tde_python_cipher_spec;

/* The ciphers of CIPHER, which must be a tde._core.Cipher. */
struct tde_pool *tde_python_cipher_pool(PyObject *cipher);

/*
 * "O&" converters for whole numbers that must fit; they raise OverflowError.  The last
 * fills a struct tde_identity from the tuple (class, word 0, word 1, word 2, fork).
 */
int tde_python_convert_uint32(PyObject *object, void *to);
int tde_python_convert_uint64(PyObject *object, void *to);
int tde_python_convert_identity(PyObject *object, void *to);

/* Functions of the module that reach below pages and files; in python/raw.c. */
PyObject *tde_python_xts(PyObject *module, PyObject *args);
PyObject *tde_python_tail_mask(PyObject *module, PyObject *args);
PyObject *tde_python_unwrap_key_record(PyObject *module, PyObject *args);
PyObject *tde_python_check_keymap(PyObject *module, PyObject *args);

/* In python/repair.c. */
PyObject *tde_python_find_overwritten(PyObject *module, PyObject *args);
int tde_python_repair_add_constants(PyObject *module);

/* In python/control.c. */
PyObject *tde_python_control_state(PyObject *module, PyObject *args);
PyObject *tde_python_control_checksums(PyObject *module, PyObject *sector);

/* In python/checksum.c. */
PyObject *tde_python_page_checksum(PyObject *module, PyObject *args);
PyObject *tde_python_set_checksums(PyObject *module, PyObject *args);

#endif
