/*
 * VHDX: reads
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

#endif
