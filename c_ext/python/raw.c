/*
 * python/raw.c - functions of tde._core that reach below pages and files.
 *
 * The product does not call them: published test vectors, the reference implementation
 * and the Python code that writes key records are checked against the C core with them.
 */
#include "python/module.h"

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/keymap.h"
#include "format/keyrecord.h"

#include <string.h>

/* A cipher for one call; NULL with an exception set when an argument does not fit. */
static struct tde_cipher *new_cipher(const struct tde_python_state *state, int algorithm,
                                     const Py_buffer *key, const Py_buffer *tweak)
{
    struct tde_cipher *cipher = NULL;

    if (tweak->len == TDE_TWEAK_SIZE && (size_t)key->len == tde_crypto_key_size(algorithm))
        cipher = tde_crypto_cipher_new(algorithm, key->buf);
    if (cipher == NULL)
        PyErr_SetString(state->page_error, "the algorithm, key or tweak cannot be used");
    return cipher;
}

static PyObject *run_xts(const struct tde_python_state *state, struct tde_cipher *cipher,
                         const Py_buffer *tweak, const Py_buffer *data, int encrypt)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, data->len);
    uint8_t *to;
    int failed;

    if (result == NULL)
        return NULL;
    to = (uint8_t *)PyBytes_AS_STRING(result);
    if (encrypt)
        failed = tde_crypto_encrypt(cipher, tweak->buf, data->buf, to, (size_t)data->len);
    else
        failed = tde_crypto_decrypt(cipher, tweak->buf, data->buf, to, (size_t)data->len);
    if (failed) {
        Py_CLEAR(result);
        PyErr_Format(state->buffer_length_error, "%zd bytes are no data unit", data->len);
    }
    return result;
}

/* (algorithm, key, tweak, data, encrypt) -> bytes */
PyObject *tde_python_xts(PyObject *module, PyObject *args)
{
    const struct tde_python_state *state = PyModule_GetState(module);
    struct tde_cipher *cipher;
    Py_buffer key;
    Py_buffer tweak;
    Py_buffer data;
    PyObject *result = NULL;
    int algorithm;
    int encrypt;

    if (!PyArg_ParseTuple(args, "iy*y*y*p:xts", &algorithm, &key, &tweak, &data, &encrypt))
        return NULL;
    cipher = new_cipher(state, algorithm, &key, &tweak);
    if (cipher != NULL)
        result = run_xts(state, cipher, &tweak, &data, encrypt);
    tde_crypto_cipher_free(cipher);
    PyBuffer_Release(&key);
    PyBuffer_Release(&tweak);
    PyBuffer_Release(&data);
    return result;
}

static PyObject *run_tail_mask(const struct tde_python_state *state, const Py_buffer *tail_key,
                               const Py_buffer *tweak, uint32_t index, const Py_buffer *data)
{
    static const uint8_t unused[TDE_MAX_KEY_SIZE] = {1}; /* A cipher must have an XTS key too. */
    struct tde_cipher *cipher = NULL;
    uint8_t bytes[TDE_CIPHER_BLOCK];
    PyObject *result = NULL;

    if (tail_key->len == TDE_TAIL_KEY_SIZE && tweak->len == TDE_TWEAK_SIZE &&
        (size_t)data->len < sizeof bytes)
        cipher = tde_crypto_cipher_new(TDE_ALGORITHM_AES256, unused);
    if (cipher != NULL && tde_crypto_cipher_set_tail_key(cipher, tail_key->buf) == 0) {
        memcpy(bytes, data->buf, (size_t)data->len);
        if (tde_crypto_mask_tail(cipher, tweak->buf, index, bytes, (size_t)data->len) == 0)
            result = PyBytes_FromStringAndSize((const char *)bytes, data->len);
    }
    tde_crypto_cipher_free(cipher);
    if (result == NULL && !PyErr_Occurred())
        PyErr_SetString(state->page_error, "the key, tweak or data cannot be used");
    return result;
}

/* (tail key, tweak, index, data) -> bytes */
PyObject *tde_python_tail_mask(PyObject *module, PyObject *args)
{
    Py_buffer tail_key;
    Py_buffer tweak;
    Py_buffer data;
    PyObject *result;
    uint32_t index;

    if (!PyArg_ParseTuple(args, "y*y*O&y*:tail_mask", &tail_key, &tweak, tde_python_convert_uint32,
                          &index, &data))
        return NULL;
    result = run_tail_mask(PyModule_GetState(module), &tail_key, &tweak, index, &data);
    PyBuffer_Release(&tail_key);
    PyBuffer_Release(&tweak);
    PyBuffer_Release(&data);
    return result;
}

