/*
 * VHDX: making an image one that can have a parent
 *
 * What the image reads as stays, whatever the parent has, so that a power cut
 * leaves the same content with a parent and without:
 *
 *   1. The BAT gets room for the entry of the last chunk's sector bitmap, and
 *      what stands between that and the last block's entry is cleared.
 *   2. Blocks that are NOT_PRESENT get the state ZERO.  Those that are
 *      PARTIALLY_PRESENT, and read as FULLY_PRESENT where there is no parent,
 *      get that state, and no entry names a sector bitmap.
 *
 * When that is stable the locator and HasParent come, both at once: see
 * vhdx_link_set().
 *
 * Of QEMU's commands only 'qemu-img rebase' does that, and closes the image
 * then: a child's requests are of whole sectors, and others may not.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/change.h"
#include "block/vhdx/child.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/region.h"

/* Let @block have the state that it is read with where there is no parent. */
static int coroutine_fn GRAPH_RDLOCK
block_settle(BlockDriverState *bs, uint64_t block)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    vhdx_lock(s);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret < 0 && !entry) {
        vhdx_unlock(s);
        return ret;
    }
    /* What can't be right is as wrong in a child. */
    vhdx_bat_set(s, block, entry);
    vhdx_change_note(s);
    return vhdx_commit_unlock(bs);
}

/* Mend those of @count entries that mean something else in a child. */
static int coroutine_fn GRAPH_RDLOCK
entries_mend(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
             uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    static const uint64_t zero;
    int ret = 0;

    for (uint64_t i = 0; i < count && ret == 0; i++) {
        uint64_t block;

        if (!vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_PARTIALLY_PRESENT) {
                ret = block_settle(bs, block);
            }
        } else if (entries[i]) {
            ret = vhdx_commit_put(bs, s->bat.offset +
                                  (index + i) * VHDX_BAT_ENTRY_SIZE,
                                  sizeof(zero), &zero);
        }
    }
    return ret;
}

/* What the image will have as a child */
static void geometry_get(BDRVVHDXState *s, VHDXGeometry *geo)
{
    VHDXParams params = s->params;

    params.has_parent = true;
    vhdx_geometry_init(geo, &params);
}

int coroutine_fn vhdx_child_check(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXGeometry geo;
    int ret;

    geometry_get(s, &geo);
    ret = vhdx_bat_clear_check_parent(bs, 0, vhdx_bat_payload_end(&s->geo),
                                      errp);
    return ret < 0 ? ret :
           vhdx_bat_clear_check_rest(bs, geo.bat_entries, errp);
}

int coroutine_fn vhdx_child_prepare(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t end = vhdx_bat_payload_end(&s->geo);
    VHDXGeometry geo;
    int64_t given_up;
    int ret;

    geometry_get(s, &geo);
    ret = vhdx_region_fit_bat(bs, &geo);
    if (ret < 0) {
        return ret;
    }
    given_up = vhdx_bat_clear(bs, &s->geo, geo.bat_entries, false, NULL);
    if (given_up < 0) {
        return given_up;
    }
    ret = vhdx_bat_walk(bs, 0, end, entries_mend, NULL);
    return ret < 0 ? ret : vhdx_bat_cover(bs, 0, s->geo.blocks);
}
