/*
 * VHDX: compaction, sector bitmaps that no block needs
 *
 * A block that is PARTIALLY_PRESENT and has all of its sectors is as good as
 * one that is FULLY_PRESENT, which needs no bits.  Then a chunk without a block
 * that needs some can do without its sector bitmap block.
 *
 * These are two commits, one after the other: of the entries in one commit, a
 * power cut may leave that of the sector bitmap alone, which stands behind
 * those of its blocks.  And a sector bitmap block is free when no replay may
 * write to it any more.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/lock.h"
#include "compact-int.h"

/* Let @block, PARTIALLY_PRESENT at @place, be FULLY_PRESENT there. */
static int coroutine_fn GRAPH_RDLOCK
block_complete(BlockDriverState *bs, uint64_t block, uint64_t place)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret < 0) {
        return ret;
    }
    vhdx_lock(s);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    vhdx_bat_set(s, block, vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT, place));
    vhdx_change_note(s);
    return vhdx_commit_unlock(bs);
}

/* Do so with blocks that have all their sectors. */
static int coroutine_fn GRAPH_RDLOCK
complete_full(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
              uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t block;
        int ret;

        if (vhdx_bat_state(entries[i]) != VHDX_BLOCK_PARTIALLY_PRESENT ||
            vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            continue;
        }
        ret = vhdx_bitmap_is_full(bs, block);
        if (ret > 0) {
            ret = block_complete(bs, block, vhdx_bat_offset(entries[i]));
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Looking for sector bitmap blocks to give up */
typedef struct Unneeded {
    uint64_t chunks;                /* 1 + the last one that needs its own */
    GArray *places;                 /* that entries have named, uint64_t */
} Unneeded;

/* Clear the entries of those that no block before them needs. */
static int coroutine_fn GRAPH_RDLOCK
clear_unneeded(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
               uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t stride = vhdx_bat_stride(&s->geo);
    static const uint64_t zero;
    Unneeded *u = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t chunk = (index + i) / stride, place, block;
        int ret;

        if (vhdx_bat_state(entries[i]) < VHDX_BLOCK_FULLY_PRESENT) {
            continue;
        }
        if (!vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            if (vhdx_bat_state(entries[i]) == VHDX_BLOCK_PARTIALLY_PRESENT) {
                u->chunks = chunk + 1;
            }
            continue;
        }
        if (u->chunks == chunk + 1) {
            continue;
        }
        ret = vhdx_begin(bs, VHDX_METADATA);
        if (ret < 0) {
            return ret;
        }
        place = vhdx_bat_offset(entries[i]);
        g_array_append_val(u->places, place);
        ret = vhdx_commit_put(bs, s->bat.offset +
                              (index + i) * VHDX_BAT_ENTRY_SIZE,
                              sizeof(zero), &zero);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* [bitmaps-unneeded] */
int coroutine_fn vhdx_compact_drop_bitmaps(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(GArray) places = g_array_new(false, false, sizeof(uint64_t));
    Unneeded u = { .places = places };
    int ret;

    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, complete_full, NULL);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_commit(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, clear_unneeded, &u);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_bat_free_bitmaps(bs, places);
    c->bitmaps -= places->len;
    return ret;
}
