/*
 * VHDX: finding out what is free
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SPACE_SCAN_H
#define BLOCK_VHDX_SPACE_SCAN_H

#include "block/vhdx/state.h"

/*
 * Make the used map from the BAT, so that space that nothing refers to is
 * found.  grow_lock or commit_lock is held, the latter before any allocation.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_scan(BlockDriverState *bs);

/*
 * Whether the blocks seem to be longer than BlockSize says, an item without
 * checksum.  No lock is held, or one of the CoMutexes.  Returns 1 if so, 0 if
 * not, or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_doubt(BlockDriverState *bs);

/*
 * Know what is free, from one scan: a second one would not know of a place
 * that is given out and not yet named.  Returns 0 or -errno, which is -EIO
 * where what is free can't be known for damage; so it is until the image is
 * opened again, as an entry that is mended may come back with a power cut.
 * grow_lock is held.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_know(BlockDriverState *bs);

/* The same where no lock is held, or commit_lock. */
int coroutine_fn GRAPH_RDLOCK vhdx_space_learn(BlockDriverState *bs);

#endif
