/*
 * VHDX: check of the BAT and of what is where in the file
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_BAT_H
#define BLOCK_VHDX_CHECK_BAT_H

#include "block/vhdx/check-report.h"

/*
 * Check all BAT entries, and what they name in the file, which fills in
 * @check->end and @check->used.  The metadata has been checked.  Returns 0 or
 * -errno; findings are no error.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_bat(BlockDriverState *bs, VHDXCheck *check);

#endif
