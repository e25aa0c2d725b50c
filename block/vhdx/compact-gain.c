/*
 * VHDX: what compacting would give back
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/compact-gain.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space.h"
#include "compact-int.h"

uint64_t vhdx_compact_packed(BDRVVHDXState *s, uint64_t blocks,
                             uint64_t bitmaps)
{
    uint64_t size = VHDX_HEADER_SECTION_SIZE + s->header.log_length +
                    (blocks << s->geo.block_bits) + bitmaps * VHDX_BITMAP_SIZE;

    for (uint32_t i = 0; i < s->region_count; i++) {
        size += s->regions[i].held;
    }
    return size;
}

/* The file's length that can change: without what is behind @end, or with. */
static uint64_t length_from(BDRVVHDXState *s, uint64_t end, bool cut)
{
    uint64_t size = vhdx_file_size(s);

    return cut && s->file_shrinks ? size : MIN(size, end);
}

/*
 * What is gained by a file of @packed bytes in place of @size, where the last
 * object ends at @end.  Less than a block in gaps may stay, so that does not
 * count.
 */
static uint64_t gain_from(BDRVVHDXState *s, uint64_t size, uint64_t end,
                          uint64_t packed)
{
    uint64_t gain = size - MIN(size, packed), tail = size - MIN(size, end);

    return gain < tail + s->geo.block_size ? MIN(gain, tail) : gain;
}

uint64_t vhdx_compact_gain(BDRVVHDXState *s, uint64_t end, bool cut,
                           uint64_t blocks, uint64_t bitmaps)
{
    uint64_t size = length_from(s, end, cut);
    /* A BAT for a longer disk gets shorter. */
    uint64_t bat = MIN(s->bat.length, vhdx_bat_region_length(&s->geo));
    uint64_t packed = vhdx_compact_packed(s, blocks, bitmaps) -
                      s->bat.length + bat;

    return gain_from(s, size, end, packed);
}

int64_t coroutine_fn vhdx_compact_gains_look(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree VHDXCompact *c = g_new0(VHDXCompact, 1);
    uint64_t end = s->header.log_offset + s->header.log_length;

    if (s->params.leave_allocated ||
        vhdx_bat_walk(bs, 0, s->geo.bat_entries, vhdx_compact_count, c) < 0) {
        return -1;
    }
    for (uint32_t i = 0; i < s->region_count; i++) {
        end = MAX(end, s->regions[i].offset + s->regions[i].held);
    }
    return vhdx_compact_gain(s, MAX(end, c->end), true, c->present, c->needed);
}

int64_t vhdx_compact_gains_known(BDRVVHDXState *s)
{
    uint64_t size, end;

    VHDX_LOCK_GUARD(s);
    if (s->params.leave_allocated || !vhdx_space_is_known(s) ||
        vhdx_space_overlaps(s)) {
        return -1;
    }
    end = vhdx_space_end(s);
    size = length_from(s, end, true);
    return gain_from(s, size, end, vhdx_space_count_used(s, 0, UINT64_MAX));
}
