/*
 * VHDX: resizing the virtual disk
 *
 * The size is a metadata item of eight bytes, and one log entry changes it.
 * Whatever has to be ready for the new size is made so, and stable, before;
 * what the old size alone needed is given up afterwards.  So a power cut leaves
 * the old size or the new one, with all that belongs to it.
 *
 * Longer:
 *
 *   1. The last block, if it ends with the disk in its midst, gets its full
 *      length in the file, and what is behind the disk's old end is zeroed.
 *      (What a differencing image needs besides is in resize-child.c.)
 *   2. If the new entries do not fit into the BAT region, that moves, as
 *      region.c has it.
 *   3. BAT entries behind the last block mean nothing, and may hold anything
 *      after a power cut in an earlier resize.  Now they are cleared, or in a
 *      fixed image name the places of the new blocks.
 *   4. The size is changed.
 *
 * The item with the size has no checksum.  If it is damaged, the entries behind
 * the last block are the only trace of what the disk has lost.  So the disk
 * does not get longer over an entry that names a block with data.
 *
 * Shorter: the size is changed, then entries behind the new end are cleared,
 * their blocks given back, and the end of the last block is zeroed.  Should
 * that fail the disk has its new size all the same, and the file is longer than
 * it need be.  Blocks that entries named behind the old end are given up, too;
 * a scan will find their space.
 *
 * Requests are frozen throughout, as these things are read without being
 * looked at again.  It is done seldom and does not take long.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/dirty-bitmaps.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/placed.h"
#include "block/vhdx/region.h"
#include "block/vhdx/request.h"
#include "block/vhdx/resize.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "resize-int.h"
#include "trace.h"

/* -- Longer -- */

/* Let the file have the block at @place in full, zeros after @used bytes. */
static int coroutine_fn GRAPH_RDLOCK
block_end_zero(BlockDriverState *bs, uint64_t place, uint64_t used)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_space_extend_to(bs, place + s->geo.block_size);
    if (ret < 0) {
        return ret;
    }
    return vhdx_file_pwrite_zeroes(bs, place + used, s->geo.block_size - used,
                                   s->params.leave_allocated ? 0 :
                                   BDRV_REQ_MAY_UNMAP);
}

/* Zero what a disk of @disk_size bytes does not use of its last block. */
static int coroutine_fn GRAPH_RDLOCK
last_block_zero(BlockDriverState *bs, uint64_t disk_size)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t used = disk_size & (s->geo.block_size - 1);
    uint64_t entry;
    int ret;

    if (!used) {
        return 0;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        ret = vhdx_bat_get(bs, disk_size >> s->geo.block_bits, &entry);
    }
    if (ret < 0 || vhdx_bat_state(entry) != VHDX_BLOCK_FULLY_PRESENT) {
        return ret;
    }
    ret = block_end_zero(bs, vhdx_bat_offset(entry), used);
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_change_note(s);
    }
    return ret;
}

/*
 * Let blocks @first to @end - 1 of a fixed image, behind the last one, have
 * places, with space as @prealloc asks.
 */
