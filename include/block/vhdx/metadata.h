/*
 * VHDX: region tables and metadata items, sections 2.2.3 and 2.6
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_METADATA_H
#define BLOCK_VHDX_METADATA_H

#include "block/vhdx/state.h"

/*
 * Read region tables and metadata items: fills @s->bat, @s->metadata,
 * @s->params, @s->geo.  The log has been replayed to memory, and @s->file
 * knows the file's length.  Called by open.
 * Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_metadata_load(BlockDriverState *bs, Error **errp);

/*
 * Put the good copy of the region table over the damaged one, by way of
 * dirty pages for the next commit.  commit_lock is held.  Returns 0 or -errno
 * of reading the good copy.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_region_table_mend(BlockDriverState *bs);

/*
 * Whether one of the two region tables is damaged, for
 * vhdx_region_table_mend().  commit_lock is held.
 */
static inline bool vhdx_region_table_is_damaged(BDRVVHDXState *s)
{
    return s->mend_region_table[0] != s->mend_region_table[1];
}

#endif
