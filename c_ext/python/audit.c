/*
 * python/audit.c - judge blocks as they are stored: what `tde pg audit` does to every byte.
 *
 * One call takes a buffer of whole blocks and returns one byte per block, an
 * enum tde_audit_verdict.  The interpreter lock is released, so threads work in parallel.
 */
#include "python/audit.h"

#include "batch/pool.h"
#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/block.h"
#include "format/identity.h"
#include "format/page.h"

#include <string.h>

#define WAL_VALID_FLAGS 0x000Fu /* XLP_ALL_FLAGS */

enum tde_audit_verdict {
    TDE_AUDIT_ZERO,         /* zeros, which are stored as zeros */
    TDE_AUDIT_VERIFIED,     /* decrypts to what belongs here, and is ciphertext as stored */
    TDE_AUDIT_PLAIN_PAGE,   /* is a page as stored: plaintext */
    TDE_AUDIT_NOT_RANDOM,   /* its stored bytes cannot be ciphertext */
    TDE_AUDIT_BAD_CHECKSUM, /* decrypts to a page header, but the checksum does not fit */
    TDE_AUDIT_NOISE,        /* decrypts to nothing that belongs here */
};

/* One request of Python's; which fields are used depends on the function. */
struct request {
    struct tde_identity id;
    uint64_t first;       /* number of the first block in the fork or segment */
    uint64_t address;     /* WAL: of the segment's first byte */
    uint32_t magic;       /* WAL: of this major version */
    int checksums;        /* relations: whether pages carry checksums */
};

/* The verdict on one block, which is not zeros; PLAIN is scratch space.  -1: OpenSSL refused. */
typedef int (*judge_function)(struct tde_cipher *cipher, const struct request *request,
                              uint64_t number, const uint8_t *stored, uint8_t *plain);

static int judge_page(struct tde_cipher *cipher, const struct request *request, uint64_t number,
                      const uint8_t *stored, uint8_t *plain)
{
    uint8_t tweak[TDE_TWEAK_SIZE];

    if (tde_format_page_has_header(stored))
        return TDE_AUDIT_PLAIN_PAGE;
    if (tde_format_tweak(&request->id, number, tweak) != 0 ||
        tde_crypto_decrypt(cipher, tweak, stored, plain, TDE_BLOCK_SIZE) != 0)
        return -1;
    tde_format_clear_unwritten(plain, tde_format_unwritten_sectors(stored, TDE_BLOCK_SIZE));
    if (!tde_format_page_has_header(plain))
        return tde_format_looks_random(stored, TDE_BLOCK_SIZE) ? TDE_AUDIT_NOISE
                                                               : TDE_AUDIT_NOT_RANDOM;
    /* A checksum that fits vouches for the whole page; otherwise only its header is proven. */
    if (request->checksums && tde_format_page_has_checksum(plain, (uint32_t)number))
        return TDE_AUDIT_VERIFIED;
    if (!tde_format_looks_random(stored, TDE_BLOCK_SIZE))
        return TDE_AUDIT_NOT_RANDOM;
    return request->checksums ? TDE_AUDIT_BAD_CHECKSUM : TDE_AUDIT_VERIFIED;
}

/* A segment may hold pages of older timelines: it was copied at the switch from them. */
static bool is_wal_page(const uint8_t *bytes, const struct request *request, uint64_t number)
{
    struct tde_wal_page_header header = tde_format_wal_page_header(bytes);

    return header.magic == request->magic &&
           header.address == request->address + number * TDE_BLOCK_SIZE &&
           header.timeline > 0 && header.timeline <= request->id.word[0];
}

/* As stored, any address is suspicious: a plaintext segment may lie under a wrong name. */
static bool is_plain_wal_page(const uint8_t *bytes, const struct request *request)
{
    struct tde_wal_page_header header = tde_format_wal_page_header(bytes);

    return header.magic == request->magic && (header.info & ~WAL_VALID_FLAGS) == 0 &&
           header.address % TDE_BLOCK_SIZE == 0 && header.timeline > 0 &&
           header.timeline <= UINT16_MAX;
}

static int judge_wal(struct tde_cipher *cipher, const struct request *request, uint64_t number,
                     const uint8_t *stored, uint8_t *plain)
{
    uint8_t tweak[TDE_TWEAK_SIZE];

    if (is_plain_wal_page(stored, request))
        return TDE_AUDIT_PLAIN_PAGE;
    if (!tde_format_looks_random(stored, TDE_BLOCK_SIZE))
        return TDE_AUDIT_NOT_RANDOM;
    if (tde_format_tweak(&request->id, number, tweak) != 0 ||
        tde_crypto_decrypt(cipher, tweak, stored, plain, TDE_CIPHER_BLOCK) != 0)
        return -1;
    return is_wal_page(plain, request, number) ? TDE_AUDIT_VERIFIED : TDE_AUDIT_NOISE;
}

