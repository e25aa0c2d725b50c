/*
 * VHDX: the block driver
 *
 * The disk image format of Hyper-V, as MS-VHDX revision 8.0 has it.  This file
 * ties the others together: probing, open and close, changes of an open image
 * from outside, and what is told about it.  layers.txt has the order of the
 * files, and state.h the rules of the locks.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/check.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/compact.h"
#include "block/vhdx/create.h"
#include "block/vhdx/info.h"
#include "block/vhdx/io.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/open.h"
#include "block/vhdx/options.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/resize.h"

/* Disks up to this size may be in a floppy drive. */
#define FLOPPY_SIZE         (2880 * KiB)

#define VHDX_OPT_CACHE_SIZE "cache-size"
#define VHDX_OPT_COMPACT    "compact"

static QemuOptsList vhdx_runtime_opts = {
    .name = "vhdx",
    .head = QTAILQ_HEAD_INITIALIZER(vhdx_runtime_opts.head),
    .desc = {
        {
            .name = VHDX_OPT_CACHE_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Memory that metadata pages may take (default: 32 MiB)",
        },
        { /* end of list */ }
    },
};

static QemuOptsList vhdx_amend_opts = {
    .name = "vhdx-amend-opts",
    .head = QTAILQ_HEAD_INITIALIZER(vhdx_amend_opts.head),
    .desc = {
        {
            .name = VHDX_OPT_COMPACT,
            .type = QEMU_OPT_STRING,
            .help = "Make the file of a dynamic image shorter: 'space' fills "
                    "free space with blocks from the end, 'zeroes' gives up "
                    "blocks full of zeros before that",
        },
        { /* end of list */ }
    },
};

static const char *const vhdx_mutable_opts[] = { VHDX_OPT_CACHE_SIZE, NULL };

static int vhdx_probe(const uint8_t *buf, int buf_size, const char *filename)
{
    return vhdx_file_id_valid(buf, buf_size) ? 100 : 0;
}

/* -- Open and close -- */

/* A function that must run in a coroutine, and what it is called with. */
typedef struct VHDXCall {
    int coroutine_fn (*func)(const struct VHDXCall *call);
    BlockDriverState *bs;
    bool flag;
    BlockDriverAmendStatusCB *status_cb;
    void *cb_opaque;
    int64_t *bytes;
    Error **errp;
    int ret;
} VHDXCall;

static void coroutine_fn vhdx_call_entry(void *opaque)
{
    VHDXCall *call = opaque;
    int ret;

    GRAPH_RDLOCK_GUARD();
    ret = call->func(call);
    qatomic_set(&call->ret, ret);
    aio_wait_kick();
}

/* Run @call->func in a coroutine and wait for it, if not already in one. */
static int coroutine_mixed_fn vhdx_call(VHDXCall call)
{
    call.ret = -EINPROGRESS;
    if (qemu_in_coroutine()) {
        vhdx_call_entry(&call);
    } else {
        aio_co_enter(bdrv_get_aio_context(call.bs),
                     qemu_coroutine_create(vhdx_call_entry, &call));
        BDRV_POLL_WHILE(call.bs, qatomic_read(&call.ret) == -EINPROGRESS);
    }
    return call.ret;
}

static int coroutine_fn GRAPH_RDLOCK vhdx_load_entry(const VHDXCall *call)
{
    return vhdx_open_load(call->bs, call->flag, call->errp);
}

/* Take the cache's size in bytes out of @options. */
static int cache_size_get(QDict *options, uint64_t *size, Error **errp)
{
    QemuOpts *opts = qemu_opts_create(&vhdx_runtime_opts, NULL, 0,
                                      &error_abort);
    int ret = -EINVAL;

    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        goto out;
    }
    *size = qemu_opt_get_size(opts, VHDX_OPT_CACHE_SIZE, VHDX_CACHE_SIZE);
    if (*size < VHDX_CACHE_SIZE_MIN || *size > VHDX_CACHE_SIZE_MAX) {
        error_setg(errp, VHDX_OPT_CACHE_SIZE " %" PRIu64 " is not from %"
                   PRIu64 " to %" PRIu64 " bytes", *size,
                   (uint64_t)VHDX_CACHE_SIZE_MIN,
                   (uint64_t)VHDX_CACHE_SIZE_MAX);
        goto out;
    }
    ret = 0;
