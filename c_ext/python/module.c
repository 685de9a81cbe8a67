/*
 * python/module.c - the CPython module tde._core over the crypto core (tde/_core.pyi).
 */
#include "python/module.h"

#include "crypto/library.h"
#include "format/identity.h"
#include "format/plain.h"
#include "python/audit.h"

#include <openssl/crypto.h>

#include <string.h>

int tde_python_convert_uint64(PyObject *object, void *to)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(object);

    if (value == (unsigned long long)-1 && PyErr_Occurred())
        return 0;
    *(uint64_t *)to = value;
    return 1;
}

int tde_python_convert_uint32(PyObject *object, void *to)
{
    uint64_t value;

    if (!tde_python_convert_uint64(object, &value))
        return 0;
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the number does not fit 32 bits");
        return 0;
    }
    *(uint32_t *)to = (uint32_t)value;
    return 1;
}

int tde_python_convert_identity(PyObject *object, void *to)
{
    struct tde_identity *id = to;
    uint32_t file_class;
    uint32_t fork;

    /* Item by item: a format string costs a call for one page a tenth of its time. */
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 5) {
        PyErr_SetString(PyExc_TypeError, "an identity is a tuple of 5 numbers");
        return 0;
    }
    memset(id, 0, sizeof *id);
    if (!tde_python_convert_uint32(PyTuple_GET_ITEM(object, 0), &file_class) ||
        !tde_python_convert_uint32(PyTuple_GET_ITEM(object, 1), &id->word[0]) ||
        !tde_python_convert_uint32(PyTuple_GET_ITEM(object, 2), &id->word[1]) ||
        !tde_python_convert_uint32(PyTuple_GET_ITEM(object, 3), &id->word[2]) ||
        !tde_python_convert_uint32(PyTuple_GET_ITEM(object, 4), &fork))
        return 0;
    if (fork > UINT8_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the number of the fork does not fit 8 bits");
        return 0;
    }
    id->file_class = (enum tde_file_class)file_class;
    id->fork = (uint8_t)fork;
    return 1;
}

/* (path) -> (class, tablespace, word 0, word 1, word 2, fork, first block, name or None) */
static PyObject *parse_path(PyObject *Py_UNUSED(module), PyObject *path)
{
    struct tde_identity id;
    enum tde_file_class file_class;
    const char *name;
    PyObject *bytes;
    PyObject *result;

    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    file_class = tde_format_parse_path(PyBytes_AS_STRING(bytes), &id, &name);
    result = Py_BuildValue("(iIIIIBIN)", (int)file_class, id.tablespace, id.word[0], id.word[1],
                           id.word[2], id.fork, id.first_block,
                           name != NULL ? PyUnicode_DecodeFSDefault(name) : Py_NewRef(Py_None));
    Py_DECREF(bytes);
    return result;
}

/* () -> ((files, reason, decision), …) */
static PyObject *plain_rules(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    size_t count = tde_format_plain_count();
    PyObject *result = PyTuple_New((Py_ssize_t)count);

    for (size_t number = 0; result != NULL && number < count; number++) {
        const struct tde_plain_rule *rule = tde_format_plain_rule(number);
        PyObject *row = Py_BuildValue("(ssO)", rule->files, rule->reason,
                                      rule->decision ? Py_True : Py_False);

        if (row == NULL)
            Py_CLEAR(result);
        else
            PyTuple_SET_ITEM(result, (Py_ssize_t)number, row);
    }
    return result;
}

/* (name) -> (number of the rule or -1, whether the server writes it) */
static PyObject *find_plain_rule(PyObject *Py_UNUSED(module), PyObject *name)
{
    PyObject *bytes;
    PyObject *result;

    if (!PyUnicode_FSConverter(name, &bytes))
        return NULL;
    result = Py_BuildValue(
        "(iO)", tde_format_plain_find(PyBytes_AS_STRING(bytes)),
        tde_format_plain_is_written_by_server(PyBytes_AS_STRING(bytes)) ? Py_True : Py_False);
    Py_DECREF(bytes);
    return result;
}

