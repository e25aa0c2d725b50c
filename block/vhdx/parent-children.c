/*
 * VHDX: the differencing images that an image is the parent of
 *
 * A child knows its parent by the parent's DataWriteGuid, which is another as
 * soon as the parent's content is.  So before an image changes it has to know
 * which of the nodes above it go on to be its children: those that are in use,
 * as a job has them while it merges one image into another.  An overlay that
 * nobody uses any more must not fit the image that it was merged into, once
 * that goes on to be written.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent-children.h"
#include "parent-int.h"

bool vhdx_children_has_use(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (!c->klass->parent_is_bds || vhdx_children_has_use(c->opaque)) {
            return true;
        }
    }
    return false;
}

/* Add to @list the children of the image @bs that are above @node. */
static void GRAPH_RDLOCK
children_find(BlockDriverState *bs, BlockDriverState *node, VHDXChildren which,
              GPtrArray *list)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &node->parents, next_parent) {
        BlockDriverState *above;
        BDRVVHDXState *s;
        BlockDriver *drv;

        if (!c->klass->parent_is_bds) {
            continue;
        }
        above = c->opaque;
        /* None any more if it is just being closed. */
        drv = qatomic_read(&above->drv);
        if (drv && drv->is_filter) {
            /* It does not show what else it has, as a backup's target. */
            if (c == bdrv_filter_child(above)) {
                children_find(bs, above, which, list);
            }
            continue;
        }
        if (drv != bs->drv || c != above->backing) {
            continue;
        }
        s = above->opaque;
        if (!qatomic_read(&s->linked) || s->parent->inactive) {
            continue;
        }
        if (which == VHDX_CHILDREN_ALL ||
            vhdx_children_has_use(above) == (which == VHDX_CHILDREN_IN_USE)) {
            g_ptr_array_add(list, above);
        }
    }
}

GPtrArray *vhdx_children_list(BlockDriverState *bs, VHDXChildren which)
{
    GPtrArray *list = g_ptr_array_new();

    children_find(bs, bs, which, list);
    return list;
}

/* [told-used] */
void vhdx_children_note(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(GPtrArray) list = vhdx_children_list(bs, VHDX_CHILDREN_IN_USE);
    uintptr_t hash = 0;

    for (guint i = 0; i < list->len; i++) {
        BDRVVHDXState *c = ((BlockDriverState *)list->pdata[i])->opaque;

        /* In any order: each opening has a number of its own. */
        hash += c->parent->open_id * 0x9e3779b97f4a7c15ULL;
    }
    if (hash != qatomic_read(&s->parent->children)) {
        qatomic_set(&s->parent->children, hash);
        vhdx_change_data_untold(s);
    }
}

void vhdx_children_leave(BlockDriverState *bs, bool merge)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXParent *p = s->parent;
    VHDX_LOCK_GUARD(s);

    if (merge) {
        p->past_count = 0;
    } else {
        p->past[p->past_count++ % VHDX_PAST_GUIDS] = s->header.data_write_guid;
    }
}

bool vhdx_children_is_new(BlockDriverState *child)
{
    BDRVVHDXState *c = child->opaque;
    VHDX_LOCK_GUARD(c);

    return c->locator && c->header.sequence <= VHDX_FIRST_SEQUENCE &&
           vhdx_file_size(c) <= c->objects_end;
}

bool vhdx_children_may_follow(BlockDriverState *bs, BlockDriverState *child)
{
    BDRVVHDXState *s = bs->opaque, *c = child->opaque;
    VHDXParent *p = s->parent;
    VHDXGuid guid;

    if (!vhdx_children_is_new(child)) {
        return false;
    }
    guid = c->locator->linkage;
    VHDX_LOCK_GUARD(s);
    for (unsigned i = 0; i < MIN(p->past_count, VHDX_PAST_GUIDS); i++) {
        if (vhdx_guid_equal(&p->past[i], &guid)) {
            return true;
        }
    }
    return false;
}

uintptr_t vhdx_children_hash(BDRVVHDXState *s)
{
    return qatomic_read(&s->parent->children);
}
