/*
 * VHDX: places for payload blocks
 *
 * Writing to a block that has no place yet:
 *
 *   1. A place is found and a VHDXAlloc entered for the block.  Whoever else
 *      writes to the block meanwhile finds it and uses the same place.
 *      A block that has kept its place gets that one, if nothing else is there.
 *   2. If the place is not known to read as zeros, one of them zeroes what of
 *      it is not a hole in the file, and the others wait for that.
 *   3. The data is written.
 *   4. The first whose write completes publishes the block: sets its BAT
 *      entry, in memory.  Others may fail without undoing that.  If all fail,
 *      the last gives the place back.
 *
 * So the BAT never names a block before there is something in it, and a reader
 * sees zeros until a write has completed.
 *
 * lock is held by all of this, and dropped for I/O.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/change.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "trace.h"

/* Let go of a place that no entry uses; see vhdx_space_return(). */
static void place_give_back(BDRVVHDXState *s, uint64_t offset, uint64_t bytes,
                            bool kept, bool touched)
{
    if (kept) {
        vhdx_space_keep(s, offset);
    } else {
        vhdx_space_return(s, offset, bytes, touched);
    }
}

/* Drop a reference.  The last one gives back a place that no entry names. */
static void alloc_unref(BDRVVHDXState *s, VHDXAlloc *alloc)
{
    vhdx_assert_locked(s);
    assert(alloc->refs);
    if (--alloc->refs) {
        return;
    }
    if (!alloc->detached) {
        vhdx_request_alloc_detach(s, alloc);
    }
    if (alloc->phase != VHDX_ALLOC_PUBLISHED) {
        place_give_back(s, alloc->offset, alloc->bytes, alloc->kept,
                        alloc->touched);
    }
    g_free(alloc);
}

/*
 * Enter a place of @bytes bytes at @offset for the block with BAT index @index,
 * with a reference for the caller in @alloc, unless another request has done so
 * meanwhile.
 */
static void alloc_enter(BDRVVHDXState *s, uint64_t index, uint64_t offset,
                        uint64_t bytes, bool kept, bool zero, VHDXAlloc **alloc)
{
    if (vhdx_request_alloc(s, index)) {
        place_give_back(s, offset, bytes, kept, false);
        return;
    }
    *alloc = g_new(VHDXAlloc, 1);
    **alloc = (VHDXAlloc) {
        .index = index,
        .offset = offset,
        .bytes = bytes,
        .refs = 1,
        .phase = zero ? VHDX_ALLOC_READY : VHDX_ALLOC_NEW,
        .kept = kept,
        .barrier = !zero,
    };
    vhdx_request_alloc_add(s, *alloc);
    trace_vhdx_alloc(s, index, offset, kept, zero);
}

/*
 * Find a place for @block, whose BAT entry is @entry, and enter it.  Returns 0
 * or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
alloc_new(BlockDriverState *bs, uint64_t block, uint64_t entry,
          VHDXAlloc **alloc)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t offset = vhdx_bat_offset(entry);
    bool zero = false;
    int kept;

    vhdx_unlock(s);
    BLKDBG_CO_EVENT(bs->file, BLKDBG_CLUSTER_ALLOC);
    vhdx_lock(s);
    kept = vhdx_space_take_kept(bs, block, offset);
    if (kept == 0) {
        offset = vhdx_space_alloc(bs, s->geo.block_size, &zero);
    }
    if (kept < 0 || offset < 0) {
        return kept < 0 ? kept : offset;
    }
    alloc_enter(s, vhdx_bat_index(&s->geo, block), offset, s->geo.block_size,
                kept, zero, alloc);
    if (*alloc && s->params.has_parent &&
        vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT) {
        (*alloc)->phase = VHDX_ALLOC_READY;
        (*alloc)->partial = (*alloc)->barrier = true;
    }
    return 0;
}

/* Make the place of @alloc read as zeros, or wait until someone has. */
static int coroutine_fn GRAPH_RDLOCK
alloc_prepare(BlockDriverState *bs, VHDXAlloc *alloc)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    while (alloc->phase < VHDX_ALLOC_READY && ret == 0) {
        /* The file may have no more of the last block than the disk needs. */
        uint64_t bytes = MIN(alloc->bytes, vhdx_file_size(s) - alloc->offset);

        if (alloc->phase == VHDX_ALLOC_PREPARING) {
            vhdx_request_alloc_wait(s);
            continue;
        }
        alloc->phase = VHDX_ALLOC_PREPARING;
        vhdx_unlock(s);
        BLKDBG_CO_EVENT(bs->file, BLKDBG_COW_WRITE);
        ret = vhdx_space_zero(bs, alloc->offset, bytes,
                              s->params.leave_allocated ? 0 :
                              BDRV_REQ_MAY_UNMAP);
        vhdx_lock(s);
        assert(alloc->phase == VHDX_ALLOC_PREPARING);
        alloc->phase = ret == 0 ? VHDX_ALLOC_READY : VHDX_ALLOC_NEW;
        vhdx_request_alloc_wake(s);
    }
    return ret;
}

