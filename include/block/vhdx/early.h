/*
 * VHDX: log entries beside their data
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_EARLY_H
#define BLOCK_VHDX_EARLY_H

#include "block/vhdx/extent.h"

/*
 * It pays where the write of an entry takes so long, in nanoseconds.  Tests set
 * that to 0 in an open image: then it is done wherever it is allowed.
 */
#define VHDX_EARLY_NS       (30 * SCALE_US)

/* A guest that has flushed so often after one write will do so again. */
#define VHDX_EARLY_TURNS    4

/*
 * Whether a write with @flags to @e, of which vhdx_alloc_extent() knows, is to
 * be done by vhdx_early_pwritev(): that is allowed, and is likely to save time.
 * lock is held.
 */
bool vhdx_early_pays(BDRVVHDXState *s, const VHDXExtent *e,
                     BdrvRequestFlags flags);

/*
 * Write @e from @qiov, and at the same time the log entry that names it.  Where
 * that can't be, the next commit writes it.  No lock is held.  Returns 0, or
 * -errno of the data.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_early_pwritev(BlockDriverState *bs, const VHDXExtent *e,
                   QEMUIOVector *qiov, size_t qiov_offset);

/* A guest's write has begun, or a flush.  lock is held. */
void vhdx_early_note_write(BDRVVHDXState *s);
void vhdx_early_note_flush(BDRVVHDXState *s);

#endif
