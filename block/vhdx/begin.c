/*
 * VHDX: what comes before the first change
 *
 * An image whose content changes gets a new DataWriteGuid first, by which its
 * children see that it is not what they were made for.  While a block job
 * merges one image into another, the child of that one is to go on with it.
 * So:
 *
 *   1. Each child that is in use gets both GUIDs into its locator, the one that
 *      the image has and the one to come.
 *   2. The header with the new one is written.
 *   3. Each such child gets the new one alone: many programs know one only.
 *
 * Each step is stable before the next begins, so a power cut leaves children
 * that fit.  Other children do not any more, from step 2 on.  A child that has
 * a child in use itself gets a new DataWriteGuid in step 1, from the top down:
 * what it reads as changes with its parent, though nothing in it does.
 *
 * An image takes the locks of its children while it has its own.  So a child
 * that has to write its locator for itself takes its parent's first.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/header.h"
#include "block/vhdx/link.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/metadata.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-children.h"
#include "trace.h"

static int coroutine_fn GRAPH_RDLOCK
begin_locked(BlockDriverState *bs, VHDXWriteState to, Error **errp);

/*
 * Step 1 for @child: @now becomes @next.  Its parent's commit_lock is held.
 * [middle-guid]
 */
static int coroutine_fn GRAPH_RDLOCK
child_tell(BlockDriverState *child, const VHDXGuid *now, const VHDXGuid *next,
           Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = child->opaque;
    g_autoptr(GPtrArray) above = NULL;
    int ret = 0;

    if (bdrv_is_read_only(child)) {
        error_setg(errp, "it is read-only");
        return -EPERM;
    }
    qemu_co_mutex_lock(&s->commit_lock);
    above = vhdx_children_list(child, VHDX_CHILDREN_IN_USE);
    if (above->len) {
        vhdx_change_data_untold(s);
    }
    if (above->len || vhdx_change_state(s) == VHDX_READING ||
        vhdx_change_is_broken(s)) {
        ret = begin_locked(child, above->len ? VHDX_DATA : VHDX_METADATA, errp);
    }
    if (ret < 0 && !*errp) {
        error_setg_errno(errp, -ret, "Could not begin to write to it");
    }
    if (ret == 0) {
        ret = vhdx_link_write(child, now, next, errp);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}

/* Step 1 for all @children of @bs */
static int coroutine_fn GRAPH_RDLOCK
children_tell(BlockDriverState *bs, GPtrArray *children, const VHDXGuid *next,
              Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    VHDXGuid now = s->header.data_write_guid;

    for (guint i = 0; i < children->len; i++) {
        BlockDriverState *child = g_ptr_array_index(children, i);
        int ret;

        ret = child_tell(child, &now, next, errp);
        trace_vhdx_tell_child(s, child->opaque, ret);
        if (ret < 0) {
            error_prepend(errp, "its child '%s' cannot be updated: ",
                          child->filename);
            return ret;
        }
    }
    return 0;
}

/*
 * Step 3 for all @children of @bs.  Where that fails they go on with two GUIDs,
 * until their next change, or until they are closed.
 */
static void coroutine_fn GRAPH_RDLOCK
children_confirm(BlockDriverState *bs, GPtrArray *children)
{
    BDRVVHDXState *s = bs->opaque;

    for (guint i = 0; i < children->len; i++) {
        BlockDriverState *child = g_ptr_array_index(children, i);
        BDRVVHDXState *c = child->opaque;
        Error *err = NULL;
        int ret = 0;

        qemu_co_mutex_lock(&c->commit_lock);
        if (!vhdx_change_log_is_open(c)) {
            /* Its log has moved since it was told. */
            ret = begin_locked(child, VHDX_METADATA, &err);
        }
        ret = ret ?: vhdx_link_write(child, &s->header.data_write_guid,
                                     &vhdx_guid_nil, &err);
        if (ret == 0) {
            vhdx_parent_set_linked(c, true);
        } else {
            error_free(err);
            vhdx_change_data_untold(c);
        }
        qemu_co_mutex_unlock(&c->commit_lock);
    }
}

/*
 * Children that nobody uses do not fit @bs any more.  One that has nothing yet
 * goes on with it, unless something is merged into @bs.
 */
static void GRAPH_RDLOCK children_lose(BlockDriverState *bs, bool merge)
{
    g_autoptr(GPtrArray) idle = vhdx_children_list(bs, VHDX_CHILDREN_IDLE);

    for (guint i = 0; i < idle->len; i++) {
        BlockDriverState *child = g_ptr_array_index(idle, i);

        if (!merge && vhdx_children_is_new(child)) {
            vhdx_parent_set_link_due(child->opaque);
        } else {
            vhdx_parent_set_linked(child->opaque, false);
            vhdx_parent_lose(child->opaque);
        }
    }
}

/* Give @bs a new DataWriteGuid, of which @children are told. [told-first] */
static int coroutine_fn GRAPH_RDLOCK
begin_told(BlockDriverState *bs, GPtrArray *children, Error **errp)
{
    bool merge = children->len && vhdx_parent_got_writable(bs->opaque);
    VHDXGuid next = vhdx_guid_new();
    int ret;

    if (children->len) {
        /* What is told first is the GUID that the file has. */
        ret = vhdx_header_settle(bs);
        if (ret < 0) {
            return ret;
        }
    }
    ret = children_tell(bs, children, &next, errp);
    if (ret < 0) {
        return ret;
    }
    vhdx_children_leave(bs, merge);
    ret = vhdx_log_open(bs, VHDX_DATA, &next);
    if (ret < 0) {
        return ret;
    }
    children_confirm(bs, children);
    children_lose(bs, merge);
    return 0;
}

/* [told-used] */
static int coroutine_fn GRAPH_RDLOCK
begin_data(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uintptr_t known = vhdx_children_hash(s);
    g_autoptr(GPtrArray) children = vhdx_children_list(bs,
                                                       VHDX_CHILDREN_IN_USE);
    int ret;

    if (children->len > 1 && vhdx_parent_got_writable(s)) {
        error_setg(errp, "it has two children in use, '%s' and '%s'; a change "
                   "can fit only one of them",
                   ((BlockDriverState *)children->pdata[0])->filename,
                   ((BlockDriverState *)children->pdata[1])->filename);
        return -EPERM;
    }
    /* They must not be closed meanwhile. */
    for (guint i = 0; i < children->len; i++) {
        bdrv_inc_in_flight(children->pdata[i]);
    }
    ret = begin_told(bs, children, errp);
    for (guint i = 0; i < children->len; i++) {
        bdrv_dec_in_flight(children->pdata[i]);
    }
    if (vhdx_children_hash(s) != known) {
        vhdx_change_data_untold(s);
    }
    return ret;
}

static int coroutine_fn
begin_locked(BlockDriverState *bs, VHDXWriteState to, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_assert_commit_locked(s);
    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    if (to == VHDX_DATA && vhdx_change_state(s) != VHDX_DATA) {
        return begin_data(bs, errp);
    }
    return vhdx_log_open(bs, to, NULL);
}

/* Begin a change of @bs whose locator has to be written, if it still has. */
static int coroutine_fn GRAPH_RDLOCK
begin_linked(BlockDriverState *bs, BlockDriverState *parent, VHDXWriteState to,
             Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (vhdx_change_state(s) == VHDX_READING) {
        ret = begin_locked(bs, VHDX_METADATA, errp);
        if (ret < 0) {
            return ret;
        }
    }
    ret = vhdx_link_settle(bs, parent, errp);
    return ret < 0 || vhdx_change_state(s) >= to ? ret :
           begin_locked(bs, to, errp);
}

int vhdx_begin_check(BlockDriverState *bs, Error **errp)
{
    if (bs->open_flags & BDRV_O_INACTIVE) {
        error_setg(errp, "The image is inactive");
        return -EPERM;
    }
    if (bdrv_is_read_only(bs)) {
        error_setg(errp, "The image is read-only");
        return -EACCES;
    }
    return 0;
}

/* [parent-locked] */
int coroutine_fn vhdx_begin(BlockDriverState *bs, VHDXWriteState to)
{
    BDRVVHDXState *s = bs->opaque, *p = NULL;
    BlockDriverState *parent = NULL;
    Error *err = NULL;
    int ret = 0;

    vhdx_assert_unlocked(s);
    assert(to == VHDX_METADATA || to == VHDX_DATA);
    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    if (vhdx_change_state(s) == VHDX_DATA) {
        return 0;
    }
    if (bs->open_flags & BDRV_O_INACTIVE) {
        /* Another process may be writing to it. */
        return -EPERM;
    }
    if (vhdx_parent_link_is_due(s)) {
        parent = vhdx_parent_linked(bs);
    }
    if (parent) {
        p = parent->opaque;
        qemu_co_mutex_lock(&p->commit_lock);
    }
    qemu_co_mutex_lock(&s->commit_lock);
    if (vhdx_change_is_broken(s)) {
        ret = -EIO;
    } else if (parent) {
        ret = begin_linked(bs, parent, to, &err);
    } else if (vhdx_change_state(s) < to || vhdx_region_table_is_damaged(s)) {
        ret = begin_locked(bs, to, &err);
    }
    if (err) {
        error_report_once_cond(&s->refused, "VHDX image '%s' can't be changed: "
                               "%s", bs->filename, error_get_pretty(err));
        error_free(err);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    if (parent) {
        qemu_co_mutex_unlock(&p->commit_lock);
    }
    return ret;
}
