/*
 * VHDX: what a differencing image says of its parent, section 2.6.2.6
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_LINK_H
#define BLOCK_VHDX_LINK_H

#include "block/vhdx/state.h"

/*
 * Let @loc, which is taken over, be the Parent Locator of @bs, and make that
 * stable.  With it comes HasParent (section 2.6.2.1), and goes where @loc is
 * NULL; then requests are frozen.  The log is open, commit_lock is held.
 * Returns 0 or -errno with @errp set; then all is what it has been, and @loc is
 * freed.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_link_set(BlockDriverState *bs, VHDXLocator *loc, Error **errp);

/*
 * The same for other linkages of the locator that is there; it can be used.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_link_write(BlockDriverState *bs, const VHDXGuid *linkage,
                const VHDXGuid *linkage2, Error **errp);

/*
 * Let the locator of @bs have the DataWriteGuid of its parent @parent, and a
 * path to it, if it has to be written; see vhdx_parent_link_is_due().  What the
 * parent has is made stable before.  The log is open, commit_lock is held, and
 * before that the parent's has been taken.  Returns 0 or -errno with @errp set.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_link_settle(BlockDriverState *bs, BlockDriverState *parent, Error **errp);

#endif
