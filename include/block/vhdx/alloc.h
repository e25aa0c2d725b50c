/*
 * VHDX: places for payload blocks
 *
 * lock is held by all of it, and dropped where something is read or written.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_ALLOC_H
#define BLOCK_VHDX_ALLOC_H

#include "block/vhdx/request.h"

/*
 * Get the place of payload block @block, in bytes from the start of the file:
 * that of its BAT entry, with @alloc NULL, or a new one with a reference to its
 * @alloc.  Returns 0 or -errno; see vhdx_space_alloc().
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_get(BlockDriverState *bs, uint64_t block, uint64_t *place,
               VHDXAlloc **alloc);

/* Drop a reference.  The last one gives back a place that no entry names. */
void vhdx_alloc_unref(BDRVVHDXState *s, VHDXAlloc *alloc);

/*
 * Set the BAT entry of a block that now holds data, if nobody has yet.  Returns
 * 0, or -errno of reading the entry.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_publish(BlockDriverState *bs, VHDXAlloc *alloc);

/*
 * Take the place at file offset @place away from @block, which is present and
 * reads as zeros then.
 */
void vhdx_alloc_free(BDRVVHDXState *s, uint64_t block, uint64_t place);

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
