/*
 * VHDX: making an image one that can have a parent
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHILD_H
#define BLOCK_VHDX_CHILD_H

#include "block/vhdx/state.h"

/*
 * Whether @bs, which has no parent, can be a differencing image that reads the
 * same.  Requests are frozen, no lock is held, the log need not be open.
 * Returns 0, or -errno with @errp set.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_child_check(BlockDriverState *bs, Error **errp);

/*
 * Let the BAT of @bs be as that of such an image, over any parent (section
 * 2.5.1).  vhdx_link_set() is to follow.  The log is open, requests are frozen,
 * no lock is held.  Returns 0 or -errno; it is an image without parent in any
 * case.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_child_prepare(BlockDriverState *bs);

#endif
