/*
 * VHDX: check of dirty bitmaps
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_DIRTY_H
#define BLOCK_VHDX_CHECK_DIRTY_H

#include "block/vhdx/check-report.h"

/*
 * Check the dirty bitmaps that the file has.  The BAT has been checked, no
 * request is under way, no lock is held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_dirty(BlockDriverState *bs, VHDXCheck *check);

#endif
