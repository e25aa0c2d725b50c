/*
 * VHDX: changes of an open image from outside
 *
 * All of it is called in the main loop.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REOPEN_H
#define BLOCK_VHDX_REOPEN_H

#include "block/vhdx/compat.h"

#define VHDX_OPT_CACHE_SIZE "cache-size"

/*
 * Take the cache's size in bytes out of @options.  Returns 0 or -EINVAL with
 * @errp set.
 */
int vhdx_reopen_get_cache_size(QDict *options, uint64_t *size, Error **errp);

/*
 * Put everything in place, so that the file is whole without a log.  Returns 0
 * or -errno with @errp set.
 */
int coroutine_mixed_fn vhdx_reopen_settle(BlockDriverState *bs, Error **errp);

/* The driver's functions of these names */
int vhdx_reopen_prepare(BDRVReopenState *state, BlockReopenQueue *queue,
                        Error **errp);
void vhdx_reopen_commit(BDRVReopenState *state);
void GRAPH_UNLOCKED vhdx_reopen_commit_post(BDRVReopenState *state);
void vhdx_reopen_abort(BDRVReopenState *state);

/*
 * .bdrv_inactivate: the block layer has drained the node, and lets no request
 * come before it is inactive: one that is under way now would change an image
 * without a log.
 */
int GRAPH_RDLOCK vhdx_reopen_inactivate(BlockDriverState *bs);

/*
 * .bdrv_co_invalidate_cache: the image is this process's now: what was read of
 * it may be out of date.  If it can't be read, or does not go with its parent,
 * it stays inactive as it is, and that may be tried again.
 */
void coroutine_fn GRAPH_RDLOCK
vhdx_reopen_activate(BlockDriverState *bs, Error **errp);

#endif
