/*
 * VHDX: clearing BAT entries, and covering a parent with them
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_BAT_CLEAR_H
#define BLOCK_VHDX_BAT_CLEAR_H

#include "block/vhdx/state.h"

/*
 * Clear BAT entries before @end that mean nothing to a disk of @geo: see
 * vhdx_bat_index_is_behind().  With @release the blocks that they name get free
 * with the next commit, and the places of sector bitmap blocks, a uint64_t in
 * bytes each, are appended to @bitmaps, for vhdx_bat_free_bitmaps(); else that
 * may be NULL.  The log is open, requests are frozen, no lock is held.  Returns
 * -errno, or how many entries named something that may have been a block, but
 * has not been released.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear(BlockDriverState *bs, const VHDXGeometry *geo, uint64_t end,
               bool release, GArray *bitmaps);

/*
 * Clear what the BAT's region holds behind the last block, and say how many
 * blocks are given up by that.  Their space is for a scan to find.  The log is
 * open, requests are frozen, no lock is held.  Returns their number or -errno.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_rest(BlockDriverState *bs);

/*
 * Let the places @bitmaps of sector bitmap blocks get free, which no entry in
 * memory names any more.  That is committed, and all of the log put in place
 * before, as a replay would write to them.  Requests are frozen, no lock is
 * held.  Returns 0, or -errno: then a scan will find them.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_free_bitmaps(BlockDriverState *bs, const GArray *bitmaps);

/*
 * Entries behind the last block, up to @end, get a meaning when the disk gets
 * longer, and what is left there goes.  Where one names data that no other
 * names that can't be: it may be the disk's, whose size is damaged.  Requests
 * are frozen, no lock is held.  Returns 0, or -errno with @errp set.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_check_rest(BlockDriverState *bs, uint64_t end, Error **errp);

/*
 * Whether there is a trace of a parent in an image that has none: a Parent
 * Locator, or between entries @first and @end a block that does not read as
 * FULLY_PRESENT for the sector bitmap of its chunk, whose entry is the only one
 * to tell.  No lock is held, and the log need not be open.  Returns 0, or
 * -EINVAL with @errp set if there is, or it can't be read.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_clear_check_parent(BlockDriverState *bs, uint64_t first, uint64_t end,
                            Error **errp);

/*
 * Let blocks @first to @end - 1 read as zeros, those of them that are
 * NOT_PRESENT.  The BAT has room for them.  The log is open, requests are
 * frozen, no lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_cover(BlockDriverState *bs, uint64_t first, uint64_t end);

#endif
