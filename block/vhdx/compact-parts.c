/*
 * VHDX: where the log and regions are, when compacting
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/tables.h"
#include "compact-int.h"

uint64_t vhdx_compact_limit(BDRVVHDXState *s, uint64_t packed)
{
    uint64_t limit, last = packed;

    do {
        limit = last;
        last = packed;
        if (s->header.log_offset + s->header.log_length > limit) {
            last -= s->header.log_length;
        }
        for (uint32_t i = 0; i < s->region_count; i++) {
            if (s->regions[i].held &&
                s->regions[i].offset + s->regions[i].held > limit) {
                last -= s->regions[i].held;
            }
        }
    } while (last != limit);
    return limit;
}

/* The parts that can move: the log, which is the last here, and regions */
typedef struct Part {
    uint64_t offset;
    uint64_t end;                   /* 0 for one that stays where it is */
} Part;

static Part part_get(BDRVVHDXState *s, uint32_t i)
{
    uint64_t offset = s->header.log_offset;
    uint64_t length = s->header.log_length;

    if (i < s->region_count) {
        if (!vhdx_region_is_known(&s->regions[i])) {
            return (Part) { 0 };
        }
        offset = s->regions[i].offset;
        length = s->regions[i].length;
    }
    return (Part) { .offset = offset, .end = offset + length };
}

/* Where the part ends that @part touches, if that is not behind @far, or 0 */
static uint64_t end_in_the_way(BDRVVHDXState *s, Part part, uint64_t far)
{
    for (uint32_t i = 0; i <= s->region_count; i++) {
        uint64_t end = part_get(s, i).end;

        if (end && end == part.offset && end <= far) {
            return end;
        }
    }
    return 0;
}

uint64_t vhdx_compact_far(BDRVVHDXState *s, uint64_t packed)
{
    uint64_t far = packed + s->geo.block_size - VHDX_MIB, last;

    do {
        last = far;
        for (uint32_t i = 0; i <= s->region_count; i++) {
            Part part = part_get(s, i);
            uint64_t end = part.end > far ? end_in_the_way(s, part, far) : 0;

            if (end) {
                far = end - 1;
            }
        }
    } while (far != last);
    return far;
}

uint64_t vhdx_compact_height(BDRVVHDXState *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i <= s->region_count; i++) {
        sum += part_get(s, i).offset;
    }
    return sum;
}
