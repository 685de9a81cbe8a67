/*
 * python/cipher.c - the type tde._core.Cipher: one key, used by any number of threads.
 */
#include "python/module.h"

#include "batch/fanout.h"
#include "batch/pool.h"
#include "crypto/cipher.h"
#include "crypto/library.h"
#include "crypto/primitives.h"
#include "format/block.h"
#include "format/identity.h"
#include "python/audit.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    int algorithm;
    struct tde_pool *pool;
} CipherObject;

static struct tde_python_state *state_of(CipherObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self)); /* The type cannot be subclassed. */
}

struct tde_pool *tde_python_cipher_pool(PyObject *cipher)
{
    return ((CipherObject *)cipher)->pool;
}

/* Check KEY and give SELF a pool of LIBRARY that holds a copy of it. */
static int set_key(CipherObject *self, const struct tde_library *library, const Py_buffer *key)
{
    struct tde_python_state *state = state_of(self);
    size_t expected = tde_crypto_key_size(self->algorithm);

    if (expected == 0) {
        PyErr_Format(state->page_error, "unknown algorithm code %d", self->algorithm);
        return -1;
    }
    if ((size_t)key->len != expected) {
        PyErr_Format(state->key_length_error, "the key must have %zu bytes, not %zd", expected,
                     key->len);
        return -1;
    }
    self->pool = tde_batch_pool_new(library, self->algorithm, key->buf);
    if (self->pool == NULL) {
        PyErr_SetString(state->page_error,
                        memcmp(key->buf, (char *)key->buf + expected / 2, expected / 2) == 0
                            ? "the two halves of an XTS key must differ"
                            : TDE_CRYPTO_INCOMPLETE);
        return -1;
    }
    return 0;
}

static PyObject *cipher_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"algorithm", "key", "linked", NULL};
    CipherObject *self = (CipherObject *)type->tp_alloc(type, 0);
    Py_buffer key;
    int linked = 0;
    int result;

    if (self == NULL)
        return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iy*|$p:Cipher", names, &self->algorithm,
                                     &key, &linked)) {
        Py_DECREF(self);
        return NULL;
    }
    result = set_key(self, linked ? tde_crypto_library_linked() : tde_crypto_library(), &key);
    PyBuffer_Release(&key);
    if (result != 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void cipher_dealloc(CipherObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    tde_batch_pool_free(self->pool);
    type->tp_free(self);
    Py_DECREF(type); /* Every instance of a heap type owns a reference to it. */
}

/* The two buffers of a call; OUT is a new bytes object when the caller gave None. */
struct buffers {
    Py_buffer src;
    Py_buffer dst;
    PyObject *out;
};

static void release(struct buffers *buffers)
{
    PyBuffer_Release(&buffers->src); /* Does nothing to a buffer that was never filled. */
    PyBuffer_Release(&buffers->dst);
    Py_CLEAR(buffers->out);
}

/* Objects that are no buffers stay a TypeError; the rest becomes an error of this package. */
static int get_buffer(const struct tde_python_state *state, PyObject *object, Py_buffer *view,
                      int flags, const char *problem)
{
    if (PyObject_GetBuffer(object, view, flags) == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_ValueError))
        PyErr_SetString(state->page_error, problem);
    return -1;
}

static int check_buffers(const struct tde_python_state *state, const Py_buffer *src,
                         const Py_buffer *dst)
{
    uintptr_t from = (uintptr_t)src->buf;
    uintptr_t to = (uintptr_t)dst->buf;
    uintptr_t length = (uintptr_t)src->len;

    if (src->len % TDE_BLOCK_SIZE != 0) {
        PyErr_Format(state->buffer_length_error,
                     "pages must be a whole number of %u-byte pages, not %zd bytes",
                     TDE_BLOCK_SIZE, src->len);
        return -1;
    }
    if (dst->len != src->len) {
        PyErr_Format(state->buffer_length_error, "out has %zd bytes, but pages has %zd",
                     dst->len, src->len);
        return -1;
    }
    if (from != to && from < to + length && to < from + length) {
        PyErr_SetString(state->page_error, "out overlaps pages; it must be the same or apart");
        return -1;
    }
    return 0;
}

static int open_buffers(const struct tde_python_state *state, PyObject *src, PyObject *dst,
                        struct buffers *buffers)
{
    memset(buffers, 0, sizeof *buffers);
    if (get_buffer(state, src, &buffers->src, PyBUF_SIMPLE, "pages is not contiguous") != 0)
        return -1;
    if (dst != Py_None) {
        buffers->out = Py_NewRef(dst);
        if (get_buffer(state, dst, &buffers->dst, PyBUF_WRITABLE,
                       "out is read-only or not contiguous") != 0)
            return -1;
    } else {
        buffers->out = PyBytes_FromStringAndSize(NULL, buffers->src.len);
        if (buffers->out == NULL)
            return -1;
        /* Nobody else sees the new bytes object yet, so it may still be written. */
        buffers->dst.buf = PyBytes_AS_STRING(buffers->out);
        buffers->dst.len = buffers->src.len;
    }
    return check_buffers(state, &buffers->src, &buffers->dst);
}

