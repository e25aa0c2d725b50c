/*
 * VHDX: another size of the disk, or place of a region
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_RESIZE_H
#define BLOCK_VHDX_RESIZE_H

#include "block/vhdx/state.h"

/*
 * Move @region, one of @s->regions, to @length bytes at file offset @offset, a
 * place that is taken for it, and which reads as zeros if @zero; the old place
 * is released.  What the new length adds reads as zeros.  Where @offset is the
 * old one @region stays there and gets shorter: what it loses is released.
 * Requests are frozen, no lock is held.  Returns 0 or -errno; then nothing has
 * changed, and the new place has been given back.  Sections 2.2.3 and 2.4.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_region_move(BlockDriverState *bs, VHDXRegion *region, uint64_t offset,
                 uint32_t length, bool zero);

/*
 * Clear what the BAT's region holds from entry @first on, all of it behind the
 * last block, and say how many blocks are given up by that.  Their space is for
 * a scan to find.  The log is open, requests are frozen, no lock is held.
 * Returns their number or -errno.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_rest(BlockDriverState *bs, uint64_t first);

int coroutine_fn GRAPH_RDLOCK
vhdx_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                 PreallocMode prealloc, BdrvRequestFlags flags, Error **errp);

#endif