static int judge_blocks(struct tde_cipher *cipher, const struct request *request,
                        judge_function judge, const uint8_t *stored, size_t count, char *verdicts)
{
    uint8_t plain[TDE_BLOCK_SIZE] __attribute__((aligned(64)));
    int result = 0;

    for (size_t i = 0; i < count && result == 0; i++, stored += TDE_BLOCK_SIZE) {
        int verdict = TDE_AUDIT_ZERO;

        if (!tde_crypto_is_zero(stored, TDE_BLOCK_SIZE))
            verdict = judge(cipher, request, request->first + i, stored, plain);
        verdicts[i] = (char)verdict;
        result = verdict < 0 ? -1 : 0;
    }
    tde_crypto_wipe(plain, sizeof plain);
    return result;
}

static int take_cipher(PyObject *self, struct tde_cipher **cipher)
{
    const struct tde_python_state *state = PyType_GetModuleState(Py_TYPE(self));

    if (tde_batch_pool_take(tde_python_cipher_pool(self), cipher, 1) == TDE_POOL_OK)
        return 0;
    PyErr_SetString(state->page_error, "the cipher is closed, or OpenSSL made none");
    return -1;
}

static PyObject *judge_buffer(PyObject *self, const struct request *request, judge_function judge,
                              const Py_buffer *stored)
{
    const struct tde_python_state *state = PyType_GetModuleState(Py_TYPE(self));
    size_t count = (size_t)stored->len / TDE_BLOCK_SIZE;
    struct tde_cipher *cipher;
    PyObject *verdicts;
    int result;

    if (stored->len % TDE_BLOCK_SIZE != 0) {
        PyErr_Format(state->buffer_length_error, "%zd bytes are no whole number of blocks",
                     stored->len);
        return NULL;
    }
    verdicts = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (verdicts == NULL)
        return NULL;
    if (take_cipher(self, &cipher) != 0) {
        Py_DECREF(verdicts);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = judge_blocks(cipher, request, judge, stored->buf, count,
                          PyBytes_AS_STRING(verdicts));
    Py_END_ALLOW_THREADS
    tde_batch_pool_give(tde_python_cipher_pool(self), &cipher, 1);
    if (result != 0) {
        PyErr_SetString(state->identity_error, "a block does not fit into a file of this kind");
        Py_CLEAR(verdicts);
    }
    return verdicts;
}

/* (stored, identity, first block, checksums) -> one verdict per block */
PyObject *tde_python_audit_pages(PyObject *self, PyObject *args)
{
    struct request request = {0};
    Py_buffer stored;
    PyObject *result;

    if (!PyArg_ParseTuple(args, "y*O&O&p:audit_pages", &stored, tde_python_convert_identity,
                          &request.id, tde_python_convert_uint64, &request.first,
                          &request.checksums))
        return NULL;
    result = judge_buffer(self, &request, judge_page, &stored);
    PyBuffer_Release(&stored);
    return result;
}

/* (stored, identity, first block, address of the segment, magic) -> one verdict per block */
PyObject *tde_python_audit_wal(PyObject *self, PyObject *args)
{
    struct request request = {0};
    Py_buffer stored;
    PyObject *result;

    if (!PyArg_ParseTuple(args, "y*O&O&O&O&:audit_wal", &stored, tde_python_convert_identity,
                          &request.id, tde_python_convert_uint64, &request.first,
                          tde_python_convert_uint64, &request.address, tde_python_convert_uint32,
                          &request.magic))
        return NULL;
    result = judge_buffer(self, &request, judge_wal, &stored);
    PyBuffer_Release(&stored);
    return result;
}

/* The segments among which the former name of a recycled one is looked for. */
struct candidates {
    uint32_t timeline;
    uint64_t newest;
    uint64_t count;
    uint64_t segment_bytes;
};

/* The number of the segment that BYTES, block NUMBER of it, belong to; -1 when it is none. */
static int64_t search_segment(struct tde_cipher *cipher, const struct candidates *among,
                              uint64_t number, uint32_t magic, const uint8_t *bytes)
{
    uint64_t per_log = ((uint64_t)1 << 32) / among->segment_bytes;
    uint8_t tweak[TDE_TWEAK_SIZE];
    uint8_t plain[TDE_CIPHER_BLOCK];

    for (uint64_t i = 0; i < among->count && i <= among->newest; i++) {
        uint64_t segment = among->newest - i;
        struct request request = {
            .id = {.file_class = TDE_CLASS_WAL,
                   .word = {among->timeline, (uint32_t)(segment / per_log),
                            (uint32_t)(segment % per_log)}},
            .address = segment * among->segment_bytes,
            .magic = magic,
        };

        if (tde_format_tweak(&request.id, number, tweak) != 0 ||
            tde_crypto_decrypt(cipher, tweak, bytes, plain, sizeof plain) != 0)
            return -1;
        if (is_wal_page(plain, &request, number))
            return (int64_t)segment;
    }
    return -1;
}

/* (16 bytes, block, timeline, newest segment, count, segment bytes, magic) -> segment or None */
PyObject *tde_python_find_segment(PyObject *self, PyObject *args)
{
    struct candidates among;
    struct tde_cipher *cipher;
    Py_buffer bytes;
    uint64_t number;
    uint32_t magic;
    int64_t found = -1;

    if (!PyArg_ParseTuple(args, "y*O&O&O&O&O&O&:find_segment", &bytes, tde_python_convert_uint64,
                          &number, tde_python_convert_uint32, &among.timeline,
                          tde_python_convert_uint64, &among.newest, tde_python_convert_uint64,
                          &among.count, tde_python_convert_uint64, &among.segment_bytes,
                          tde_python_convert_uint32, &magic))
        return NULL;
    if (bytes.len < (Py_ssize_t)TDE_CIPHER_BLOCK || among.segment_bytes < TDE_BLOCK_SIZE ||
        among.segment_bytes > (uint64_t)1 << 32)
        PyErr_SetString(PyExc_ValueError, "a segment has at least one block of 16 bytes");
    else if (take_cipher(self, &cipher) == 0) {
        Py_BEGIN_ALLOW_THREADS
        found = search_segment(cipher, &among, number, magic, bytes.buf);
        Py_END_ALLOW_THREADS
        tde_batch_pool_give(tde_python_cipher_pool(self), &cipher, 1);
    }
    PyBuffer_Release(&bytes);
    if (PyErr_Occurred())
        return NULL;
    if (found < 0)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(found);
}

/* (data) -> one verdict per block, the last of which may be short: ZERO, VERIFIED, NOT_RANDOM */
PyObject *tde_python_audit_random(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer stored;
    PyObject *verdicts;
    size_t count;

    if (PyObject_GetBuffer(data, &stored, PyBUF_SIMPLE) != 0)
        return NULL;
    if (stored.len % TDE_SECTOR_SIZE != 0) {
        PyBuffer_Release(&stored);
        PyErr_SetString(PyExc_ValueError, "only whole sectors of 512 bytes can be judged");
        return NULL;
    }
    count = ((size_t)stored.len + TDE_BLOCK_SIZE - 1) / TDE_BLOCK_SIZE;
    verdicts = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (verdicts != NULL) {
        char *to = PyBytes_AS_STRING(verdicts);

        Py_BEGIN_ALLOW_THREADS
        for (size_t i = 0; i < count; i++) {
            const uint8_t *block = (const uint8_t *)stored.buf + i * TDE_BLOCK_SIZE;
            size_t left = (size_t)stored.len - i * TDE_BLOCK_SIZE;
            size_t length = left < TDE_BLOCK_SIZE ? left : TDE_BLOCK_SIZE;

            if (tde_crypto_is_zero(block, length))
                to[i] = TDE_AUDIT_ZERO;
            else
                to[i] = tde_format_looks_random(block, length) ? TDE_AUDIT_VERIFIED
                                                               : TDE_AUDIT_NOT_RANDOM;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&stored);
    return verdicts;
}

/* (512 bytes) -> sum of the squares of the byte counts */
PyObject *tde_python_sector_skew(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer sector;
    PyObject *result = NULL;

    if (PyObject_GetBuffer(data, &sector, PyBUF_SIMPLE) != 0)
        return NULL;
    if (sector.len == TDE_SECTOR_SIZE)
        result = PyLong_FromUnsignedLong(tde_format_sector_skew(sector.buf));
    else
        PyErr_SetString(PyExc_ValueError, "a sector has 512 bytes");
    PyBuffer_Release(&sector);
    return result;
}

/* (data, needle, start) -> offset or -1; bytes.find() would hold the interpreter lock */
PyObject *tde_python_find_bytes(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    Py_buffer needle;
    const uint8_t *found = NULL;
    Py_ssize_t start;
    Py_ssize_t result = -1;

    if (!PyArg_ParseTuple(args, "y*y*n:find_bytes", &data, &needle, &start))
        return NULL;
    if (start >= 0 && start <= data.len && needle.len > 0) {
        Py_BEGIN_ALLOW_THREADS
        found = memmem((const uint8_t *)data.buf + start, (size_t)(data.len - start), needle.buf,
                       (size_t)needle.len);
        Py_END_ALLOW_THREADS
    }
    if (found != NULL)
        result = found - (const uint8_t *)data.buf;
    PyBuffer_Release(&data);
    PyBuffer_Release(&needle);
    return PyLong_FromSsize_t(result);
}

int tde_python_audit_add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "AUDIT_ZERO", TDE_AUDIT_ZERO) == 0 &&
                   PyModule_AddIntConstant(module, "AUDIT_VERIFIED", TDE_AUDIT_VERIFIED) == 0 &&
                   PyModule_AddIntConstant(module, "AUDIT_PLAIN_PAGE", TDE_AUDIT_PLAIN_PAGE) == 0 &&
                   PyModule_AddIntConstant(module, "AUDIT_NOT_RANDOM", TDE_AUDIT_NOT_RANDOM) == 0 &&
                   PyModule_AddIntConstant(module, "AUDIT_BAD_CHECKSUM",
                                           TDE_AUDIT_BAD_CHECKSUM) == 0 &&
                   PyModule_AddIntConstant(module, "AUDIT_NOISE", TDE_AUDIT_NOISE) == 0
               ? 0
               : -1;
}
