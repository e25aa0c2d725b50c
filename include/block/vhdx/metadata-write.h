/*
 * VHDX: changing metadata items, section 2.6
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_METADATA_WRITE_H
#define BLOCK_VHDX_METADATA_WRITE_H

#include "block/vhdx/state.h"

/* What becomes of an item that is required and none of a user's */
typedef struct VHDXItemChange {
    const VHDXGuid *guid;
    const uint8_t *buf;             /* NULL: there is no such item any more */
    uint32_t length;                /* bytes */
    uint32_t flags;                 /* VHDX_ITEM_DISK, or 0 */
} VHDXItemChange;

/*
 * Let @count items be as @changes tells, all at once, and make that stable with
 * all that was changed before.  The log is open, commit_lock is held.  Returns
 * 0, -ENOSPC where the region has no room beside the old items, -ENOTSUP where
 * the table is too long for that, or -errno, with @errp set; then the items are
 * as they were.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_metadata_change(BlockDriverState *bs, const VHDXItemChange *changes,
                     unsigned count, Error **errp);

#endif
