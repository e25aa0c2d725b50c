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

/*
 * Whether there is anything but zeros from @offset to @end, which is not behind
 * the file's end, as it is after the replay; @offset goes on until there is.
 * What the node can't tell is read, by way of @buf, which has a MiB.  So many
 * bytes as @budget has may be read, and it gets less; when none is left, the
 * rest is taken for zeros.  Returns 1, 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_find_data(BlockDriverState *bs, uint64_t *offset, uint64_t end,
                      void *buf, uint64_t *budget);

/* As vhdx_replay_read(), into @qiov from @qiov_offset on: for payload */
int coroutine_fn GRAPH_RDLOCK
vhdx_replay_readv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  QEMUIOVector *qiov, size_t qiov_offset);

/*
 * Whether the log held changes at open that are not yet in place, and whether
 * it held some that are by now.  lock is not needed.
 */
bool vhdx_replay_active(BDRVVHDXState *s);
bool vhdx_replay_is_done(BDRVVHDXState *s);

/* All of it is in place and no header names that log.  commit_lock is held. */
void coroutine_fn vhdx_replay_set_done(BDRVVHDXState *s);

/* The length that the file should have by the replay, bytes; 0 without one. */
uint64_t vhdx_replay_last_file_offset(BDRVVHDXState *s);

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

/* Forget it.  No request is under way. */
void vhdx_replay_free(BDRVVHDXState *s);

#endif
