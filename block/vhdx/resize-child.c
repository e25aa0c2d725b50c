/*
 * VHDX: resizing a differencing image
 *
 * A longer disk reads as zeros behind its old end, though the parent may be
 * longer, too.  If it is, new blocks get the state ZERO up to where it ends,
 * and the rest of the last block gets zeros of its own, with their bits.  Where
 * no parent is attached, any may be some day, so it counts as longer than any
 * disk.  Behind the parent's end new blocks are NOT_PRESENT, and the bits for
 * the rest of the last block, which may have been anything, are cleared.
 *
 * All that is stable before the size changes: entries and bits behind the end
 * of the disk mean nothing until then.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space.h"
#include "resize-int.h"

/* Where the parent ends, bytes, or -errno. */
static int64_t coroutine_fn GRAPH_RDLOCK parent_end(BlockDriverState *bs)
{
    return bs->backing ? bdrv_co_getlength(bs->backing->bs) : INT64_MAX;
}

/* -- The last block -- */

/* Let the last block have zeros from offset @offset of the disk on. */
static int coroutine_fn GRAPH_RDLOCK
tail_zero(BlockDriverState *bs, uint64_t offset)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t bytes = s->geo.block_size - vhdx_in_block(&s->geo, offset);
    VHDXExtent e;
    int ret;

    WITH_VHDX_LOCK_GUARD(s) {
        ret = vhdx_alloc_extent(bs, offset, bytes, &e);
    }
    if (ret < 0) {
        return ret;
    }
    /* The file may have no more of it than the disk needs. */
    ret = vhdx_space_extend_to(bs, e.file_offset + bytes) ?:
          vhdx_file_pwrite_zeroes(bs, e.file_offset, bytes, BDRV_REQ_MAY_UNMAP);
    VHDX_LOCK_GUARD(s);
    return vhdx_alloc_complete(bs, offset, &e, ret);
}

/* Let the last block have nothing from offset @offset of the disk on. */
static int coroutine_fn GRAPH_RDLOCK
tail_clear(BlockDriverState *bs, uint64_t offset)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t chunk = offset >> s->geo.block_bits >> s->geo.chunk_bits;
    uint64_t bytes = s->geo.block_size - vhdx_in_block(&s->geo, offset);
    uint64_t place = 0;
    int ret;

    VHDX_LOCK_GUARD(s);
    do {
        ret = vhdx_bat_get_bitmap(bs, chunk, &place);
        if (ret == 0 && !place) {
            return vhdx_bat_report_no_bitmap(bs, chunk);
        }
        if (ret == 0) {
            ret = vhdx_bitmap_clear(bs, place, offset, bytes);
        }
    } while (ret > 0);
    vhdx_change_note(s);
    return ret;
}

int coroutine_fn vhdx_resize_last_block(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = s->geo.disk_size;
    int64_t end = parent_end(bs);
    VHDXBlockState state;
    uint64_t entry;
    int ret;

    if (end < 0 || !vhdx_in_block(&s->geo, offset)) {
        return MIN(end, 0);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        ret = vhdx_bat_get(bs, offset >> s->geo.block_bits, &entry);
    }
    state = vhdx_bat_state(entry);
    if (ret < 0 || (state != VHDX_BLOCK_NOT_PRESENT &&
                    state != VHDX_BLOCK_PARTIALLY_PRESENT)) {
        return ret;
    }
    if (end > offset) {
        return tail_zero(bs, offset);
    }
    return state == VHDX_BLOCK_PARTIALLY_PRESENT ? tail_clear(bs, offset) : 0;
}

/* -- New blocks -- */

int coroutine_fn vhdx_resize_cover_parent(BlockDriverState *bs,
                                          const VHDXGeometry *geo)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t end = parent_end(bs);

    if (end < 0) {
        return end;
    }
    end = MIN((uint64_t)end, geo->disk_size);
    return vhdx_bat_cover(bs, s->geo.blocks,
                          DIV_ROUND_UP(end, geo->block_size));
}
