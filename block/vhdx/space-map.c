/*
 * VHDX: the map of used MiBs
 *
 * A bit for each MiB up to the end of the last object.  What is not known to be
 * free counts as used; without a map, all is.  Beside it stands which free
 * MiBs are still to be punched.  lock is held by all of this.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "block/vhdx/space-map.h"
#include "space-int.h"

void vhdx_space_map_reach(VHDXSpace *sp, uint64_t end)
{
    uint64_t from = sp->end / VHDX_MIB;
    uint64_t bits = end / VHDX_MIB;

    if (end <= sp->end) {
        return;
    }
    /* Where a cut has not been made yet, some of it may be left to punch. */
    vhdx_space_map_unpunch(sp, sp->end, end);
    sp->end = end;
    if (sp->used && bits > sp->used_bits) {
        uint64_t new_bits = MAX(bits, 2 * sp->used_bits);

        sp->used = bitmap_zero_extend(sp->used, sp->used_bits, new_bits);
        sp->used_bits = new_bits;
    }
    if (sp->used) {
        bitmap_set(sp->used, from, bits - from);
    }
}

void vhdx_space_map_free(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    VHDXSpace *sp = s->space;
    uint64_t bits = sp->end / VHDX_MIB;
    /* A block may fit in now that begins in a gap before, not a longer one. */
    uint64_t first = offset - MIN(offset, s->geo.block_size);

    if (!sp->used) {
        if (sp->end <= VHDX_MAX_MAP_BYTES) {
            sp->used = bitmap_try_new(bits);
        }
        if (!sp->used) {
            return;
        }
        bitmap_set(sp->used, 0, bits);
        sp->used_bits = bits;
    }
    bitmap_clear(sp->used, offset / VHDX_MIB, bytes / VHDX_MIB);
    sp->hint = MIN(sp->hint, first / VHDX_MIB);
}

void vhdx_space_map_punch(VHDXSpace *sp, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset / VHDX_MIB;
    uint64_t end = first + bytes / VHDX_MIB;

    if (end > sp->punch_bits) {
        unsigned long *punch = bitmap_try_new(sp->used_bits);

        if (!punch) {
            return;
        }
        if (sp->punch) {
            bitmap_copy(punch, sp->punch, sp->punch_bits);
            g_free(sp->punch);
        }
        sp->punch = punch;
        sp->punch_bits = sp->used_bits;
    }
    bitmap_set(sp->punch, first, end - first);
    sp->punch_from = MIN(sp->punch_from, first);
}

void vhdx_space_map_unpunch(VHDXSpace *sp, uint64_t offset, uint64_t end)
{
    uint64_t first = offset / VHDX_MIB;
    uint64_t last = MIN(end / VHDX_MIB, sp->punch_bits);

    if (first < last) {
        bitmap_clear(sp->punch, first, last - first);
    }
}

uint64_t vhdx_space_map_take(BDRVVHDXState *s, uint64_t bytes, uint64_t from,
                             uint64_t limit)
{
    VHDXSpace *sp = s->space;
    uint64_t n = bytes / VHDX_MIB;
    uint64_t at;

    if (!sp->used || sp->scanning) {
        return 0;
    }
    limit = MIN(limit, vhdx_file_size(s) / VHDX_MIB);
    at = bitmap_find_next_zero_area(sp->used, limit, from, n, 0);
    if (at + n > limit) {
        return 0;
    }
    bitmap_set(sp->used, at, n);
    at *= VHDX_MIB;
    vhdx_space_map_unpunch(sp, at, at + bytes);
    sp->free_end = MAX(sp->free_end, at + bytes);
    return at;
}

uint64_t vhdx_space_map_end(VHDXSpace *sp)
{
    return (find_last_bit(sp->used, sp->end / VHDX_MIB) + 1) * VHDX_MIB;
}
