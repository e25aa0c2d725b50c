/*
 * VHDX unit tests: files in memory, of which a request fails
 *
 * A node of our own holds each file.  The request with a certain number fails,
 * in one of several ways.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_MEMORY_H
#define TESTS_UNIT_VHDX_TEST_MEMORY_H

#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "block/vhdx/compat.h"

/* Which parts of a file have changed is noted by cells. */
#define CELL        (64 * KiB)

/* -- Files in memory -- */

#define FILE_MAX    (64 * MiB)

enum { IMAGE, PARENT, FILES };

/* All behind the end is zeros. */
typedef struct File {
    uint8_t *data;
    uint64_t size;
} File;

static File files[FILES];

/* What the files hold before each run, and which cells may differ from that */
static File before[FILES];
static bool changed[FILES][FILE_MAX / CELL];

static void file_touch(unsigned i, uint64_t from, uint64_t to)
{
    g_assert_cmpuint(to, <=, FILE_MAX);
    for (uint64_t at = from / CELL; at * CELL < to; at++) {
        changed[i][at] = true;
    }
}

static void file_set_size(unsigned i, uint64_t size)
{
    File *f = &files[i];

    g_assert_cmpuint(size, <=, FILE_MAX);
    if (size < f->size) {
        file_touch(i, size, f->size);
        memset(f->data + size, 0, f->size - size);
    }
    f->size = size;
}

/* The files are as they were before the run. */
static void files_reset(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        files[i].size = before[i].size;
        for (unsigned at = 0; at < FILE_MAX / CELL; at++) {
            if (changed[i][at]) {
                memcpy(files[i].data + at * CELL, before[i].data + at * CELL,
                       CELL);
            }
        }
        memset(changed[i], false, sizeof(changed[i]));
    }
}

/* Runs begin with the files as they are now. */
static void files_keep(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        memcpy(before[i].data, files[i].data, FILE_MAX);
        before[i].size = files[i].size;
        memset(changed[i], false, sizeof(changed[i]));
    }
}

/* -- The fault -- */

typedef enum Way {
    REFUSED,                    /* EIO, and nothing is done */
    DONE,                       /* EIO, though it is done */
    NO_SPACE,                   /* ENOSPC, and nothing is done */
    DEAD,                       /* all that come after it fail as well */
    WAYS
} Way;

static const char *const way_names[] = {
    "refused", "done", "no space", "dead",
};

static struct {
    bool armed;
    Way way;
    unsigned at;                /* the number of the request that fails */
    unsigned calls;             /* so many there were */
    bool hit;
    char name[32];              /* for whoever looks at a core */
} fault;

/* A request begins: 0, or how it ends without being done. */
static int fault_before(void)
{
    unsigned n = fault.calls;

    if (!fault.armed) {
        return 0;
    }
    fault.calls++;
    if (n != fault.at && !(fault.way == DEAD && n > fault.at)) {
        return 0;
    }
    fault.hit = true;
    return fault.way == DONE ? 0 : fault.way == NO_SPACE ? -ENOSPC : -EIO;
}

/* It is done: how it ends. */
static int fault_after(void)
{
    return fault.armed && fault.way == DONE && fault.calls == fault.at + 1 ?
           -EIO : 0;
}

/* -- A node for such a file -- */

typedef struct MemoryState {
    unsigned file;
} MemoryState;

/* Whether there is no preallocation for it */
static bool no_prealloc;

static unsigned file_of(BlockDriverState *bs)
{
    return ((MemoryState *)bs->opaque)->file;
}

static int memory_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    MemoryState *s = bs->opaque;

    s->file = qdict_get_int(options, "number");
    qdict_del(options, "number");
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;
}

static void memory_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = 1;
}

static int64_t coroutine_mixed_fn memory_getlength(BlockDriverState *bs)
{
    int ret = fault_before();

    return ret ?: fault_after() ?: (int64_t)files[file_of(bs)].size;
}

static int coroutine_fn memory_preadv(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, QEMUIOVector *qiov,
                                      BdrvRequestFlags flags)
{
    int ret = fault_before();

    if (ret < 0) {
        return ret;
    }
    g_assert_cmpuint(offset + bytes, <=, FILE_MAX);
    qemu_iovec_from_buf(qiov, 0, files[file_of(bs)].data + offset, bytes);
    return fault_after();
}

/* Begin a write of any kind, in which the file gets as long as it takes. */
static int write_before(unsigned i, int64_t offset, int64_t bytes)
{
    int ret = fault_before();

    if (ret == 0) {
        file_touch(i, offset, offset + bytes);
        files[i].size = MAX(files[i].size, offset + bytes);
    }
    return ret;
}

static int coroutine_fn memory_pwritev(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, QEMUIOVector *qiov,
                                       BdrvRequestFlags flags)
{
    unsigned i = file_of(bs);
    int ret = write_before(i, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    qemu_iovec_to_buf(qiov, 0, files[i].data + offset, bytes);
    return fault_after();
}

static int coroutine_fn memory_pwrite_zeroes(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes,
                                             BdrvRequestFlags flags)
{
    unsigned i = file_of(bs);
    int ret = write_before(i, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    memset(files[i].data + offset, 0, bytes);
    return fault_after();
}

static int coroutine_fn memory_pdiscard(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    return memory_pwrite_zeroes(bs, offset, bytes, 0);
}

static int coroutine_fn memory_truncate(BlockDriverState *bs, int64_t offset,
                                        bool exact, PreallocMode prealloc,
                                        BdrvRequestFlags flags, Error **errp)
{
    int ret = fault_before();

    if (ret == 0 && prealloc != PREALLOC_MODE_OFF && no_prealloc) {
        ret = -ENOTSUP;
    }
    if (ret == 0) {
        file_set_size(file_of(bs), offset);
        ret = fault_after();
    }
    if (ret < 0) {
        error_setg(errp, "No such length now");
    }
    return ret;
}

static int coroutine_fn memory_flush(BlockDriverState *bs)
{
    return fault_before() ?: fault_after();
}

static int coroutine_fn memory_block_status(BlockDriverState *bs,
                                            VHDXStatusMode mode,
                                            int64_t offset, int64_t bytes,
                                            int64_t *n, int64_t *map,
                                            BlockDriverState **file)
{
    int ret = fault_before() ?: fault_after();

    if (ret < 0) {
        return ret;
    }
    *n = MIN(bytes, CELL - offset % CELL);
    return buffer_is_zero(files[file_of(bs)].data + offset, *n) ?
           BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA;
}

static int memory_reopen_prepare(BDRVReopenState *state,
                                 BlockReopenQueue *queue, Error **errp)
{
    return 0;
}

static BlockDriver bdrv_memory = {
    .format_name            = "vhdx-test-memory",
    .protocol_name          = "vhdx-test-memory",
    .instance_size          = sizeof(MemoryState),
    .bdrv_open              = memory_open,
    .bdrv_reopen_prepare    = memory_reopen_prepare,
    .bdrv_refresh_limits    = memory_refresh_limits,
    .bdrv_co_getlength      = memory_getlength,
    .bdrv_co_preadv         = memory_preadv,
    .bdrv_co_pwritev        = memory_pwritev,
    .bdrv_co_pwrite_zeroes  = memory_pwrite_zeroes,
    .bdrv_co_pdiscard       = memory_pdiscard,
    .bdrv_co_truncate       = memory_truncate,
    .bdrv_co_flush          = memory_flush,
    .bdrv_co_block_status   = memory_block_status,
};

#endif
