/*
 * VHDX unit tests: what a filter of ours does where it does nothing of its own
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_FILTER_H
#define TESTS_UNIT_VHDX_TEST_FILTER_H

#include "qapi/error.h"
#include "block/block_int.h"
#include "block/vhdx/compat.h"

static inline int coroutine_fn GRAPH_RDLOCK
filter_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
              QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

static inline int coroutine_fn GRAPH_RDLOCK
filter_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
}

static inline int coroutine_fn GRAPH_RDLOCK
filter_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags)
{
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

static inline int coroutine_fn GRAPH_RDLOCK
filter_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    return bdrv_co_truncate(bs->file, offset, exact, prealloc, flags, errp);
}

static inline int coroutine_fn GRAPH_RDLOCK filter_flush(BlockDriverState *bs)
{
    return bdrv_co_flush(bs->file->bs);
}

static inline int filter_open(BlockDriverState *bs, QDict *options, int flags,
                              Error **errp)
{
    int ret = bdrv_open_file_child(NULL, options, "file", bs, errp);

    if (ret < 0) {
        return ret;
    }
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    bs->total_sectors = bs->file->bs->total_sectors;
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;
}

static inline int filter_reopen_prepare(BDRVReopenState *state,
                                        BlockReopenQueue *queue, Error **errp)
{
    return 0;
}

#endif
