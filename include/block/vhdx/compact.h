/*
 * VHDX: compaction
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMPACT_H
#define BLOCK_VHDX_COMPACT_H

#include "block/vhdx/state.h"

/*
 * Make the file of a dynamic image, to which vhdx_compact_check() has said yes,
 * shorter, by moving blocks into free space, and first, with @zeroes, by giving
 * up blocks full of zeros.  @status_cb is called with @cb_opaque as it goes on.
 * The disk's content does not change.  Requests wait meanwhile.  No lock is
 * held.  Returns 0, or -errno with @errp set: then the image is whole, and it
 * may be tried again.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_compact(BlockDriverState *bs, bool zeroes,
                BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                Error **errp);

/*
 * Whether an image like this can be compacted: a dynamic one, that is not in
 * doubt about having a parent.  Returns 0 or -errno.
 */
int vhdx_compact_check(BDRVVHDXState *s, Error **errp);

#endif
