/*
 * VHDX: check and repair
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_H
#define BLOCK_VHDX_CHECK_H

#include "block/vhdx/state.h"

/*
 * Look at all of the image, say on standard error what is wrong, and count it
 * in @result; mend what @fix asks for, where it is certain what is right.  No
 * request is under way, no lock is held.  Returns 0, also where something is
 * wrong, or -errno where that could not be found out.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_check(BlockDriverState *bs, BdrvCheckResult *result,
              BdrvCheckMode fix);

#endif
