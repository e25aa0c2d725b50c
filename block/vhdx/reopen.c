/*
 * VHDX: changes of an open image from outside
 *
 * It gets writable or read-only, another process takes it over, or this one
 * does.  Where the image has a child in use, that is to be writable as long as
 * the image is: before the image changes, its child has to be told, as begin.c
 * has it, and a block job makes no more of a chain writable than what it writes
 * to.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/option.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/call.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/dirty-bitmaps.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/open.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-children.h"
#include "block/vhdx/parent-perm.h"
#include "block/vhdx/reopen.h"
#include "block/vhdx/request.h"

/* What a reopen that is under way is about */
typedef struct Reopen {
    uint64_t cache_size;            /* bytes */
    bool to_writable;
    bool to_read_only;
} Reopen;

static QemuOptsList runtime_opts = {
    .name = "vhdx",
    .head = QTAILQ_HEAD_INITIALIZER(runtime_opts.head),
    .desc = {
        {
            .name = VHDX_OPT_CACHE_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Memory that metadata pages may take (default: 32 MiB)",
        },
        { /* end of list */ }
    },
};

int vhdx_reopen_get_cache_size(QDict *options, uint64_t *size, Error **errp)
{
    QemuOpts *opts = qemu_opts_create(&runtime_opts, NULL, 0,
                                      &error_abort);
    int ret = -EINVAL;

    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        goto out;
    }
    *size = qemu_opt_get_size(opts, VHDX_OPT_CACHE_SIZE, VHDX_CACHE_SIZE);
    if (*size < VHDX_CACHE_SIZE_MIN || *size > VHDX_CACHE_SIZE_MAX) {
        error_setg(errp, VHDX_OPT_CACHE_SIZE " must be from %" PRIu64 " to %"
                   PRIu64 " bytes, not %" PRIu64,
                   (uint64_t)VHDX_CACHE_SIZE_MIN,
                   (uint64_t)VHDX_CACHE_SIZE_MAX, *size);
        goto out;
    }
    ret = 0;
out:
    qemu_opts_del(opts);
    return ret;
}

/* -- Closing the log -- */

static int coroutine_fn GRAPH_RDLOCK
load_anew_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    return vhdx_open_load_anew(bs, errp);
}

/*
 * Put everything in place; after this the file is whole without a log.  What
 * the locator has to tell is told at the latest now.
 */
static int coroutine_fn GRAPH_RDLOCK
settle_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    Error *err = NULL;
    int ret = 0;

    if (vhdx_parent_link_is_due(s) && vhdx_parent_linked(bs) &&
        !bdrv_is_read_only(bs) && !vhdx_change_is_broken(s)) {
        ret = vhdx_begin(bs, VHDX_METADATA);
    }
    ret = vhdx_dirty_settle(bs, &err) ?: ret;
    if (ret < 0) {
        error_free(err);
        error_setg_errno(errp, -ret, "Could not finish writing VHDX image '%s'",
                         bs->filename);
        return ret;
    }
    if (err) {
        error_propagate_prepend(errp, err, "Lost persistent bitmaps of node "
                                "'%s': ", bdrv_get_device_or_node_name(bs));
        return -EIO;
    }
    return 0;
}

int coroutine_mixed_fn vhdx_reopen_settle(BlockDriverState *bs, Error **errp)
{
    return vhdx_call(bs, settle_entry, NULL, errp);
}

/* -- Reopen -- */

/*
 * Put all changes in place, so that their pages may be dropped.  Where that
 * fails, they stay.
 */
static int coroutine_fn GRAPH_RDLOCK
place_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    return vhdx_change_log_is_open(bs->opaque) ? vhdx_commit_checkpoint(bs) : 0;
}

int vhdx_reopen_prepare(BDRVReopenState *state, BlockReopenQueue *queue,
                        Error **errp)
{
    BlockDriverState *bs = state->bs;
    BDRVVHDXState *s = bs->opaque;
    g_autofree Reopen *reopen = g_new0(Reopen, 1);
    bool writable = state->flags & BDRV_O_RDWR;
    int ret = vhdx_reopen_get_cache_size(state->options, &reopen->cache_size,
                                         errp);

    if (ret < 0) {
        return ret;
    }
    if (writable && !s->header.log_length) {
        error_setg(errp, "%s", VHDX_NO_LOG);
        return -EACCES;
    }
    if (vhdx_change_is_broken(s)) {
        /* It has been flushed: nothing is in memory only. */
        ret = vhdx_call(bs, load_anew_entry, NULL, errp);
    } else if (!writable) {
        ret = vhdx_reopen_settle(bs, errp);
    }
    if (ret < 0) {
        return ret;
    }
    if (reopen->cache_size < s->cache_size) {
        (void)vhdx_call(bs, place_entry, NULL, NULL);
    }
    reopen->to_writable = writable && bdrv_is_read_only(bs);
    reopen->to_read_only = !writable && !bdrv_is_read_only(bs);
    vhdx_parent_set_reopening(s, true);
    state->opaque = g_steal_pointer(&reopen);
    return 0;
}

void vhdx_reopen_commit(BDRVReopenState *state)
{
    BDRVVHDXState *s = state->bs->opaque;
    Reopen *reopen = state->opaque;

    WITH_VHDX_LOCK_GUARD(s) {
        s->cache_size = reopen->cache_size;
        vhdx_cache_set_limit(s, s->cache_size);
    }
    vhdx_parent_set_reopening(s, false);
    if (reopen->to_read_only) {
        vhdx_dirty_set_readonly(state->bs, true);
    }
}

