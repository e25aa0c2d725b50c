/*
 * VHDX: the parent of a differencing image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_H
#define BLOCK_VHDX_PARENT_H

#include "block/vhdx/lock.h"

/*
 * The driver's .bdrv_check_perm, which the block layer calls when it attaches a
 * node as backing of @bs.  If that is not the one that was attached before, it
 * is judged: an image without HasParent can have no parent, and one in VHDX
 * format must have the sector size of its child and the DataWriteGuid that the
 * child's Parent Locator tells (section 2.6.2.6).  Of other formats nothing is
 * known.  Reads nothing.  No lock is held.  Returns 0, or -EINVAL with @errp
 * set.
 */
int GRAPH_RDLOCK
vhdx_parent_check_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                       Error **errp);

/* .bdrv_set_perm: the node that is attached has been judged. */
void GRAPH_RDLOCK
vhdx_parent_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared);

/*
 * .bdrv_child_perm: a parent whose content changes is not its child's any more,
 * so as long as the child is in use nobody writes to it.
 */
void GRAPH_RDLOCK
vhdx_parent_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                       BlockReopenQueue *reopen_queue, uint64_t perm,
                       uint64_t shared, uint64_t *nperm, uint64_t *nshared);

/*
 * Whether @bs, about to be opened, is its own parent, or its chain is longer
 * than MS-VHDX lets it be; by the images that have led to it.  Its headers are
 * loaded.  Returns 0, or -EINVAL with @errp set.
 */
int vhdx_parent_check_chain(BlockDriverState *bs, Error **errp);

/*
 * The name of the file at the end of what is below @bs, as a path to be freed
 * with g_free(), or NULL if it is no local file.  Called in the main loop.
 */
char * GRAPH_RDLOCK vhdx_parent_local_path(BlockDriverState *bs);

/*
 * Read @bytes bytes at @offset of the disk as the parent has them: zeros behind
 * its end, or where none is attached.  lock is not held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_parent_preadv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                   QEMUIOVector *qiov, size_t qiov_offset);

#endif
