/*
 * VHDX: making a differencing image one that has no parent
 *
 * A block that is PARTIALLY_PRESENT gets zeros where it is the parent's, and is
 * FULLY_PRESENT then; one that is NOT_PRESENT reads as zeros in an image
 * without a parent.  Sector bitmaps mean nothing there, and their blocks get
 * free.
 *
 *   1. The zeros are written, a few blocks at a time, with requests held off:
 *      where a guest writes to a sector meanwhile they would come too late.
 *   2. With requests held off to the end, those that have become
 *      PARTIALLY_PRESENT since get theirs, too.
 *   3. That is committed, before the entries of sector bitmaps go: in one
 *      commit these would come first.
 *   4. All is put in place, since a replay writes to bitmaps; then the space
 *      of their blocks is free.
 *   5. HasParent and the locator go at once.  Until then it is a child.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/file.h"
#include "block/vhdx/flatten.h"
#include "block/vhdx/link.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/request.h"

/* So many blocks get their zeros while requests are held off. */
#define FILL_BLOCKS 16

/*
 * Write zeros to @block, which is PARTIALLY_PRESENT at @place, where it is the
 * parent's.  Requests are frozen.
 */
static int coroutine_fn GRAPH_RDLOCK
block_fill(BlockDriverState *bs, uint64_t block, uint64_t place)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t bytes = vhdx_block_bytes(&s->geo, block), entry;
    uint64_t at = block << s->geo.block_bits;
    uint64_t end = at + bytes;
    int ret = 0;

    for (VHDXExtent e; at < end; at += e.bytes) {
        WITH_VHDX_LOCK_GUARD(s) {
            ret = vhdx_extent_lookup(bs, at, end - at, &e);
        }
        if (ret == 0 && e.source == VHDX_SOURCE_PARENT) {
            ret = vhdx_file_pwrite_zeroes(bs, place +
                                          vhdx_in_block(&s->geo, at), e.bytes,
                                          BDRV_REQ_MAY_UNMAP);
        }
        if (ret < 0) {
            return ret;
        }
    }
    vhdx_lock(s);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    vhdx_bat_set(s, block, vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT, place));
    vhdx_change_order(s);
    vhdx_change_note(s);
    return vhdx_commit_unlock(bs);
}

/*
 * Fill blocks from @block on, up to @most of them.  Requests are frozen.
 * Returns 0 or -errno; @block is the next to be looked at.
 */
static int coroutine_fn GRAPH_RDLOCK
blocks_fill(BlockDriverState *bs, uint64_t *block, uint64_t most)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    while (ret == 0 && most && *block < s->geo.blocks) {
        uint64_t entry, count;

        WITH_VHDX_LOCK_GUARD(s) {
            ret = vhdx_bat_get_run(bs, *block, s->geo.blocks - *block, &entry,
                                   &count);
        }
        if (ret < 0) {
            break;
        }
        if (vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT) {
            ret = block_fill(bs, *block, vhdx_bat_offset(entry));
            count = 1;
            most--;
        }
        *block += count;
    }
    return ret;
}

/*
 * Begin to write: anew each time that requests are frozen, as another job may
 * have moved the log meanwhile.  All that the parent has has been copied if it
 * is at hand, or was until a job has taken it away.
 */
static int coroutine_fn GRAPH_RDLOCK flatten_begin(BlockDriverState *bs)
{
    return vhdx_begin(bs, bs->backing || vhdx_parent_was_linked(bs->opaque) ?
                          VHDX_METADATA : VHDX_DATA);
}

/* Step 1 */
static int coroutine_fn GRAPH_RDLOCK fill_in_parts(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = 0;
    int ret = 0;

    while (ret == 0 && block < s->geo.blocks) {
        vhdx_request_freeze(s);
        ret = flatten_begin(bs) ?: blocks_fill(bs, &block, FILL_BLOCKS);
        vhdx_request_thaw(s);
    }
    return ret;
}

/* Let no chunk have a sector bitmap any more; @places gets where they are. */
static int coroutine_fn GRAPH_RDLOCK
bitmaps_drop(BlockDriverState *bs, GArray *places)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint64_t chunk = 0; chunk < s->geo.chunks; chunk++) {
        uint64_t place;
        int ret;

        vhdx_lock(s);
        do {
            ret = vhdx_bat_get_bitmap(bs, chunk, &place);
        } while (ret > 0);
        if (ret < 0) {
            vhdx_unlock(s);
            return ret;
        }
        if (place) {
            vhdx_bat_set_bitmap(s, chunk, 0);
            vhdx_change_note(s);
            g_array_append_val(places, place);
        }
        ret = vhdx_commit_unlock(bs);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Step 5 */
static int coroutine_fn GRAPH_RDLOCK
parent_drop(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    qemu_co_mutex_lock(&s->commit_lock);
    ret = vhdx_link_set(bs, NULL, errp);
    if (ret == 0) {
        vhdx_parent_set_linked(s, false);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}

/* Steps 2 to 4 [bitmaps-unneeded] */
static int coroutine_fn GRAPH_RDLOCK blocks_flatten(BlockDriverState *bs)
{
    g_autoptr(GArray) places = g_array_new(false, false, sizeof(uint64_t));
    uint64_t block = 0;
    int ret;

    ret = blocks_fill(bs, &block, UINT64_MAX);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_commit(bs);
    if (ret < 0) {
        return ret;
    }
    ret = bitmaps_drop(bs, places);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_commit(bs);
    return ret < 0 ? ret : vhdx_bat_free_bitmaps(bs, places);
}

/* Steps 2 to 5.  Requests are frozen. [entries-first] */
static int coroutine_fn GRAPH_RDLOCK
flatten_frozen(BlockDriverState *bs, Error **errp)
{
    int ret = flatten_begin(bs) ?: blocks_flatten(bs);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write to '%s'", bs->filename);
        return ret;
    }
    return parent_drop(bs, errp);
}

int coroutine_fn vhdx_flatten(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = fill_in_parts(bs);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write to '%s'", bs->filename);
        return ret;
    }
    vhdx_request_freeze(s);
    ret = flatten_frozen(bs, errp);
    vhdx_request_thaw(s);
    return ret < 0 ? ret : vhdx_commit(bs);
}
