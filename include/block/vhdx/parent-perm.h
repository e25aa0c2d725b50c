/*
 * VHDX: whether parent and child belong together
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_PERM_H
#define BLOCK_VHDX_PARENT_PERM_H

#include "block/vhdx/state.h"

/*
 * The driver's .bdrv_check_perm, which the block layer calls when it attaches a
 * node as backing of @bs.  If that is not the one that was attached before, it
 * is judged: an image without HasParent can have no parent, and one in VHDX
 * format must have the sector size of its child.  Where it comes with the
 * opening of @bs, or from the user, it must have the DataWriteGuid that the
 * Parent Locator tells, too (section 2.6.2.6).  Of other formats nothing is
 * known.  Reads nothing.  No lock is held.  Returns 0, or -EINVAL with @errp
 * set.
 */
int GRAPH_RDLOCK
vhdx_parent_check_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                       Error **errp);

/*
 * .bdrv_set_perm: what is attached now, below and above, has been judged.  If
 * the parent is the one that the locator names and has another DataWriteGuid,
 * the locator is to be written; see vhdx_parent_link_is_due().
 */
void GRAPH_RDLOCK
vhdx_parent_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared);

/*
 * .bdrv_dirname: the folder that names of the image's parent are relative to.
 * The block layer asks for it when it is about to open the parent by the
 * locator, which an option may have told it not to do, and the driver is not
 * told.  So here it fails if there is no parent: NULL with @errp set.  Who uses
 * the image meanwhile gets errors for what is the parent's.
 */
char *GRAPH_RDLOCK vhdx_parent_dirname(BlockDriverState *bs, Error **errp);

#endif