static int coroutine_fn GRAPH_RDLOCK
blocks_allocate(BlockDriverState *bs, uint64_t first, uint64_t end,
                PreallocMode prealloc)
{
    VHDXPlaced placed;
    int ret;

    /* A scan on the way would not find what the last entry does not cover. */
    ret = vhdx_placed_reserve(bs, end - first, prealloc, &placed);
    if (ret < 0) {
        return ret;
    }
    for (uint64_t block = first; block < end; block++) {
        ret = vhdx_placed_add(bs, block, 0, &placed);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Change the disk's size, in the image and then here. */
static int coroutine_fn GRAPH_RDLOCK
disk_size_commit(BlockDriverState *bs, uint64_t disk_size)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t new = cpu_to_le64(disk_size);
    uint64_t old = cpu_to_le64(s->params.disk_size);

    return vhdx_region_replace_bytes(bs, s->metadata.offset + s->disk_size_item,
                                     sizeof(new), &new, &old);
}

static void geometry_set(BDRVVHDXState *s, const VHDXParams *params,
                         const VHDXGeometry *geo)
{
    VHDX_LOCK_GUARD(s);
    s->params = *params;
    s->geo = *geo;
}

/*
 * Have ready, and stable, all that a longer disk of @geo needs.  Returns 0, or
 * -errno with @what naming the step that has failed.  @placed: entries behind
 * the disk's old end may name blocks now.
 */
static int coroutine_fn GRAPH_RDLOCK
disk_prepare(BlockDriverState *bs, const VHDXGeometry *geo,
             PreallocMode prealloc, const char **what, bool *placed)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t given_up;
    int ret;

    *what = "make room at the end of the last block";
    ret = last_block_zero(bs, s->geo.disk_size);
    if (ret == 0 && s->params.has_parent) {
        ret = vhdx_resize_last_block(bs);
    }
    if (ret < 0) {
        return ret;
    }
    *what = "move the BAT";
    ret = vhdx_region_fit_bat(bs, geo);
    if (ret < 0) {
        return ret;
    }
    *what = "clear the BAT behind its last entry";
    given_up = vhdx_bat_clear(bs, &s->geo, geo->bat_entries, false, NULL);
    if (given_up < 0) {
        return given_up;
    }
    if (s->params.has_parent) {
        *what = "mark the new blocks as zero";
        return vhdx_resize_cover_parent(bs, geo);
    }
    if (!s->params.leave_allocated) {
        return 0;
    }
    *what = "allocate the new blocks";
    *placed = true;
    ret = blocks_allocate(bs, s->geo.blocks, geo->blocks, prealloc);
    if (ret == -ENOTSUP) {
        *what = "allocate the new blocks: the protocol node " VHDX_NO_FALLOC;
    }
    return ret;
}

/* [entries-first] */
static int coroutine_fn GRAPH_RDLOCK
disk_grow(BlockDriverState *bs, const VHDXParams *params, PreallocMode prealloc,
          Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    const char *what;
    bool placed = false;
    VHDXGeometry geo;
    int ret;

    vhdx_geometry_init(&geo, params);
    ret = vhdx_bat_clear_check_rest(bs, geo.bat_entries, errp);
    if (ret < 0) {
        return ret;
    }
    ret = disk_prepare(bs, &geo, prealloc, &what, &placed);
    if (ret < 0) {
        goto fail;
    }
    what = "write the new size";
    ret = disk_size_commit(bs, params->disk_size);
    if (ret < 0) {
        goto fail;
    }
    geometry_set(s, params, &geo);
    return 0;

fail:
    if (placed && !vhdx_change_is_broken(s)) {
        /*
         * The new blocks get free by a commit, as any others.  If this fails as
         * well, the entries mean nothing.
         */
        (void)vhdx_bat_clear(bs, &s->geo, geo.bat_entries, true, NULL);
    }
    error_setg_errno(errp, -ret, "Could not %s", what);
    return ret;
}

/* -- Shorter -- */

/*
 * Give up what is behind the end of a disk of @geo: the rest of its last block,
 * the blocks behind that, and what entries behind the old end name.  @bitmaps
 * gets the places of sector bitmap blocks.  Returns how many entries can't have
 * been right, or -errno.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
disk_end_drop(BlockDriverState *bs, const VHDXGeometry *geo, GArray *bitmaps)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t given_up, rest;
    int ret;

    ret = last_block_zero(bs, geo->disk_size);
    if (ret < 0) {
        return ret;
    }
    given_up = vhdx_bat_clear(bs, geo, s->geo.bat_entries, true, bitmaps);
    if (given_up < 0) {
        return given_up;
    }
    if (given_up > 0) {
        warn_report("VHDX image '%s': %" PRId64 " block%s with a BAT entry "
                    "that can't be right %s been given up with the end of the "
                    "disk", bs->filename, given_up, vhdx_plural(given_up),
                    given_up == 1 ? "has" : "have");
    }
    rest = vhdx_bat_clear_rest(bs);
    return rest < 0 ? rest : given_up + rest;
}

/*
 * Commit that, and let @bitmaps get free.  With @scan there is space that only
 * a scan will find.
 */