static void child_unref(void *opaque)
{
    bdrv_unref(opaque);
}

/*
 * Those of the children of @bs, which stay meanwhile; the array is to be freed.
 */
static GPtrArray *children_ref(BlockDriverState *bs, VHDXChildren which)
{
    GPtrArray *list;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    list = vhdx_children_list(bs, which);
    for (guint i = 0; i < list->len; i++) {
        bdrv_ref(g_ptr_array_index(list, i));
    }
    g_ptr_array_set_free_func(list, child_unref);
    return list;
}

/*
 * Let the children of @bs get writable, as long as it is.  Where one can't,
 * that is told when @bs is to be changed.  A job that is about to begin does
 * not use its images yet.
 */
static void children_hold(BlockDriverState *bs)
{
    g_autoptr(GPtrArray) used = children_ref(bs, VHDX_CHILDREN_IN_USE);
    g_autoptr(GPtrArray) all = children_ref(bs, VHDX_CHILDREN_ALL);
    GPtrArray *list = used->len || all->len > 1 ? used : all;

    for (guint i = 0; i < list->len; i++) {
        BlockDriverState *child = g_ptr_array_index(list, i);

        if (bdrv_is_read_only(child) &&
            bdrv_reopen_set_read_only(child, false, NULL) == 0) {
            vhdx_parent_hold_writable(child->opaque, true);
        }
    }
}

static int coroutine_fn GRAPH_RDLOCK
begin_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the Parent Locator of "
                         "'%s'", bs->filename);
    }
    return ret;
}

/*
 * @bs gets no change any more: let its children be as they are to stay.
 * [overlay-linked]
 */
static void children_let_go(BlockDriverState *bs)
{
    g_autoptr(GPtrArray) list = children_ref(bs, VHDX_CHILDREN_ALL);

    for (guint i = 0; i < list->len; i++) {
        BlockDriverState *child = g_ptr_array_index(list, i);
        Error *err = NULL;

        if (vhdx_parent_hold_writable(child->opaque, false)) {
            /* If that fails it stays writable, as the user may have it. */
            (void)bdrv_reopen_set_read_only(child, true, NULL);
        } else if (vhdx_parent_link_is_due(child->opaque) &&
                   !bdrv_is_read_only(child) &&
                   vhdx_call(child, begin_entry, NULL, &err) < 0) {
            error_report_err(err);
        }
    }
}

/*
 * A snapshot makes the image read-only last: from here on its overlay must find
 * it, even if it was changed after the overlay was made.
 */
void vhdx_reopen_commit_post(BDRVReopenState *state)
{
    g_autofree Reopen *reopen = state->opaque;
    BlockDriverState *bs = state->bs;
    Error *err = NULL;

    if (reopen->to_writable) {
        if (vhdx_dirty_got_writable(bs, &err) < 0) {
            error_report_err(err);
        }
        vhdx_parent_set_got_writable(bs->opaque, true);
        children_hold(bs);
    } else if (reopen->to_read_only) {
        vhdx_parent_set_got_writable(bs->opaque, false);
        children_let_go(bs);
    }
}

void vhdx_reopen_abort(BDRVReopenState *state)
{
    vhdx_parent_set_reopening(state->bs->opaque, false);
    g_free(state->opaque);
}

/* -- Inactivation and activation -- */

static int coroutine_fn GRAPH_RDLOCK
inactivate_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    bool flushed;
    int ret = vhdx_log_resume(bs);

    if (ret == 0) {
        return settle_entry(bs, NULL, errp);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        flushed = vhdx_change_is_stable(s, vhdx_change_last(s));
    }
    if (flushed) {
        /* The log in the file has everything, for whoever opens it. */
        return 0;
    }
    error_setg_errno(errp, -ret, "Could not flush VHDX image '%s'",
                     bs->filename);
    return ret;
}

int vhdx_reopen_inactivate(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    Error *err = NULL;
    int ret;

    WITH_VHDX_LOCK_GUARD(s) {
        assert(vhdx_request_oldest(s) == vhdx_request_next(s));
    }
    ret = vhdx_dirty_check_unused(bs, &err);
    if (ret == 0) {
        ret = vhdx_call(bs, inactivate_entry, NULL, &err);
    }
    if (ret < 0) {
        error_report_err(err);
        return ret;
    }
    vhdx_dirty_release(bs);
    vhdx_parent_set_inactive(s, true);
    return 0;
}

/* Whether the parent is in use, but not as that of @bs, which was left. */
static bool GRAPH_RDLOCK is_left(BlockDriverState *bs)
{
    BlockDriverState *parent = vhdx_parent_node(bs);

    return parent && !vhdx_children_has_use(bs) &&
           vhdx_children_has_use(parent);
}

void coroutine_fn vhdx_reopen_activate(BlockDriverState *bs, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    bool lost = false;

    if (vhdx_open_load_anew(bs, errp) < 0) {
        error_prepend(errp, "Could not open VHDX image again: ");
        return;
    }
    vhdx_parent_set_inactive(s, false);
    vhdx_parent_forget(s);
    if (vhdx_parent_check_perm(bs, 0, 0, errp) < 0) {
        lost = is_left(bs);
        if (!lost) {
            vhdx_parent_set_inactive(s, true);
            return;
        }
        /* The guest goes on without it. */
        error_free(*errp);
        *errp = NULL;
    }
    vhdx_parent_set_perm(bs, 0, 0);
    if (lost) {
        vhdx_parent_set_linked(s, false);
        vhdx_parent_lose(s);
    }
}
