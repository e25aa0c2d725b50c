/*
 * VHDX: the parent of a new image
 *
 * Only that it is read tells what its child has to have: the linkage, and what
 * the disks have in common.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "block/vhdx/create-parent.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/options.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-name.h"
#include "block/vhdx/parent-path.h"

/* What an image is to have, @value or 0, must be what its parent has. */
static int parent_agree(const char *option, uint64_t *value, uint64_t has,
                        Error **errp)
{
    if (*value && *value != has) {
        error_setg(errp, "%s is %" PRIu64 ", but the parent has %" PRIu64,
                   option, *value, has);
        return -EINVAL;
    }
    *value = has;
    return 0;
}

/*
 * Take from @parent, an open image, what @opts leaves to it, and the linkage
 * into @loc.
 */
static int parent_take(BlockDriverState *parent, VHDXCreateOptions *opts,
                       VHDXLocator *loc, Error **errp)
{
    BDRVVHDXState *p = parent->opaque;
    char wanted[UUID_STR_LEN], has[UUID_STR_LEN];

    if (parent_agree(VHDX_OPT_LOGICAL_SECTOR, &opts->logical_sector,
                     p->params.logical_sector, errp) < 0) {
        return -EINVAL;
    }
    opts->physical_sector = opts->physical_sector ?: p->params.physical_sector;
    if (opts->size == UINT64_MAX) {
        opts->size = p->params.disk_size;
    }
    if (!vhdx_guid_is_nil(&opts->disk_id) &&
        !vhdx_guid_equal(&opts->disk_id, &p->params.disk_id)) {
        uuid_unparse_lower(opts->disk_id.id, wanted);
        uuid_unparse_lower(p->params.disk_id.id, has);
        error_setg(errp, VHDX_OPT_DISK_ID " is %s, but the parent has %s",
                   wanted, has);
        return -EINVAL;
    }
    opts->disk_id = p->params.disk_id;
    WITH_VHDX_LOCK_GUARD(p) {
        loc->linkage = p->header.data_write_guid;
    }
    return 0;
}

char *coroutine_fn vhdx_create_file_path(BlockDriverState *bs)
{
    const char *path;

    GRAPH_RDLOCK_GUARD();
    bdrv_refresh_filename(bs);
    path = bs->exact_filename;
    strstart(path, "file:", &path);
    return *path && !path_has_protocol(path) ? g_strdup(path) : NULL;
}

/*
 * Whether the file @child, which is to be written anew, is one of the images of
 * the chain of @parent.
 */
static bool coroutine_fn
is_in_chain(BlockDriverState *parent, const char *child)
{
    GRAPH_RDLOCK_GUARD();
    for (BlockDriverState *bs = parent; bs; bs = bdrv_backing_chain_next(bs)) {
        g_autofree char *path = vhdx_parent_local_path(bs);

        if (vhdx_parent_path_is_same(path, child)) {
            return true;
        }
    }
    return false;
}

int coroutine_fn
vhdx_create_ask_parent(const char *child, VHDXCreateOptions *opts,
                       uint8_t **locator, uint32_t *length, Error **errp)
{
    ERRP_GUARD();
    g_autoptr(VHDXLocator) loc = g_new0(VHDXLocator, 1);
    g_autofree char *name = NULL;
    QDict *options;
    BlockDriverState *parent;
    int ret;

    if (!opts->parent) {
        return 0;
    }
    strstart(child, "file:", &child);
    name = bdrv_get_full_backing_filename_from_filename(child, opts->parent,
                                                        errp);
    if (!name) {
        return -EINVAL;
    }
    options = qdict_new();
    qdict_put_str(options, "driver", "vhdx");
    qdict_put_bool(options, BDRV_OPT_FORCE_SHARE, true);
    parent = bdrv_co_open(name, NULL, options, 0, errp);
    if (!parent) {
        error_prepend(errp, "Could not open the parent: ");
        return -EINVAL;
    }
    if (is_in_chain(parent, child)) {
        error_setg(errp, "'%s' would be its own parent: '%s' is the same file, "
                   "or has it as a parent", child, opts->parent);
        ret = -EINVAL;
    } else {
        ret = parent_take(parent, opts, loc, errp);
    }
    if (ret == 0) {
        g_autofree char *path = vhdx_create_file_path(parent->file->bs);

        ret = vhdx_parent_name_store(loc, child, opts->parent, path, errp);
    }
    bdrv_co_unref(parent);
    if (ret < 0) {
        return ret;
    }
    *locator = vhdx_locator_encode(loc, length, errp);
    return *locator ? 0 : -EINVAL;
}
