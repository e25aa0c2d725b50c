/*
 * VHDX: chains of differencing images
 *
 * A child says in its Parent Locator which DataWriteGuid its parent has.  What
 * makes it depend on another parent, or on new content there, comes after that
 * content is stable: block jobs change the chain first, and flush less than one
 * would think.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/chain.h"
#include "block/vhdx/child.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/flatten.h"
#include "block/vhdx/header.h"
#include "block/vhdx/link.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-file.h"
#include "block/vhdx/parent-name.h"
#include "block/vhdx/parent-path.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space-freed.h"

/* -- Another parent -- */

/* The file @name from here, as it is given to the image @child, or NULL. */
static char *name_resolve(const char *child, const char *name)
{
    strstart(name, "file:", &name);
    if (path_has_protocol(name)) {
        return NULL;
    }
    return path_is_absolute(name) || !child ? g_strdup(name) :
           path_combine(child, name);
}

/*
 * Whether @name is what the block layer calls the node that is attached to @bs,
 * or a filter over it: then nobody has given a name, and it may be that of a
 * protocol though the image at its end is a local file.
 */
static bool GRAPH_RDLOCK
name_is_attached(BlockDriverState *bs, const char *name)
{
    BlockDriverState *parent = vhdx_parent_node(bs);
    BlockDriverState *node = bs->backing ? bs->backing->bs : NULL;

    while (node && strcmp(name, node->filename)) {
        node = node == parent ? NULL : bdrv_filter_bs(node);
    }
    return node;
}

/*
 * Let @loc be the locator of @bs.  If @parent is not NULL, the linkage is its
 * DataWriteGuid, and what it has is stable before. [link-flushed]
 */
static int coroutine_fn GRAPH_RDLOCK
locator_set(BlockDriverState *bs, BlockDriverState *parent, VHDXLocator *loc,
            Error **errp)
{
    BDRVVHDXState *s = bs->opaque, *p = parent ? parent->opaque : NULL;
    int ret = 0;

    if (parent) {
        ret = bdrv_co_flush(parent);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not flush the parent '%s'",
                             parent->filename);
            vhdx_locator_free(loc);
            return ret;
        }
        /* From here on it gets no other one. */
        qemu_co_mutex_lock(&p->commit_lock);
        loc->linkage = p->header.data_write_guid;
    }
    qemu_co_mutex_lock(&s->commit_lock);
    /* The file may have another one. */
    ret = parent ? vhdx_header_settle(parent) : 0;
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the header of the parent "
                         "'%s'", parent->filename);
        vhdx_locator_free(loc);
    } else {
        ret = vhdx_link_set(bs, loc, errp);
    }
    if (ret == 0) {
        vhdx_parent_set_linked(s, parent);
        vhdx_parent_set_named(s);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    if (parent) {
        qemu_co_mutex_unlock(&p->commit_lock);
    }
    return ret;
}

/*
 * Whether the image reads the same over a parent with @guid: a user may name
 * any, but jobs have copied what is needed, and attached a parent.  Without a
 * parent so far, it does over any.
 */
static bool GRAPH_RDLOCK
content_stays(BlockDriverState *bs, const VHDXGuid *guid)
{
    BDRVVHDXState *s = bs->opaque;

    return !s->params.has_parent || bs->backing ||
           vhdx_parent_is_told(s, guid);
}

/*
 * Tell if the parent @name, with Virtual Disk ID @id, is of another disk, which
 * the format does not know; but as far as is known all programs go by the
 * linkage alone.  Where a parent is attached what differs has been copied, and
 * an image without a parent so far reads the same over any.
 */
static void GRAPH_RDLOCK
disk_id_compare(BlockDriverState *bs, const char *name, const VHDXGuid *id)
{
    BDRVVHDXState *s = bs->opaque;
    char own[UUID_STR_LEN], has[UUID_STR_LEN];

    if (s->params.has_parent && !bs->backing &&
        !vhdx_guid_equal(&s->params.disk_id, id)) {
        uuid_unparse_lower(s->params.disk_id.id, own);
        uuid_unparse_lower(id->id, has);
        warn_report("VHDX image '%s' has the Virtual Disk ID %s, but its "
                    "parent '%s' has %s", bs->filename, own, name, has);
    }
}

