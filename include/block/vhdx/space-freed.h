/*
 * VHDX: freed space, and giving it back to the host
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SPACE_FREED_H
#define BLOCK_VHDX_SPACE_FREED_H

#include "block/vhdx/state.h"

/*
 * Give back a place of @bytes bytes, of vhdx_space_alloc(), that nothing in the
 * file names, whatever a power cut takes back.  @touched tells whether it may
 * have been written to: the host then gets it back when all requests of now
 * have ended.  lock is held.
 */
void vhdx_space_return(BDRVVHDXState *s, uint64_t offset, uint64_t bytes,
                       bool touched);

/*
 * Note that the object of @bytes bytes at @offset is no longer named: its
 * space is free once that is committed and all requests of now have ended.
 * For an object that the log may still write to, vhdx_commit_checkpoint() comes
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
 * How many places wait for a commit, and for requests or the next
 * vhdx_space_reclaim().  lock is held.
 */
unsigned vhdx_space_count_freed(BDRVVHDXState *s);
unsigned vhdx_space_count_committed(BDRVVHDXState *s);

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
 * Give the host back what is free and has not been punched yet, up to @most
 * places.  No lock is held, or commit_lock.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_punch(BlockDriverState *bs, unsigned most);

/*
 * Where much is free at the end of the file, or @any, let the file end where
 * the last object does, in memory: the file's length and the end of what is in
 * use are the smaller ones now, and @size is set to the old size in bytes.
 * commit_lock and grow_lock are held, and the latter until the cut has been
 * undone or is stable.  Returns false, with nothing changed, where there is too
 * little to be cut.
 */
bool vhdx_space_cut_begin(BDRVVHDXState *s, bool any, uint64_t *size);

/* The file has not been cut and still is @size bytes long. */
void vhdx_space_cut_undo(BDRVVHDXState *s, uint64_t size);

/*
 * Cut the file, of @size bytes, to @end bytes; there is no log, or a stable
 * entry says that it has no more: LastFileOffset and FlushedFileOffset are not
 * above @end.  No flush.  Where cutting it fails that is told, once in an open,
 * and nothing else comes of it.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_space_cut(BlockDriverState *bs, uint64_t end, uint64_t size);

/* Whether that has been told.  lock is held. */
bool vhdx_space_cut_is_refused(BDRVVHDXState *s);

/*
 * Whether it is known that the node can't get shorter, so that what is free at
 * the end of the file stays there.  lock is held.
 */
bool vhdx_space_only_grows(BDRVVHDXState *s);

/*
 * A flush has failed, so that changes of the file's length may be gone: set it
 * once more, for the next flush.  commit_lock and grow_lock are held.  Returns
 * 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_space_assure(BlockDriverState *bs);

/*
 * Cut off what lies behind the last object, but not what a fixed image is to
 * keep.  commit_lock is held, no log is open and no request under way.  Errors
 * are told as by vhdx_space_cut().
 */
void coroutine_fn GRAPH_RDLOCK vhdx_space_truncate(BlockDriverState *bs);

#endif
