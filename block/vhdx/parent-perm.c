/*
 * VHDX: whether parent and child belong together
 *
 * The block layer attaches a parent, and asks then whether that can be: what a
 * child says about its parent is compared with what the parent says about
 * itself.  Its DataWriteGuid changes with its content, so a child can tell that
 * the parent is not any more what it was made for.  Filters may stand between.
 *
 * What comes with the opening of the child, or what a user gives it in place of
 * what it has, has to be right.  What is attached to an open image is the block
 * layer's business: a snapshot puts the image under a new overlay, and jobs
 * take images out of a chain and change the locator afterwards.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/change.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-children.h"
#include "block/vhdx/parent-path.h"
#include "block/vhdx/parent-perm.h"
#include "parent-int.h"

/* Which opening of an image @parent is, or 0 if it is not in VHDX format. */
static uint64_t parent_open_id(BlockDriverState *bs, BlockDriverState *parent)
{
    return parent->drv == bs->drv ?
           ((BDRVVHDXState *)parent->opaque)->parent->open_id : 0;
}

static int linkage_check(BlockDriverState *bs, BlockDriverState *parent,
                         Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    char linkage[UUID_STR_LEN], linkage2[UUID_STR_LEN], guid[UUID_STR_LEN];
    VHDXGuid data_write = vhdx_parent_data_write(parent);

    if (!s->locator) {
        error_setg(errp, "The Parent Locator of '%s' can't be used: %s",
                   bs->filename, s->locator_error);
        return -EINVAL;
    }
    if (vhdx_parent_is_told(s, &data_write) ||
        vhdx_children_may_follow(parent, bs)) {
        return 0;
    }
    uuid_unparse_lower(s->locator->linkage.id, linkage);
    uuid_unparse_lower(s->locator->linkage2.id, linkage2);
    uuid_unparse_lower(data_write.id, guid);
    error_setg(errp, "'%s' does not match its parent '%s': the child has "
               "parent_linkage {%s} and parent_linkage2 {%s}, but the "
               "DataWriteGuid of the parent is {%s}; if it is right as it is, "
               "'qemu-img rebase -u -f vhdx -b PATH -F vhdx %s' lets the child "
               "take it", bs->filename, parent->filename, linkage, linkage2,
               guid, bs->filename);
    error_append_hint(errp, "%s\n",
                      vhdx_guid_is_nil(&s->locator->linkage) ?
                      "The child was made by 'create -u', and has not been "
                      "linked to a parent yet." :
                      "The parent is another image, or was changed after the "
                      "child was made.");
    if (s->parent->guessed) {
        error_append_hint(errp, "No path in the Parent Locator leads to it: it "
                          "was found by its name, beside the child.\n");
    }
    return -EINVAL;
}

/* Whether what is attached now has to be right as it is. */
static bool GRAPH_RDLOCK
parent_is_strict(BlockDriverState *bs, BlockDriverState *parent)
{
    VHDXParent *p = ((BDRVVHDXState *)bs->opaque)->parent;

    return p->reopening ||
           (!p->opened && (p->given || parent->inherits_from == bs));
}

/* Judge @parent, another image than the one that @bs has had. */
static int GRAPH_RDLOCK
parent_judge(BlockDriverState *bs, BlockDriverState *parent, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque, *p = parent->opaque;

    if (!s->params.has_parent) {
        error_setg(errp, "'%s' can have no parent: it is no differencing image",
                   bs->filename);
        error_append_hint(errp, "Create it with 'backing_file'.\n");
        return -EINVAL;
    }
    if (vhdx_parent_count(parent) >= VHDX_MAX_CHAIN) {
        vhdx_parent_error_chain(errp);
        return -EINVAL;
    }
    if (parent->drv != bs->drv) {
        return 0;
    }
    if (p->params.logical_sector != s->params.logical_sector) {
        error_setg(errp, "'%s' does not match its parent '%s': the logical "
                   "sector size is %" PRIu32 " in the child and %" PRIu32
                   " in the parent", bs->filename, parent->filename,
                   s->params.logical_sector, p->params.logical_sector);
        return -EINVAL;
    }
    return parent_is_strict(bs, parent) ? linkage_check(bs, parent, errp) : 0;
}

/*
 * Whether @parent is what was judged before: jobs take it away and put it back.
 */
