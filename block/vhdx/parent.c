/*
 * VHDX: the parent of a differencing image
 *
 * The block layer attaches the parent, and asks then whether that can be: what
 * a child says about its parent is compared with what the parent says about
 * itself.  Its DataWriteGuid changes with its content, so a child can tell that
 * the parent is not any more what it was made for.  Filters may stand between.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent.h"

/* So many images may be in a chain. */
#define MAX_CHAIN   256

/* The image that is attached as parent of @bs, or NULL if there is none. */
static BlockDriverState *GRAPH_RDLOCK parent_node(BlockDriverState *bs)
{
    return bs->backing ? bdrv_skip_filters(bs->backing->bs) : NULL;
}

/* Which opening of an image that is, or 0 if it is not in VHDX format. */
static uint64_t parent_open_id(BlockDriverState *bs, BlockDriverState *parent)
{
    return parent && parent->drv == bs->drv ?
           ((BDRVVHDXState *)parent->opaque)->open_id : 0;
}

static int linkage_check(BlockDriverState *bs, BlockDriverState *parent,
                         Error **errp)
{
    BDRVVHDXState *s = bs->opaque, *p = parent->opaque;
    char linkage[UUID_STR_LEN], linkage2[UUID_STR_LEN], guid[UUID_STR_LEN];
    VHDXGuid data_write;

    if (!s->locator) {
        error_setg(errp, "The Parent Locator of '%s' can't be used: %s",
                   bs->filename, s->locator_error);
        return -EINVAL;
    }
    WITH_VHDX_LOCK_GUARD(p) {
        data_write = p->header.data_write_guid;
    }
    if (!vhdx_guid_is_nil(&data_write) &&
        (vhdx_guid_equal(&s->locator->linkage, &data_write) ||
         vhdx_guid_equal(&s->locator->linkage2, &data_write))) {
        return 0;
    }
    uuid_unparse_lower(s->locator->linkage.id, linkage);
    uuid_unparse_lower(s->locator->linkage2.id, linkage2);
    uuid_unparse_lower(data_write.id, guid);
    error_setg(errp, "'%s' does not go with its parent '%s': the child has "
               "parent_linkage {%s} and parent_linkage2 {%s}, but the "
               "DataWriteGuid of the parent is {%s}", bs->filename,
               parent->filename, linkage, linkage2, guid);
    error_append_hint(errp, "The parent is another image, or was changed after "
                      "the child was made.\n");
    if (s->parent_guessed) {
        error_append_hint(errp, "No path in the Parent Locator leads to it: it "
                          "was found by its name, beside the child.\n");
    }
    return -EINVAL;
}

int vhdx_parent_check_perm(BlockDriverState *bs, uint64_t perm,
                           uint64_t shared, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque, *p;
    BlockDriverState *parent = parent_node(bs);

    if (!parent) {
        return 0;
    }
    if (!s->params.has_parent) {
        error_setg(errp, "'%s' can have no parent: it is no differencing image",
                   bs->filename);
        return -EINVAL;
    }
    /* What was read of an inactive image may be out of date. */
    if (parent->drv != bs->drv || (bs->open_flags & BDRV_O_INACTIVE) ||
        parent_open_id(bs, parent) == s->parent_id) {
        return 0;
    }
    p = parent->opaque;
    if (p->params.logical_sector != s->params.logical_sector) {
        error_setg(errp, "'%s' does not go with its parent '%s': the logical "
                   "sector size is %" PRIu32 " in the child and %" PRIu32
                   " in the parent", bs->filename, parent->filename,
                   s->params.logical_sector, p->params.logical_sector);
        return -EINVAL;
    }
    return linkage_check(bs, parent, errp);
}

void vhdx_parent_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    BDRVVHDXState *s = bs->opaque;

    if (!(bs->open_flags & BDRV_O_INACTIVE)) {
        s->parent_id = parent_open_id(bs, parent_node(bs));
    }
}

void vhdx_parent_child_perm(BlockDriverState *bs, BdrvChild *c,
                            BdrvChildRole role,
                            BlockReopenQueue *reopen_queue,
                            uint64_t perm, uint64_t shared,
                            uint64_t *nperm, uint64_t *nshared)
{
    bdrv_default_perms(bs, c, role, reopen_queue, perm, shared, nperm, nshared);
    if ((role & BDRV_CHILD_COW) && !(bs->open_flags & BDRV_O_INACTIVE)) {
        *nshared &= ~(BLK_PERM_WRITE | BLK_PERM_RESIZE);
    }
}

int vhdx_parent_check_chain(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    BlockDriverState *child = bs;
    unsigned images = 1;

    while ((child = child->inherits_from)) {
        BDRVVHDXState *c = child->opaque;

        if (child->drv != bs->drv) {
            continue;
        }
        /* The same file, or a copy that has not been changed since. */
        if (vhdx_guid_equal(&c->header.file_write_guid,
                            &s->header.file_write_guid)) {
            error_setg(errp, "The chain of parents is a circle: '%s' is a "
                       "parent of '%s', which is the same image or a copy of "
                       "it", bs->filename, child->filename);
            return -EINVAL;
        }
        /* There is one more, the parent of @bs. */
        if (++images == MAX_CHAIN) {
            error_setg(errp, "The chain of parents has more than %d images",
                       MAX_CHAIN);
            return -EINVAL;
        }
    }
    return 0;
}

char *vhdx_parent_local_path(BlockDriverState *bs)
{
    BlockDriverState *node = bs;
    const char *path;

    while (bdrv_primary_bs(node)) {
        node = bdrv_primary_bs(node);
    }
    if (strcmp(node->drv->format_name, "file")) {
        return NULL;
    }
    bdrv_refresh_filename(node);
    path = node->exact_filename;
    strstart(path, "file:", &path);
    return *path ? g_strdup(path) : NULL;
}

int coroutine_fn vhdx_parent_preadv(BlockDriverState *bs, uint64_t offset,
                                    uint64_t bytes, QEMUIOVector *qiov,
                                    size_t qiov_offset)
{
    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    if (!bs->backing) {
        qemu_iovec_memset(qiov, qiov_offset, 0, bytes);
        return 0;
    }
    return bdrv_co_preadv_part(bs->backing, offset, bytes, qiov, qiov_offset,
                               0);
}
