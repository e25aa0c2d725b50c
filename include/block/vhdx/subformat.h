/*
 * VHDX: dynamic and fixed images
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SUBFORMAT_H
#define BLOCK_VHDX_SUBFORMAT_H

#include "block/vhdx/compact-live.h"

/* Whether the image can be made @fixed or dynamic; else @errp says why not. */
bool vhdx_subformat_allowed(BDRVVHDXState *s, bool fixed, Error **errp);

/*
 * Make the image a fixed one, with the host's space as @prealloc asks, if
 * vhdx_subformat_allowed().  @status_cb is called with @cb_opaque as it goes
 * on.  The disk's content does not change.  With @user requests go on, and wait
 * at the end; without they wait meanwhile.  No lock is held.  Returns 0, or
 * -errno with @errp set: then the image is what it was, but for blocks that
 * have got a place while requests went on.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_subformat_fix(BlockDriverState *bs, PreallocMode prealloc,
                   BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                   const VHDXCompactUser *user, Error **errp);

/*
 * Make it a dynamic one.  Its blocks stay where they are.  Requests wait
 * meanwhile.  No lock is held.  Returns 0, or -errno with @errp set.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_subformat_loosen(BlockDriverState *bs, Error **errp);

#endif