static int coroutine_fn GRAPH_RDLOCK
disk_end_free(BlockDriverState *bs, const GArray *bitmaps, bool scan)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_commit(bs) ?: vhdx_bat_free_bitmaps(bs, bitmaps);
    if (ret < 0) {
        return ret;
    }
    if (scan && vhdx_space_is_known(s)) {
        qemu_co_mutex_lock(&s->grow_lock);
        ret = vhdx_space_scan(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
disk_shrink(BlockDriverState *bs, const VHDXParams *params, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(GArray) bitmaps = g_array_new(false, false, sizeof(uint64_t));
    VHDXGeometry geo;
    int64_t given_up;
    uint64_t gone;
    int ret;

    vhdx_geometry_init(&geo, params);
    if (s->params.has_parent) {
        /* A later scan would find a sector bitmap's place free too early. */
        (void)vhdx_space_learn(bs);
    }
    ret = disk_size_commit(bs, params->disk_size);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the new size");
        return ret;
    }
    given_up = disk_end_drop(bs, &geo, bitmaps);
    WITH_VHDX_LOCK_GUARD(s) {
        /* Of a fixed image, what the disk has lost may go. */
        gone = (s->geo.blocks - geo.blocks) << geo.block_bits;
        vhdx_space_keep_less(s, gone);
    }
    geometry_set(s, params, &geo);
    ret = given_up < 0 ? given_up : disk_end_free(bs, bitmaps, given_up > 0);
    if (ret < 0) {
        warn_report("VHDX image '%s': the disk was shrunk, but some of the "
                    "space that it no longer uses could not be freed: %s",
                    bs->filename, strerror(-ret));
    }
    return 0;
}

/* -- Either -- */

/*
 * Where the last entry of the shorter of both disks is, that of its chunk's
 * sector bitmap follows, which is cleared.  No trace of a parent must go by it.
 */
static int coroutine_fn GRAPH_RDLOCK
last_bitmap_check(BlockDriverState *bs, const VHDXGeometry *geo, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    uint64_t end = MIN(geo->bat_entries, s->geo.bat_entries);
    uint64_t stride = vhdx_bat_stride(&s->geo);
    int ret = vhdx_bat_clear_check_parent(bs, end - end % stride, end, errp);

    if (ret < 0) {
        error_prepend(errp, "Could not resize the image: ");
    }
    return ret;
}

/* Requests are frozen, and the disk has another size than in @params. */
static int coroutine_fn GRAPH_RDLOCK
disk_resize(BlockDriverState *bs, const VHDXParams *params,
            PreallocMode prealloc, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_begin(bs, VHDX_DATA);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not begin to change the image");
        return ret;
    }
    if (params->disk_size > s->params.disk_size) {
        ret = disk_grow(bs, params, prealloc, errp);
    } else {
        ret = disk_shrink(bs, params, errp);
    }
    if (ret < 0) {
        return ret;
    }
    /*
     * Programs that look at an image in use, as libvirt does, take the size
     * from its place and know nothing of the log.  The new one is stable, so
     * that nothing is lost if this has to wait for the next time.
     */
    (void)vhdx_commit_checkpoint(bs);
    return 0;
}

/* Requests are frozen: jobs may give the image a parent, or take it away. */
static int coroutine_fn GRAPH_RDLOCK
truncate_frozen(BlockDriverState *bs, uint64_t size, PreallocMode prealloc,
                Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t old = s->params.disk_size;
    VHDXParams params = s->params;
    VHDXGeometry geo;
    int ret;

    params.disk_size = size;
    if (vhdx_params_check(&params, errp) < 0) {
        return -EINVAL;
    }
    if (prealloc != PREALLOC_MODE_OFF && !params.leave_allocated) {
        error_setg(errp, "Preallocation mode '%s' needs a fixed image%s",
                   PreallocMode_str(prealloc), params.has_parent ?
                   ", and this one is differencing" : "");
        return -ENOTSUP;
    }
    if (size == old) {
        return 0;
    }
    vhdx_geometry_init(&geo, &params);
    ret = last_bitmap_check(bs, &geo, errp);
    if (ret < 0) {
        return ret;
    }
    ret = disk_resize(bs, &params, prealloc, errp);
    trace_vhdx_resize(s, old, size, ret);
    return ret;
}

int coroutine_fn vhdx_co_truncate(BlockDriverState *bs, int64_t offset,
                                  bool exact, PreallocMode prealloc,
                                  BdrvRequestFlags flags, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_dirty_check_resize(bs, errp);
    if (ret < 0) {
        return ret;
    }
    vhdx_request_freeze(s);
    ret = truncate_frozen(bs, offset, prealloc, errp);
    vhdx_request_thaw(s);
    return ret;
}
