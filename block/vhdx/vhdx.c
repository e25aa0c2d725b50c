/*
 * VHDX: the block driver
 *
 * The disk image format of Hyper-V, as MS-VHDX revision 8.0 has it.  This file
 * ties the others together: probing, open and close, what is told about an
 * image, and the table of functions.  layers.txt has the order of the files,
 * and state.h the rules of the locks.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/amend-job.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/call.h"
#include "block/vhdx/chain.h"
#include "block/vhdx/check.h"
#include "block/vhdx/compact-gain.h"
#include "block/vhdx/create.h"
#include "block/vhdx/dirty-bitmaps.h"
#include "block/vhdx/dirty-load.h"
#include "block/vhdx/info.h"
#include "block/vhdx/io.h"
#include "block/vhdx/open.h"
#include "block/vhdx/options.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/parent-perm.h"
#include "block/vhdx/read.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/reopen.h"
#include "block/vhdx/resize.h"

/* Disks up to this size may be in a floppy drive. */
#define FLOPPY_SIZE         (2880 * KiB)

static const char *const vhdx_mutable_opts[] = { VHDX_OPT_CACHE_SIZE, NULL };

static int vhdx_probe(const uint8_t *buf, int buf_size, const char *filename)
{
    return vhdx_file_id_valid(buf, buf_size) ? 100 : 0;
}

/* -- Open and close -- */

static int coroutine_fn GRAPH_RDLOCK
load_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int flags = *(int *)opaque;
    int ret = vhdx_open_load(bs, flags & BDRV_O_INACTIVE, errp);

    if (ret == 0 && s->params.has_parent) {
        ret = vhdx_parent_name(bs, errp);
    }
    if (ret == 0 && !(flags & BDRV_O_INACTIVE)) {
        vhdx_dirty_load(bs, !(flags & BDRV_O_NO_IO));
    }
    return ret;
}

static int coroutine_mixed_fn
vhdx_open(BlockDriverState *bs, QDict *options, int flags, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_reopen_get_cache_size(options, &s->cache_size, errp);
    if (ret < 0) {
        return ret;
    }
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
        return ret;
    }
    /* With FUA it is known that a flush follows. */
    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED | BDRV_REQ_FUA;
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK |
                               BDRV_REQ_WRITE_UNCHANGED;
    /* A longer disk reads as zeros in any case. */
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    vhdx_open_init(s);
    vhdx_parent_init(s, flags & BDRV_O_INACTIVE,
                     vhdx_parent_is_given(options));
    ret = vhdx_call(bs, load_entry, &flags, errp);
    if (ret < 0) {
        vhdx_open_free(s);
    }
    return ret;
}

static void vhdx_close(BlockDriverState *bs)
{
    Error *err = NULL;

    /* An inactive image is another process's to write to. */
    if (!(bs->open_flags & BDRV_O_INACTIVE) &&
        vhdx_reopen_settle(bs, &err) < 0) {
        error_report_err(err);
    }
    (void)vhdx_call(bs, vhdx_parent_leave, NULL, NULL);
    vhdx_open_free(bs->opaque);
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

static int coroutine_fn GRAPH_RDLOCK
figures_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    VHDXFigures *figures = opaque;
    int64_t missing = vhdx_bat_missing(bs);

    figures->missing = MAX(missing, 0);
    /* Compacting refuses an image of which some is missing. */
    figures->gains = missing ? -1 : vhdx_compact_gains_look(bs);
    return 0;
}

/*
 * How many bytes the file is too short, or 0 if that is none or not known, and
 * how many compacting would give back.  It takes going through the BAT, which
 * may have half a gigabyte.  So only those are told who open an image to look
 * at it: a running emulator is asked for information every now and then, and
 * everything waits while it answers.  It tells what it knows.
 */
static ImageInfoSpecific *vhdx_get_specific_info(BlockDriverState *bs,
                                                 Error **errp)
{
    VHDXFigures figures = { .gains = -1 };

    if (bs->open_flags & BDRV_O_NO_IO) {
        vhdx_call(bs, figures_entry, &figures, NULL);
    } else {
        figures.gains = vhdx_compact_gains_known(bs->opaque);
    }
    figures.bitmaps = vhdx_dirty_info(bs->opaque);
    return vhdx_info(bs->opaque, &figures);
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

/* -- Chains -- */

static int coroutine_mixed_fn
vhdx_change_backing_file(BlockDriverState *bs, const char *name,
                         const char *format)
{
    VHDXChainParent to = { .name = name, .format = format };
    Error *err = NULL;
    /* Whoever calls it in a coroutine has locked the graph. */
    int ret = qemu_in_coroutine() ?
              vhdx_chain_change_parent(bs, &to, &err) :
              vhdx_call(bs, vhdx_chain_change_parent, &to, &err);

    if (ret < 0) {
        error_report_err(err);
    }
    return ret;
}

static int coroutine_mixed_fn vhdx_make_empty(BlockDriverState *bs)
{
    Error *err = NULL;
    int ret = vhdx_call(bs, vhdx_chain_make_empty, NULL, &err);

    if (ret < 0) {
        error_report_err(err);
    }
    return ret;
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
    .bdrv_reopen_commit_post    = vhdx_reopen_commit_post,
    .bdrv_reopen_abort          = vhdx_reopen_abort,
    .mutable_opts               = vhdx_mutable_opts,
    .bdrv_inactivate            = vhdx_reopen_inactivate,
    .bdrv_co_invalidate_cache   = vhdx_reopen_activate,
    .bdrv_dirname               = vhdx_parent_dirname,
    .bdrv_child_perm            = bdrv_default_perms,
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
    .bdrv_amend_pre_run         = vhdx_amend_pre_run,
    .bdrv_co_amend              = vhdx_co_amend,
    .bdrv_co_change_backing_file = vhdx_change_backing_file,
    .bdrv_make_empty            = vhdx_make_empty,

    .bdrv_supports_persistent_dirty_bitmap =
            vhdx_supports_persistent_dirty_bitmap,
    .bdrv_co_can_store_new_dirty_bitmap = vhdx_co_can_store_new_dirty_bitmap,
    .bdrv_co_remove_persistent_dirty_bitmap =
            vhdx_co_remove_persistent_dirty_bitmap,
    .bdrv_dirty_bitmap_changing = vhdx_dirty_bitmap_changing,

    .bdrv_co_get_info           = vhdx_get_info,
    .bdrv_get_specific_info     = vhdx_get_specific_info,
    .bdrv_has_zero_init         = vhdx_has_zero_init,
};

static void bdrv_vhdx_init(void)
{
    bdrv_register(&bdrv_vhdx);
}

block_init(bdrv_vhdx_init);
