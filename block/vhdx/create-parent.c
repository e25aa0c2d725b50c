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
#include "qemu/error-report.h"
#include "block/vhdx/create-parent.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/options.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-name.h"
#include "block/vhdx/parent-path.h"
#include "block/vhdx/replay.h"

/* So much of its metadata region may be items that a child has to take over. */
#define MAX_ITEM_BYTES  (256 * (unsigned)KiB)

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
                     p->params.logical_sector, errp) < 0 ||
        parent_agree(VHDX_OPT_PHYSICAL_SECTOR, &opts->physical_sector,
                     p->params.physical_sector, errp) < 0) {
        return -EINVAL;
    }
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
    return vhdx_locator_check_linkage(loc, opts->parent, errp);
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

/* Whether no child may be put upon @parent. */
static bool coroutine_fn chain_is_full(BlockDriverState *parent)
{
    GRAPH_RDLOCK_GUARD();
    return vhdx_parent_count(parent) >= VHDX_MAX_CHAIN;
}

static void item_clear(void *item)
{
    g_free(((VHDXItemData *)item)->data);
}

static void item_add(GArray *items, const VHDXGuid *guid, uint32_t flags,
                     uint32_t length, uint8_t *data)
{
    VHDXItemData item = {
        .guid = *guid,
        .flags = flags,
        .length = length,
        .data = data,
    };

    g_array_append_val(items, item);
}

/*
 * Take into @items what @parent has of the virtual disk and every image does
 * not (section 2.6.1.2: IsVirtualDisk).
 */
static int coroutine_fn
items_take(BlockDriverState *parent, GArray *items, Error **errp)
{
    BDRVVHDXState *p = parent->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_METADATA_TABLE_SIZE);
    g_autofree VHDXItem *has = NULL;
    uint32_t count, bytes = 0;
    int ret;

    GRAPH_RDLOCK_GUARD();
    ret = vhdx_replay_read(parent, p->metadata.offset, VHDX_METADATA_TABLE_SIZE,
                           buf);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the parent's metadata");
        return ret;
    }
    ret = vhdx_metadata_table_decode(buf, p->metadata.length, &has, &count,
                                     errp);
    for (uint32_t i = 0; ret == 0 && i < count; i++) {
        g_autofree uint8_t *data = NULL;

        if (!(has[i].flags & VHDX_ITEM_DISK) ||
            (!(has[i].flags & VHDX_ITEM_USER) &&
             vhdx_metadata_item_size(&has[i].guid))) {
            continue;
        }
        bytes += has[i].length;
        if (bytes > MAX_ITEM_BYTES) {
            error_setg(errp, "The parent has more than %u bytes of metadata "
                       "that a child must inherit", MAX_ITEM_BYTES);
            return -ENOTSUP;
        }
        data = g_malloc(has[i].length);
        ret = vhdx_replay_read(parent, p->metadata.offset + has[i].offset,
                               has[i].length, data);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not read the parent's "
                             "metadata");
            return ret;
        }
        item_add(items, &has[i].guid, has[i].flags, has[i].length,
                 g_steal_pointer(&data));
    }
    return ret;
}

/* Open the parent @name of @child and take what its child has to have. */
static int coroutine_fn
parent_ask(const char *child, const char *name, VHDXCreateOptions *opts,
           VHDXLocator *loc, GArray *items, Error **errp)
{
    ERRP_GUARD();
    QDict *options = qdict_new();
    g_autofree char *path = NULL;
    BlockDriverState *parent;
    int ret;

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_bool(options, BDRV_OPT_FORCE_SHARE, true);
    parent = bdrv_co_open(name, NULL, options, 0, errp);
    if (!parent) {
        error_prepend(errp, "Could not open the parent: ");
        if (!opts->unseen_parent || opts->size == UINT64_MAX ||
            path_has_protocol(name) || access(name, R_OK) == 0) {
            return -EINVAL;
        }
        warn_report_err(*errp);
        *errp = NULL;
        opts->logical_sector = opts->logical_sector ?: 512;
        opts->physical_sector = opts->physical_sector ?: 4096;
        opts->disk_id = vhdx_guid_new();
        return vhdx_parent_name_store(loc, child, opts->parent, NULL, errp);
    }
    if (is_in_chain(parent, child)) {
        error_setg(errp, "'%s' would be its own parent: '%s' is the same file, "
                   "or has it as a parent", child, opts->parent);
        ret = -EINVAL;
        goto out;
    }
    if (chain_is_full(parent)) {
        vhdx_parent_error_chain(errp);
        ret = -EINVAL;
        goto out;
    }
    ret = parent_take(parent, opts, loc, errp) ?:
          items_take(parent, items, errp);
    if (ret < 0) {
        goto out;
    }
    path = vhdx_create_file_path(parent->file->bs);
    ret = vhdx_parent_name_store(loc, child, opts->parent, path, errp);
out:
    bdrv_co_unref(parent);
    return ret;
}

int coroutine_fn
vhdx_create_ask_parent(const char *child, VHDXCreateOptions *opts,
                       GArray **items, Error **errp)
{
    g_autoptr(VHDXLocator) loc = g_new0(VHDXLocator, 1);
    g_autoptr(GArray) found = NULL;
    g_autofree char *name = NULL, *plain = NULL;
    uint32_t length;
    uint8_t *item;
    int ret;

    if (!opts->parent) {
        return 0;
    }
    if (strstart(child, "file:", &child) && path_has_protocol(child)) {
        /* What stands before the colon was never a protocol. */
        plain = g_strdup_printf("./%s", child);
        child = plain;
    }
    name = bdrv_get_full_backing_filename_from_filename(child, opts->parent,
                                                        errp);
    if (!name) {
        return -EINVAL;
    }
    found = g_array_new(false, false, sizeof(VHDXItemData));
    g_array_set_clear_func(found, item_clear);
    ret = parent_ask(child, name, opts, loc, found, errp);
    if (ret < 0) {
        return ret;
    }
    item = vhdx_locator_encode(loc, &length, errp);
    if (!item) {
        return -EINVAL;
    }
    item_add(found, &vhdx_item_parent_locator, VHDX_ITEM_REQUIRED, length,
             item);
    *items = g_steal_pointer(&found);
    return 0;
}
