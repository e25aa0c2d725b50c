/*
 * VHDX: compaction while requests go on
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMPACT_LIVE_H
#define BLOCK_VHDX_COMPACT_LIVE_H

#include "block/vhdx/move-live.h"

/*
 * Let others go on: nothing is held, the image may be drained, reopened or
 * changed in any way.  Returns 0, or -errno if it is enough.
 */
typedef int coroutine_fn VHDXCompactPause(BlockDriverState *bs, void *opaque);

/* What somebody who compacts has to say in it, always with @opaque */
typedef struct VHDXCompactUser {
    VHDXCompactPause *pause;
    VHDXMoveUser move;              /* stopped if others wait for that */
    BlockDriverAmendStatusCB *status;
    void *opaque;
} VHDXCompactUser;

/*
 * As vhdx_co_compact(), but requests go on.  What @user has for stopping it is
 * looked at every few milliseconds.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_compact_live(BlockDriverState *bs, bool zeroes,
                     const VHDXCompactUser *user, Error **errp);

#endif
