/*
 * VHDX: where a part of the disk is
 *
 * A request is cut into extents, each of which lies in one run of one source:
 * the file, nothing but zeros, or the parent of a differencing image.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/parent.h"

/*
 * @entry, of the block at @offset, can't be used, or not be read: @error.
 * What the file has of the block can be read all the same if it is only too
 * short.  Returns 0 with that as @e, or @error, and in @e how many bytes can't
 * be read.  lock is held, and has been since the entry was looked up.
 */
static int damaged_source(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                         uint64_t entry, int error, VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t rest = vhdx_bat_get_rest(s, offset >> s->geo.block_bits, entry);

    rest = QEMU_ALIGN_DOWN(rest, bs->bl.request_alignment);
    e->bytes = vhdx_to_block_end(&s->geo, offset, bytes);
    if (error != -EIO || rest <= vhdx_in_block(&s->geo, offset)) {
        return error;
    }
    e->source = VHDX_SOURCE_FILE;
    e->file_offset = vhdx_bat_offset(entry) + vhdx_in_block(&s->geo, offset);
    e->bytes = MIN(e->bytes, rest - vhdx_in_block(&s->geo, offset));
    return 0;
}

/*
 * Where the disk is from @offset on, in a block whose BAT entry @entry is not
 * FULLY_PRESENT: in a differencing image the parent may have it.  Of the @bytes
 * bytes that the entry speaks of, @bytes gets how many are there.  lock is
 * held.  Returns 0, 1 if it has been dropped and nothing is known yet, or
 * -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
absent_source(BlockDriverState *bs, uint64_t offset, uint64_t entry,
              uint64_t *bytes, VHDXSource *source)
{
    BDRVVHDXState *s = bs->opaque;
    bool in_block = false;
    int ret;

    if (!s->params.has_parent) {
        return 0;
    }
    if (vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT) {
        *source = VHDX_SOURCE_PARENT;
        return 0;
    }
    if (vhdx_bat_state(entry) != VHDX_BLOCK_PARTIALLY_PRESENT) {
        return 0;
    }
    ret = vhdx_bitmap_get_run(bs, offset, *bytes, &in_block, bytes);
    *source = in_block ? VHDX_SOURCE_FILE : VHDX_SOURCE_PARENT;
    return ret;
}

int coroutine_fn vhdx_extent_lookup(BlockDriverState *bs, uint64_t offset,
                                    uint64_t bytes, VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;

    /* Its allocations are nobody's business here. */
    e->source = VHDX_SOURCE_ZERO;
    e->bytes = e->file_offset = 0;
    e->allocs = 0;
    while (e->bytes < bytes) {
        uint64_t at = offset + e->bytes;
        uint64_t block = at >> s->geo.block_bits;
        uint64_t last = (offset + bytes - 1) >> s->geo.block_bits;
        uint64_t entry, place, count, n;
        VHDXSource source;
        int ret;

        ret = vhdx_bat_get_run(bs, block, last - block + 1, &entry, &count);
        if (ret < 0) {
            return e->bytes ? 0 :
                   damaged_source(bs, at, bytes, entry, ret, e);
        }
        n = MIN(bytes - e->bytes, (count << s->geo.block_bits) -
                                  vhdx_in_block(&s->geo, at));
        source = VHDX_SOURCE_FILE;
        if (vhdx_bat_state(entry) != VHDX_BLOCK_FULLY_PRESENT) {
            VHDXSource other = VHDX_SOURCE_ZERO;
            uint64_t there = n;

            ret = absent_source(bs, at, entry, &there, &other);
            if (ret > 0) {
                continue;
            }
            if (ret < 0) {
                ret = e->bytes ? 0 : ret;
                e->bytes = e->bytes ?: n;
                return ret;
            }
            source = other;
            n = there;
        }
        place = vhdx_bat_offset(entry) + vhdx_in_block(&s->geo, at);
        if (!e->bytes) {
            e->source = source;
            e->file_offset = place;
        } else if (source != e->source ||
                   (source == VHDX_SOURCE_FILE &&
                    place != e->file_offset + e->bytes)) {
            break;
        }
        e->bytes += n;
    }
    return 0;
}

/* Whether all of a range is for the parent of @bs to read. */
static bool coroutine_fn GRAPH_RDLOCK
is_all_parents(BlockDriverState *bs, uint64_t offset, uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRequest req;
    VHDXExtent e;
    int ret;
    VHDX_LOCK_GUARD(s);

    ret = vhdx_request_begin(s, &req, offset, bytes) ?:
          vhdx_extent_lookup(bs, offset, bytes, &e);
    vhdx_request_end(s, &req);
    return ret == 0 && e.source == VHDX_SOURCE_PARENT && e.bytes == bytes;
}

int coroutine_fn vhdx_extent_preadv_parent(BlockDriverState *bs,
                                           uint64_t offset, uint64_t bytes,
                                           QEMUIOVector *qiov,
                                           size_t qiov_offset)
{
    BlockDriverState *below;

    while ((below = vhdx_parent_beneath(bs, offset, bytes)) &&
           is_all_parents(below, offset, bytes)) {
        bs = below;
    }
    return vhdx_parent_preadv(bs, offset, bytes, qiov, qiov_offset);
}
