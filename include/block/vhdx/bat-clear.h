/*
 * VHDX: clearing BAT entries
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_BAT_CLEAR_H
#define BLOCK_VHDX_BAT_CLEAR_H

#include "block/vhdx/state.h"

/*
 * Clear BAT entries from @first to @end - 1.  With @release the blocks that
 * they name get free with the next commit.  The log is open, requests are
 * frozen, no lock is held.  Returns -errno, or how many entries named something
 * that may have been a block, but has not been released.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear(BlockDriverState *bs, uint64_t first, uint64_t end,
               bool release);

/*
 * Clear what the BAT's region holds from entry @first on, all of it behind the
 * last block, and say how many blocks are given up by that.  Their space is for
 * a scan to find.  The log is open, requests are frozen, no lock is held.
 * Returns their number or -errno.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_rest(BlockDriverState *bs, uint64_t first);

/*
 * Entries behind the last block, up to @end, get a meaning when the disk gets
 * longer, and what is left there goes.  Where one names data that no other
 * names that can't be: it may be the disk's, whose size is damaged.  Requests
 * are frozen, no lock is held.  Returns 0, or -errno with @errp set.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_check_rest(BlockDriverState *bs, uint64_t end, Error **errp);

#endif