/* Let the caller have a reference to @alloc, ready to be written to. */
static int coroutine_fn GRAPH_RDLOCK
alloc_share(BlockDriverState *bs, VHDXAlloc *alloc)
{
    int ret;

    alloc->refs++;
    ret = alloc_prepare(bs, alloc);
    if (ret < 0) {
        alloc_unref(bs->opaque, alloc);
    }
    return ret;
}

/*
 * The place that is being given to @block, whose entry is @entry, or NULL.  One
 * that was looked for when the entry was another one does not count: its
 * writers are going to find that out.
 */
static VHDXAlloc *alloc_find(BDRVVHDXState *s, uint64_t block, uint64_t entry)
{
    VHDXAlloc *alloc = vhdx_request_alloc(s, vhdx_bat_index(&s->geo, block));

    if (alloc && alloc->phase != VHDX_ALLOC_PUBLISHED &&
        alloc->partial != (s->params.has_parent && vhdx_bat_state(entry) ==
                           VHDX_BLOCK_NOT_PRESENT)) {
        vhdx_request_alloc_detach(s, alloc);
        return NULL;
    }
    return alloc;
}

/*
 * Get the place of payload block @block, in bytes from the start of the file:
 * that of its BAT entry, with @alloc NULL, or a new one with a reference to its
 * @alloc.
 */
static int coroutine_fn GRAPH_RDLOCK
alloc_get(BlockDriverState *bs, uint64_t block, uint64_t *place,
          VHDXAlloc **alloc)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXAlloc *own = NULL, *a;
    uint64_t entry = 0;
    int ret, failed = 0;

    vhdx_assert_locked(s);
    *alloc = NULL;
    /*
     * Lock is dropped to allocate, so then look again: there may be no space
     * just because another request has got it for this block.
     */
    for (;;) {
        ret = vhdx_bat_get(bs, block, &entry);
        if (ret < 0) {
            break;
        }
        if (vhdx_bat_is_present(s, entry)) {
            *place = vhdx_bat_offset(entry);
            break;
        }
        a = alloc_find(s, block, entry);
        if (a) {
            if (a != own) {
                trace_vhdx_alloc_share(s, a->index);
            }
            ret = alloc_share(bs, a);
            if (ret == 0) {
                *place = a->offset;
                *alloc = a;
            }
            break;
        }
        if (failed < 0) {
            return failed;
        }
        if (own) {
            /* Others have used it already, and it has been freed again. */
            alloc_unref(s, own);
            own = NULL;
        }
        failed = alloc_new(bs, block, entry, &own);
    }
    if (own) {
        alloc_unref(s, own);
    }
    return ret;
}

/*
 * Note that the BAT names the place of @alloc now, in state @state, which the
 * next commit must not tell before the data is stable if that is to be seen.
 */
static void alloc_published(BDRVVHDXState *s, VHDXAlloc *alloc)
{
    alloc->phase = VHDX_ALLOC_PUBLISHED;
    trace_vhdx_alloc_publish(s, alloc->index, alloc->offset);
    if (alloc->barrier) {
        vhdx_change_order(s);
    }
}

