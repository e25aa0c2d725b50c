/*
 * VHDX: storing dirty bitmaps
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_DIRTY_STORE_H
#define BLOCK_VHDX_DIRTY_STORE_H

#include "block/vhdx/state.h"

/*
 * Let the file have the persistent bitmaps of the node as they are, if it has
 * not, and close the log.  The node is drained.  Where there is no space for
 * all of their bits, some have more bits than are dirty, which a warning tells;
 * where they could not be stored at all @lost says why, and none of the file
 * counts.  No lock is held.  Returns 0 or -errno of closing the log.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_dirty_settle(BlockDriverState *bs, Error **lost);

/*
 * A command is about to put bits into a bitmap, which the file's must not be
 * taken for, or bitmaps are to be stored or removed: begin a change, and take
 * back a head that the file may have though that has failed.  No lock is held.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_dirty_begin(BlockDriverState *bs);

/*
 * Take the bitmap @name out of the file, if that has it, and make that stable;
 * the others do not count until they are stored.  No lock is held.  Returns 0
 * or -errno; then the file has it as before.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_dirty_remove(BlockDriverState *bs, const char *name, Error **errp);

/*
 * The file has bitmaps, but not what can be read: take out all of it.  No lock
 * is held.  Returns 0, -ENOTSUP where they are of a version that is not known,
 * or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_dirty_drop(BlockDriverState *bs);

/*
 * If the metadata region is longer because of bitmaps, and none is left, let it
 * be as long as it was, and commit that.  Requests are frozen, no lock
 * is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_dirty_shorten_region(BlockDriverState *bs);

#endif
