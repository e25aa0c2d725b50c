/*
 * VHDX: the differencing images that an image is the parent of
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_CHILDREN_H
#define BLOCK_VHDX_PARENT_CHILDREN_H

#include "block/vhdx/state.h"

/* Which of the children of an image */
typedef enum VHDXChildren {
    VHDX_CHILDREN_ALL,              /* all that are attached */
    VHDX_CHILDREN_IN_USE,           /* those that are in use ... */
    VHDX_CHILDREN_IDLE,             /* ... and those that are not */
} VHDXChildren;

/* Whether anybody but nodes can reach the node @bs from above. */
bool GRAPH_RDLOCK vhdx_children_has_use(BlockDriverState *bs);

/*
 * The images in VHDX format that have @bs as parent, by way of filters maybe,
 * and count on its DataWriteGuid.  One is in use where a device, a job or the
 * like can reach it from above; what has only a node is not, as the overlay
 * that a block job has committed.  One that is being closed is left out.
 * Outside of the main loop commit_lock is held, so that those in the list stay.
 * Returns an array of BlockDriverState * to be freed.
 */
GPtrArray *GRAPH_RDLOCK
vhdx_children_list(BlockDriverState *bs, VHDXChildren which);

/*
 * Note which children of @bs are in use now.  If these are not the ones that
 * were told its DataWriteGuid, it gets another with the next change.  Called in
 * the main loop, where nodes have been attached or detached.
 */
void GRAPH_RDLOCK vhdx_children_note(BlockDriverState *bs);

/*
 * A child that is made of an image in use, for a backup job to keep in it what
 * a guest is about to overwrite, is made before that job holds it, and the
 * guest may write meanwhile.  As long as it is as it was created, it can go
 * with what the image has become: it has nothing of its own.
 *
 * vhdx_children_leave() has the image @bs note that its DataWriteGuid is about
 * to end; in a @merge, all that it has had are forgotten: a child of what is
 * merged into is lost with it.  vhdx_children_is_new() tells if @child is as it
 * was created, vhdx_children_may_follow() if it is that and was made of the
 * image @bs since this was opened.  lock is not held.
 */
void vhdx_children_leave(BlockDriverState *bs, bool merge);
bool vhdx_children_is_new(BlockDriverState *child);
bool vhdx_children_may_follow(BlockDriverState *bs, BlockDriverState *child);

/* A number that changes with the children that are in use. */
uintptr_t vhdx_children_hash(BDRVVHDXState *s);

#endif
