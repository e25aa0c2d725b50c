/*
 * VHDX: reading what a child and its parent have by turns
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_MIXED_H
#define BLOCK_VHDX_MIXED_H

#include "block/vhdx/state.h"

/*
 * If the differencing image has many short runs of the parent's sectors and of
 * its own at the start of @bytes bytes at @offset of the disk, read as many of
 * them as come at once into @qiov from @qiov_offset on.  A request is under
 * way.  lock is held, and dropped for I/O.  Returns how many bytes have been
 * read, 0 if there are no such runs, or -errno: then each of them can be read
 * by itself, as it may be others' sectors between that can't be.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_mixed_read(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                QEMUIOVector *qiov, size_t qiov_offset);

#endif
