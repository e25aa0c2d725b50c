/*
 * VHDX: sector bitmaps of a differencing image, section 2.4.2
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_BITMAP_H
#define BLOCK_VHDX_BITMAP_H

#include "block/vhdx/state.h"

/*
 * Find whether the sector at @offset of the disk is in its block, which is
 * PARTIALLY_PRESENT, or in the parent: @in_block.  @run gets how many of @bytes
 * bytes, which end within the block, that is true for; it may be less than it
 * could be.  lock is held; it is dropped where a page has to be read, and then
 * nothing is found: the caller has to look again.  Returns 0, 1 if it has been
 * dropped, -EIO with a message where there is no bitmap, or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_get_run(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                    bool *in_block, uint64_t *run);

/*
 * Set the bits of @bytes bytes at @offset of the disk, whole sectors within a
 * block, in the sector bitmap block at @place; with @clear, after clearing all
 * those of the block.  @full gets whether all of the block's are set then, as
 * far as that is in memory.  The log is open.  lock is held; it is dropped
 * where a page has to be read, and then nothing is done: the caller has to look
 * again.  Returns 0, 1 if it has been dropped, or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_set(BlockDriverState *bs, uint64_t place, uint64_t offset,
                uint64_t bytes, bool clear, bool *full);

#endif
