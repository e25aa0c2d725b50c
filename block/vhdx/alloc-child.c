/*
 * VHDX: places for blocks of a differencing image
 *
 * A block that reads as the parent becomes PARTIALLY_PRESENT when a part of it
 * is written: what is not written of its new place is never read, so it need
 * not be zeroed.  But then the data must be stable before the bits that tell of
 * it are, and the block's old bits, which may be anything, are cleared when the
 * block gets its place.  A chunk's sector bitmap block is allocated like a
 * payload block, by the first of its blocks that needs one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/change.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "alloc-int.h"

/*
 * Find a place for the sector bitmap block of @chunk, if it has none.
 * [place-zeroed]
 */
static int coroutine_fn GRAPH_RDLOCK
bitmap_alloc_get(BlockDriverState *bs, uint64_t chunk, VHDXAlloc **alloc)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t index = vhdx_bat_bitmap_index(&s->geo, chunk);
    uint64_t place = 0;

    for (;;) {
        VHDXAlloc *own = NULL, *a;
        int64_t offset;
        bool zero;
        int ret = vhdx_bat_get_bitmap(bs, chunk, &place);

        if (ret > 0) {
            continue;
        }
        if (ret < 0 || place) {
            return ret;
        }
        a = vhdx_request_alloc(s, index);
        if (a) {
            ret = vhdx_alloc_share(bs, a);
            *alloc = ret < 0 ? NULL : a;
            return ret;
        }
        offset = vhdx_space_alloc(bs, VHDX_BITMAP_SIZE, &zero);
        if (offset < 0) {
            return offset;
        }
        vhdx_alloc_enter(s, index, offset, VHDX_BITMAP_SIZE, false, zero, &own);
        if (own) {
            ret = vhdx_alloc_share(bs, own);
            vhdx_alloc_unref(s, own);
            *alloc = ret < 0 ? NULL : own;
            return ret;
        }
    }
}

int coroutine_fn vhdx_alloc_child_extent(BlockDriverState *bs, uint64_t offset,
                                         uint64_t bytes, VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = offset >> s->geo.block_bits;
    VHDXAlloc *alloc = NULL, *bitmap = NULL;
    uint64_t place = 0;
    int ret;

    ret = vhdx_alloc_get(bs, block, &place, &alloc);
    if (ret < 0) {
        return ret;
    }
    e->file_offset = place + vhdx_in_block(&s->geo, offset);
    e->bytes = vhdx_to_block_end(&s->geo, offset, bytes);
    if (!alloc) {
        return 0;
    }
    if (alloc->partial && !vhdx_is_whole_block(&s->geo, offset, e->bytes)) {
        ret = bitmap_alloc_get(bs, block >> s->geo.chunk_bits, &bitmap);
        if (ret < 0) {
            vhdx_alloc_unref(s, alloc);
            return ret;
        }
    }
    e->alloc[e->allocs++] = alloc;
    if (bitmap) {
        e->alloc[e->allocs++] = bitmap;
    }
    return 0;
}

/*
 * What has been written at @offset of the disk is in @e, whose block has the
 * entry @entry, is at @place and is to be PARTIALLY_PRESENT, or is already.
 * @alloc is what it is given its place by, or NULL.  Returns 0, 1 if lock has
 * been dropped and it is to be tried again, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
child_publish_part(BlockDriverState *bs, uint64_t offset, const VHDXExtent *e,
                   uint64_t place, VHDXAlloc *alloc)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXAlloc *bitmap = e->allocs > 1 ? e->alloc[1] : NULL;
    uint64_t block = offset >> s->geo.block_bits;
    uint64_t chunk = block >> s->geo.chunk_bits;
    uint64_t bits = 0;
    bool full, new_bitmap;
    int ret;

    ret = vhdx_bat_get_bitmap(bs, chunk, &bits);
    if (ret != 0) {
        return ret;
    }
    new_bitmap = !bits && alloc && bitmap;
    if (new_bitmap) {
        assert(bitmap->phase == VHDX_ALLOC_READY);
        bits = bitmap->offset;
        vhdx_bitmap_note_new(s, bits);
    } else if (!bits) {
        return vhdx_bat_report_no_bitmap(bs, chunk);
    }
    ret = vhdx_bitmap_set(bs, bits, offset, e->bytes, alloc, &full);
    if (ret != 0) {
        if (ret < 0 && new_bitmap) {
            vhdx_bitmap_forget_new(s, bits);
        }
        return ret;
    }
    if (new_bitmap) {
        vhdx_bat_set_bitmap(s, chunk, bits);
        vhdx_alloc_published(s, bitmap);
    }
    if (alloc || full) {
        vhdx_bat_set(s, block, vhdx_bat_entry(full ?
                                              VHDX_BLOCK_FULLY_PRESENT :
                                              VHDX_BLOCK_PARTIALLY_PRESENT,
                                              place));
    }
    return 0;
}

/*
 * Whether a block with the entry @entry, which was at @place when @alloc was
 * looked up, is still that: 1, 0 if there is nothing left to tell of what has
 * been written, or -EAGAIN if it is lost.  @alloc is NULL where the entry has
 * named the place by now. [write-overtaken]
 */
static int child_still(BDRVVHDXState *s, uint64_t entry, uint64_t place,
                       const VHDXAlloc *alloc)
{
    bool absent = vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT;

    if (alloc) {
        return alloc->detached || vhdx_bat_is_present(s, entry) ||
               absent != alloc->partial ? -EAGAIN : 1;
    }
    /* If it has been freed since, this write came before that. */
    return vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT &&
           vhdx_bat_offset(entry) == place;
}

/* [bits-barrier] */
int coroutine_fn vhdx_alloc_child_publish(BlockDriverState *bs, uint64_t offset,
                                          const VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = offset >> s->geo.block_bits;
    uint64_t place = e->file_offset - vhdx_in_block(&s->geo, offset);
    VHDXAlloc *alloc;
    uint64_t entry;
    int ret;

    /* lock is dropped to read pages: all may be different then. */
    do {
        if (vhdx_change_is_broken(s)) {
            /* Changes stay in memory: there may be no room to read anything. */
            return -EIO;
        }
        ret = vhdx_bat_get(bs, block, &entry);
        if (ret < 0) {
            return ret;
        }
        alloc = e->allocs ? e->alloc[0] : NULL;
        if (alloc && alloc->phase == VHDX_ALLOC_PUBLISHED) {
            alloc = NULL;
        }
        ret = child_still(s, entry, place, alloc);
        if (ret <= 0) {
            return ret;
        }
        if (vhdx_is_whole_block(&s->geo, offset, e->bytes) ||
            (alloc && !alloc->partial)) {
            vhdx_bat_set(s, block, vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                                  place));
            ret = 0;
        } else {
            ret = child_publish_part(bs, offset, e, place, alloc);
        }
    } while (ret > 0);

    if (ret < 0) {
        return ret;
    }
    if (alloc) {
        vhdx_alloc_published(s, alloc);
    } else {
        vhdx_change_order(s);
    }
    return 0;
}
