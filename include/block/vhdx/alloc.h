/*
 * VHDX: places for payload blocks
 *
 * lock is held by all of it, and dropped where something is read or written.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_ALLOC_H
#define BLOCK_VHDX_ALLOC_H

#include "block/vhdx/extent.h"

/*
 * Find, or make, the places for the beginning of a write of @bytes bytes at
 * @offset.  What is new has a reference to its allocation in @e.  Returns 0, or
 * -errno where there is none for the first block; see vhdx_space_alloc().
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  VHDXExtent *e);

/*
 * Whether all of @e is new, in places that read as zeros, and read as zeros
 * itself: then the BAT may name it before its data is written.
 */
bool vhdx_alloc_is_zero(BDRVVHDXState *s, const VHDXExtent *e);

/*
 * Let it do so.  The blocks are present from now on, whatever becomes of the
 * data.  Returns 0, or -errno of reading an entry.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_publish_early(BlockDriverState *bs, const VHDXExtent *e);

/*
 * The data of @e, at @offset of the disk, has been written, or not: @ret.  If
 * it has, the BAT gets to name the blocks that are new, and the bits of the
 * sectors of a block that is PARTIALLY_PRESENT are set.  Where the block was
 * made to read as zeros before it had a place, the data is lost with that: @e
 * gets no bytes, and all is to be done again.  Returns @ret, or -errno of
 * reading an entry.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_complete(BlockDriverState *bs, uint64_t offset, VHDXExtent *e,
                    int ret);

/*
 * Take the place at file offset @place away from @block, which is present and
 * reads as zeros then.
 */
void vhdx_alloc_free(BDRVVHDXState *s, uint64_t block, uint64_t place);

/*
 * Let @block, which has no place and reads as the parent, read as zeros.  What
 * is being written to it gets another place.
 */
void vhdx_alloc_cover(BDRVVHDXState *s, uint64_t block);

/*
 * A block that is not present reads as zeros.  But one that others are writing
 * to may get its place when they succeed, and a write that has failed may have
 * left something there: zero @bytes bytes at @offset of the block in it.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_zero(BlockDriverState *bs, uint64_t block, uint64_t offset,
                uint64_t bytes, BdrvRequestFlags flags);

#endif
