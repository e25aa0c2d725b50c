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

/* @path with the format's separator, once each; it has no '\\' */
static char *path_encode(const char *prefix, const char *path)
{
    GString *text = g_string_new(prefix);

    for (; *path; path++) {
        if (path[0] != '/' || path[1] != '/') {
            g_string_append_c(text, *path == '/' ? '\\' : *path);
        }
    }
    return g_string_free(text, false);
}

/*
 * The way from the folder of @child to @parent, where both are, or NULL: the
 * folders' real paths are what '..' goes by.
 */
static char *path_between(const char *child, const char *parent)
{
    g_autofree char *child_folder = g_path_get_dirname(child);
    g_autofree char *parent_folder = g_path_get_dirname(parent);
    g_autofree char *name = g_path_get_basename(parent);
    g_autofree char *from = realpath(child_folder, NULL);
    g_autofree char *to = realpath(parent_folder, NULL);
    g_auto(GStrv) up = NULL, down = NULL;
    GString *way;
    size_t same = 0;

    if (!from || !to) {
        return NULL;
    }
    up = g_strsplit(from + 1, "/", from[1] ? -1 : 0);
    down = g_strsplit(to + 1, "/", to[1] ? -1 : 0);
    while (up[same] && down[same] && !strcmp(up[same], down[same])) {
        same++;
    }
    way = g_string_new(up[same] ? NULL : "./");
    for (size_t i = same; up[i]; i++) {
        g_string_append(way, "../");
    }
    for (size_t i = same; down[i]; i++) {
        g_string_append_printf(way, "%s/", down[i]);
    }
    g_string_append(way, name);
    return g_string_free(way, false);
}

/*
 * Put the paths into @loc by which @child is to find its parent @parent, a
 * name as a user gives it, relative to the folder of @child or absolute
 * (section 2.6.2.6.3).  @child is NULL where it is no local file; @path is the
 * parent's from here, or NULL.
 */
static int path_store(VHDXLocator *loc, const char *child, const char *parent,
                      const char *path, Error **errp)
{
    g_autofree char *way = NULL;

    if (path && vhdx_parent_path_is_in_system(path)) {
        error_setg(errp, "The parent locator can't name '%s': no parent is "
                   "looked for in /dev, /proc or /sys", parent);
        return -EINVAL;
    }

    if (strchr(parent, '\\')) {
        error_setg(errp, "The parent locator can't name '%s': there is a '\\' "
                   "in it, which separates folders there", parent);
        return -EINVAL;
    }
    if (parent[0] != '/') {
        loc->relative_path = path_encode(parent[0] == '.' ? "" : ".\\", parent);
        return 0;
    }
    if (!child) {
        error_setg(errp, "The parent locator can't name '%s': the child is no "
                   "local file", parent);
        return -EINVAL;
    }
    way = path_between(child, parent);
    loc->relative_path = way ? path_encode("", way) : NULL;
    loc->absolute_win32_path = path_encode("", parent);
    return 0;
}

/* Whether @path is there, and is the file @name. */
static bool is_same_file(const char *path, const char *name)
{
    struct stat a, b;

    return path && stat(path, &a) == 0 && stat(name, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
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

        if (is_same_file(path, child)) {
            return true;
        }
    }
    return false;
}

/* Store in @loc by which paths @child finds @parent, called @name. */
static int coroutine_fn
parent_store(VHDXLocator *loc, const char *child, BlockDriverState *parent,
             const char *name, Error **errp)
{
    g_autofree char *path = vhdx_create_file_path(parent->file->bs);
    g_autofree char *absolute = NULL, *cwd = NULL;
    bool given_relative = path && path[0] != '/';
    int ret;

    if (!path_has_protocol(name)) {
        return path_store(loc, path_has_protocol(child) ? NULL : child, name,
                          path, errp);
    }
    if (!path) {
        error_setg(errp, "The parent locator can't name '%s', which is no "
                   "local file", name);
        return -EINVAL;
    }
    /* Such a name is relative to where we are, not to the child. */
    cwd = g_get_current_dir();
    absolute = given_relative ? g_build_filename(cwd, path, NULL) :
               g_strdup(path);
    ret = path_store(loc, child, absolute, path, errp);
    if (ret == 0 && given_relative && loc->relative_path) {
        g_clear_pointer(&loc->absolute_win32_path, g_free);
    }
    return ret;
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
        ret = parent_store(loc, child, parent, opts->parent, errp);
    }
    bdrv_co_unref(parent);
    if (ret < 0) {
        return ret;
    }
    *locator = vhdx_locator_encode(loc, length, errp);
    return *locator ? 0 : -EINVAL;
}
