/*
 * VHDX: another size of the disk
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_RESIZE_H
#define BLOCK_VHDX_RESIZE_H

#include "block/vhdx/state.h"

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