out:
    qemu_opts_del(opts);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
vhdx_name_parent_entry(const VHDXCall *call)
{
    return vhdx_open_name_parent(call->bs, call->errp);
}

static int coroutine_mixed_fn
vhdx_open(BlockDriverState *bs, QDict *options, int flags, Error **errp)
{
    static uint64_t opened;
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = cache_size_get(options, &s->cache_size, errp);
    if (ret < 0) {
        return ret;
    }
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
        return ret;
    }
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    /* A longer disk reads as zeros in any case. */
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    vhdx_open_init(s);
    s->open_id = ++opened;
    ret = vhdx_call((VHDXCall) {
        .func = vhdx_load_entry,
        .bs = bs,
        .flag = flags & BDRV_O_INACTIVE,
        .errp = errp,
    });
    if (ret == 0 && s->params.has_parent) {
        ret = vhdx_call((VHDXCall) {
            .func = vhdx_name_parent_entry,
            .bs = bs,
            .errp = errp,
        });
    }
    if (ret < 0) {
        vhdx_open_free(s);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
vhdx_load_anew_entry(const VHDXCall *call)
{
    return vhdx_open_load_anew(call->bs, call->errp);
}

/* Put everything in place; after this the file is whole without a log. */
static int coroutine_fn GRAPH_RDLOCK vhdx_settle_entry(const VHDXCall *call)
{
    int ret = vhdx_log_close(call->bs);

    if (ret < 0) {
        error_setg_errno(call->errp, -ret, "Could not finish writing VHDX "
                         "image '%s'", call->bs->filename);
    }
    return ret;
}

static int coroutine_mixed_fn vhdx_settle(BlockDriverState *bs, Error **errp)
{
    return vhdx_call((VHDXCall) {
        .func = vhdx_settle_entry,
        .bs = bs,
        .errp = errp,
    });
}

static void vhdx_close(BlockDriverState *bs)
{
    Error *err = NULL;

    /* An inactive image is another process's to write to. */
    if (!(bs->open_flags & BDRV_O_INACTIVE) && vhdx_settle(bs, &err) < 0) {
        error_report_err(err);
    }
    vhdx_open_free(bs->opaque);
}

/*
 * Put all changes in place, so that their pages may be dropped.  Where that
 * fails, they stay.
 */
static int coroutine_fn GRAPH_RDLOCK vhdx_place_entry(const VHDXCall *call)
{
    BDRVVHDXState *s = call->bs->opaque;

    return vhdx_change_log_is_open(s) ? vhdx_commit_checkpoint(call->bs) : 0;
}

static int vhdx_reopen_prepare(BDRVReopenState *state,
                               BlockReopenQueue *queue, Error **errp)
{
    BDRVVHDXState *s = state->bs->opaque;
    g_autofree uint64_t *cache_size = g_new(uint64_t, 1);
    int ret = cache_size_get(state->options, cache_size, errp);

    if (ret < 0) {
        return ret;
    }
    if ((state->flags & BDRV_O_RDWR) && !s->header.log_length) {
        error_setg(errp, "%s", VHDX_NO_LOG);
        return -EACCES;
    }
    if (vhdx_change_is_broken(s)) {
        /* It has been flushed: nothing is in memory only. */
        ret = vhdx_call((VHDXCall) {
            .func = vhdx_load_anew_entry,
            .bs = state->bs,
            .errp = errp,
        });
    } else if (!(state->flags & BDRV_O_RDWR)) {
        ret = vhdx_settle(state->bs, errp);
    }
    if (ret < 0) {
        return ret;
    }
    if (*cache_size < s->cache_size) {
        (void)vhdx_call((VHDXCall) {
            .func = vhdx_place_entry,
            .bs = state->bs,
        });
    }
    state->opaque = g_steal_pointer(&cache_size);
    return 0;
}

static void vhdx_reopen_commit(BDRVReopenState *state)
{
    BDRVVHDXState *s = state->bs->opaque;

    WITH_VHDX_LOCK_GUARD(s) {
        s->cache_size = *(uint64_t *)state->opaque;
        vhdx_cache_set_limit(s, s->cache_size);
    }
    g_free(state->opaque);
}

static void vhdx_reopen_abort(BDRVReopenState *state)
{
    g_free(state->opaque);
}

static int coroutine_fn GRAPH_RDLOCK vhdx_inactivate_entry(const VHDXCall *call)
{
    BDRVVHDXState *s = call->bs->opaque;
    bool flushed;
    int ret = vhdx_log_resume(call->bs);

    if (ret == 0) {
        return vhdx_settle_entry(call);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        flushed = vhdx_change_is_stable(s, vhdx_change_last(s));
    }
    if (flushed) {
        /* The log in the file has everything, for whoever opens it. */
        return 0;
    }
    error_setg_errno(call->errp, -ret, "Could not flush VHDX image '%s'",
                     call->bs->filename);
    return ret;
}

/*
 * The block layer has drained the node, and lets no request come before it is
 * inactive: one that is under way now would change an image without a log.
 */
static int vhdx_inactivate(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    Error *err = NULL;
    int ret;

    WITH_VHDX_LOCK_GUARD(s) {
        assert(vhdx_request_oldest(s) == vhdx_request_next(s));
    }
    ret = vhdx_call((VHDXCall) {
        .func = vhdx_inactivate_entry,
        .bs = bs,
        .errp = &err,
    });
    if (ret < 0) {
        error_report_err(err);
    }
    return ret;
}

/*
 * The image is this process's now: what was read of it may be out of date.  If
 * it can't be read, it stays inactive as it is, and that may be tried again.
 */
static void coroutine_fn GRAPH_RDLOCK
vhdx_co_invalidate_cache(BlockDriverState *bs, Error **errp)
{
    ERRP_GUARD();

    if (vhdx_open_load_anew(bs, errp) < 0) {
        error_prepend(errp, "Could not open VHDX image again: ");
        return;
    }
    vhdx_parent_check_perm(bs, 0, 0, errp);
}

/* -- What is told about the image -- */

static void GRAPH_RDLOCK
vhdx_refresh_limits(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;

    /*
     * Parts of sectors are no trouble; the guests of some disks know none.  But
     * a child has whole sectors of its own.
     */
    bs->bl.request_alignment = s->params.logical_sector == 512 &&
                               !s->params.has_parent ? 1 :
                               s->params.logical_sector;
    /* A device may have anything where it has discarded, a file may not. */
    qatomic_set(&s->safe_discard, bdrv_has_zero_init(bs->file->bs));
}

static int vhdx_probe_blocksizes(BlockDriverState *bs, BlockSizes *bsz)
{
    BDRVVHDXState *s = bs->opaque;

    /* A floppy drive takes nothing but 512 bytes, and needs no advice. */
    if (s->params.disk_size <= FLOPPY_SIZE &&
        s->params.logical_sector == 512) {
        return -ENOTSUP;
    }
    bsz->log = s->params.logical_sector;
    bsz->phys = MAX(s->params.physical_sector, s->params.logical_sector);
    return 0;
}

/*
 * No cluster size is told: jobs would copy whole blocks for a small write.
 * What matters to them is what a write changes of other content, and that is
 * nothing beyond the sector.
 */
static int coroutine_mixed_fn
vhdx_get_info(BlockDriverState *bs, BlockDriverInfo *bdi)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_set_subcluster_size(bdi, s->params.logical_sector);
    bdi->is_dirty = vhdx_replay_active(s);
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK vhdx_missing_entry(const VHDXCall *call)
{
    *call->bytes = vhdx_bat_missing(call->bs);
    return 0;
}

/*
 * How many bytes the file is too short, or 0 if that is none or not known.  It
 * takes going through the BAT, which may have half a gigabyte.  So only those
 * are told who open an image to look at it: a running emulator is asked for
 * information every now and then, and everything waits while it answers.
 */
static uint64_t vhdx_missing(BlockDriverState *bs)
{
    int64_t bytes = 0;

    if (bs->open_flags & BDRV_O_NO_IO) {
        vhdx_call((VHDXCall) {
            .func = vhdx_missing_entry,
            .bs = bs,
            .bytes = &bytes,
        });
    }
    return MAX(bytes, 0);
}

static ImageInfoSpecific *vhdx_get_specific_info(BlockDriverState *bs,
                                                 Error **errp)
{
    return vhdx_info(bs->opaque, vhdx_missing(bs));
}

/*
 * A new fixed image is as zero as its file is.  A dynamic one reads as zeros
 * either way, but only blocks in the state ZERO say so to every reader.
 */
static int GRAPH_RDLOCK vhdx_has_zero_init(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint8_t entry[VHDX_BAT_ENTRY_SIZE];

    if (s->params.has_parent) {
        return 0;
    }
    if (s->params.leave_allocated) {
        return bdrv_has_zero_init(bs->file->bs);
    }
    if (bdrv_pread(bs->file, s->bat.offset, sizeof(entry), entry, 0) < 0) {
        return 0;
    }
    return vhdx_bat_state(ldq_le_p(entry)) != VHDX_BLOCK_NOT_PRESENT;
}

/* -- Changes of the format's options -- */

static int coroutine_fn GRAPH_RDLOCK vhdx_compact_entry(const VHDXCall *call)
{
    return vhdx_co_compact(call->bs, call->flag, call->status_cb,
                           call->cb_opaque, call->errp);
}

static int coroutine_mixed_fn
vhdx_amend_options(BlockDriverState *bs, QemuOpts *opts,
                   BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                   bool force, Error **errp)
{
    const char *compact = qemu_opt_get(opts, VHDX_OPT_COMPACT);
    bool zeroes = compact && !strcmp(compact, "zeroes");

    if (!compact) {
        return 0;
    }
    if (!zeroes && strcmp(compact, "space")) {
        error_setg(errp, VHDX_OPT_COMPACT " can be 'space' or 'zeroes', not "
                   "'%s'", compact);
        return -EINVAL;
    }
    return vhdx_call((VHDXCall) {
        .func = vhdx_compact_entry,
        .bs = bs,
        .flag = zeroes,
        .status_cb = status_cb,
        .cb_opaque = cb_opaque,
        .errp = errp,
    });
}

static BlockDriver bdrv_vhdx = {
    .format_name                = "vhdx",
    .instance_size              = sizeof(BDRVVHDXState),
    .is_format                  = true,
    .supports_backing           = true,
    .create_opts                = &vhdx_create_opts,
    .amend_opts                 = &vhdx_amend_opts,

    .bdrv_probe                 = vhdx_probe,
    .bdrv_open                  = vhdx_open,
    .bdrv_close                 = vhdx_close,
    .bdrv_reopen_prepare        = vhdx_reopen_prepare,
    .bdrv_reopen_commit         = vhdx_reopen_commit,
    .bdrv_reopen_abort          = vhdx_reopen_abort,
    .mutable_opts               = vhdx_mutable_opts,
    .bdrv_inactivate            = vhdx_inactivate,
    .bdrv_co_invalidate_cache   = vhdx_co_invalidate_cache,
    .bdrv_dirname               = vhdx_open_dirname,
    .bdrv_child_perm            = vhdx_parent_child_perm,
    .bdrv_check_perm            = vhdx_parent_check_perm,
    .bdrv_set_perm              = vhdx_parent_set_perm,
    .bdrv_refresh_limits        = vhdx_refresh_limits,
    .bdrv_probe_blocksizes      = vhdx_probe_blocksizes,

    .bdrv_co_preadv_part        = vhdx_co_preadv_part,
    .bdrv_co_pwritev_part       = vhdx_co_pwritev_part,
    .bdrv_co_pwrite_zeroes      = vhdx_co_pwrite_zeroes,
    .bdrv_co_pdiscard           = vhdx_co_pdiscard,
    .bdrv_co_block_status       = vhdx_co_block_status,
    .bdrv_co_flush              = vhdx_co_flush,
    .bdrv_co_truncate           = vhdx_co_truncate,
    .bdrv_co_check              = vhdx_co_check,

    .bdrv_co_create             = vhdx_co_create,
    .bdrv_co_create_opts        = vhdx_co_create_opts,
    .bdrv_measure               = vhdx_measure,
    .bdrv_amend_options         = vhdx_amend_options,

    .bdrv_co_get_info           = vhdx_get_info,
    .bdrv_get_specific_info     = vhdx_get_specific_info,
    .bdrv_has_zero_init         = vhdx_has_zero_init,
};

static void bdrv_vhdx_init(void)
{
    bdrv_register(&bdrv_vhdx);
}

block_init(bdrv_vhdx_init);
