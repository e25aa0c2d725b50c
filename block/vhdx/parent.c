/*
 * VHDX: the parent of a differencing image
 *
 * Which node is it, where is it, and what does it have.  Whether it belongs to
 * its child is judged in parent-perm.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-path.h"
#include "parent-int.h"

/*
 * So many images may be opened for the one on top.  A chain that is too long
 * by less is refused by vhdx_parent_check_perm(): QEMU's message would tell at
 * each level that the image below could not be opened.
 */
#define MAX_OPEN    (VHDX_MAX_CHAIN + 64)

void vhdx_parent_init(BDRVVHDXState *s, bool inactive, bool given)
{
    static uint64_t opened;

    s->parent = g_new0(VHDXParent, 1);
    s->parent->open_id = ++opened;
    s->parent->inactive = inactive;
    s->parent->given = given;
}

bool vhdx_parent_is_given(QDict *options)
{
    const QDictEntry *e;

    for (e = qdict_first(options); e; e = qdict_next(options, e)) {
        if (!strcmp(qdict_entry_key(e), "backing") ||
            strstart(qdict_entry_key(e), "backing.", NULL)) {
            return true;
        }
    }
    return false;
}

void vhdx_parent_free(BDRVVHDXState *s)
{
    if (s->parent) {
        error_free(s->parent->error);
        g_clear_pointer(&s->parent, g_free);
    }
}

BlockDriverState *vhdx_parent_node(BlockDriverState *bs)
{
    return bs->backing ? bdrv_skip_filters(bs->backing->bs) : NULL;
}

BlockDriverState *vhdx_parent_linked(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    return qatomic_read(&s->linked) ? vhdx_parent_node(bs) : NULL;
}

BlockDriverState *vhdx_parent_beneath(BlockDriverState *bs, uint64_t offset,
                                      uint64_t bytes)
{
    BlockDriverState *below = bs->backing ? bs->backing->bs : NULL;

    return below && below->drv == bs->drv && below->backing &&
           !vhdx_parent_is_lost(bs->opaque) &&
           QEMU_IS_ALIGNED(offset | bytes, below->bl.request_alignment) &&
           !qatomic_read(&below->copy_on_read) ? below : NULL;
}

bool vhdx_parent_is_told(BDRVVHDXState *s, const VHDXGuid *guid)
{
    VHDX_LOCK_GUARD(s);
    return s->locator && !vhdx_guid_is_nil(guid) &&
           (vhdx_guid_equal(&s->locator->linkage, guid) ||
            vhdx_guid_equal(&s->locator->linkage2, guid));
}

VHDXGuid vhdx_parent_data_write(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    VHDX_LOCK_GUARD(s);
    return s->header.data_write_guid;
}

bool vhdx_parent_was_linked(BDRVVHDXState *s)
{
    return qatomic_read(&s->linked);
}

bool vhdx_parent_link_is_due(BDRVVHDXState *s)
{
    /* The parent may be changing the locator for itself. */
    VHDX_LOCK_GUARD(s);
    if (!s->params.has_parent || !qatomic_read(&s->linked)) {
        return false;
    }
    return qatomic_read(&s->parent->relink) ||
           !vhdx_guid_is_nil(&s->locator->linkage2);
}

void vhdx_parent_set_link_due(BDRVVHDXState *s)
{
    qatomic_set(&s->parent->relink, true);
}

void vhdx_parent_set_linked(BDRVVHDXState *s, bool linked)
{
    qatomic_set(&s->linked, linked);
    qatomic_set(&s->parent->relink, false);
}

int coroutine_fn vhdx_parent_leave(BlockDriverState *bs, void *opaque,
                                   Error **errp)
{
    BlockDriverState *parent = vhdx_parent_linked(bs);

    if (parent) {
        BDRVVHDXState *p = parent->opaque;

        qemu_co_mutex_lock(&p->commit_lock);
        vhdx_parent_set_linked(bs->opaque, false);
        qemu_co_mutex_unlock(&p->commit_lock);
    }
    return 0;
}

bool vhdx_parent_is_guessed(BDRVVHDXState *s)
{
    return s->parent->guessed;
}

