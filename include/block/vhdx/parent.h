/*
 * VHDX: the parent of a differencing image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_H
#define BLOCK_VHDX_PARENT_H

#include "block/vhdx/lock.h"

/*
 * Judge the node that is attached as backing of @bs, or none, if it is not the
 * one that was attached when vhdx_parent_note() was called the last time: an
 * image without HasParent can have no parent, and one in VHDX format must have
 * the sector size of its child and the DataWriteGuid that the child's Parent
 * Locator tells (section 2.6.2.6).  Of other formats nothing is known.  Reads
 * nothing.  No lock is held.  Returns 0, or -EINVAL with @errp set.
 */
int vhdx_parent_check(BlockDriverState *bs, Error **errp);

/* The node that is attached has been judged.  No lock is held. */
void vhdx_parent_note(BlockDriverState *bs);

/*
 * Whether @bs, about to be opened, is its own parent, or its chain is longer
 * than MS-VHDX lets it be; by the images that have led to it.  Its headers are
 * loaded.  Returns 0, or -EINVAL with @errp set.
 */
int vhdx_parent_check_chain(BlockDriverState *bs, Error **errp);

/*
 * Read @bytes bytes at @offset of the disk as the parent has them: zeros behind
 * its end, or where none is attached.  lock is not held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_parent_preadv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                   QEMUIOVector *qiov, size_t qiov_offset);

#endif