/* A batch that ends beyond the last block of its kind of file is refused before it starts. */
static int check_range(const struct tde_python_state *state, const struct tde_batch *batch)
{
    uint8_t tweak[TDE_TWEAK_SIZE];
    uint64_t length = batch->count > 0 ? batch->count - 1 : 0;

    if (batch->first <= UINT32_MAX &&
        tde_format_tweak(&batch->id, batch->first + length, tweak) == 0)
        return 0;
    PyErr_Format(state->identity_error,
                 "%zu pages from block %llu on do not fit into a file of this kind",
                 batch->count, (unsigned long long)batch->first);
    return -1;
}

static int run(CipherObject *self, const struct tde_batch *batch, size_t threads)
{
    struct tde_cipher *team[TDE_MAX_THREADS];
    size_t size = tde_batch_fanout_size(batch->count, threads);
    enum tde_pool_status status = tde_batch_pool_take(self->pool, team, size);
    int result;

    if (status != TDE_POOL_OK) {
        PyErr_SetString(state_of(self)->page_error, status == TDE_POOL_CLOSED
                                                        ? "the cipher is closed"
                                                        : "OpenSSL made no cipher");
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    result = tde_batch_fanout_run(batch, team, size);
    Py_END_ALLOW_THREADS
    tde_batch_pool_give(self->pool, team, size);
    if (result != 0)
        PyErr_SetString(state_of(self)->page_error, "OpenSSL could not process a page");
    return result;
}

static int run_on_buffers(CipherObject *self, struct tde_batch *batch,
                          const struct buffers *buffers, uint32_t threads)
{
    const struct tde_python_state *state = state_of(self);

    if (threads < 1 || threads > TDE_MAX_THREADS) {
        PyErr_Format(state->page_error, "threads must be 1 to %u, not %u", TDE_MAX_THREADS,
                     threads);
        return -1;
    }
    batch->src = buffers->src.buf;
    batch->dst = buffers->dst.buf;
    batch->count = (size_t)buffers->src.len / TDE_BLOCK_SIZE;
    if (check_range(state, batch) != 0)
        return -1;
    return run(self, batch, threads);
}

/* (src, dst or None, identity, first block, threads) -> dst, or new bytes */
static PyObject *process(CipherObject *self, PyObject *const *args, Py_ssize_t count,
                         tde_block_function work)
{
    struct tde_batch batch = {.work = work};
    struct buffers buffers;
    PyObject *result = NULL;
    uint32_t threads;

    if (count != 5) {
        PyErr_Format(PyExc_TypeError, "takes 5 arguments, not %zd", count);
        return NULL;
    }
    if (!tde_python_convert_identity(args[2], &batch.id) ||
        !tde_python_convert_uint64(args[3], &batch.first) ||
        !tde_python_convert_uint32(args[4], &threads))
        return NULL;
    if (open_buffers(state_of(self), args[0], args[1], &buffers) == 0 &&
        run_on_buffers(self, &batch, &buffers, threads) == 0)
        result = Py_NewRef(buffers.out);
    release(&buffers);
    return result;
}

static PyObject *cipher_encrypt_blocks(CipherObject *self, PyObject *const *args, Py_ssize_t count)
{
    return process(self, args, count, tde_format_encrypt_blocks);
}

static PyObject *cipher_decrypt_blocks(CipherObject *self, PyObject *const *args, Py_ssize_t count)
{
    return process(self, args, count, tde_format_decrypt_blocks);
}

static PyObject *cipher_close(CipherObject *self, PyObject *Py_UNUSED(ignored))
{
    tde_batch_pool_close(self->pool);
    Py_RETURN_NONE;
}

static PyObject *cipher_closed(CipherObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(tde_batch_pool_is_closed(self->pool));
}

static PyObject *cipher_algorithm(CipherObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(self->algorithm);
}

static PyMethodDef methods[] = {
    {"audit_pages", tde_python_audit_pages, METH_VARARGS,
     PyDoc_STR("Judge the stored blocks of a relation file.")},
    {"audit_wal", tde_python_audit_wal, METH_VARARGS,
     PyDoc_STR("Judge the stored blocks of a WAL segment.")},
    {"find_segment", tde_python_find_segment, METH_VARARGS,
     PyDoc_STR("Find the segment that a block of a recycled one was written for.")},
    {"encrypt_blocks", (PyCFunction)(void (*)(void))cipher_encrypt_blocks, METH_FASTCALL,
     PyDoc_STR("Encrypt whole pages; the GIL is released meanwhile.")},
    {"decrypt_blocks", (PyCFunction)(void (*)(void))cipher_decrypt_blocks, METH_FASTCALL,
     PyDoc_STR("Decrypt whole pages; the GIL is released meanwhile.")},
    {"close", (PyCFunction)cipher_close, METH_NOARGS,
     PyDoc_STR("Wipe the key; further use raises PageError.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"algorithm", (getter)cipher_algorithm, NULL,
     PyDoc_STR("The algorithm's code in key records."), NULL},
    {"closed", (getter)cipher_closed, NULL, PyDoc_STR("Whether close() was called."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, cipher_new},
    {Py_tp_dealloc, cipher_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, (void *)"One XTS key and the OpenSSL contexts made from it."},
    {0, NULL},
};

PyType_Spec tde_python_cipher_spec = {
    .name = "tde._core.Cipher",
    .basicsize = sizeof(CipherObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
