/*
 * VHDX: reads, and what is where
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_READ_H
#define BLOCK_VHDX_READ_H

#include "block/vhdx/state.h"

/* The driver's .bdrv_co_preadv_part.  No lock is held. */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_preadv_part(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    QEMUIOVector *qiov, size_t qiov_offset,
                    BdrvRequestFlags flags);

/* The driver's .bdrv_co_block_status.  No lock is held. */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_block_status(BlockDriverState *bs, VHDXStatusMode mode, int64_t offset,
                     int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file);

#endif