/*
 * Get the paths to the parent @name into @loc: @parent, an image that is
 * attached, or NULL, and then its linkage, too.  Where @name is another file
 * and @new, @parent becomes NULL: else what is attached has just come there.
 */
static int GRAPH_RDLOCK
name_store(BlockDriverState *bs, const char *name, bool new,
           BlockDriverState **parent, VHDXLocator *loc, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree char *child = vhdx_parent_local_path(bs);
    g_autofree char *path = name_resolve(child, name);
    g_autofree char *has = *parent ? vhdx_parent_local_path(*parent) : NULL;
    VHDXGuid disk_id;
    int ret;

    if (!path && !(has && name_is_attached(bs, name))) {
        error_setg(errp, "The parent locator can't name '%s': only a path",
                   name);
        return -EINVAL;
    }
    if (new && *parent && path && !vhdx_parent_path_is_same(path, has) &&
        g_file_test(path, G_FILE_TEST_EXISTS)) {
        *parent = NULL;
    }
    if (*parent) {
        disk_id = ((BDRVVHDXState *)(*parent)->opaque)->params.disk_id;
    } else if (vhdx_parent_path_is_same(path, child)) {
        error_setg(errp, "'%s' would be its own parent: '%s' is the same file",
                   bs->filename, name);
        return -EINVAL;
    } else {
        ret = vhdx_parent_file_read(path, s->params.logical_sector,
                                    &loc->linkage, &disk_id, errp) ?:
              vhdx_locator_check_linkage(loc, name, errp);
        if (ret < 0) {
            return ret;
        }
    }
    ret = vhdx_parent_name_store(loc, child ?: bs->filename, name,
                                 path ?: has, errp);
    if (ret < 0) {
        return ret;
    }
    disk_id_compare(bs, name, &disk_id);
    return 0;
}

/*
 * The same for what the block layer asks for.  If a job has just attached
 * another parent it can't go back: that is the parent whatever its name is, and
 * its own name will do, with a warning.  If @name is another image's, the next
 * opening tells.
 */
static int GRAPH_RDLOCK
name_take(BlockDriverState *bs, const char *name, BlockDriverState **parent,
          VHDXLocator *loc, Error **errp)
{
    BlockDriverState *attached = *parent;
    VHDXGuid guid = attached ? vhdx_parent_data_write(attached) :
                               vhdx_guid_nil;
    bool new = !attached || vhdx_parent_is_told(bs->opaque, &guid);
    Error *err = NULL;
    int ret = name_store(bs, name, new, parent, loc, &err);

    if (ret < 0 && !new) {
        warn_reportf_err(err, "VHDX image '%s': the name of the attached "
                         "parent, '%s', is stored instead: ", bs->filename,
                         attached->filename);
        return name_store(bs, attached->filename, new, parent, loc, errp);
    }
    error_propagate(errp, err);
    return ret;
}

/* [entries-first] */
static int coroutine_fn GRAPH_RDLOCK
parent_name(BlockDriverState *bs, const VHDXChainParent *to, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(VHDXLocator) loc = g_new0(VHDXLocator, 1);
    BlockDriverState *parent = vhdx_parent_node(bs);
    int ret;

    parent = parent && parent->drv == bs->drv ? parent : NULL;
    ret = name_take(bs, to->name, &parent, loc, errp);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_begin(bs, content_stays(bs, &loc->linkage) ? VHDX_METADATA :
                         VHDX_DATA);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not begin to change '%s'",
                         bs->filename);
        return ret;
    }
    if (!s->params.has_parent) {
        ret = vhdx_child_prepare(bs);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not write the BAT of '%s'",
                             bs->filename);
            return ret;
        }
    }
    return locator_set(bs, parent, g_steal_pointer(&loc), errp);
}

