/*
 * VHDX: commits, section 2.3
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMMIT_H
#define BLOCK_VHDX_COMMIT_H

#include "block/vhdx/state.h"

/*
 * Make stable all changes that were complete when the call began.  No lock is
 * held.  Returns 0 or -errno; -ENOSPC may be tried again.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_commit(BlockDriverState *bs);

/* The same for a caller that holds commit_lock. */
int coroutine_fn GRAPH_RDLOCK vhdx_commit_locked(BlockDriverState *bs);

/*
 * Let the file end where the last object does, if that is known and the log is
 * open.  A commit does so where there is much behind it.  No lock is held.
 */
void coroutine_fn GRAPH_RDLOCK vhdx_commit_cut(BlockDriverState *bs);

/*
 * Write a log entry for what has been changed so far, and let the next commit
 * flush it, which then has less to wait for: for a caller whose data is being
 * written meanwhile.  It must do no harm if the entry becomes stable before the
 * data.  Where it can't be done now nothing happens, as the next commit does it
 * all the same.  commit_lock and lock are held; lock is dropped.
 */
void coroutine_fn GRAPH_RDLOCK vhdx_commit_early(BlockDriverState *bs);

/*
 * Such an entry is to count for nothing: the log is taken back, or what is in
 * memory given up.  commit_lock is held.
 */
void vhdx_commit_forget_early(BDRVVHDXState *s);

/*
 * If a flush has failed, see to the file's length.  commit_lock is held.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_commit_assure_length(BlockDriverState *bs);

/*
 * Whether changed pages take half of the cache, or the list of what was freed
 * is long, so that the caller has to call vhdx_commit_relieve().  While one
 * request does so this is false for others, unless changed pages fill all of
 * the cache.  lock is held.
 */
bool vhdx_commit_relief_due(BDRVVHDXState *s);

/*
 * Commit because that is due.  No lock is held.  Returns 0 or -errno, as
 * vhdx_commit().
 */
int coroutine_fn GRAPH_RDLOCK vhdx_commit_relieve(BlockDriverState *bs);

/*
 * Drop lock, which is held, and commit if that is due.  Returns 0 or -errno, as
 * vhdx_commit().
 */
int coroutine_fn GRAPH_RDLOCK vhdx_commit_unlock(BlockDriverState *bs);

/*
 * Replace @bytes bytes of metadata at file offset @offset by @buf, as
 * vhdx_cache_write() does, and commit if that is due.  The log is open, no
 * lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_commit_put(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                const void *buf);

/*
 * Commit, and put everything in place so that no replay writes there again:
 * the log's tail is past all of it, and stable.  No lock is held.  Returns 0
 * or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_commit_checkpoint(BlockDriverState *bs);

/* The same for a caller that holds commit_lock. */
int coroutine_fn GRAPH_RDLOCK
vhdx_commit_checkpoint_locked(BlockDriverState *bs);

#endif
