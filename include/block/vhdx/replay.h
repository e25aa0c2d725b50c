/*
 * VHDX: replay of the log, section 2.3
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REPLAY_H
#define BLOCK_VHDX_REPLAY_H

#include "block/vhdx/state.h"

/*
 * Write what @s->replay holds to the file and make the file as long as the log
 * says; no flush.  commit_lock is held.  Can be cut off and done again.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_replay_apply(BlockDriverState *bs);

/*
 * Read @bytes bytes at file offset @offset as they are after the replay.
 * Without one this is a plain read.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_read(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                 void *buf);

/* The same for a request's payload: into @qiov from @qiov_offset on. */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_readv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  QEMUIOVector *qiov, size_t qiov_offset);

/*
 * Whether the log held changes at open that are not yet in place; lock is not
 * needed.
 */
static inline bool vhdx_replay_active(BDRVVHDXState *s)
{
    return s->replay && !qatomic_read(&s->replay_done);
}

/*
 * Whether the not yet applied replay changes any of @bytes bytes at file
 * offset @offset; lock is not needed.
 */
bool vhdx_replay_covers(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/*
 * Read @bytes bytes of the log at @pos, which may go round its end.  Returns 0
 * or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_log_read(BlockDriverState *bs, uint64_t pos, uint32_t bytes,
                     uint8_t *buf);

void vhdx_replay_free(VHDXReplay *replay);

#endif