/* The same for an image that is no child so far. */
static int coroutine_fn GRAPH_RDLOCK
parent_name_first(BlockDriverState *bs, const VHDXChainParent *to, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_request_freeze(s);
    ret = vhdx_child_check(bs, errp);
    if (ret < 0) {
        error_prepend(errp, "'%s' cannot be given a parent: ", bs->filename);
    } else {
        ret = parent_name(bs, to, errp);
    }
    vhdx_request_thaw(s);
    return ret;
}

/* The same for an image that has one: nobody moves the log meanwhile. */
static int coroutine_fn GRAPH_RDLOCK
parent_name_other(BlockDriverState *bs, const VHDXChainParent *to, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_request_reserve(s);
    ret = parent_name(bs, to, errp);
    vhdx_request_unreserve(s);
    return ret;
}

int coroutine_fn vhdx_chain_change_parent(BlockDriverState *bs, void *opaque,
                                          Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    const VHDXChainParent *to = opaque;
    bool none = !to->name || !*to->name;
    int ret;

    if (none && !s->params.has_parent) {
        return 0;
    }
    if (!none && to->format && strcmp(to->format, "vhdx")) {
        error_setg(errp, "The parent of a VHDX image must be in VHDX format, "
                   "not in '%s'", to->format);
        return -EINVAL;
    }
    ret = none ? vhdx_flatten(bs, errp) :
          s->params.has_parent ? parent_name_other(bs, to, errp) :
          parent_name_first(bs, to, errp);
    if (ret < 0) {
        return ret;
    }
    /*
     * Programs that look at an image in use, as libvirt does, and a host that
     * waits for a migration, read the locator without the log.
     */
    (void)vhdx_commit_checkpoint(bs);
    return 0;
}

/* -- Empty -- */

/* Let @block read as the parent, whatever it is now. */
static int coroutine_fn GRAPH_RDLOCK
block_empty(BlockDriverState *bs, uint64_t block, uint64_t *count)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t left = s->geo.blocks - block, entry;
    int ret;

    vhdx_lock(s);
    ret = vhdx_bat_get_run(bs, block, left, &entry, count);
    if (ret == 0 && vhdx_bat_state(entry) != VHDX_BLOCK_NOT_PRESENT) {
        /* One at a time: this one's page is in memory. */
        *count = 1;
        if (vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT ||
            vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT) {
            vhdx_space_release(s, vhdx_bat_offset(entry), s->geo.block_size);
        }
        vhdx_bat_set(s, block, VHDX_BLOCK_NOT_PRESENT);
        vhdx_change_note(s);
    }
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    return vhdx_commit_unlock(bs);
}

/*
 * Requests are frozen: a block must not get another place, as PARTIALLY_PRESENT
 * again, before it is stable that it has none. [empty-stable]
 */
static int coroutine_fn GRAPH_RDLOCK make_empty_frozen(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t count;
    int ret;

    /* It reads as before if its parent is there: its children go on to fit. */
    ret = vhdx_begin(bs, vhdx_parent_linked(bs) ? VHDX_METADATA : VHDX_DATA) ?:
          vhdx_commit(bs);
    if (ret == 0 && bs->backing) {
        ret = bdrv_co_flush(vhdx_parent_node(bs));
    }
    for (uint64_t block = 0; ret == 0 && block < s->geo.blocks;
         block += count) {
        ret = block_empty(bs, block, &count);
    }
    return ret < 0 ? ret : vhdx_commit(bs);
}

static int coroutine_fn GRAPH_RDLOCK make_empty(BlockDriverState *bs)
{
    int ret;

    vhdx_request_freeze(bs->opaque);
    ret = make_empty_frozen(bs);
    vhdx_request_thaw(bs->opaque);
    return ret;
}

int coroutine_fn vhdx_chain_make_empty(BlockDriverState *bs, void *opaque,
                                       Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (!s->params.has_parent) {
        error_setg(errp, "'%s' has no parent: it can't be made empty",
                   bs->filename);
        return -ENOTSUP;
    }
    ret = make_empty(bs);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not make '%s' empty", bs->filename);
    }
    return ret;
}
