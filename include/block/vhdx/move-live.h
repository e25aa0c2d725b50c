/*
 * VHDX: moving blocks while requests go on
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_MOVE_LIVE_H
#define BLOCK_VHDX_MOVE_LIVE_H

#include "block/vhdx/move.h"

/*
 * Whether what is under way is to be given up; called now and then.  No lock is
 * held.
 */
typedef bool coroutine_fn VHDXMoveStop(BlockDriverState *bs, void *opaque);

/* What somebody who moves blocks has to say in it */
typedef struct VHDXMoveUser {
    VHDXMoveStop *stop;
    void *opaque;
    int64_t hold_ns;                /* for vhdx_request_try_hold() */
} VHDXMoveUser;

/*
 * As vhdx_move_blocks() and vhdx_move_drop_zeroes(), but of payload blocks
 * alone and while requests go on, which are held off for no more than a moment
 * at the end.  What the blocks of @set are is looked at again then: those that
 * are no longer where they were, or are written to all the time, or in the
 * latter case have been written to, are left alone.  @moved is how many are
 * not, and that is committed.  Requests are reserved, but not held, no lock is
 * held.  Returns 0 or -errno, which is -EAGAIN if @user has stopped it; the
 * image is right in either case.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_move_blocks_live(BlockDriverState *bs, VHDXMoveSet *set,
                      const VHDXMoveUser *user, uint64_t *moved);
int coroutine_fn GRAPH_RDLOCK
vhdx_move_drop_zeroes_live(BlockDriverState *bs, VHDXMoveSet *set,
                           const VHDXMoveUser *user, uint64_t *moved);

#endif