static bool GRAPH_RDLOCK
parent_is_known(BlockDriverState *bs, BlockDriverState *parent)
{
    VHDXParent *p = ((BDRVVHDXState *)bs->opaque)->parent;

    return p->opened && parent_open_id(bs, parent) == p->id;
}

/*
 * What was read of an inactive image may be out of date: its parent is judged
 * when it is activated.  Jobs go on though what they attach is refused, and
 * take the image for whole: then nothing is read of a parent that it lacks.
 */
int vhdx_parent_check_perm(BlockDriverState *bs, uint64_t perm,
                           uint64_t shared, Error **errp)
{
    VHDXParent *p = ((BDRVVHDXState *)bs->opaque)->parent;
    BlockDriverState *parent = vhdx_parent_node(bs);
    int ret;

    if (!parent || p->inactive || parent_is_known(bs, parent)) {
        return 0;
    }
    ret = parent_judge(bs, parent, errp);
    /* A reopen that fails leaves the one that there is. */
    if (ret < 0 && !p->reopening && vhdx_children_has_use(bs)) {
        qatomic_set(&p->lost, true);
    }
    return ret;
}

/* Whether @parent is the file that the locator of @bs names. */
static bool GRAPH_RDLOCK
parent_is_named(BlockDriverState *bs, BlockDriverState *parent)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree char *child = vhdx_parent_local_path(bs);
    g_autofree char *path = vhdx_parent_local_path(parent);
    g_autofree char *name = NULL, *full = NULL;
    bool guessed;

    if (!child || !path || !s->locator) {
        return false;
    }
    name = vhdx_parent_path_find(s->locator, child, &guessed, NULL);
    full = name ? path_combine(child, name) : NULL;
    return full && vhdx_parent_path_is_same(full, path);
}

/* @parent is the parent of @bs from now on, as far as anybody is. */
static void GRAPH_RDLOCK
parent_take(BlockDriverState *bs, BlockDriverState *parent)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXParent *p = s->parent;
    VHDXGuid guid;

    p->id = parent_open_id(bs, parent);
    p->opened = true;
    qatomic_set(&p->lost, false);
    qatomic_set(&p->reported, false);
    qatomic_set(&s->linked, false);
    qatomic_set(&p->relink, false);
    if (!p->id || !s->params.has_parent) {
        return;
    }
    guid = vhdx_parent_data_write(parent);
    if (vhdx_parent_is_told(s, &guid)) {
        BDRVVHDXState *below = parent->opaque;

        qatomic_set(&s->linked, true);
        /*
         * It is to be found by its path the next time, and by this GUID: its
         * file may have another one.
         */
        qatomic_set(&p->relink, qatomic_read(&below->header_unsure) ||
                                (p->guessed && parent_is_named(bs, parent)));
    } else if (vhdx_children_may_follow(parent, bs) ||
               parent_is_named(bs, parent)) {
        /*
         * It was changed after the child was made, and before it was put here.
         */
        qatomic_set(&s->linked, true);
        qatomic_set(&p->relink, true);
        vhdx_change_data_untold(s);
    }
}

void vhdx_parent_set_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared)
{
    VHDXParent *p = ((BDRVVHDXState *)bs->opaque)->parent;
    BlockDriverState *parent = vhdx_parent_node(bs);

    /* Nothing is known yet, or not any more, or it may be out of date. */
    if (!p || p->inactive) {
        return;
    }
    if (parent && !parent_is_known(bs, parent)) {
        parent_take(bs, parent);
    }
    vhdx_children_note(bs);
}

/*
 * A mirror opens the parent of its target at the end, and goes on if there is
 * none.  Only who looks for one to open has cleared BDRV_O_NO_BACKING.
 */
char *vhdx_parent_dirname(BlockDriverState *bs, Error **errp)
{
    VHDXParent *p = ((BDRVVHDXState *)bs->opaque)->parent;

    if (!p->error) {
        return bdrv_dirname(bs->file->bs, errp);
    }
    if (!bs->backing && !(bs->open_flags & BDRV_O_NO_BACKING) &&
        vhdx_children_has_use(bs)) {
        vhdx_parent_lose(bs->opaque);
    }
    error_propagate(errp, error_copy(p->error));
    return NULL;
}