/* Set the BAT entry of a block that now holds data, if nobody has yet. */
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
    vhdx_bat_index_is_bitmap(&s->geo, alloc->index, &block);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret == 0 && alloc->phase == VHDX_ALLOC_READY) {
        vhdx_bat_set(s, block, vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                              alloc->offset));
        alloc_published(s, alloc);
    }
    return ret;
}

/* -- The same in a differencing image -- */

/* Let the caller have a place for the sector bitmap of @chunk, if it has none. */
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
            ret = alloc_share(bs, a);
            *alloc = ret < 0 ? NULL : a;
            return ret;
        }
        offset = vhdx_space_alloc(bs, VHDX_BITMAP_SIZE, &zero);
        if (offset < 0) {
            return offset;
        }
        alloc_enter(s, index, offset, VHDX_BITMAP_SIZE, false, zero, &own);
        if (own) {
            ret = alloc_share(bs, own);
            alloc_unref(s, own);
            *alloc = ret < 0 ? NULL : own;
            return ret;
        }
    }
}

/* An extent of one block: what becomes of its entry depends on all of it. */
static int coroutine_fn GRAPH_RDLOCK
child_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
             VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = offset >> s->geo.block_bits;
    VHDXAlloc *alloc = NULL, *bitmap = NULL;
    uint64_t place = 0;
    int ret;

    ret = alloc_get(bs, block, &place, &alloc);
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
            alloc_unref(s, alloc);
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
    } else if (!bits) {
        return vhdx_bat_report_no_bitmap(bs, chunk);
    }
    ret = vhdx_bitmap_set(bs, bits, offset, e->bytes, alloc, &full);
    if (ret != 0) {
        return ret;
    }
    if (new_bitmap) {
        vhdx_bat_set_bitmap(s, chunk, bits);
        alloc_published(s, bitmap);
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
 * named the place by now.
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

/*
 * What has been written at @offset of the disk is in @e: let the block's entry
 * and its sectors' bits tell of it.  lock is dropped to read their pages, so
 * then look again: the block may have been freed, or been given its place by
 * another request.  Returns 0, -EAGAIN or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
child_publish(BlockDriverState *bs, uint64_t offset, const VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = offset >> s->geo.block_bits;
    uint64_t place = e->file_offset - vhdx_in_block(&s->geo, offset);
    VHDXAlloc *alloc;
    uint64_t entry;
    int ret;

    do {
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

    if (ret == 0 && alloc) {
        alloc_published(s, alloc);
    } else if (ret == 0) {
        vhdx_change_order(s);
    }
    return ret;
}

/* -- What requests do -- */

int coroutine_fn
vhdx_alloc_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;

    *e = (VHDXExtent) { .source = VHDX_SOURCE_FILE };
    if (s->params.has_parent) {
        return child_extent(bs, offset, bytes, e);
    }
    while (e->bytes < bytes && e->allocs < VHDX_MAX_ALLOCS) {
        uint64_t at = offset + e->bytes;
        uint64_t place = 0;
        VHDXAlloc *alloc = NULL;
        int ret;

        ret = alloc_get(bs, at >> s->geo.block_bits, &place, &alloc);
        if (ret < 0) {
            return e->bytes ? 0 : ret;
        }
        place += vhdx_in_block(&s->geo, at);
        if (!e->bytes) {
            e->file_offset = place;
        } else if (place != e->file_offset + e->bytes) {
            if (alloc) {
                alloc_unref(s, alloc);
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

int coroutine_fn
vhdx_alloc_complete(BlockDriverState *bs, uint64_t offset, VHDXExtent *e,
                    int ret)
{
    BDRVVHDXState *s = bs->opaque;

    if (s->params.has_parent && ret == 0) {
        ret = child_publish(bs, offset, e);
        if (ret == -EAGAIN) {
            ret = e->bytes = 0;
        }
    }
    for (unsigned i = 0; i < e->allocs; i++) {
        if (!s->params.has_parent && ret == 0) {
            ret = alloc_publish(bs, e->alloc[i]);
        }
        alloc_unref(s, e->alloc[i]);
    }
    vhdx_change_note(s);
    return ret;
}

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
    alloc_unref(s, alloc);
    vhdx_change_note(s);
    return ret;
}