static int fill_scope(struct tde_key_scope *scope, const Py_buffer *keystore,
                      const Py_buffer *master_key_id, const Py_buffer *master_key)
{
    if (keystore->len != TDE_UUID_SIZE || master_key_id->len != TDE_UUID_SIZE ||
        master_key->len != TDE_GCM_KEY_SIZE) {
        PyErr_SetString(PyExc_ValueError, "the ids have 16 bytes and the master key 32");
        return -1;
    }
    memcpy(scope->keystore, keystore->buf, sizeof scope->keystore);
    memcpy(scope->master_key_id, master_key_id->buf, sizeof scope->master_key_id);
    memcpy(scope->master_key, master_key->buf, sizeof scope->master_key);
    return 0;
}

static PyObject *unwrap(const Py_buffer *record, const struct tde_key_scope *scope, int owner,
                        uint32_t oid, const Py_buffer *key_id)
{
    size_t length = (size_t)record->len;
    struct tde_key key;
    PyObject *result = NULL;
    const char *problem;

    if (owner != TDE_OWNER_NAMED && owner != TDE_OWNER_LATER_WAL)
        problem = tde_format_keyrecord_unwrap(record->buf, length, scope,
                                              (enum tde_key_owner)owner, oid, &key);
    else if (key_id->len == TDE_UUID_SIZE)
        problem = tde_format_keyrecord_unwrap_named(record->buf, length, scope,
                                                    (enum tde_key_owner)owner, oid, key_id->buf,
                                                    &key);
    else
        problem = "a key id has 16 bytes";

    if (problem != NULL)
        PyErr_Format(PyExc_ValueError, "the key record cannot be used: %s", problem);
    else
        result = Py_BuildValue("(iy#)", key.algorithm, (const char *)key.bytes,
                               (Py_ssize_t)tde_crypto_key_size(key.algorithm));
    tde_crypto_wipe(&key, sizeof key);
    return result;
}

/* (record, keystore, master key id, master key, owner, oid, key id) -> (algorithm, key) */
PyObject *tde_python_unwrap_key_record(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer record;
    Py_buffer keystore;
    Py_buffer master_key_id;
    Py_buffer master_key;
    Py_buffer key_id = {0};
    struct tde_key_scope scope;
    PyObject *result = NULL;
    int owner;
    uint32_t oid;

    if (!PyArg_ParseTuple(args, "y*y*y*y*iO&|y*:unwrap_key_record", &record, &keystore,
                          &master_key_id, &master_key, &owner, tde_python_convert_uint32, &oid,
                          &key_id))
        return NULL;
    if (fill_scope(&scope, &keystore, &master_key_id, &master_key) == 0)
        result = unwrap(&record, &scope, owner, oid, &key_id);
    tde_crypto_wipe(&scope, sizeof scope);
    PyBuffer_Release(&record);
    PyBuffer_Release(&keystore);
    PyBuffer_Release(&master_key_id);
    PyBuffer_Release(&master_key);
    PyBuffer_Release(&key_id);
    return result;
}

/* (map, keystore, key) -> the number of authentic bytes */
PyObject *tde_python_check_keymap(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer map;
    Py_buffer keystore;
    Py_buffer key;
    PyObject *result = NULL;
    const char *problem = "the keystore's id has 16 bytes and the key 32";
    size_t usable;

    if (!PyArg_ParseTuple(args, "y*y*y*:check_keymap", &map, &keystore, &key))
        return NULL;
    if (keystore.len == TDE_UUID_SIZE && key.len == TDE_KEYMAP_KEY_SIZE)
        problem = tde_format_keymap_check(map.buf, (size_t)map.len, keystore.buf, key.buf,
                                          &usable);
    if (problem != NULL)
        PyErr_Format(PyExc_ValueError, "the key map cannot be used: %s", problem);
    else
        result = PyLong_FromSize_t(usable);
    PyBuffer_Release(&map);
    PyBuffer_Release(&keystore);
    PyBuffer_Release(&key);
    return result;
}
