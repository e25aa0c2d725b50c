/*
 * VHDX: resizing the virtual disk
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_RESIZE_H
#define BLOCK_VHDX_RESIZE_H

#include "block/vhdx/state.h"

/*
 * Make the disk @offset bytes long (section 2.6.2.2), a multiple of its logical
 * sector; what is new reads as zeros.  A fixed image gets its blocks as
 * @prealloc says.  @exact and @flags change nothing.  Requests wait meanwhile,
 * no lock is held.  Returns 0, or -errno with @errp set: then the disk has its
 * old size.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                 PreallocMode prealloc, BdrvRequestFlags flags, Error **errp);

#endif
