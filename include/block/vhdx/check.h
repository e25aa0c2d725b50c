/*
 * VHDX: check and repair
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_H
#define BLOCK_VHDX_CHECK_H

#include "block/vhdx/state.h"

int coroutine_fn GRAPH_RDLOCK
vhdx_co_check(BlockDriverState *bs, BdrvCheckResult *result,
              BdrvCheckMode fix);

#endif
