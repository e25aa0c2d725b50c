/*
 * VHDX: compaction, dropping places that nothing uses
 *
 * An entry may name a place without using it, as a discarded block's does, and
 * entries behind the last block may name anything.  Before blocks are moved
 * about, none does any more.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-clear.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-scan.h"
#include "compact-int.h"

uint64_t vhdx_compact_object(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                             bool *bitmap)
{
    uint64_t block;

    *bitmap = false;
    if (vhdx_bat_state(entry) < VHDX_BLOCK_FULLY_PRESENT) {
        return 0;
    }
    *bitmap = vhdx_bat_index_is_bitmap(&s->geo, index, &block);
    if (*bitmap) {
        return s->params.has_parent ? VHDX_BITMAP_SIZE : 0;
    }
    return vhdx_bat_is_present(s, entry) ? s->geo.block_size : 0;
}

int coroutine_fn
vhdx_compact_count(BlockDriverState *bs, uint64_t index,
                   const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t stride = vhdx_bat_stride(&s->geo);
    VHDXCompact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t entry, bytes, chunks;
        bool bitmap;

        /* Most entries of a large disk are a state, and name nothing. */
        if (entries[i] <= VHDX_BLOCK_UNMAPPED ||
            vhdx_bat_index_is_behind(&s->geo, index + i)) {
            continue;
        }
        entry = vhdx_bat_entry_resolve(bs, index + i, entries[i]);
        bytes = vhdx_compact_object(s, index + i, entry, &bitmap);
        c->present += bytes && !bitmap;
        c->bitmaps += bytes && bitmap;
        chunks = (index + i) / stride + 1;
        if (vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT && !bitmap) {
            c->chunks = chunks;
        }
        c->needed += bytes && bitmap && c->chunks == chunks;
        c->end = MAX(c->end, bytes ? vhdx_bat_offset(entry) + bytes : 0);
        c->unused += vhdx_bat_offset(entry) && !bitmap &&
                     (!bytes || entry != entries[i]);
    }
    return 0;
}

/* Count what there is, and see whether all is well with it. */
static int coroutine_fn GRAPH_RDLOCK
count_entries(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
              uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCompact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t entry = vhdx_bat_entry_resolve(bs, index + i, entries[i]);
        uint64_t block;

        if (vhdx_bat_index_is_behind(&s->geo, index + i)) {
            c->behind += entries[i] != 0;
            continue;
        }
        WITH_VHDX_LOCK_GUARD(s) {
            int ret = vhdx_bat_entry_check(s, index + i, entry, c->errp);

            if (ret < 0) {
                return ret;
            }
        }
        /* Whatever it says, it is not to look like a block's. */
        c->unused += entry &&
                     vhdx_bat_index_is_bitmap(&s->geo, index + i, &block) &&
                     !vhdx_bat_bitmap_is_present(s, entry);
    }
    return vhdx_compact_count(bs, index, entries, count, c);
}

static int count_rest(BlockDriverState *bs, uint64_t index,
                      const uint64_t *entries, uint64_t count, void *opaque)
{
    VHDXCompact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        c->behind += entries[i] != 0;
    }
    return 0;
}

/* Clear the sector bitmap's entry with index @index. */
static int coroutine_fn GRAPH_RDLOCK
clear_bitmap_entry(BlockDriverState *bs, uint64_t index)
{
    BDRVVHDXState *s = bs->opaque;
    static const uint64_t zero;

    return vhdx_commit_put(bs, s->bat.offset + index * VHDX_BAT_ENTRY_SIZE,
                           sizeof(zero), &zero);
}

/*
 * Drop the place that @block's entry names without being present.  A block that
 * reads as present all the same gets the state FULLY_PRESENT.
 */
static int coroutine_fn GRAPH_RDLOCK
drop_place(BlockDriverState *bs, uint64_t block)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    vhdx_lock(s);
    ret = vhdx_bat_get(bs, block, &entry);
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    /* A guest may have written to it meanwhile. */
    if (!vhdx_bat_is_present(s, entry)) {
        entry = vhdx_bat_state(entry);
    }
    vhdx_bat_set(s, block, entry);
    vhdx_change_note(s);
    return vhdx_commit_unlock(bs);
}

/*
 * Drop the places that entries name without using them.  Such an offset may be
 * anything, so what is free now is for a scan to find.  None of the entries of
 * sector bitmaps looks like a block's, so they are cleared, but those that a
 * child uses.
 */
static int coroutine_fn GRAPH_RDLOCK
drop_unused(BlockDriverState *bs, uint64_t index, const uint64_t *entries,
            uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCompact *c = opaque;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t block;
        int ret = 0;

        if (vhdx_bat_index_is_bitmap(&s->geo, index + i, &block)) {
            /* A child's may be getting its place. */
            if (entries[i] && !vhdx_bat_bitmap_is_present(s, entries[i]) &&
                !(c->live && s->params.has_parent)) {
                ret = clear_bitmap_entry(bs, index + i);
            }
        } else if (vhdx_bat_offset(entries[i]) &&
                   !vhdx_bat_is_present(s, entries[i])) {
            ret = drop_place(bs, block);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return vhdx_commit(bs);
}

int coroutine_fn vhdx_compact_drop_unused(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    return ret < 0 ? ret :
           vhdx_bat_walk(bs, 0, s->geo.bat_entries, drop_unused, c);
}

/*
 * Drop what entries behind the last block name, which the user gives up by
 * asking for this, unless the image is left alone for two blocks in one place.
 */
static int coroutine_fn GRAPH_RDLOCK
drop_rest(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    bool overlap;
    int64_t given_up;
    int ret;

    qemu_co_mutex_lock(&s->grow_lock);
    ret = vhdx_space_scan(bs);
    overlap = vhdx_space_overlaps(s);
    qemu_co_mutex_unlock(&s->grow_lock);
    if (ret < 0) {
        return ret;
    }
    if (overlap) {
        error_setg(c->errp, "Blocks overlap in the file");
        return -EINVAL;
    }
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        return ret;
    }
    given_up = vhdx_bat_clear_rest(bs);
    return given_up < 0 ? given_up : vhdx_commit(bs);
}

int coroutine_fn vhdx_compact_drop_places(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_space_doubt(bs);
    if (ret > 0) {
        error_setg(c->errp, "Each block is followed by data where a larger "
                   "block would have it: the block size of %" PRIu32 " may be "
                   "damaged", s->geo.block_size);
        return -EINVAL;
    }
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, count_entries, c);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_bat_walk(bs, s->geo.bat_entries,
                        s->bat.length / VHDX_BAT_ENTRY_SIZE, count_rest, c);
    if (ret < 0) {
        return ret;
    }
    if (c->behind) {
        ret = drop_rest(bs, c);
        if (ret < 0) {
            return ret;
        }
    }
    return c->unused ? vhdx_compact_drop_unused(bs, c) : 0;
}
