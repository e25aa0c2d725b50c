/*
 * VHDX: making a differencing image one that has no parent
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_FLATTEN_H
#define BLOCK_VHDX_FLATTEN_H

#include "block/vhdx/state.h"

/*
 * Let the differencing image @bs be a dynamic one.  What is the parent's reads
 * as zeros then: whoever wants to keep that has copied it.  Requests are held
 * off for a while now and then.  No lock is held.  Returns 0 or -errno with
 * @errp set; then it is a child still, some more of which reads as zeros.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_flatten(BlockDriverState *bs, Error **errp);

#endif
