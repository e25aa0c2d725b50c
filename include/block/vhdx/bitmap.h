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
 * could be.  lock is held; it is dropped where a page has to be read, and if
 * another request changes something then, nothing is found: the caller has to
 * look again.  Returns 0, 1 if that is so, -EIO with a message where there is
 * no bitmap, or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_get_run(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                    bool *in_block, uint64_t *run);

/* Runs that are looked for at once lie in so many bytes. */
#define VHDX_RUNS_BYTES     MiB

/* Which sectors of a range are in their block, and which in the parent */
typedef struct VHDXBitmapRuns {
    bool in_block;                  /* the first run; they take turns */
    unsigned count;
    /* Where each ends, in bytes from the start of the range */
    uint32_t end[VHDX_RUNS_BYTES / BDRV_SECTOR_SIZE];
} VHDXBitmapRuns;

/*
 * The same for all runs in @bytes bytes at @offset of the disk, whole sectors
 * within a block and no more than VHDX_RUNS_BYTES.  @runs may end before them.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_get_runs(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                     VHDXBitmapRuns *runs);

/*
 * The sector bitmap block that is about to get @place reads as zeros, so that
 * none of its pages has to be read; it is to be given another use, or has not
 * got the place.  lock is held.
 */
void vhdx_bitmap_note_new(BDRVVHDXState *s, uint64_t place);
void vhdx_bitmap_forget_new(BDRVVHDXState *s, uint64_t place);

/*
 * Set the bits of @bytes bytes at @offset of the disk, whole sectors within a
 * block, in the sector bitmap block at @place; with @clear, after clearing all
 * those of the block.  @full gets whether all of the block's are set then, as
 * far as that is in memory.  The log is open.  lock is held; it is dropped
 * where a page has to be read, and then nothing is done: the caller has to look
 * again.  Returns 0, 1 if it may have been dropped, or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_set(BlockDriverState *bs, uint64_t place, uint64_t offset,
                uint64_t bytes, bool clear, bool *full);

/*
 * Clear the bits of @bytes bytes at @offset of the disk, whole sectors within a
 * block, in the sector bitmap block at @place.  Else as vhdx_bitmap_set().
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_clear(BlockDriverState *bs, uint64_t place, uint64_t offset,
                  uint64_t bytes);

/*
 * Whether @block, which is PARTIALLY_PRESENT, has all of its sectors that the
 * disk has.  No lock is held.  Returns 1, 0, or -errno as
 * vhdx_bitmap_get_run().
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bitmap_is_full(BlockDriverState *bs, uint64_t block);

#endif
