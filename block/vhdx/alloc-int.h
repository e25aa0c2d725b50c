/*
 * VHDX: places for blocks, private to alloc*.c
 *
 * lock is held by all of it, and dropped where something is read or written.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_ALLOC_INT_H
#define BLOCK_VHDX_ALLOC_INT_H

#include "block/vhdx/extent.h"

/*
 * Enter a place of @bytes bytes at @offset for the block with BAT index @index,
 * with a reference for the caller in @alloc, unless another request has done so
 * meanwhile.
 */
void vhdx_alloc_enter(BDRVVHDXState *s, uint64_t index, uint64_t offset,
                      uint64_t bytes, bool kept, bool zero, VHDXAlloc **alloc);

/* Let the caller have a reference to @alloc, ready to be written to. */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_share(BlockDriverState *bs, VHDXAlloc *alloc);

/*
 * Get the place of payload block @block, in bytes from the start of the file:
 * that of its BAT entry, with @alloc NULL, or a new one with a reference to its
 * @alloc.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_get(BlockDriverState *bs, uint64_t block, uint64_t *place,
               VHDXAlloc **alloc);

/*
 * Note that the BAT names the place of @alloc now, which the next commit must
 * not tell before the data is stable if the place reads as anything else.
 */
void vhdx_alloc_published(BDRVVHDXState *s, VHDXAlloc *alloc);

/* Drop a reference.  The last one gives back a place that no entry names. */
void vhdx_alloc_unref(BDRVVHDXState *s, VHDXAlloc *alloc);

/*
 * The same as vhdx_alloc_extent() in a differencing image: an extent of one
 * block, as what becomes of its entry depends on all of it.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_child_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                        VHDXExtent *e);

/*
 * What has been written at @offset of the disk is in @e: let the block's entry
 * and its sectors' bits tell of it.  Returns 0, -EAGAIN if the block was made
 * to read as zeros before it had its place, or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_alloc_child_publish(BlockDriverState *bs, uint64_t offset,
                         const VHDXExtent *e);

#endif
