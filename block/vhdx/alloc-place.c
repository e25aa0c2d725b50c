/*
 * VHDX: finding places for blocks, and sharing them
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
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/change.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "trace.h"
#include "alloc-int.h"

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

/* [published-kept] */
void vhdx_alloc_unref(BDRVVHDXState *s, VHDXAlloc *alloc)
{
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

/* [data-barrier] */
void vhdx_alloc_enter(BDRVVHDXState *s, uint64_t index, uint64_t offset,
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
    vhdx_alloc_enter(s, vhdx_bat_index(&s->geo, block), offset,
                     s->geo.block_size, kept, zero, alloc);
    if (*alloc && s->params.has_parent &&
        vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT) {
        (*alloc)->phase = VHDX_ALLOC_READY;
        (*alloc)->partial = (*alloc)->barrier = true;
    }
    return 0;
}

/*
 * Make the place of @alloc read as zeros, or wait until someone has.
 * [place-zeroed]
 */
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

int coroutine_fn vhdx_alloc_share(BlockDriverState *bs, VHDXAlloc *alloc)
{
    int ret;

    alloc->refs++;
    ret = alloc_prepare(bs, alloc);
    if (ret < 0) {
        vhdx_alloc_unref(bs->opaque, alloc);
    }
    return ret;
}

/*
 * The place that is being given to @block, whose entry is @entry, or NULL.  One
 * that was looked for when the entry was another one does not count: its
 * writers are going to find that out. [shared-place] [zeros-whole]
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

int coroutine_fn vhdx_alloc_get(BlockDriverState *bs, uint64_t block,
                                uint64_t *place, VHDXAlloc **alloc)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXAlloc *own = NULL, *a;
    uint64_t entry = 0;
    int ret, failed = 0;

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
            ret = vhdx_alloc_share(bs, a);
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
            vhdx_alloc_unref(s, own);
            own = NULL;
        }
        failed = alloc_new(bs, block, entry, &own);
    }
    if (own) {
        vhdx_alloc_unref(s, own);
    }
    return ret;
}

void vhdx_alloc_published(BDRVVHDXState *s, VHDXAlloc *alloc)
{
    alloc->phase = VHDX_ALLOC_PUBLISHED;
    trace_vhdx_alloc_publish(s, alloc->index, alloc->offset);
    if (alloc->barrier) {
        vhdx_change_order(s);
    }
}