void vhdx_parent_set_named(BDRVVHDXState *s)
{
    s->parent->guessed = false;
    error_free(s->parent->error);
    s->parent->error = NULL;
}

void vhdx_parent_lose(BDRVVHDXState *s)
{
    qatomic_set(&s->parent->lost, true);
}

bool vhdx_parent_is_lost(BDRVVHDXState *s)
{
    return qatomic_read(&s->parent->lost);
}

int vhdx_parent_report_lost(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    if (!qatomic_xchg(&s->parent->reported, true)) {
        error_report("VHDX image '%s' cannot be read where it depends on its "
                     "parent: the parent was changed or replaced",
                     bs->filename);
    }
    return -EIO;
}

void vhdx_parent_forget(BDRVVHDXState *s)
{
    s->parent->opened = false;
    s->parent->given = true;
}

void vhdx_parent_set_inactive(BDRVVHDXState *s, bool inactive)
{
    s->parent->inactive = inactive;
}

void vhdx_parent_set_got_writable(BDRVVHDXState *s, bool writable)
{
    s->parent->got_writable = writable;
}

bool vhdx_parent_got_writable(BDRVVHDXState *s)
{
    return s->parent->got_writable;
}

bool vhdx_parent_hold_writable(BDRVVHDXState *s, bool hold)
{
    bool held = s->parent->held_writable;

    s->parent->held_writable = hold;
    return held;
}

void vhdx_parent_set_reopening(BDRVVHDXState *s, bool reopening)
{
    s->parent->reopening = reopening;
}

unsigned vhdx_parent_count(BlockDriverState *bs)
{
    BlockDriver *drv = bs->drv;
    unsigned images = 0;

    for (; bs; bs = bs->drv == drv ? vhdx_parent_node(bs) : NULL) {
        images++;
    }
    return images;
}

void vhdx_parent_error_chain(Error **errp)
{
    error_setg(errp, "The chain of parents has more than %d images",
               VHDX_MAX_CHAIN);
}

/*
 * Whether @bs, about to be opened, is its own parent, or its chain is far
 * longer than it may be; by the images that have led to it.
 */
static int chain_check(BlockDriverState *bs, Error **errp)
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
        if (++images == MAX_OPEN) {
            vhdx_parent_error_chain(errp);
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
    if (qemu_in_main_thread()) {
        bdrv_refresh_filename(node);
    }
    path = node->exact_filename;
    strstart(path, "file:", &path);
    return *path ? g_strdup(path) : NULL;
}

int coroutine_fn vhdx_parent_name(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree char *child = vhdx_parent_local_path(bs);
    g_autofree char *name = NULL;
    int ret = chain_check(bs, errp);

    if (ret < 0) {
        return ret;
    }
    if (s->locator) {
        name = vhdx_parent_path_find(s->locator, child, &s->parent->guessed,
                                     &s->parent->error);
    } else {
        error_setg(&s->parent->error, "The Parent Locator can't be used: %s",
                   s->locator_error);
    }
    if (!name && s->locator) {
        name = vhdx_parent_path_find(s->locator, NULL, &s->parent->guessed,
                                     NULL);
    }
    if (!name) {
        name = g_strdup("unknown parent");
    }
    pstrcpy(bs->backing_file, sizeof(bs->backing_file), name);
    pstrcpy(bs->auto_backing_file, sizeof(bs->auto_backing_file), name);
    pstrcpy(bs->backing_format, sizeof(bs->backing_format), "vhdx");
    return 0;
}

int coroutine_fn vhdx_parent_preadv(BlockDriverState *bs, uint64_t offset,
                                    uint64_t bytes, QEMUIOVector *qiov,
                                    size_t qiov_offset)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_assert_unlocked(s);
    if (vhdx_parent_is_lost(s)) {
        return vhdx_parent_report_lost(bs);
    }
    if (!bs->backing) {
        qemu_iovec_memset(qiov, qiov_offset, 0, bytes);
        return 0;
    }
    return bdrv_co_preadv_part(bs->backing, offset, bytes, qiov, qiov_offset,
                               0);
}
