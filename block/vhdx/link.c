/*
 * VHDX: what a differencing image says of its parent
 *
 * The Parent Locator has one DataWriteGuid of the parent, or two while the
 * parent gets another, and the paths to it.  begin.c tells when that changes.
 * What it says must not be ahead of what is stable in the parent.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/header.h"
#include "block/vhdx/link.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/metadata-write.h"
#include "block/vhdx/parent.h"
#include "trace.h"

/* [parent-at-once] */
int coroutine_fn vhdx_link_set(BlockDriverState *bs, VHDXLocator *loc,
                               Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXParams params = s->params;
    g_autoptr(VHDXLocator) old = loc;
    g_autofree uint8_t *item = NULL;
    bool turns = s->params.has_parent != (loc != NULL);
    uint8_t parameters[8];
    VHDXItemChange changes[] = {
        { .guid = &vhdx_item_parent_locator },
        {
            .guid = &vhdx_item_file_parameters,
            .buf = parameters,
            .length = sizeof(parameters),
        },
    };
    int ret;

    vhdx_assert_commit_locked(s);
    params.has_parent = loc;
    params.leave_allocated &= !loc;
    vhdx_file_parameters_encode(&params, parameters);
    if (loc) {
        item = vhdx_locator_encode(loc, &changes[0].length, errp);
        if (!item) {
            return -EINVAL;
        }
        changes[0].buf = item;
    }
    ret = vhdx_metadata_change(bs, changes, turns ? 2 : 1, errp);
    trace_vhdx_link_set(s, ret);
    if (ret < 0) {
        return ret;
    }
    VHDX_LOCK_GUARD(s);
    old = s->locator;
    s->locator = loc;
    s->has_locator = loc;
    g_free(s->locator_error);
    s->locator_error = loc ? NULL : g_strdup("there is none");
    if (turns) {
        s->params = params;
        vhdx_geometry_init(&s->geo, &s->params);
    }
    return 0;
}

int coroutine_fn
vhdx_link_write(BlockDriverState *bs, const VHDXGuid *linkage,
                const VHDXGuid *linkage2, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;

    return vhdx_link_set(bs, vhdx_locator_relink(s->locator, linkage, linkage2),
                         errp);
}

/* [link-flushed] */
int coroutine_fn
vhdx_link_settle(BlockDriverState *bs, BlockDriverState *parent, Error **errp)
{
    BDRVVHDXState *s = bs->opaque, *p = parent->opaque;
    VHDXLocator *loc;
    int ret;

    vhdx_assert_commit_locked(p);
    if (!vhdx_parent_link_is_due(s)) {
        return 0;
    }
    /* The file may have another GUID than memory. */
    ret = vhdx_change_is_broken(p) ? -EIO : vhdx_header_settle(parent);
    if (ret == 0 && vhdx_change_log_is_open(p)) {
        ret = vhdx_commit_locked(parent);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not flush the parent '%s'",
                         parent->filename);
        return ret;
    }
    loc = vhdx_locator_relink(s->locator, &p->header.data_write_guid,
                              &vhdx_guid_nil);
    if (vhdx_parent_is_guessed(s)) {
        g_autofree char *name = g_path_get_basename(bs->auto_backing_file);

        g_free(loc->relative_path);
        loc->relative_path = g_strdup_printf(".\\%s", name);
    }
    ret = vhdx_link_set(bs, loc, errp);
    if (ret < 0) {
        return ret;
    }
    vhdx_parent_set_linked(s, true);
    vhdx_parent_set_named(s);
    return 0;
}
