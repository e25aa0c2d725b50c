/*
 * VHDX: places for payload blocks
 *
 * lock is held by all of this, and dropped for I/O.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/change.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space-freed.h"
#include "trace.h"
#include "alloc-int.h"

/*
 * Set the BAT entry of a block that now holds data, if nobody has yet.
 * [publish-last]
 */
static int coroutine_fn GRAPH_RDLOCK
alloc_publish(BlockDriverState *bs, VHDXAlloc *alloc)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry, block = 0;
    int ret;

    vhdx_assert_locked(s);
    assert(alloc->phase >= VHDX_ALLOC_READY);
    if (alloc->phase == VHDX_ALLOC_PUBLISHED) {
        return 0;
    }
    if (vhdx_change_is_broken(s)) {
        /*
         * All writes fail by now.  If this one got its block all the same, its
         * data might be lost with the next flush that fails, and then writing
         * could not be resumed.
         */
        return -EIO;
    }
    vhdx_bat_index_is_bitmap(&s->geo, alloc->index, &block);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret == 0 && alloc->phase == VHDX_ALLOC_READY) {
        vhdx_bat_set(s, block, vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                              alloc->offset));
        vhdx_alloc_published(s, alloc);
    }
    return ret;
}

int coroutine_fn
vhdx_alloc_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;

    *e = (VHDXExtent) { .source = VHDX_SOURCE_FILE };
    if (s->params.has_parent) {
        return vhdx_alloc_child_extent(bs, offset, bytes, e);
    }
    while (e->bytes < bytes && e->allocs < VHDX_MAX_ALLOCS) {
        uint64_t at = offset + e->bytes;
        uint64_t place = 0;
        VHDXAlloc *alloc = NULL;
        int ret;

        ret = vhdx_alloc_get(bs, at >> s->geo.block_bits, &place, &alloc);
        if (ret < 0) {
            return e->bytes ? 0 : ret;
        }
        place += vhdx_in_block(&s->geo, at);
        if (!e->bytes) {
            e->file_offset = place;
        } else if (place != e->file_offset + e->bytes) {
            if (alloc) {
                vhdx_alloc_unref(s, alloc);
            }
            break;
        }
        if (alloc) {
            e->alloc[e->allocs++] = alloc;
        }
        e->bytes += vhdx_to_block_end(&s->geo, at, bytes - e->bytes);
    }
    return 0;
}

/* [early-zero] */
bool vhdx_alloc_is_zero(BDRVVHDXState *s, const VHDXExtent *e)
{
    vhdx_assert_locked(s);
    for (unsigned i = 0; i < e->allocs; i++) {
        if (e->alloc[i]->phase != VHDX_ALLOC_READY || e->alloc[i]->barrier ||
            e->alloc[i]->detached) {
            return false;
        }
    }
    return e->allocs && !s->params.has_parent;
}

/* [early-published] */
int coroutine_fn
vhdx_alloc_publish_early(BlockDriverState *bs, const VHDXExtent *e)
{
    int ret = 0;

    for (unsigned i = 0; i < e->allocs && ret == 0; i++) {
        if (!e->alloc[i]->detached) {
            ret = alloc_publish(bs, e->alloc[i]);
        }
    }
    return ret;
}

int coroutine_fn
vhdx_alloc_complete(BlockDriverState *bs, uint64_t offset, VHDXExtent *e,
                    int ret)
{
    BDRVVHDXState *s = bs->opaque;

    if (s->params.has_parent && ret == 0) {
        ret = vhdx_alloc_child_publish(bs, offset, e);
        if (ret == -EAGAIN) {
            ret = e->bytes = 0;
        }
    }
    for (unsigned i = 0; i < e->allocs; i++) {
        if (!s->params.has_parent && ret == 0) {
            ret = alloc_publish(bs, e->alloc[i]);
        }
        vhdx_alloc_unref(s, e->alloc[i]);
    }
    vhdx_change_note(s);
    return ret;
}

/* [freed-detached] */
void vhdx_alloc_free(BDRVVHDXState *s, uint64_t block, uint64_t place)
{
    VHDXAlloc *alloc = vhdx_request_alloc(s, vhdx_bat_index(&s->geo, block));

    vhdx_assert_locked(s);
    if (alloc && alloc->phase == VHDX_ALLOC_PUBLISHED) {
        /* It is still being written to: later writes go elsewhere. */
        vhdx_request_alloc_detach(s, alloc);
    }
    trace_vhdx_block_free(s, block, place);
    vhdx_bat_set(s, block, VHDX_BLOCK_ZERO);
    vhdx_space_release(s, place, s->geo.block_size);
    vhdx_change_note(s);
}

void vhdx_alloc_cover(BDRVVHDXState *s, uint64_t block)
{
    VHDXAlloc *alloc = vhdx_request_alloc(s, vhdx_bat_index(&s->geo, block));

    vhdx_assert_locked(s);
    if (alloc) {
        vhdx_request_alloc_detach(s, alloc);
    }
    vhdx_bat_set(s, block, VHDX_BLOCK_ZERO);
    vhdx_change_note(s);
}

/* [failed-zeroed] */
int coroutine_fn
vhdx_alloc_zero(BlockDriverState *bs, uint64_t block, uint64_t offset,
                uint64_t bytes, BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXAlloc *alloc = vhdx_request_alloc(s, vhdx_bat_index(&s->geo, block));
    int ret;

    vhdx_assert_locked(s);
    if (!alloc || !alloc->touched) {
        return 0;
    }
    alloc->refs++;
    vhdx_unlock(s);
    ret = vhdx_file_pwrite_zeroes(bs, alloc->offset + offset, bytes,
                                  flags);
    vhdx_lock(s);
    vhdx_alloc_unref(s, alloc);
    vhdx_change_note(s);
    return ret;
}
