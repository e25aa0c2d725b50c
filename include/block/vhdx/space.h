/*
 * VHDX: free space in the file
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SPACE_H
#define BLOCK_VHDX_SPACE_H

#include "block/vhdx/state.h"

/* Start with a file of @size bytes.  Called by open. */
void vhdx_space_init(BDRVVHDXState *s, uint64_t size);
void vhdx_space_free(BDRVVHDXState *s);

/*
 * Keep off all of the last block, of which the file may have no more than what
 * the disk needs.  commit_lock is held, before any allocation.
 */
void coroutine_fn GRAPH_RDLOCK vhdx_space_begin(BlockDriverState *bs);

/*
 * Set @s->space's size to what the node has now; the block layer alone would
 * tell what it knew before.  What is new to us is not known to be zero.  No
 * request takes space meanwhile, or grow_lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_measure(BlockDriverState *bs);

/*
 * Find a place of @bytes bytes, a multiple of 1 MiB.  @zero tells whether it
 * reads as zeros and will still do after a power cut.  lock is held; it may be
 * dropped before the place is found, but not after: a place that is neither in
 * @s->allocs nor in the BAT may be found again by a scan.  Returns the offset
 * in bytes, or -errno: -ENOSPC where file and node are full, -EIO where the BAT
 * has an entry that can't be right.
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
uint64_t vhdx_space_used(BDRVVHDXState *s, uint64_t from, uint64_t to);

/*
 * Make the file at least @end bytes long.  No lock is held, or commit_lock.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_cover(BlockDriverState *bs, uint64_t end);

/*
 * Know what is free, and have @bytes more of it if the node can grow, by
 * @prealloc, so that there is no scan while that is taken.  No lock is held, or
 * commit_lock.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_reserve(BlockDriverState *bs, uint64_t bytes, PreallocMode prealloc);

/*
 * Give back a place of @bytes bytes, of vhdx_space_alloc(), that nothing in the
 * file has ever named.  @touched tells whether it may have been written to: the
 * host then gets it back when all requests of now have ended.  lock is held.
 */
void vhdx_space_abandon(BDRVVHDXState *s, uint64_t offset, uint64_t bytes,
                        bool touched);

/*
 * Note that the object of @bytes bytes at @offset is no longer named: its
 * space is free once that is committed and all requests of now have ended.
 * For an object that the log may still write to, vhdx_log_checkpoint() comes
 * first.  lock is held.
 */
void vhdx_space_release(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/*
 * A commit begins that tells of what was released until now; it has ended, and
 * is @stable or not.  commit_lock and lock are held by both.
 */
void vhdx_space_commit_begin(BDRVVHDXState *s);
void vhdx_space_commit_end(BDRVVHDXState *s, bool stable);

/* Whether space waits for a commit or for requests.  lock is held. */
bool vhdx_space_pending(BDRVVHDXState *s);

/*
 * Whether there is nothing for vhdx_space_reclaim() but what waits for
 * requests.  lock is held.
 */
bool vhdx_space_waits(BDRVVHDXState *s);

/*
 * Open for reuse what is committed and no longer in use by a request; it is to
 * be punched.  No lock is held, or commit_lock.  Returns whether there is
 * something for vhdx_space_cut_begin().
 */
bool coroutine_fn GRAPH_RDLOCK vhdx_space_reclaim(BlockDriverState *bs);

/*
 * Make @bytes bytes at file offset @offset read as zeros, by requests with
 * @flags, but for holes, which do so already.  No lock is held, or one of the
 * CoMutexes.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_space_zero(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                BdrvRequestFlags flags);

/*
 * Give the host back what is free and has not been punched yet, up to @most
 * places.  No lock is held, or commit_lock.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_punch(BlockDriverState *bs, unsigned most);

/*
 * Where much is free at the end of the file, let the file end where the last
 * object does, in memory: @s->space's size and end are the smaller ones now,
 * and @size is set to the old size in bytes.  commit_lock and grow_lock are
 * held, and the latter until the cut has been undone or is stable.  Returns
 * false, with nothing changed, where there is too little to be cut.
 */
bool vhdx_space_cut_begin(BDRVVHDXState *s, uint64_t *size);

/* The file has not been cut and still is @size bytes long. */
void vhdx_space_cut_undo(BDRVVHDXState *s, uint64_t size);

/*
 * Cut the file, of @size bytes, to @end bytes; there is no log, or a stable
 * entry says that it has no more: LastFileOffset and FlushedFileOffset are not
 * above @end.  No flush.  Where it can't be cut that is told, once in an open,
 * and nothing else comes of it.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_cut(BlockDriverState *bs, uint64_t end, uint64_t size);

/*
 * A flush has failed, so that changes of the file's length may be gone: set it
 * once more, for the next flush.  commit_lock and grow_lock are held.  Returns
 * 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_assure(BlockDriverState *bs);

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
 * Cut off what lies behind the last object, but not what a fixed image is to
 * keep.  commit_lock is held, no log is open and no request under way.  Errors
 * are told as by vhdx_space_cut().
 */
void coroutine_fn GRAPH_RDLOCK vhdx_space_trim(BlockDriverState *bs);

#endif
