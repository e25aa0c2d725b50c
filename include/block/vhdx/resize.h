/*
 * VHDX: resizing the virtual disk
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_RESIZE_H
#define BLOCK_VHDX_RESIZE_H

#include "block/vhdx/state.h"

int coroutine_fn GRAPH_RDLOCK
vhdx_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                 PreallocMode prealloc, BdrvRequestFlags flags, Error **errp);

#endif