/* (identity, block) -> 16 bytes */
static PyObject *make_tweak(PyObject *module, PyObject *args)
{
    struct tde_python_state *state = PyModule_GetState(module);
    struct tde_identity id;
    uint8_t tweak[TDE_TWEAK_SIZE];
    uint32_t block;

    if (!PyArg_ParseTuple(args, "O&O&:tweak", tde_python_convert_identity, &id,
                          tde_python_convert_uint32, &block))
        return NULL;
    if (tde_format_tweak(&id, block, tweak) != 0) {
        PyErr_Format(state->identity_error, "no file of this kind has a block %u", block);
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)tweak, sizeof tweak);
}

static PyObject *openssl_version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyUnicode_FromString(tde_crypto_library()->version(OPENSSL_VERSION));
}

static PyObject *linked_openssl_version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyUnicode_FromString(tde_crypto_library_linked()->version(OPENSSL_VERSION));
}

static PyObject *libcrypto_would_gain(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(tde_crypto_library_would_gain());
}

/* (path) -> what is wrong with the library, or None */
static PyObject *choose_libcrypto(PyObject *Py_UNUSED(module), PyObject *path)
{
    const char *problem;
    PyObject *bytes;

    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    problem = tde_crypto_library_choose(PyBytes_AS_STRING(bytes));
    Py_DECREF(bytes);
    if (problem == NULL)
        Py_RETURN_NONE;
    return PyUnicode_DecodeFSDefault(problem);
}

static PyMethodDef functions[] = {
    {"parse_path", parse_path, METH_O, PyDoc_STR("Classify a PostgreSQL file name.")},
    {"plain_rules", plain_rules, METH_NOARGS,
     PyDoc_STR("Return the list of files that are plain by design.")},
    {"find_plain_rule", find_plain_rule, METH_O,
     PyDoc_STR("Find the rule that makes a file plain by design.")},
    {"tweak", make_tweak, METH_VARARGS, PyDoc_STR("Return the tweak of one block.")},
    {"xts", tde_python_xts, METH_VARARGS, PyDoc_STR("Run XTS over one raw data unit.")},
    {"tail_mask", tde_python_tail_mask, METH_VARARGS,
     PyDoc_STR("Mask or unmask the last partial AES block of a file.")},
    {"unwrap_key_record", tde_python_unwrap_key_record, METH_VARARGS,
     PyDoc_STR("Check and unwrap a key record as the server does.")},
    {"check_keymap", tde_python_check_keymap, METH_VARARGS,
     PyDoc_STR("Check a key map as the server does; how many of its bytes are authentic.")},
    {"control_state", tde_python_control_state, METH_VARARGS,
     PyDoc_STR("Hide or show the state in the first sector of pg_control.")},
    {"control_checksums", tde_python_control_checksums, METH_O,
     PyDoc_STR("Say in the first sector of pg_control that pages have checksums.")},
    {"find_overwritten", tde_python_find_overwritten, METH_VARARGS,
     PyDoc_STR("Find what stood where pg_checksums without keys has written.")},
    {"audit_random", tde_python_audit_random, METH_O,
     PyDoc_STR("Judge whether stored bytes could be ciphertext.")},
    {"sector_skew", tde_python_sector_skew, METH_O,
     PyDoc_STR("Return the statistic by which a sector is judged.")},
    {"page_checksum", tde_python_page_checksum, METH_VARARGS,
     PyDoc_STR("Return PostgreSQL's checksum of a page.")},
    {"set_checksums", tde_python_set_checksums, METH_VARARGS,
     PyDoc_STR("Give whole blocks of a fork their checksums, in place.")},
    {"find_bytes", tde_python_find_bytes, METH_VARARGS,
     PyDoc_STR("Find bytes in a buffer, as bytes.find() does.")},
    {"openssl_version", openssl_version, METH_NOARGS,
     PyDoc_STR("Return the version text of the OpenSSL library that encrypts pages.")},
    {"linked_openssl_version", linked_openssl_version, METH_NOARGS,
     PyDoc_STR("Return the version text of the OpenSSL library that does all else.")},
    {"libcrypto_would_gain", libcrypto_would_gain, METH_NOARGS,
     PyDoc_STR("Tell whether a newer OpenSSL would encrypt pages faster here.")},
    {"choose_libcrypto", choose_libcrypto, METH_O,
     PyDoc_STR("Encrypt pages with another OpenSSL library.")},
    {NULL, NULL, 0, NULL},
};

