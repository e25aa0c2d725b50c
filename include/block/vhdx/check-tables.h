/*
 * VHDX: check of headers, region tables and metadata
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_TABLES_H
#define BLOCK_VHDX_CHECK_TABLES_H

#include "block/vhdx/check-report.h"

/*
 * Check headers and region tables, of which each has two copies, before
 * anything is mended.  Returns 0 or -errno; findings are no error.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_copies(BlockDriverState *bs, VHDXCheck *check);

/* Check the metadata table and items.  Returns 0 or -errno. */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_metadata(BlockDriverState *bs, VHDXCheck *check);

#endif
