/*
 * VHDX: requests that change something, and flushes
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_IO_H
#define BLOCK_VHDX_IO_H

#include "block/vhdx/state.h"

/*
 * What the driver's .bdrv_co_pwritev_part, .bdrv_co_pwrite_zeroes and
 * .bdrv_co_pdiscard have to be.  No lock is held.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_pwritev_part(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QEMUIOVector *qiov, size_t qiov_offset,
                     BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
vhdx_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);

/*
 * Let @block, if it has no place, have one with zeros, as if a guest had
 * written them.  The image has no parent.  No lock is held.  Returns 0 or
 * -errno: -EIO also if the disk has become too short for it.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_block_place(BlockDriverState *bs, uint64_t block);

/* .bdrv_co_flush: all that has been completed gets stable.  No lock is held. */
int coroutine_fn GRAPH_RDLOCK vhdx_co_flush(BlockDriverState *bs);

#endif
