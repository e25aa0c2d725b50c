/*
 * VHDX: the block allocation table, section 2.5
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_BAT_H
#define BLOCK_VHDX_BAT_H

#include "block/vhdx/bat-entry.h"

/*
 * Get the BAT entry of payload block @block, judged: UNMAPPED_DRAFT comes back
 * as UNMAPPED, offsets that mean nothing as 0.  UNMAPPED and UNDEFINED may keep
 * one, which may be anything: see vhdx_space_take_kept().  lock is held; see
 * vhdx_cache_get().  Returns 0, -EIO with a message for an entry that can't be
 * right, which comes back as it is, or -errno of reading, with an entry of 0.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_get(BlockDriverState *bs, uint64_t block, uint64_t *entry);

/*
 * The same for a run of blocks that are as @block is, one after the other in
 * the file if they are present; @count is their number, from 1 to @most, and
 * may be less than it could be.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_get_run(BlockDriverState *bs, uint64_t block, uint64_t most,
                 uint64_t *entry, uint64_t *count);

/*
 * How many bytes of payload block @block can be read though vhdx_bat_get() has
 * returned -EIO and @entry for it: its beginning, where the file was cut off
 * within the block.  0 if none.  lock is held.
 */
uint64_t vhdx_bat_get_rest(BDRVVHDXState *s, uint64_t block, uint64_t entry);

/*
 * How many bytes longer the file would have to be for all that its blocks
 * need.  Goes through all of the BAT.  No lock is held.  Returns 0 if it is
 * long enough, or -errno of reading.
 */
int64_t coroutine_fn GRAPH_RDLOCK vhdx_bat_missing(BlockDriverState *bs);

/* Whether the BAT entry of @block is in memory.  lock is held. */
bool vhdx_bat_is_loaded(BDRVVHDXState *s, uint64_t block);

/*
 * Where the sector bitmap block of chunk @chunk is, as @place, in bytes, or 0
 * if there is none.  lock is held; it is dropped where the entry has to be
 * read, and then nothing is found: the caller has to look again.  Returns 0, 1
 * if it has been dropped, -EIO with a message for an entry that can't be right,
 * or -errno of reading.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_get_bitmap(BlockDriverState *bs, uint64_t chunk, uint64_t *place);

/* The same for the entry as it stands there, @raw, which may be anything. */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_get_bitmap_raw(BlockDriverState *bs, uint64_t chunk, uint64_t *raw);

/*
 * Let the sector bitmap block of @chunk be at @place, or 0: let there be none.
 * lock is held, and has been since vhdx_bat_get_bitmap() was called for it and
 * returned 0.
 */
void vhdx_bat_set_bitmap(BDRVVHDXState *s, uint64_t chunk, uint64_t place);

/*
 * PARTIALLY_PRESENT is for images with a parent.  In one without any trace of
 * one, no Parent Locator and no place in the entry of the chunk's sector
 * bitmap, it is read as FULLY_PRESENT, as Windows does.  Returns raw entry @raw
 * with index @index as it is read in this respect; as it is where the other
 * entry can't be read.  No lock is held.
 */
uint64_t coroutine_fn GRAPH_RDLOCK
vhdx_bat_entry_resolve(BlockDriverState *bs, uint64_t index, uint64_t raw);

/*
 * Set the BAT entry of payload block @block.  lock is held, and has been since
 * vhdx_bat_get() was called for the block, so that its page is in memory.
 */
void vhdx_bat_set(BDRVVHDXState *s, uint64_t block, uint64_t entry);

/*
 * Gets @count raw entries of the BAT from @index on, in a coroutine that holds
 * the graph lock.
 */
typedef int coroutine_fn
VHDXBatFunc(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
            uint64_t count, void *opaque);

/*
 * Go through entries @first to @end - 1 of the BAT region, as it is now with
 * all changes: call @func for them in runs, but not for many zeros in a row.
 * Ends early where @func returns non-zero, and returns that; otherwise 0 or
 * -errno of reading.  No lock is held, or commit_lock.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_bat_walk(BlockDriverState *bs, uint64_t first, uint64_t end,
              VHDXBatFunc *func, void *opaque);

#endif
