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
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "trace.h"

/* Let go of a place that no entry uses; see vhdx_space_return(). */
static void place_give_back(BDRVVHDXState *s, uint64_t offset, bool kept,
                            bool touched)
{
    if (kept) {
        vhdx_space_keep(s, offset);
    } else {
        vhdx_space_return(s, offset, s->geo.block_size, touched);
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
        place_give_back(s, alloc->offset, alloc->kept, alloc->touched);
    }
    g_free(alloc);
}

/*
 * Find a place for @block, whose BAT entry is @entry, and enter it, with a
 * reference for the caller in @alloc, unless another request has done so
 * meanwhile.
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
    if (vhdx_request_alloc(s, block)) {
        place_give_back(s, offset, kept, false);
        return 0;
    }
    *alloc = g_new(VHDXAlloc, 1);
    **alloc = (VHDXAlloc) {
        .block = block,
        .offset = offset,
        .refs = 1,
        .phase = zero ? VHDX_ALLOC_READY : VHDX_ALLOC_NEW,
        .kept = kept,
        .barrier = !zero,
    };
    vhdx_request_alloc_add(s, *alloc);
    trace_vhdx_alloc(s, block, offset, kept, zero);
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
        uint64_t bytes = MIN(s->geo.block_size,
                             vhdx_file_size(s) - alloc->offset);

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
        if (vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT) {
            *place = vhdx_bat_offset(entry);
            break;
        }
        a = vhdx_request_alloc(s, block);
        if (a) {
            if (a != own) {
                trace_vhdx_alloc_share(s, block);
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

/* Set the BAT entry of a block that now holds data, if nobody has yet. */
static int coroutine_fn GRAPH_RDLOCK
alloc_publish(BlockDriverState *bs, VHDXAlloc *alloc)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    vhdx_assert_locked(s);
    assert(alloc->phase >= VHDX_ALLOC_READY);
    if (alloc->phase == VHDX_ALLOC_PUBLISHED) {
        return 0;
    }
    ret = vhdx_bat_get(bs, alloc->block, &entry);
    if (ret == 0 && alloc->phase == VHDX_ALLOC_READY) {
        vhdx_bat_set(s, alloc->block, vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT,
                                                     alloc->offset));
        alloc->phase = VHDX_ALLOC_PUBLISHED;
        trace_vhdx_alloc_publish(s, alloc->block, alloc->offset);
        if (alloc->barrier) {
            vhdx_change_order(s);
        }
    }
    return ret;
}

int coroutine_fn
vhdx_alloc_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  VHDXExtent *e)
{
    BDRVVHDXState *s = bs->opaque;

    *e = (VHDXExtent) { .source = VHDX_SOURCE_FILE };
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
vhdx_alloc_complete(BlockDriverState *bs, VHDXExtent *e, int ret)
{
    BDRVVHDXState *s = bs->opaque;

    for (unsigned i = 0; i < e->allocs; i++) {
        if (ret == 0) {
            ret = alloc_publish(bs, e->alloc[i]);
        }
        alloc_unref(s, e->alloc[i]);
    }
    vhdx_change_note(s);
    return ret;
}

void vhdx_alloc_free(BDRVVHDXState *s, uint64_t block, uint64_t place)
{
    VHDXAlloc *alloc = vhdx_request_alloc(s, block);

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

int coroutine_fn
vhdx_alloc_zero(BlockDriverState *bs, uint64_t block, uint64_t offset,
                uint64_t bytes, BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXAlloc *alloc = vhdx_request_alloc(s, block);
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