/* Hold a reference to the class NAME of tde.errors in *SLOT. */
static int import_error(PyObject *errors, const char *name, PyObject **slot)
{
    *slot = PyObject_GetAttrString(errors, name);
    return *slot != NULL ? 0 : -1;
}

static int import_errors(struct tde_python_state *state)
{
    PyObject *errors = PyImport_ImportModule("tde.errors");
    int result;

    if (errors == NULL)
        return -1;
    result = import_error(errors, "PageError", &state->page_error) == 0 &&
                     import_error(errors, "KeyLengthError", &state->key_length_error) == 0 &&
                     import_error(errors, "BufferLengthError", &state->buffer_length_error) == 0 &&
                     import_error(errors, "IdentityError", &state->identity_error) == 0
                 ? 0
                 : -1;
    Py_DECREF(errors);
    return result;
}

static int add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "BLOCK_SIZE", TDE_BLOCK_SIZE) == 0 &&
                   PyModule_AddIntConstant(module, "CLASS_PLAIN", TDE_CLASS_PLAIN) == 0 &&
                   PyModule_AddIntConstant(module, "CLASS_RELATION", TDE_CLASS_RELATION) == 0 &&
                   PyModule_AddIntConstant(module, "CLASS_WAL", TDE_CLASS_WAL) == 0 &&
                   PyModule_AddIntConstant(module, "CLASS_TEMP_RELATION",
                                           TDE_CLASS_TEMP_RELATION) == 0 &&
                   PyModule_AddIntConstant(module, "CLASS_EPHEMERAL", TDE_CLASS_EPHEMERAL) == 0
               ? 0
               : -1;
}

static int fill_module(PyObject *module)
{
    PyObject *type;
    int result;

    if (import_errors(PyModule_GetState(module)) != 0 || add_constants(module) != 0 ||
        tde_python_audit_add_constants(module) != 0 ||
        tde_python_repair_add_constants(module) != 0)
        return -1;
    type = PyType_FromModuleAndSpec(module, &tde_python_cipher_spec, NULL);
    if (type == NULL)
        return -1;
    result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static int visit_state(PyObject *module, visitproc visit, void *arg)
{
    struct tde_python_state *state = PyModule_GetState(module);

    Py_VISIT(state->page_error);
    Py_VISIT(state->key_length_error);
    Py_VISIT(state->buffer_length_error);
    Py_VISIT(state->identity_error);
    return 0;
}

static int clear_state(PyObject *module)
{
    struct tde_python_state *state = PyModule_GetState(module);

    Py_CLEAR(state->page_error);
    Py_CLEAR(state->key_length_error);
    Py_CLEAR(state->buffer_length_error);
    Py_CLEAR(state->identity_error);
    return 0;
}

static void free_state(void *module)
{
    clear_state(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tde._core",
    .m_doc = PyDoc_STR("Page encryption with OpenSSL; use tde.PageCipher instead."),
    .m_size = sizeof(struct tde_python_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = visit_state,
    .m_clear = clear_state,
    .m_free = free_state,
};

PyMODINIT_FUNC PyInit__core(void); /* CPython's macro declares it only with C++. */

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
