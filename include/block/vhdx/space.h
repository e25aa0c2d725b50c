/*
 * VHDX: free space in the file
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SPACE_H
#define BLOCK_VHDX_SPACE_H

#include "block/vhdx/state.h"

/* Start with a file of @size bytes.  No lock is held. */
void vhdx_space_init(BDRVVHDXState *s, uint64_t size);
void vhdx_space_free(BDRVVHDXState *s);

/*
 * The replay is in place: the last object may end where the file does.  lock is
 * held.
 */
void vhdx_space_replayed(BDRVVHDXState *s);

/*
 * It has been found that the last object ends at file offset @end.  What lies
 * behind may be cut off, also from a fixed image.  lock is held.
 */
void vhdx_space_set_end(BDRVVHDXState *s, uint64_t end);

/* A fixed image may be cut by @bytes bytes more.  lock is held. */
void vhdx_space_keep_less(BDRVVHDXState *s, uint64_t bytes);

/*
 * Where the last object ends, as far as it is known, bytes.  lock is held, or
 * requests are frozen.
 */
uint64_t vhdx_space_end(BDRVVHDXState *s);

/*
 * Whether it is known what is free: the BAT has been scanned.  Whether that has
 * found a place that may be two blocks', and how many entries behind the last
 * one that vhdx_bat_may_be_block().  lock is held, or requests are frozen.
 */
bool vhdx_space_is_known(BDRVVHDXState *s);
bool vhdx_space_overlaps(BDRVVHDXState *s);
uint64_t vhdx_space_lost(BDRVVHDXState *s);

/*
 * An entry was not right: from now on nothing is given out that only the BAT
 * calls free.  lock is held.
 */
void vhdx_space_note_damage(BDRVVHDXState *s);

/*
 * Keep off all of the last block, of which the file may have no more than what
 * the disk needs.  commit_lock is held, before any allocation.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_reserve_last_block(BlockDriverState *bs);

/*
 * Set the file's length to what the node has now; the block layer alone would
 * tell what it knew before.  What is new to us is not known to be zero.  No
 * request takes space meanwhile, or grow_lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_measure(BlockDriverState *bs);

/*
 * Find a place of @bytes bytes, a multiple of 1 MiB.  @zero tells whether it
 * reads as zeros and will still do after a power cut.  lock is held; it may be
 * dropped before the place is found, but not after: a place that neither the
 * table of allocations (request.h) nor the BAT has may be found again by a
 * scan.  Returns the offset in bytes, or -errno: -ENOSPC where file and node
 * are full, -EIO where the BAT has an entry that can't be right.
 */
int64_t coroutine_fn GRAPH_RDLOCK
vhdx_space_alloc(BlockDriverState *bs, uint64_t bytes, bool *zero);

/*
 * Take the place at @offset for the block whose entry keeps it without using
 * it, if it is in the file and nothing else's; what it holds may be old.  lock
 * is held, and dropped if the space has not been scanned.  Returns 1 if it is
 * taken, 0 if it can't be had, or -errno as vhdx_space_alloc().
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_take_kept(BlockDriverState *bs, uint64_t block, uint64_t offset);

/* The place at @offset is to be kept again: no entry uses it.  lock is held. */
void vhdx_space_keep(BDRVVHDXState *s, uint64_t offset);

/*
 * Take the first place of @bytes bytes, a multiple of 1 MiB, that the map shows
 * as free and that ends at file offset @limit or before; it is not known to
 * read as zeros.  lock is held, and the space has been scanned.  Returns the
 * offset in bytes, or 0 if there is none.
 */
uint64_t vhdx_space_take_below(BDRVVHDXState *s, uint64_t bytes,
                               uint64_t limit);

/*
 * How many bytes the map shows as used from file offset @from to @to, multiples
 * of 1 MiB.  lock is held, and the space has been scanned.
 */
uint64_t vhdx_space_count_used(BDRVVHDXState *s, uint64_t from, uint64_t to);

/*
 * Whether the MiB before file offset @offset, a multiple of 1 MiB, is free, as
 * far as the map shows.  No lock is held, and the space has been scanned.
 */
bool vhdx_space_is_free_before(BDRVVHDXState *s, uint64_t offset);

/*
 * Make the file at least @end bytes long.  No lock is held, or commit_lock.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_extend_to(BlockDriverState *bs, uint64_t end);

/*
 * Know what is free, and have room for @blocks payload blocks if the node can
 * grow: between others, and at the end, where it grows by @prealloc, so that
 * there is no scan while they are taken.  No lock is held, or commit_lock.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_reserve(BlockDriverState *bs, uint64_t blocks,
                   PreallocMode prealloc);

/*
 * Make @bytes bytes at file offset @offset read as zeros, by requests with
 * @flags, but for holes, which do so already.  No lock is held, or one of the
 * CoMutexes.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_zero(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                BdrvRequestFlags flags);

/* By how much a file of @size bytes grows. */
uint64_t vhdx_space_grow_step(BDRVVHDXState *s, uint64_t size);

#endif
